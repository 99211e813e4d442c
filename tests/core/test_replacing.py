"""Replacing parts between two fit(): all or nothing, in the record, and the same bits behind it whatever is stopped when."""

import os
import shutil
import threading

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR, ReduceLROnPlateau

import deeptrain as dt
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.control.journal import read_journal
from deeptrain.run.run import Run
from tests.core.test_steering import DECAY, again_and_again, plain
from tests.support import fresh, recipes

ITERATION = 11  # in the middle of the second of two epochs of 8 batches


class Smooth(nn.Module):
    """A loss with a parameter, and a buffer that moves in training."""

    def __init__(self, smoothing=0.1):
        super().__init__()
        self.smoothing = smoothing
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, predictions, targets):
        if self.training:
            self.calls += 1
        found = nn.functional.cross_entropy(predictions, targets, label_smoothing=self.smoothing)
        return found + 1e-3 * self.calls


def one_cycle(optimizer, totals):
    return OneCycleLR(optimizer, 1e-1, total_steps=totals.updates)


def cosine(optimizer, totals):
    return CosineAnnealingLR(optimizer, T_max=totals.updates)


def other_train(rows=52):
    return dt.BatchLoader(dt.Arrays(*recipes.data(rows, seed=7)), batch_size=8, shuffle="samples", seed=9)


def other_validation():
    loader = dt.BatchLoader(dt.Arrays(*recipes.data(18, seed=4)), batch_size=5)
    return dt.Validation(loader, metrics={"accuracy": recipes.accuracy}, every=dt.Every(batches=3))


class Sums(dt.Callback):
    """Another callback with state."""

    def __init__(self):
        self.sum = 0.0

    def on_train_batch_end(self, trainer, event):
        self.sum += event.metrics["loss"]

    def state_dict(self):
        return {"sum": self.sum}

    def load_state_dict(self, state):
        self.sum = state["sum"]


# What the new parts are, made for the model that they are over.
CHANGES = {
    "loss": lambda model: {"loss": Smooth()},
    "optimizer": lambda model: {
        "optimizer": torch.optim.SGD(model.parameters(), 0.05, momentum=0.9),
        "scheduler": one_cycle,
    },
    "scheduler": lambda model: {"scheduler": cosine},
    "plateau": lambda model: {"scheduler": lambda o, _: ReduceLROnPlateau(o, factor=0.5, patience=0)},
    "without": lambda model: {"scheduler": None},
    "train": lambda model: {"train": other_train()},
    "validation": lambda model: {"validation": other_validation()},
    "callbacks": lambda model: {"callbacks": [Sums(), recipes.Jitter()]},
    "all": lambda model: {
        "loss": Smooth(),
        "optimizer": torch.optim.AdamW(model.parameters(), 3e-2),
        "scheduler": cosine,
        "train": other_train(76),
        "validation": other_validation(),
        "callbacks": [Sums()],
    },
}


def new_script(runs, change, **more):
    """A script that makes its trainer with the new parts from the start."""
    dt.reproducible(seed=3)
    model, train, val = recipes.loaders("global", None, 0, None)
    parts = CHANGES[change](model)
    step = dt.SupervisedStep(
        model,
        loss=parts.get("loss", nn.CrossEntropyLoss()),
        optimizer=parts.get("optimizer") or torch.optim.AdamW(model.parameters(), 1e-2),
        scheduler=parts.get("scheduler", recipes.SCHEDULERS["multistep"][0]),
        metrics={"accuracy": recipes.accuracy},
        device="cpu",
    )
    validation = dt.Validation(val, metrics={"accuracy": recipes.accuracy}, every=dt.Every(batches=7))
    return dt.Trainer(
        step,
        parts.get("train", train),
        validation=parts.get("validation", validation),
        epochs=more.pop("epochs", recipes.EPOCHS),
        name="r",
        runs=runs,
        callbacks=parts.get("callbacks", recipes.callbacks()),
        checkpoints=dt.Checkpoints(every=dt.Every(batches=5)),
        verbosity=0,
        **more,
    )


def replaced(runs, change, **more):
    """A trainer with the old parts that has come to its replacement and made it."""
    t = plain(runs, **more)
    t.fit(until=dt.At(iteration=ITERATION))
    t.set(DECAY, 0.125)
    t.replace(**CHANGES[change](t.learner.model))
    return t


def begin(runs, change):
    """Killed right after the replacement."""
    pid = os.fork()
    if pid:
        assert os.waitpid(pid, 0)[1] == 9 << 8
        return
    replaced(runs, change)
    os._exit(9)


def untouched(runs, change):
    t = replaced(runs, change)
    settings = t.settings
    t.fit()
    t.close()
    return recipes.summary(t), settings


def count(runs, change):
    """How many safe points there are behind the replacement; and the outcome."""
    t, done = new_script(runs, change), 0
    while not recipes.advance(t, 1):
        done += 1
    t.close()
    return done + 1, recipes.summary(t), t.settings


def go(runs, change, safe_points):
    t = new_script(runs, change)
    done = recipes.advance(t, safe_points)
    if not done:
        t.run.save(t)
    t.close()


def finish(runs, change):
    t = new_script(runs, change)
    t.fit()
    t.close()
    return recipes.summary(t)


@pytest.mark.parametrize("change", CHANGES)
def test_a_script_with_the_new_parts_goes_on_to_the_same_bits_from_everywhere(tmp_path, change):
    expected, settings = fresh.run(untouched, tmp_path / "untouched", change)
    fresh.run(begin, tmp_path / "begun", change)
    shutil.copytree(tmp_path / "begun", tmp_path / "0")
    safe_points, found, made = fresh.run(count, tmp_path / "0", change)
    assert found == expected
    assert made == settings
    for k in range(1, safe_points, 1 if change == "optimizer" else 7):
        place = tmp_path / str(k)
        shutil.copytree(tmp_path / "begun", place)
        fresh.run(go, place, change, k)
        fresh.run(go, place, change, 1 + k % 3)
        assert fresh.run(finish, place, change) == expected, f"stopped {k} transitions behind it"


def dies_in_it(runs, mark):
    """A script that replaces parts, and is killed in the middle of that before anything is saved: a file says that it was."""
    t = plain(runs)
    t.fit(until=dt.At(iteration=ITERATION))
    t.set(DECAY, 0.125)
    save = t.run.checkpoints.save

    def die(*args, **kwargs):
        if mark.exists():
            return save(*args, **kwargs)
        mark.touch()
        return os._exit(9)

    t.run.checkpoints.save = die
    t.replace(**CHANGES["all"](t.learner.model))
    t.fit()
    t.close()
    return recipes.summary(t)


def test_killed_before_it_is_saved_it_was_not_made_and_the_script_makes_it_again(tmp_path):
    expected, _ = fresh.run(untouched, tmp_path / "untouched", "all")
    assert again_and_again(dies_in_it, tmp_path / "runs", tmp_path / "died") == expected


def test_a_replacement_changes_what_follows():
    found = set()
    for change in (None, *CHANGES):
        t = plain()
        t.fit(until=dt.At(iteration=ITERATION))
        if change is not None:
            t.set(DECAY, 0.125)
            t.replace(**CHANGES[change](t.learner.model))
        t.fit()
        found.add(dt.digest(t.state_dict()))
    assert len(found) == 1 + len(CHANGES)


# ------------------------------------------------------------------ what goes on, what begins anew


def test_counters_and_history_go_on_and_the_optimizer_begins_anew():
    t = replaced(None, "optimizer")
    assert t.progress.train.iterations == ITERATION
    assert t.history["train.loss"].iterations.tolist() == list(range(1, ITERATION + 1))
    assert not t.get("optimizer.state")
    assert t.learner.scheduler.total_steps == 16 - ITERATION
    t.fit(until=dt.At(iteration=15))
    assert t.get("optimizer.param_groups.0.lr") < 1e-5  # the cycle has come to its end
    t.fit()
    assert t.progress.train.iterations == 16
    assert t.history["train.loss"].iterations.tolist() == list(range(1, 17))


def test_an_optimizer_of_the_same_class_carries_nothing_over_and_says_so():
    t = plain()
    t.fit(until=dt.At(iteration=3))
    told = t.replace(optimizer=torch.optim.AdamW(t.learner.model.parameters(), 0.5), scheduler=None)
    assert "averages begin anew: nothing was carried over" in told
    assert not t.get("optimizer.state")
    assert "step.optimizer.param_groups.0.lr: 0.01 -> 0.5" in told


def test_under_another_schedule_the_optimizer_keeps_what_was_set_and_begins_from_its_own_rates():
    t = replaced(None, "plateau")
    assert set(t.get(DECAY).values()) == {0.125}
    assert t.get("optimizer.param_groups.0.lr") == 1e-2
    t = replaced(None, "without")
    assert t.get("optimizer.param_groups.0.lr") == 2.5e-3  # as the old schedule left it
    assert t.get("optimizer.state")


def test_the_rates_that_a_cycle_moved_are_those_of_the_optimizer_again():
    t = plain(scheduler="onecycle")
    t.fit(until=dt.At(iteration=5))
    t.replace(scheduler=lambda o, _: MultiStepLR(o, [1], gamma=0.5))
    group = t.learner.optimizer.param_groups[0]
    assert (group["lr"], group["betas"]) == (1e-2, (0.9, 0.999))
    t.step(1)
    assert group["lr"] == 5e-3


def test_a_new_scheduler_steps_when_it_is_told_to():
    t = plain()
    t.fit(until=dt.At(iteration=5))
    t.replace(scheduler=lambda o, _: MultiStepLR(o, [1], gamma=0.5), scheduler_by="epochs")
    assert t.settings["step"]["scheduler_by"] == "epochs"
    t.fit(until=dt.At(iteration=7))
    assert t.get("optimizer.param_groups.0.lr") == 1e-2
    t.step(1)
    assert t.get("optimizer.param_groups.0.lr") == 5e-3


def test_more_epochs_make_the_rest_longer(tmp_path):
    fresh.run(begin, tmp_path, "plateau")
    t = new_script(tmp_path, "plateau", epochs=3)
    assert t.learner._totals.updates == 16 - ITERATION + 8
    t.fit()
    t.close()


def test_a_train_loader_of_the_same_order_goes_on_at_its_place():
    expected = plain()
    expected.fit()
    t = plain()
    t.fit(until=dt.At(iteration=ITERATION))
    told = t.replace(train=dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8, shuffle="global", seed=5))
    assert "goes on at its place" in told
    t.fit()
    for part in ("model", "optimizer", "random", "data", "callbacks"):
        assert dt.digest(t.get(part)) == dt.digest(expected.get(part))


def test_another_train_loader_begins_the_epoch_under_way():
    t = plain()
    t.fit(until=dt.At(iteration=ITERATION))
    told = t.replace(train=other_train())
    assert "begins epoch 2 at its first batch (3 batches of the old one were fed in it)" in told
    assert (t.train.position.epoch, t.train.position.batch) == (1, 0)
    assert (t.progress.train.epochs, t.progress.train.batches) == (1, ITERATION)
    t.fit()
    assert t.progress.train.iterations == ITERATION + 7


def test_signals_wait_until_it_is_saved(tmp_path):
    t = plain(tmp_path)
    t.fit(until=dt.At(iteration=ITERATION))

    class Signals(nn.CrossEntropyLoss):
        def to(self, *args):
            os.kill(os.getpid(), 2)
            return super().to(*args)

    with pytest.raises(dt.Interrupted):
        t.replace(loss=Signals(label_smoothing=0.5))
    assert t.learner.loss.label_smoothing == 0.5
    assert not t.run.checkpoints.is_behind(t)
    t.close()


# ------------------------------------------------------------------ the record


def test_the_record_says_what_was_replaced_by_what_and_a_checkpoint_is_saved_at_once(tmp_path):
    t = replaced(tmp_path, "optimizer")
    assert not t.run.checkpoints.is_behind(t)
    store = t.run.checkpoints.store
    assert store.newest().info["settings"] == t.settings
    assert t.get("replaced") == [{"at": ITERATION, "parts": ["optimizer", "scheduler"]}]
    t.close()
    entries = list(read_journal(t.run.path / "journal.jsonl"))
    (number, line), *more = [(n, e) for n, e in enumerate(entries) if e["kind"] == "replace"]
    assert not more
    assert [e["at"] for e in entries[number:] if e["kind"] == "checkpoint"][-1] == ITERATION
    assert (line["at"], line["parts"]) == (ITERATION, ["optimizer", "scheduler"])
    found = {c["path"]: (c["old"], c["new"]) for c in line["changes"]}
    assert found["step.optimizer.class"] == ("'AdamW'", "'SGD'")
    assert found["step.scheduler.class"] == ("'MultiStepLR'", "'OneCycleLR'")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("done", [False, True])
def test_a_script_with_the_old_parts_is_told_what_was_replaced_and_when(tmp_path, change, done):
    t = replaced(tmp_path, change)
    if done:
        t.fit()
    t.close()
    with pytest.raises(dt.FingerprintMismatch) as error:
        plain(tmp_path)
    parts = ", ".join(CHANGES[change](recipes.Net()))
    assert f"  {parts} at iteration {ITERATION}" in str(error.value)
    assert "make the trainer with the new parts" in str(error.value)
    again = plain(tmp_path, resume="new")
    assert again.progress.train.iterations == 0
    again.close()


def test_a_checkpoint_of_before_is_not_loaded_whole_into_the_new_parts(tmp_path):
    t = plain(tmp_path / "runs")
    t.fit(until=dt.At(iteration=4))
    t.save(tmp_path / "before")
    t.replace(**CHANGES["optimizer"](t.learner.model))
    before = dt.digest(t.state_dict())
    with pytest.raises(ValueError, match=r"optimizer, scheduler at iteration 4.*\n.*'AdamW' -> 'SGD'"):
        t.load(tmp_path / "before")
    assert dt.digest(t.state_dict()) == before
    t.load(tmp_path / "before", only=["model"])
    t.replace(
        optimizer=torch.optim.AdamW(t.learner.model.parameters(), 1e-2),
        scheduler=recipes.SCHEDULERS["multistep"][0],
    )
    t.load(tmp_path / "before")
    t.close()


def test_a_rewind_comes_back_as_far_as_the_replacement_and_not_behind_it(tmp_path):
    t = plain(tmp_path, checkpoints=dt.Checkpoints(every=dt.Every(batches=2), keep=99))
    t.fit(until=dt.At(iteration=ITERATION))
    t.replace(**CHANGES["all"](t.learner.model))
    at = dt.digest(t.get("model")), dt.digest(t.get("optimizer"))
    name = t.run.checkpoints.store.paths()[-1].name
    t.fit(until=dt.At(iteration=15))
    before = dt.digest(t.state_dict())
    for to in (10, ITERATION):  # a point is there before whatever is done at it
        with pytest.raises(ValueError, match=f"train, validation, callbacks at iteration {ITERATION}"):
            t.rewind(to=dt.At(iteration=to))
        assert dt.digest(t.state_dict()) == before
    t.rewind(to=name)
    assert (dt.digest(t.get("model")), dt.digest(t.get("optimizer"))) == at
    t.fit(until=dt.At(iteration=14))
    t.rewind(to=dt.At(iteration=13))
    t.fit()
    t.close()


def test_who_asks_from_another_thread_meanwhile_is_answered_when_it_is_made(tmp_path):
    t, told = plain(tmp_path), []
    t.fit(until=dt.At(iteration=ITERATION))

    class Asks(nn.CrossEntropyLoss):
        def to(self, *args):
            thread = threading.Thread(target=lambda: told.append(t.set(DECAY, 0.75)))
            thread.start()
            threads.append(thread)
            while not t.steering.waiting:
                pass
            return super().to(*args)

    threads = []
    t.replace(loss=Asks(label_smoothing=0.5))
    threads[0].join()
    assert told == [f"made at iteration {ITERATION}"]
    assert set(t.get(DECAY).values()) == {0.75}
    t.close()


def test_parts_that_stay_in_use_are_not_closed(tmp_path):
    place = recipes.write_files(tmp_path / "data")
    expected = plain(files=place)
    expected.fit()
    t = plain(files=place)
    t.fit(until=dt.At(iteration=ITERATION))
    old, judged = t.train, t.judging.validation
    t.replace(train=other_train(), validation=None)
    t.replace(train=old, validation=judged)
    t.replace(validation=judged, callbacks=list(t.handlers.by_name.values()))
    old.seek(epoch=1, batch=ITERATION % 7 - 1)
    t.fit()
    assert t.progress.phase is dt.Phase.DONE
    assert t.history["val.loss"].iterations[-1] > ITERATION


def test_edits_of_a_new_train_loader_go_into_the_record(tmp_path):
    t = replaced(tmp_path, "train")
    t.train.set_batch_size(5)
    t.close()
    edits = [e for e in read_journal(t.run.path / "journal.jsonl") if e.get("verb") == "edit"]
    assert [e["value"]["n"] for e in edits] == [5]


def test_a_child_of_a_run_with_replaced_parts_needs_them_too(tmp_path):
    t = replaced(tmp_path, "optimizer")
    t.close()
    with pytest.raises(dt.FingerprintMismatch, match="optimizer, scheduler at iteration"):
        recipes.trainer("multistep", runs=tmp_path, name="child", resume=t.run.path)


# ------------------------------------------------------------------ what is refused, and that it changes nothing


class Broken(nn.Module):
    def to(self, *_):
        raise OSError("no room")


REFUSED = {
    "nothing": (lambda t: {}, "nothing is given"),
    "scheduler": (lambda t: {"optimizer": torch.optim.SGD(t.learner.model.parameters(), 1)}, "under a MultiStepLR"),
    "instance": (lambda t: {"scheduler": MultiStepLR(torch.optim.SGD(nn.Linear(1, 1).parameters(), 1), [1])}, "a function that makes it"),
    "other model": (
        lambda t: {"optimizer": torch.optim.SGD(recipes.Net().parameters(), 1), "scheduler": None},
        "none of them is of the model",
    ),
    "no scheduler": (lambda t: {"scheduler": lambda o, _: None if o is None else 3}, "expected a torch scheduler"),
    "short": (lambda t: {"scheduler": lambda o, _: OneCycleLR(o, 9.0, total_steps=2)}, "was made for 2 steps"),
    "by": (lambda t: {"scheduler_by": "epochs", "loss": nn.CrossEntropyLoss()}, "says when a new scheduler steps"),
    "class": (lambda t: {"loss": nn.CrossEntropyLoss}, "is a class"),
    "loss": (lambda t: {"loss": Broken(), "train": other_train()}, "no room"),
    "no loss": (lambda t: {"loss": None}, "expected a function"),
    "no optimizer": (lambda t: {"optimizer": None, "scheduler": None}, "expected an optimizer"),
    "train": (lambda t: {"train": [1, 2], "validation": other_validation()}, "expected"),
    "validation": (lambda t: {"train": t.judging.validation.loader}, "each has its place"),
    "callbacks": (lambda t: {"loss": Smooth(), "train": other_train(), "callbacks": [3]}, "expected instances"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_replaced_is_refused_and_leaves_everything_as_it_was(tmp_path, case):
    make, message = REFUSED[case]
    t = plain(tmp_path)
    t.fit(until=dt.At(iteration=ITERATION))
    with torch.random.fork_rng():
        parts = make(t)
    before, settings, kept = dt.digest(t.state_dict()), t.settings, len(t.run.checkpoints.store.paths())
    with pytest.raises((ValueError, TypeError, OSError), match=message):
        t.replace(**parts)
    assert (dt.digest(t.state_dict()), t.settings) == (before, settings)
    assert len(t.run.checkpoints.store.paths()) == kept
    t.fit()
    t.close()
    expected = plain()
    expected.fit()
    assert dt.digest(t.state_dict()) == dt.digest(expected.state_dict())


def test_one_that_cannot_be_saved_is_not_made(tmp_path, monkeypatch):
    t = plain(tmp_path, epochs=3)
    t.fit(until=dt.At(iteration=ITERATION))
    before = dt.digest(t.state_dict())
    new = CHANGES["all"](t.learner.model)
    groups = [dict(group) for group in new["optimizer"].param_groups]

    def full(*_, **__):
        raise CheckpointError("no space")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "save", full)
        with pytest.raises(CheckpointError, match="no space"):
            t.replace(**new)
    assert dt.digest(t.state_dict()) == before
    assert [dict(group) for group in new["optimizer"].param_groups] == groups
    assert "rejected" in [e["kind"] for e in read_journal(t.run.path / "journal.jsonl")]
    t.fit(until=dt.At(iteration=14))
    t.replace(**new)
    t.fit()
    t.close()


def test_a_schedule_that_does_not_go_with_the_new_data_asks_for_another():
    t = plain(scheduler="onecycle")
    t.fit(until=dt.At(epoch=1))
    with pytest.raises(ValueError, match=r"was made for Totals.*give scheduler= too"):
        t.replace(train=other_train(90))
    t.fit(until=dt.At(iteration=ITERATION))
    with pytest.raises(ValueError, match="has 5 steps left and the run 8 updates: give scheduler= too"):
        t.replace(train=other_train(60))
    t.replace(train=other_train(60), scheduler=one_cycle)
    assert t.learner.scheduler.total_steps == 8
    t.fit()
    assert t.progress.train.iterations == ITERATION + 8


def test_a_loss_whose_parameters_the_optimizer_holds_needs_another_optimizer():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, predictions, targets):
            return nn.functional.cross_entropy(predictions * self.weight, targets)

    t, loss = plain(), Weighted()
    model = t.learner.model
    t.replace(
        loss=loss, optimizer=torch.optim.SGD([*model.parameters(), *loss.parameters()], 0.1), scheduler=None
    )
    t.step(2)
    with pytest.raises(ValueError, match="holds 1 parameters of the old loss"):
        t.replace(loss=nn.CrossEntropyLoss())
    t.replace(loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1))
    t.fit()


def test_while_it_runs_in_a_validation_torn_or_done_it_is_refused_by_name(tmp_path):
    refused = []

    class Replaces(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            with pytest.raises(RuntimeError, match="while the trainer runs") as error:
                trainer.replace(loss=nn.CrossEntropyLoss())
            refused.append(error)

    t = plain(callbacks=[Replaces()])
    t.step(2)
    assert len(refused) == 2
    recipes.advance(t, 13)  # between two batches of the validation after iteration 7
    assert t.progress.phase is dt.Phase.VALIDATE
    with pytest.raises(ValueError, match=r"\(validation.*fit\(until=dt.At\(iteration=7\)\)"):
        t.replace(loss=nn.CrossEntropyLoss())
    t.fit(until=dt.At(iteration=7))
    t.replace(loss=nn.CrossEntropyLoss())
    t.fit()
    with pytest.raises(ValueError, match="the run is done"):
        t.replace(loss=nn.CrossEntropyLoss())
    t.progress.torn = "something was cut short"
    with pytest.raises(dt.TornStateError):
        t.replace(loss=nn.CrossEntropyLoss())


class Fails:
    """A metric that raises, until it is mended."""

    def __init__(self, mended):
        self.mended = mended

    def __call__(self, predictions, targets):
        if not self.mended:
            raise ZeroDivisionError("no such row")
        return recipes.accuracy(predictions, targets)


class SeesBatches(dt.Callback):
    """Counts what it was told of a pass."""

    def __init__(self):
        self.batches, self.passes = 0, 0

    def on_val_batch_end(self, trainer, event):
        self.batches += 1

    def on_val_end(self, trainer, event):
        self.passes += 1

    def state_dict(self):
        return {"batches": self.batches, "passes": self.passes}

    def load_state_dict(self, state):
        self.batches, self.passes = state["batches"], state["passes"]


def judged_by(metric, rows=18):
    loader = dt.BatchLoader(dt.Arrays(*recipes.data(rows, seed=4)), batch_size=5)
    return dt.Validation(loader, metrics={"accuracy": metric}, every=dt.Every(batches=7))


def over(runs, validation):
    dt.reproducible(seed=3)
    model, train, _ = recipes.loaders("global", None, 0, None)
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-2),
        device="cpu",
    )
    return dt.Trainer(
        step,
        train,
        validation=validation,
        epochs=2,
        name=runs and "r",
        runs=runs,
        callbacks=[SeesBatches()],
        verbosity=0,
    )


def failing(runs, metric):
    t = over(runs, judged_by(metric))
    if not metric.mended:
        with pytest.raises(ZeroDivisionError):
            t.fit()
    return t


def test_a_validation_that_fails_is_mended_where_it_stands(tmp_path):
    expected = failing(None, Fails(mended=True))
    expected.fit()
    t = failing(tmp_path, Fails(mended=False))
    assert t.progress.validation.batches == 4
    told = t.replace(validation=judged_by(Fails(mended=True)))
    assert "the validation that was due is made by the new one" in told
    t.close()
    # ... also by a script that is run again with the mended one.
    t = failing(tmp_path, Fails(mended=True))
    t.fit()
    found, wanted = t.state_dict(), expected.state_dict()
    assert [each["parts"] for each in found.pop("replaced")] == [["validation"]]
    assert not wanted.pop("replaced", None)
    assert dt.digest(found) == dt.digest(wanted)
    assert recipes.summary(t)[1] == recipes.summary(expected)[1]
    assert t.handlers.by_name["SeesBatches"].batches == 4 * t.progress.validation.passes
    t.close()


def test_a_validation_that_fails_may_be_left_out(tmp_path):
    t = failing(tmp_path, Fails(mended=False))
    assert "is left out" in t.replace(validation=None)
    t.fit()
    assert t.progress.phase is dt.Phase.DONE
    assert t.progress.validation.passes == 0
    expected = over(None, None)
    expected.fit()
    assert t.history["train.loss"].values.tolist() == expected.history["train.loss"].values.tolist()


def test_a_pass_under_way_is_taken_over_over_the_same_data_alone(tmp_path):
    t = failing(tmp_path, Fails(mended=False))
    before = t.state_dict()
    with pytest.raises(ValueError, match=r"4 batches of a pass are judged.*the same data, or None"):
        t.replace(validation=judged_by(Fails(mended=True), rows=20))
    with pytest.raises(ValueError, match="replace that alone"):
        t.replace(validation=judged_by(Fails(mended=True)), loss=nn.CrossEntropyLoss())
    assert dt.digest(t.state_dict()) == dt.digest(before)
    t.replace(validation=judged_by(Fails(mended=True)))
    t.fit()
    assert t.progress.validation.passes


def test_between_two_pieces_of_a_batch_the_train_loader_stays():
    t = plain(preprocess="repeat")
    t.fit(until=dt.At(iteration=1))
    assert t.train.position.iteration
    with pytest.raises(ValueError, match="pieces of batch 0 are done"):
        t.replace(train=other_train())
    t.replace(loss=nn.CrossEntropyLoss(label_smoothing=0.1))


def test_of_a_function_only_loaders_validation_and_callbacks_are_replaced():
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(batch):
        loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    t = dt.Trainer(step, other_train(), epochs=2, runs=None, verbosity=0)
    t.step(2)
    with pytest.raises(TypeError, match="only train, validation and callbacks can be replaced"):
        t.replace(loss=nn.CrossEntropyLoss())
    sums = Sums()
    t.replace(train=other_train(40), callbacks=[sums])
    t.fit()
    assert (t.progress.train.iterations, t.progress.train.epochs) == (2 + 5 + 5, 2)
    assert sums.sum > 0


def test_before_the_first_iteration_checkpoint_0_is_of_the_old_parts(tmp_path):
    t = plain(tmp_path)
    t.replace(**CHANGES["optimizer"](t.learner.model))
    assert [read["settings"]["step"]["optimizer"]["class"] for read in infos(t)] == ["AdamW", "SGD"]
    t.fit()
    t.close()


def infos(t):
    from deeptrain.checkpoint.format import read_info

    return [read_info(path) for path in t.run.checkpoints.store.paths()]
