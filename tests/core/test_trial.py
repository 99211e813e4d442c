"""Forks and trials: other ways on from one state, which leave the run as it was."""

import json

import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.control.journal import read_journal
from deeptrain.control.trial import Trial
from tests.core.test_steering import DECAY, Dies, again_and_again
from tests.support import fresh, recipes

EVERY = dt.Checkpoints(every=dt.Every(batches=3), keep=9)


def make(runs, **more):
    return recipes.trainer("multistep", runs=runs, **({"name": "r"} | more), checkpoints=EVERY)


def no_dropout(trainer):
    for module in trainer.learner.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def heavy_decay(trainer):
    trainer.set(DECAY, 5.0)
    trainer.train.skip(rows=[1, 2, 3])


def another_head(trainer):
    trainer.learner.model.head = nn.Linear(6, 3)
    trainer.learner.loss = nn.MultiMarginLoss()


def fails(trainer):
    trainer.set(DECAY, 0.25)
    raise RuntimeError("as planned")


def hooks(trainer):
    model = trainer.learner.model
    model.register_forward_hook(lambda module, inputs, output: output * 2)
    model.head.weight.register_hook(lambda gradient: gradient * 3)
    trainer.learner.optimizer.register_step_pre_hook(lambda *_: 1 / 0)


def more_groups(trainer):
    trainer.learner.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.zeros(2))]})
    trainer.learner.metrics.clear()
    trainer.epochs = 1
    trainer.handlers.calls["train_iter_end"].clear()


def goes_back(trainer):
    trainer.rewind(batches=1)


VARIANTS = {
    "as it is": lambda trainer: None,
    "no dropout": no_dropout,
    "decay": heavy_decay,
    "head": another_head,
    "fails": fails,
    "hooks": hooks,
    "groups": more_groups,
    "back": goes_back,
}


class Seen(dt.Callback):
    """What a sink would have been told of."""

    def __init__(self):
        self._told = []

    def on_train_iter_end(self, trainer, event):
        if not event.replaying:
            self._told.append(event.iteration)


# ------------------------------------------------------------------ trials


@pytest.mark.parametrize("point", [dt.At(batch=5), dt.At(batch=8), dt.At(batch=12)])
def test_a_trial_leaves_everything_as_it_was(tmp_path, point):
    untouched = make(tmp_path / "u")
    untouched.fit()
    losses = untouched.history["train.loss"].values.tolist()
    untouched.close()

    seen = Seen()
    t = make(tmp_path / "r", callbacks=[*recipes.callbacks(), seen])
    t.fit(until=point)
    model = t.learner.model
    before, parts = dt.digest(t.state_dict()), (model.head, t.learner.loss, model.drop.p)
    checkpoints = sorted((t.run.path / "checkpoints").iterdir())
    lines = len(list(read_journal(t.run.path / "journal.jsonl")))
    trial = t.try_(VARIANTS, batches=3)
    assert dt.digest(t.state_dict()) == before
    assert (model.head, t.learner.loss, model.drop.p) == parts
    assert sorted((t.run.path / "checkpoints").iterdir()) == checkpoints
    assert len(list(read_journal(t.run.path / "journal.jsonl"))) == lines + 1
    assert trial.curves["as it is"]["train.loss"].values.tolist() == losses[trial.at : trial.at + 3]
    assert trial.failed.pop("fails") == "RuntimeError: as planned"
    assert trial.failed.pop("hooks").startswith("ZeroDivisionError")
    assert trial.failed.pop("back").startswith("RuntimeError: trainer.rewind was called in a variant")
    assert not trial.failed
    assert seen._told == list(range(1, trial.at + 1))
    t.fit()
    t.close()
    assert dt.digest({**t.state_dict(), "callbacks": 0}) == dt.digest(
        {**untouched.state_dict(), "callbacks": 0}
    )


def test_a_trial_tells_the_variants_apart(tmp_path):
    t = make(None, name=None)
    t.fit(until=dt.At(batch=5))
    trial = t.try_({name: VARIANTS[name] for name in ("as it is", "no dropout", "decay", "head")}, batches=6)
    ends = {name: tuple(found["train.loss"].values) for name, found in trial.curves.items()}
    assert len(set(ends.values())) == 4
    assert all(len(values) == 6 for values in ends.values())
    text = str(trial)
    assert "tried from iteration 5" in text
    assert "no dropout" in text
    trial.plot(tmp_path / "trial.png")
    assert (tmp_path / "trial.png").stat().st_size > 10_000
    with pytest.raises(ValueError, match="there are"):
        trial.plot(tmp_path / "x.png", "train.nothing")
    trial.write(tmp_path / "trial.json")
    again = Trial.read(tmp_path / "trial.json")
    assert str(again) == text


def test_a_trial_ends_where_the_run_ends():
    t = make(None, name=None)
    t.fit(until=dt.At(batch=14))
    trial = t.try_({"as it is": lambda trainer: None}, batches=99)
    assert trial.curves["as it is"]["train.loss"].iterations.tolist() == [15, 16]
    t.fit()
    assert t.progress.phase is dt.Phase.DONE


def test_a_trial_that_is_interrupted_leaves_everything_as_it_was():
    t = make(None, name=None)
    t.fit(until=dt.At(batch=5))
    before = dt.digest(t.state_dict())

    def stops(trainer):
        trainer.set(DECAY, 0.25)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        t.try_({"one": heavy_decay, "two": stops}, batches=2)
    assert dt.digest(t.state_dict()) == before

    class Pauses(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            if event.iteration == 7:
                trainer.pause("enough")

    t = make(None, name=None, callbacks=[*recipes.callbacks(), Pauses()])
    t.fit(until=dt.At(batch=5))
    before = dt.digest(t.state_dict())
    with pytest.raises(dt.Interrupted, match="enough"):
        t.try_({"one": heavy_decay}, batches=4)
    assert dt.digest(t.state_dict()) == before


@pytest.mark.parametrize(
    ("variants", "more", "message"),
    [
        ({}, {}, "expected a dict of functions"),
        ({"a": 1}, {}, "expected a dict of functions"),
        ({"a": no_dropout}, {"batches": 0}, "from 1 up"),
        ({"a": no_dropout}, {"keep": "b"}, r"expected one of \['a'\]"),
    ],
)
def test_what_cannot_be_tried(variants, more, message):
    with pytest.raises(ValueError, match=message):
        make(None, name=None).try_(variants, **({"batches": 2} | more))


def kept(runs, mark=None, iteration=None):
    """A script that goes on with the variant whose end is best."""
    t = make(runs, callbacks=[*recipes.callbacks(), Dies(mark, iteration)])
    t.fit(until=dt.At(batch=5))
    variants = {"as it is": lambda trainer: None, "no dropout": no_dropout, "decay": heavy_decay}
    trial = t.try_(
        variants, batches=4, keep=lambda trial: min(trial.curves, key=lambda name: -trial.mean(name))
    )
    t.fit()
    t.close()
    losses = t.history["train.loss"].values[5:9].tolist()
    assert losses == trial.curves[trial.kept]["train.loss"].values.tolist()
    return dt.digest(t.state_dict()), trial.kept, str(trial)


def test_a_script_that_goes_on_with_a_variant_is_killed_anywhere(tmp_path):
    expected = fresh.run(kept, tmp_path / "untouched")
    for iteration in range(1, 16, 2):
        place = tmp_path / str(iteration)
        assert again_and_again(kept, place, tmp_path / f"{iteration}.died", iteration) == expected, iteration


# ------------------------------------------------------------------ forks


def test_a_fork_is_a_run_that_goes_on_from_this_state(tmp_path):
    t = make(tmp_path)
    t.fit(until=dt.At(batch=6))
    t.set(DECAY, 0.5)
    place = t.fork("half")
    then = dt.digest(t.state_dict())
    t.fit()
    end = dt.digest(t.state_dict())
    t.close()

    forked = make(tmp_path, name="half")
    assert forked.run.path == place
    assert dt.digest(forked.state_dict()) == then
    forked.set(r"model.head\.bias", 0.5)  # its script's first call, and another one than the parent's
    forked.rewind(to=dt.At(batch=6))
    assert dt.digest(forked.state_dict()) == then
    forked.fit()
    assert dt.digest(forked.state_dict()) == end
    forked.close()
    origin = json.loads((place / "record" / "start-0001.json").read_text())["origin"]
    assert (origin["parent"], origin["iteration"]) == (str(t.run.path), 6)


def forks(runs, mark=None, iteration=None):
    t = make(runs, callbacks=[*recipes.callbacks(), Dies(mark, iteration)])
    t.fit(until=dt.At(batch=6))
    place = t.fork("half")
    t.fit(until=dt.At(batch=9))
    t.rewind(batches=2)
    t.fit()
    t.close()
    return dt.digest(t.state_dict()), dt.open_run(place).digest, sorted(path.name for path in runs.iterdir())


def test_a_script_that_forks_is_killed_anywhere(tmp_path):
    expected = fresh.run(forks, tmp_path / "untouched")
    assert expected[2] == ["M1__r", "M2__half"]
    for iteration in range(8, 17):  # before that the fork is of no saved call, and is made again
        found = again_and_again(forks, tmp_path / str(iteration), tmp_path / f"{iteration}.died", iteration)
        assert found[:2] == expected[:2]


def test_a_fork_needs_a_run_and_a_name(tmp_path):
    with pytest.raises(ValueError, match="runs=None"):
        make(None, name=None).fork("x")
    t = make(tmp_path)
    with pytest.raises(ValueError, match="made of letters"):
        t.fork("a/b")

    class Forks(dt.Callback):
        def on_train_batch_end(self, trainer, event):
            trainer.fork("x")

    t = make(tmp_path, name="other", callbacks=[Forks()])
    with pytest.raises(RuntimeError, match="in a handler"):
        t.fit()


def test_streams_are_as_they_were_after_a_trial():
    t = make(None, name=None)
    t.fit(until=dt.At(batch=3))
    state = torch.get_rng_state()
    t.try_({"a": no_dropout}, batches=2)
    assert torch.equal(torch.get_rng_state(), state)
