"""Steering: values set by their paths, requests, breakpoints; each change once, whatever dies when."""

import os
import threading

import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.control import changes, steering
from deeptrain.control.journal import read_journal
from tests.support import fresh, recipes

DECAY = "optimizer.param_groups.*.weight_decay"


def plain(runs=None, scheduler="multistep", **more):
    return recipes.trainer(scheduler, runs=runs, name=None if runs is None else "r", **more)


def interventions(path):
    return [entry for entry in read_journal(path / "journal.jsonl") if entry["kind"] == "intervention"]


# ------------------------------------------------------------------ setting values


def test_values_of_every_kind_are_set_by_their_paths():
    t = plain()
    t.fit(until=dt.At(iteration=4))
    t.set("optimizer.param_groups.0.betas", [0.5, 0.75])
    assert t.get("optimizer.param_groups.0.betas") == (0.5, 0.75)
    t.set(DECAY, 1)
    assert t.get("optimizer.param_groups.0.weight_decay") == 1.0
    weights = torch.arange(float(t.get(r"model.head\.bias").numel()))
    t.set(r"model.head\.bias", weights)
    assert torch.equal(t.learner.model.head.bias, weights)
    t.set("optimizer.state.*.exp_avg", 0)
    assert all(not value.any() for value in t.get("optimizer.state.*.exp_avg").values())
    t.set("scheduler.gamma", 0.125)
    assert t.learner.scheduler.gamma == 0.125
    t.set("callbacks.Chain.events", 7)
    assert t.handlers.by_name["Chain"].events == 7
    t.fit()


def test_tied_weights_stay_tied():
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    step = dt.SupervisedStep(
        model, loss=nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu"
    )
    train = dt.BatchLoader(dt.Arrays(torch.rand(8, 3), torch.rand(8, 3)), batch_size=4)
    t = dt.Trainer(step, train, runs=None, verbosity=0)
    t.set(r"model.0\.weight", 2)
    assert model[1].weight is model[0].weight
    assert (model[0].weight == 2).all()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("optimizer.param_groups.0.weight_decai", 1.0, "near it there are"),
        ("optimizer.param_groups.0.weight_decay", "a", "expected a float"),
        ("optimizer.param_groups.0.weight_decay", -0.1, "found -0.1, expected a finite number from 0 up"),
        ("optimizer.param_groups.0.lr_scale", float("nan"), "found nan, expected a finite number"),
        (
            "optimizer.param_groups.0.betas",
            (0.9, 1.0),
            "found (0.9, 1.0), expected numbers from 0 to below 1",
        ),
        ("optimizer.param_groups.0.amsgrad", 1, "expected a bool"),
        ("optimizer.param_groups.0.betas", (0.5,), "expected 2, as in"),
        ("optimizer.param_groups.0.betas", (0.5, "b"), "betas.1: found 'b'"),
        ("optimizer.param_groups.0", 1, "no single value"),
        ("optimizer.param_groups.*.lr", 0.1, "set by the scheduler MultiStepLR"),
        ("progress.train.epochs", 1, "counters say what was completed"),
        ("data.train.cursor.batch", 1, "change the order"),
        ("random.torch.state", 0, "move the streams"),
        ("history.series", 0, "it is a record"),
        (r"model.head\.bias", torch.zeros(2), "found a tensor of shape"),
        (r"model.head\.bias", torch.zeros((), dtype=torch.float64), "expected torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(path, value, message):
    t = plain()
    t.fit(until=dt.At(iteration=3))
    before = dt.digest(t.state_dict())
    with pytest.raises((KeyError, ValueError, TypeError)) as error:
        t.set(path, value)
    assert message in str(error.value)
    assert dt.digest(t.state_dict()) == before


def test_a_part_that_works_its_value_out_itself_says_so_and_keeps_its_old_ones():
    class Own(recipes.Chain):
        def load_state_dict(self, state):
            super().load_state_dict({**state, "events": len(state["hash"])})

    t = plain(callbacks=[Own()])
    t.fit(until=dt.At(iteration=3))
    with pytest.raises((ValueError, AssertionError)):
        t.set("callbacks.Own.events", 999)


def test_a_call_in_the_middle_of_a_computation_is_refused():
    t = plain()
    t.learner.model.register_forward_hook(lambda *_: t.set(DECAY, 1.0))
    with pytest.raises(RuntimeError, match="in the middle of a computation"):
        t.fit()


# ------------------------------------------------------------------ a script that is killed and run again


class Dies(dt.Callback):
    """Ends the process after an iteration, once: a file says that it did."""

    def __init__(self, mark=None, at=None):
        self._mark, self._at = mark, at

    def on_train_iter_end(self, trainer, event):
        if self._at == event.iteration and not self._mark.exists():
            self._mark.touch()
            os._exit(9)


def script(runs, mark=None, at=None, every=3):
    """Train to an epoch, set a value, train on, set another one."""
    callbacks = [*recipes.callbacks(), Dies(mark, at)]
    t = plain(runs, callbacks=callbacks, checkpoints=dt.Checkpoints(every=dt.Every(batches=every)))
    t.fit(until=dt.At(epoch=1))
    t.set(DECAY, 0.5)
    t.fit(until=dt.At(batch=11))
    t.set(r"model.head\.bias", 0.25)
    t.request_validation()
    t.fit()
    t.close()
    return dt.digest(t.state_dict()), t.run.path, t.progress.train.iterations


def again_and_again(fn, *args):
    """Run a function in fresh processes until one of them lives to its end."""
    while True:
        process, pipe = fresh.start(fn, *args)
        try:
            kind, value = pipe.recv()
        except EOFError:
            process.join()
            assert process.exitcode == 9
            continue
        process.join()
        assert kind == "ok", value
        return value


@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_script_that_is_killed_anywhere_sets_each_value_once(tmp_path, every):
    expected, path, iterations = fresh.run(script, tmp_path / "untouched", None, None, every)
    assert [entry["at"] for entry in interventions(path)] == [8, 11, 11]
    for at in range(1, iterations + 1, 1 if every == 3 else 4):
        place = tmp_path / str(at)
        digest, path, _ = again_and_again(script, place, tmp_path / f"{at}.died", at, every)
        assert digest == expected, f"killed after iteration {at}"
        assert {entry["number"] for entry in interventions(path)} == {0, 1, 2}


# ------------------------------------------------------------------ from another thread


class Asks(dt.Callback):
    """Has another thread set a value while the trainer runs, once in the life of a run: a file says that it did."""

    def __init__(self, mark):
        self._mark, self._thread = mark, None

    def on_train_iter_end(self, trainer, event):
        if event.iteration != 6 or self._mark.exists():
            return
        self._mark.touch()
        self._thread = threading.Thread(target=trainer.set, args=(DECAY, 0.75))
        self._thread.start()
        while not trainer.steering.waiting:  # so that it is asked for at the same moment in every run
            pass


def asked(runs, dies=None, at=None, before_it_is_made=False):
    ask = Asks(runs.with_suffix(".asked"))
    t = plain(
        runs,
        callbacks=[*recipes.callbacks(), ask, Dies(dies, at)],
        checkpoints=dt.Checkpoints(every=dt.Every(batches=100)),
    )
    if before_it_is_made and not dies.exists():
        dies.touch()
        changes._put = lambda *_: os._exit(9)
    t.fit()
    t.close()
    return dt.digest(t.state_dict()), t.run.path, t.get(DECAY)


@pytest.mark.parametrize(("at", "before"), [(7, False), (9, False), (15, False), (None, True)])
def test_a_change_from_outside_is_made_again_after_a_crash(tmp_path, at, before):
    """Killed after it, or between its line in the journal and its making: it is made once, in the same place."""
    expected, path, value = fresh.run(asked, tmp_path / "untouched")
    assert set(value.values()) == {0.75}
    assert len(interventions(path)) == 1
    digest, path, value = again_and_again(asked, tmp_path / "r", tmp_path / "died", at, before)
    assert (digest, set(value.values())) == (expected, {0.75})
    assert len(interventions(path)) == 1


def test_who_asks_from_another_thread_is_told_what_became_of_it():
    t, told = plain(), []

    def ask():
        told.append(t.set(DECAY, 0.5))
        with pytest.raises(KeyError, match="near it"):
            t.set("optimizer.param_groups.0.weight_decai", 0.5)
        t.request_pause("told all")

    class Begin(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            if event.iteration == 2:
                threading.Thread(target=ask).start()

    t.handlers.calls["train_iter_end"]["Begin"] = Begin().on_train_iter_end
    t.handlers.by_name["Begin"] = Begin()
    t.epochs = 10**6
    with pytest.raises(dt.Interrupted, match="told all"):
        t.fit()
    assert told[0].startswith("made at iteration")


# ------------------------------------------------------------------ edits of the order


def edits(runs, mark=None, at=None, every=3):
    """A script that edits the order between two fit(), at rest and in a loop's body."""
    t = plain(
        runs,
        callbacks=[*recipes.callbacks(), Dies(mark, at)],
        checkpoints=dt.Checkpoints(every=dt.Every(batches=every)),
    )
    t.train.exclude(rows=[3, 4])
    t.fit(until=dt.At(batch=4))
    t.train.skip(rows=[5, 6, 7])
    t.set(DECAY, 0.5)
    t.train.repeat(batches=1)
    t.fit(until=dt.At(batch=9))
    t.train.set_batch_size(6)
    t.fit()
    t.close()
    return dt.digest(t.state_dict()), t.run.path, t.progress.train.iterations


@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_script_that_is_killed_anywhere_edits_the_order_once(tmp_path, every):
    expected, path, iterations = fresh.run(edits, tmp_path / "untouched", None, None, every)
    assert [(entry["verb"], entry["path"], entry["at"]) for entry in interventions(path)] == [
        ("edit", "exclude", 0),
        ("edit", "skip", 4),
        ("set", DECAY, 4),
        ("edit", "repeat", 4),
        ("edit", "batch_size", 9),
    ]
    for at in range(1, iterations + 1, 1 if every == 3 else 4):
        digest, path, _ = again_and_again(edits, tmp_path / str(at), tmp_path / f"{at}.died", at, every)
        assert digest == expected, f"killed after iteration {at}"
        assert {entry["number"] for entry in interventions(path)} == set(range(5))


def edited_from_a_thread(runs, mark=None, at=None):
    asked = runs.with_suffix(".asked")

    class Edits(Asks):
        def on_train_iter_end(self, trainer, event):
            if event.iteration == 6 and not self._mark.exists():
                self._mark.touch()
                threading.Thread(target=trainer.train.skip, kwargs={"rows": list(range(20))}).start()
                while not trainer.steering.waiting:
                    pass

    t = plain(
        runs,
        callbacks=[*recipes.callbacks(), Edits(asked), Dies(mark, at)],
        checkpoints=dt.Checkpoints(every=dt.Every(batches=100)),
    )
    t.fit()
    t.close()
    return dt.digest(t.state_dict()), t.progress.train.iterations


@pytest.mark.parametrize("at", [7, 9, 13])
def test_an_edit_from_outside_is_made_again_after_a_crash(tmp_path, at):
    expected = fresh.run(edited_from_a_thread, tmp_path / "untouched")
    assert expected[1] < 16  # something was skipped
    assert again_and_again(edited_from_a_thread, tmp_path / "r", tmp_path / "died", at) == expected


def test_an_edit_that_cannot_be_made_is_in_no_record(tmp_path):
    t = plain(tmp_path)
    t.fit(until=dt.At(iteration=3))
    with pytest.raises(ValueError, match="batches left in epoch 0"):
        t.train.skip(batches=99)
    assert not interventions(t.run.path)
    assert t.steering.made == (0, 0)
    t.train.skip(batches=1)
    t.close()
    t.train.skip(batches=1)  # a loader alone again
    assert len(interventions(t.run.path)) == 1


# ------------------------------------------------------------------ requests


def test_a_run_that_is_asked_to_stop_is_done(tmp_path):
    class Enough(dt.Callback):
        def on_train_batch_end(self, trainer, event):
            if event.iteration == 5:
                trainer.request_stop()

    def make(**more):
        return plain(tmp_path, callbacks=[Enough()], **more)

    t = make()
    t.fit()
    t.close()
    assert (t.progress.phase, t.progress.train.iterations) == (dt.Phase.DONE, 5)
    again = make()
    again.fit()
    again.close()
    assert again.progress.train.iterations == 5
    longer = make(epochs=again.epochs + 1)
    longer.fit()
    assert longer.progress.train.epochs == longer.epochs


def test_a_validation_more_changes_no_weight():
    digests = []
    for more in (False, True):
        t = plain(every=None)
        t.fit(until=dt.At(iteration=6))
        if more:
            t.request_validation()
        t.fit()
        assert t.history["val.loss"].iterations.tolist() == ([6, 8, 16] if more else [8, 16])
        digests.append(dt.digest({"model": t.get("model"), "random": t.get("random")}))
    assert digests[0] == digests[1]
    with pytest.raises(ValueError, match="has no validation"):
        plain(validate=False).request_validation()


def test_a_checkpoint_is_saved_where_it_is_asked_for(tmp_path):
    t = plain(tmp_path, checkpoints=dt.Checkpoints(every=dt.Every(batches=10**6), keep=9))
    t.fit(until=dt.At(iteration=3))
    before = len(list((t.run.path / "checkpoints").glob("0*")))
    t.request_checkpoint()
    t.step()
    assert len(list((t.run.path / "checkpoints").glob("0*"))) == before + 1
    t.close()


# ------------------------------------------------------------------ breakpoints


@pytest.mark.parametrize(
    "condition",
    [
        "train.loss < 100",
        "model.*.grad > 0",
        "isfinite(train.accuracy) and optimizer.param_groups.*.lr > 0",
        "progress.train.iterations == 4",
    ],
)
def test_a_breakpoint_pauses_with_the_state_whole_and_changes_nothing(condition):
    expected = plain()
    expected.fit()
    t = plain()
    t.fit(until=dt.At(iteration=3))
    assert t.break_when(condition) == condition
    with pytest.raises(dt.Interrupted, match=r"the breakpoint .* was met"):
        t.fit()
    assert t.progress.train.iterations == 4
    t.breaks.remove(condition)
    t.step(1)
    assert t.progress.train.iterations == 5
    t.fit()
    assert dt.digest(t.state_dict()) == dt.digest(expected.state_dict())


@pytest.mark.parametrize(
    ("condition", "message"),
    [("train.loss >", "expected a number"), ("model.nothing.grad > 1", "nothing at"), ("modle.x > 1", "near it there are model"),
     ("optimizer.param_groups.0.lr.grad > 1", "no parameter")],
)  # fmt: skip
def test_a_breakpoint_on_what_there_is_not(condition, message):
    with pytest.raises((ValueError, KeyError)) as error:
        plain().break_when(condition)
    assert message in str(error.value)


def test_conditions_that_do_not_hold_let_the_run_go_on():
    t = plain()
    t.break_when("train.loss > 1e9 or val.loss > 1e9")
    t.fit()
    with pytest.raises(ValueError, match="there are"):
        t.breaks.remove("another > 1")
    t.breaks.remove()
    assert not t.breaks.conditions


def test_origins_are_told_apart(tmp_path, monkeypatch):
    t = plain(tmp_path, steered=True)
    t.fit(until=dt.At(iteration=4))
    t.set(DECAY, 0.5)
    monkeypatch.setattr(steering, "is_interactive", lambda: True)
    t.set(DECAY, 0.625)
    t.close()
    assert [entry["origin"] for entry in interventions(t.run.path)] == [
        "callback",
        "callback",
        "script",
        "prompt",
    ]


# ------------------------------------------------------------------ what an attack found


def with_checkpoints(runs, mark=None, at=None):
    """A request for a checkpoint is no change, and takes no other call's number."""
    callbacks = [*recipes.callbacks(), Dies(mark, at)]
    t = plain(runs, callbacks=callbacks, checkpoints=dt.Checkpoints(every=dt.Every(batches=4)))
    t.request_checkpoint()
    t.set(r"model.head\.bias", 0.5)
    t.fit()
    t.close()
    return dt.digest(t.state_dict())


def in_the_body(runs, mark=None, at=None):
    """A thread that sets a value while the loop's body runs."""
    asked = runs.with_suffix(".asked")
    t = plain(
        runs,
        callbacks=[*recipes.callbacks(), Dies(mark, at)],
        checkpoints=dt.Checkpoints(every=dt.Every(batches=99)),
    )
    for it in t:
        if it.iteration == 6 and not asked.exists():
            asked.touch()
            thread = threading.Thread(target=t.set, args=(DECAY, 0.75))
            thread.start()
            thread.join()
    t.close()
    return dt.digest(t.state_dict())


def at_rest(runs, mark=None, at=None):
    """A thread's change that is made at rest, before a script's own call there."""
    t = plain(
        runs,
        callbacks=[*recipes.callbacks(), Asks(runs.with_suffix(".asked")), Dies(mark, at)],
        checkpoints=dt.Checkpoints(every=dt.Every(batches=99)),
    )
    t.fit(until=dt.At(iteration=6))
    t.set(DECAY, 0.125)
    t.request_validation()
    t.fit()
    t.close()
    return dt.digest(t.state_dict())


@pytest.mark.parametrize("fn", [with_checkpoints, in_the_body, at_rest])
@pytest.mark.parametrize("at", [7, 10])
def test_killed_behind_a_change_and_run_again(tmp_path, fn, at):
    expected = fresh.run(fn, tmp_path / "untouched")
    assert again_and_again(fn, tmp_path / "r", tmp_path / "died", at) == expected


def test_a_handler_that_fails_after_it_asked_has_asked_for_nothing():
    class Fails(dt.Callback):
        failed = False

        def on_train_batch_end(self, trainer, event):
            if event.iteration == 5:
                trainer.set(r"model.head\.bias", 0.5)
                trainer.request_validation()
                if self.fails and not Fails.failed:
                    Fails.failed = True
                    raise OSError("once")

        def __init__(self, fails):
            self.fails = fails

    found = []
    for fails in (False, True):
        t = plain(callbacks=[*recipes.callbacks(), Fails(fails)])
        if fails:
            with pytest.raises(OSError, match="once"):
                t.fit()
        t.fit()
        found.append(dt.digest(t.state_dict()))
    assert found[0] == found[1]


def test_what_is_set_at_rest_is_saved_when_the_trainer_is_closed(tmp_path):
    for until in (dt.At(iteration=4), None):
        t = plain(tmp_path)
        t.fit(until=until)
        t.set(r"model.head\.bias", 0.5)
        t.close()
        model = recipes.Net()
        dt.load_weights(t.run.path, model)
        assert (model.head.bias == 0.5).all()


def test_another_call_of_the_same_number_is_refused(tmp_path):
    t = plain(tmp_path)
    t.fit(until=dt.At(iteration=4))
    t.set(DECAY, 0.5)
    t.run.save(t)
    t.close()
    again = plain(tmp_path)
    with pytest.raises(RuntimeError, match="number 0 was set"):
        again.set(r"model.head\.bias", 0.5)
    assert again.set(DECAY, 0.5).startswith("made before")


def test_asking_twice_for_the_end_ends_once_and_a_run_that_is_done_takes_no_request():
    t = plain()
    t.fit(until=dt.At(iteration=4))
    t.request_stop()
    t.request_stop()
    t.fit()
    assert (t.progress.phase, list(t.progress.pending)) == (dt.Phase.DONE, [])
    with pytest.raises(ValueError, match="the run is done"):
        t.request_validation()


def test_a_value_is_not_set_in_the_middle_of_a_validation():
    class Late(dt.Callback):
        def on_val_batch_end(self, trainer, event):
            trainer.set(r"model.head\.bias", 0.5)

    t = plain(callbacks=[Late()])
    with pytest.raises(ValueError, match="a validation is under way"):
        t.fit()
