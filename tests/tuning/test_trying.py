"""Limits for trying out: dry runs, epochs of a few batches, and the same few batches again and again."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.data.edits import BatchSize, Exclude, Repeat, Skip
from deeptrain.data.plan import Plan
from tests.support import recipes
from tests.tuning.test_finders import Raises, files_below, make

# ------------------------------------------------------------------ dry runs


class Told(dt.Callback):
    """Notes which of its handlers are called, in a place that is no state."""

    def __init__(self):
        self._told = []


for _event in (
    "train_iter_end",
    "train_batch_end",
    "train_epoch_end",
    "val_iter_end",
    "val_batch_end",
    "val_end",
    "save",
):
    setattr(Told, f"on_{_event}", lambda self, trainer, event: self._told.append(event.name))


@pytest.mark.parametrize("point", [None, dt.At(batch=5), dt.At(batch=7), dt.At(batch=15)])
def test_a_dry_run_touches_everything_and_leaves_nothing(tmp_path, monkeypatch, point):
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    untouched = make()
    untouched.fit()
    told = Told()
    t = make(tmp_path / "runs", callbacks=[*recipes.callbacks(), told])
    if point is not None:
        t.fit(until=point)
    before, files = dt.digest(t.state_dict()), files_below(tmp_path)
    told._told.clear()
    found = t.dry_run()
    assert told._told == [
        "train_iter_end", "train_batch_end", "train_epoch_end", "val_iter_end", "val_batch_end", "val_end", "save"
    ]  # fmt: skip
    assert set(found.train) == set(found.validation) == {"loss", "accuracy"}
    assert found.ended_epoch
    assert found.checkpoint_bytes > 1000
    assert dt.digest(t.state_dict()) == before
    assert files_below(tmp_path) == files
    t.fit()
    t.close()
    assert dt.digest({**t.state_dict(), "callbacks": 0}) == dt.digest(
        {**untouched.state_dict(), "callbacks": 0}
    )


def test_a_dry_run_in_the_middle_of_a_validation():
    t = make()
    while not t.progress.validation.batches:
        recipes.advance(t, 1)
    before = dt.digest(t.state_dict())
    t.dry_run()
    assert dt.digest(t.state_dict()) == before


@pytest.mark.filterwarnings("ignore:.*walked")
@pytest.mark.parametrize("feed", ["torch", "dataset", "stateful", "iterable"])
def test_a_dry_run_with_any_loader(feed):
    t = make(feed=feed, scheduler="none")
    t.fit(until=dt.At(batch=3))
    before = dt.digest(t.state_dict())
    assert t.dry_run().ended_epoch == (feed in {"torch", "dataset"})
    assert dt.digest(t.state_dict()) == before


@pytest.mark.parametrize("preprocess", ["windows", "repeat"])
def test_a_dry_run_with_pieces(preprocess):
    t = recipes.trainer("none", preprocess=preprocess)
    before = dt.digest(t.state_dict())
    t.dry_run()
    assert dt.digest(t.state_dict()) == before


@pytest.mark.parametrize(
    "where", ["compute", "apply", "evaluate", "end_epoch", "end_validation", "loss_over"]
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_whatever_stops_a_dry_run_everything_is_put_back(tmp_path, where, error):
    t = make(tmp_path)
    before, files = dt.digest(t.state_dict()), files_below(tmp_path)
    with Raises(t.learner, where, 1, error), pytest.raises(error, match="as planned"):
        t.dry_run()
    assert dt.digest(t.state_dict()) == before
    assert t.progress.torn is None
    assert files_below(tmp_path) == files
    t.dry_run()


def test_a_dry_run_finds_a_state_that_does_not_come_back():
    class Forgets(dt.Callback):
        events = 0

        def on_train_batch_end(self, trainer, event):
            self.events += 1

        def state_dict(self):
            return {"events": self.events}

    t = make(callbacks=[Forgets()])
    with pytest.raises(ValueError, match=r"callbacks\.Forgets\.events"):
        t.dry_run()


def test_a_run_that_is_done_has_nothing_to_try():
    t = make(epochs=1)
    t.fit()
    with pytest.raises(ValueError, match="more epochs"):
        t.dry_run()


# ------------------------------------------------------------------ limits

SIZES = [7, 12, 9, 14, 8, 10]
SHUFFLES = [None, "sets", "batches", "samples", "global"]
EDITS = [
    (1, 2, Skip(batches=1)),
    (1, 3, BatchSize(3)),
    (2, 0, Exclude(rows=(3, 20))),
    (3, 1, Repeat(batches=1)),
    (4, 1, Skip(rows=(1, 2, 3))),
]


def served(plan, epochs):
    return [[plan.rows(e, b).tolist() for b in range(plan.batches(e))] for e in range(epochs)]


def edited(plan):
    for epoch, batch, edit in EDITS:
        plan = plan.edited(epoch, batch, edit)
    return plan


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("last", ["keep", "drop", "pad"])
@pytest.mark.parametrize("edits", [False, True])
def test_an_epoch_is_over_after_so_many_batches(shuffle, last, edits):
    make_plan = lambda **more: Plan(SIZES, batch_size=8, shuffle=shuffle, seed=4, last=last, **more)  # noqa: E731
    whole, limited = make_plan(), make_plan(limit_batches=4)
    if edits:
        whole, limited = edited(whole), edited(limited)
    assert served(limited, 6) == [batches[:4] for batches in served(whole, 6)]
    assert served(make_plan(limit_batches=99), 3) == served(make_plan(), 3)
    with pytest.raises(IndexError, match="the batches 0 to 3"):
        limited.rows(0, 4)
    with pytest.raises(IndexError):
        limited.place(5, 4)
    again = Plan(SIZES, **json.loads(json.dumps(limited.settings())), edits=limited.edits)
    assert again == limited
    assert served(again, 6) == served(limited, 6)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_overfitting_is_the_same_batches_again_and_again(shuffle):
    whole = Plan(SIZES, batch_size=8, shuffle=shuffle, seed=4)
    plan = Plan(SIZES, batch_size=8, shuffle=shuffle, seed=4, overfit=3)
    assert served(plan, 5) == 5 * [served(whole, 1)[0][:3]]
    assert [plan.batches(e) for e in range(3)] == [3, 3, 3]
    both = Plan(SIZES, batch_size=8, shuffle=shuffle, seed=4, overfit=3, limit_batches=2)
    assert served(both, 2) == 2 * [served(whole, 1)[0][:2]]
    skipped = plan.edited(2, 1, Skip(batches=1))
    assert served(skipped, 4)[2] == [served(whole, 1)[0][i] for i in (0, 2, 3)]
    assert served(skipped, 4)[3] == served(plan, 1)[0]


@pytest.mark.parametrize("name", ["limit_batches", "overfit"])
def test_a_limit_is_a_whole_number(name):
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=name):
            Plan(SIZES, batch_size=8, **{name: wrong})
    with pytest.raises(TypeError, match=name):
        Plan(SIZES, batch_size=8, **{name: 1.5})


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("limit", [{"limit_batches": 3}, {"overfit": 3}])
def test_loaders_read_what_the_order_says(tmp_path, shuffle, limit):
    place = recipes.write_files(tmp_path / "files")
    x, _ = recipes.data()
    loader = dt.BatchLoader(dt.Files(place), batch_size=5, shuffle=shuffle, seed=2, **limit)
    assert len(loader) == 3
    assert loader.iterations(4) == 12
    for epoch in range(4):
        batches = list(loader)
        assert len(batches) == 3
        for batch in batches:
            assert batch.epoch == epoch
            assert torch.equal(batch.inputs, x[batch.rows])
            assert batch.rows.tolist() == loader.rows(epoch, batch.index).tolist()
    assert loader.settings()[next(iter(limit))] == 3
    assert "limit_batches" not in dt.BatchLoader(dt.Files(place), batch_size=5).settings()
    loader.close()


def test_adopting_settings_takes_and_drops_limits():
    source = dt.Arrays(torch.zeros(60, 2))
    loader, limited = (
        dt.BatchLoader(source, batch_size=5),
        dt.BatchLoader(source, batch_size=5, limit_batches=2),
    )
    settings = loader.settings()
    loader.adopt(limited.settings())
    assert len(loader) == 2
    loader.adopt({"seed": 3})
    assert len(loader) == 2
    loader.adopt(settings)
    assert len(loader) == 12


def limited(runs, mark=None, at=None, **limit):
    dt.reproducible(seed=3)
    model, (x, y) = recipes.Net(), recipes.data()
    parts = {"loss": nn.CrossEntropyLoss(), "optimizer": torch.optim.AdamW(model.parameters(), 1e-2)}
    train = dt.BatchLoader(dt.Arrays(x, y), batch_size=8, shuffle=True, seed=5, **limit)
    val = dt.BatchLoader(dt.Arrays(*recipes.data(20, seed=2)), batch_size=7, limit_batches=1)
    return dt.Trainer(
        dt.SupervisedStep(model, **parts, device="cpu"), train, validation=dt.Validation(val), epochs=3, name="r",
        runs=runs, callbacks=recipes.callbacks(), verbosity=0,
    )  # fmt: skip


@pytest.mark.parametrize("limit", [{"limit_batches": 3}, {"overfit": 3}])
def test_same_bits_with_limits_when_stopped_anywhere(tmp_path, limit):
    untouched = limited(None, **limit)
    untouched.fit()
    assert untouched.progress.train.batches == 9
    assert len(untouched.history["val.loss"].values) == 3
    for stop in range(1, 9):
        place = tmp_path / str(stop)
        t = limited(place, **limit)
        t.fit(until=dt.At(iteration=stop))
        t.close()
        t = limited(place, **limit)
        t.fit()
        t.close()
        assert recipes.summary(t) == recipes.summary(untouched)


def test_another_limit_is_another_run(tmp_path):
    t = limited(tmp_path, limit_batches=3)
    t.fit(until=dt.At(batch=2))
    t.close()
    with pytest.raises(dt.FingerprintMismatch, match="limit_batches: 3 -> "):
        limited(tmp_path)


def test_a_model_has_the_same_few_batches_by_heart():
    losses = {}
    for name, limit in (("some", {"overfit": 1}), ("all", {"limit_batches": 1})):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
        x, y = torch.randn(400, 6), torch.randint(3, (400,))
        step = dt.SupervisedStep(
            model,
            loss=nn.CrossEntropyLoss(),
            optimizer=torch.optim.Adam(model.parameters(), 1e-2),
            device="cpu",
        )
        train = dt.BatchLoader(dt.Arrays(x, y), batch_size=16, shuffle=True, **limit)
        t = dt.Trainer(step, train, epochs=150, runs=None, verbosity=0)
        t.fit()
        losses[name] = np.mean(t.history["train.loss"].values[-20:])
    assert losses["some"] < 0.1 < losses["all"]
