"""Values that are not finite are seen before they come into the weights, and the run goes on from there."""

import numpy as np
import pytest
import torch
from tests.support import fresh
from torch import nn

import deeptrain as dt
from deeptrain.step.nonfinite import Watch

BAD = (5, 11)  # batches of two epochs of eight


class Hurt(nn.Module):
    """Gives an infinite loss, or an infinite gradient of a finite one, for rows that say so."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.other = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.layer(x[:, :4]) * self.other + _of(x, self.other)


def _of(x, parameter):
    """0, with a gradient that is no number where a row is marked by a 1, and infinite where it is marked by a 2."""
    marked = x[:, 4:]
    if not marked.any():
        return torch.zeros(())
    if marked.max() > 1.5:
        return torch.full((), float("inf"))
    return (parameter * 0).sqrt() * 0


def make(on_nonfinite, kind=1, *, runs=None, name=None, bad=(5,), **more):
    dt.reproducible(seed=3)
    model = Hurt()
    torch.manual_seed(0)
    x, y = torch.randn(64, 5), torch.randint(0, 2, (64,))
    x[:, 4] = 0
    for batch in bad:
        x[batch * 8 + 3, 4] = kind
    optimizer = more.pop("optimizer", torch.optim.AdamW)(model.parameters(), 1e-2)
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=optimizer,
        on_nonfinite=on_nonfinite,
        device="cpu",
        **more,
    )
    return dt.Trainer(
        step,
        dt.BatchLoader(dt.Arrays(x, y), batch_size=8),
        epochs=2,
        runs=runs,
        name=name,
        verbosity=0,
        checkpoints=dt.Checkpoints(every=dt.Every(batches=3)),
    )


@pytest.mark.parametrize(
    ("kind", "what"), [(1, "a gradient is not finite"), (2, "the loss is inf|the loss is nan")]
)
def test_by_default_the_run_stops_before_the_damage_and_goes_on_from_there(kind, what):
    trainer = make("stop", kind)
    with pytest.raises(dt.NonFiniteError, match=rf"({what}).*batch 5 of epoch 0 \(of 0\[40:48\]\)"):
        trainer.fit()
    assert trainer.progress.train.iterations == 5
    assert all(torch.isfinite(p).all() for p in trainer.learner.model.parameters())
    before = dt.digest(trainer.state_dict())
    with pytest.raises(dt.NonFiniteError):
        trainer.fit()
    assert dt.digest(trainer.state_dict()) == before
    trainer.train.exclude(rows=[43])
    trainer.fit()
    assert trainer.progress.phase is dt.Phase.DONE
    assert all(torch.isfinite(p).all() for p in trainer.learner.model.parameters())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_skipping_makes_no_update_and_counts(accumulate):
    trainer = make("skip", accumulate=accumulate, bad=(5, 6))
    trainer.fit()
    assert trainer.progress.train.iterations == 16
    assert trainer.learner.skipped == 4
    assert trainer.progress.train.updates == (12 if accumulate == 1 else 6)
    assert all(torch.isfinite(p).all() for p in trainer.learner.model.parameters())
    # As a run over the other batches alone; a group of pieces is still of three.
    if accumulate == 1:
        alone = make("skip", bad=())
        alone.train.skip(rows=range(40, 56))
        alone.fit(until=dt.At(epoch=1))
        alone.train.skip(rows=range(40, 56))
        alone.fit()
        assert dt.digest(alone.learner.model.state_dict()) == dt.digest(trainer.learner.model.state_dict())


def test_what_is_left_out_does_not_come_into_a_norms_statistics():
    x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
    x[43] = float("nan")
    digests = []
    for policy in ("skip", "stop"):
        dt.reproducible(seed=3)
        model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
        step = dt.SupervisedStep(
            model,
            loss=nn.CrossEntropyLoss(),
            optimizer=torch.optim.AdamW(model.parameters(), 1e-2),
            on_nonfinite=policy,
            device="cpu",
        )
        trainer = dt.Trainer(step, dt.BatchLoader(dt.Arrays(x, y), batch_size=8), runs=None, verbosity=0)
        if policy == "stop":
            with pytest.raises(dt.NonFiniteError):
                trainer.fit()
            trainer.train.skip(batches=1)
        trainer.fit()
        assert torch.isfinite(model[0].running_mean).all()
        digests.append(dt.digest(model.state_dict()))
    assert digests[0] == digests[1]


def rewound(runs, safe_points=None):
    trainer = make("rewind", runs=runs, name="r", bad=(2, 5))
    if safe_points is None:
        trainer.fit()
    else:
        with trainer.interrupts:
            trainer._start()
            for _ in range(safe_points):
                if trainer.progress.phase is not dt.Phase.DONE:
                    trainer._advance()
        trainer.run.save(trainer)
    trainer.close()
    history = {name: [v.tolist() for v in trainer.history[name]] for name in trainer.history}
    return dt.digest(trainer.state_dict()), history, trainer.progress.train.iterations


def test_rewinding_leaves_the_batch_out_as_if_it_never_came(tmp_path):
    expected = fresh.run(rewound, tmp_path / "whole")
    assert expected[2] == 12
    assert np.isfinite(expected[1]["train.loss"][1]).all()
    for stop in range(1, 30, 4):
        fresh.run(rewound, tmp_path / str(stop), stop)
        assert fresh.run(rewound, tmp_path / str(stop)) == expected, f"stopped after {stop}"


def test_ignoring_does_not_look():
    trainer = make("ignore")
    trainer.fit()
    assert not all(torch.isfinite(p).all() for p in trainer.learner.model.parameters())


def test_on_a_device_the_update_is_left_out_there_and_said_later(monkeypatch):
    """As on an accelerator: no figure is waited for, the fused optimizer leaves the update out by the flag."""
    monkeypatch.setattr(Watch, "is_masked", lambda self, optimizer: True)
    monkeypatch.setattr("deeptrain.step.nonfinite.READ_EVERY", 4)

    def fused(parameters, rate):
        return torch.optim.AdamW(parameters, rate, fused=True)

    trainer = make("stop", optimizer=fused)
    with pytest.raises(dt.NonFiniteError, match="batch 5 of epoch 0"):
        trainer.fit()
    assert trainer.progress.train.iterations == 8  # seen by the fours
    assert all(torch.isfinite(p).all() for p in trainer.learner.model.parameters())
    trainer = make("skip", optimizer=fused)
    trainer.fit()
    assert all(torch.isfinite(p).all() for p in trainer.learner.model.parameters())
    alone = make("skip", optimizer=fused, bad=())
    for epoch in (1, 2):
        alone.train.skip(rows=range(40, 48))
        alone.fit(until=dt.At(epoch=epoch))
    assert dt.digest(alone.learner.model.state_dict()) == dt.digest(trainer.learner.model.state_dict())


def test_gradients_of_every_kind_are_looked_at():
    watch = Watch("stop", away=False)
    loss = torch.zeros(())
    good = [torch.ones(3), torch.ones(2, dtype=torch.float64), torch.ones(2, dtype=torch.bfloat16)]
    sparse = torch.sparse_coo_tensor([[0, 2]], [1.0, 2.0], (4,), check_invariants=True)
    complex_ = torch.ones(2, dtype=torch.complex64)
    assert watch.found(loss, [*good, sparse, complex_]) is None
    for place in range(3):
        bad = [one.clone() for one in good]
        bad[place][1] = float("nan")
        assert "gradient" in watch.found(loss, [*bad, sparse])
    assert "gradient" in watch.found(loss, [*good, sparse * float("inf")])
    assert "gradient" in watch.found(loss, [complex_ * float("inf")])
    assert "loss is nan" in watch.found(loss / 0, good)
    kept = torch.tensor([1e-45, -0.0, 3.4e38, 0.1])
    before = kept.numpy().tobytes()
    assert watch.found(loss, [kept]) is None
    assert kept.numpy().tobytes() == before


def test_what_was_found_is_not_found_again():
    watch, loss, good = Watch("skip", away=False), torch.zeros(()), [torch.ones(3)]
    assert "gradient" in watch.found(loss, [torch.full((3,), torch.inf)])
    assert watch.found(loss, good) is None
    assert "gradient" in watch.found(loss, [torch.full((2,), torch.nan), torch.ones(2, dtype=torch.bfloat16)])
    assert watch.found(loss, good) is None


def test_an_abort_while_it_looks_leaves_no_flag_raised(monkeypatch):
    class Raised(torch.Tensor):
        """A flag at the reading of which the second Ctrl-C comes."""

        def item(self):
            raise KeyboardInterrupt

    trainer = make("stop", bad=())
    watch = trainer.learner.watch
    flag, one = watch._standing
    monkeypatch.setattr(watch, "_standing", (flag.as_subclass(Raised), one))
    flag.fill_(1.0)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    monkeypatch.undo()
    assert flag.item() == 0.0
    trainer.fit()
