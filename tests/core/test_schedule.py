"""Scheduled interventions: called once at their point, whatever is stopped, killed or run again when."""

import os
import signal
import threading

import pytest
import torch

import deeptrain as dt
from deeptrain.control.journal import read_journal
from tests.core.test_steering import DECAY, again_and_again, plain
from tests.support import fresh, recipes


def decay(trainer):
    trainer.set(DECAY, 0.5)


def noted(path, kind="scheduled"):
    return [entry["scheduled"] for entry in read_journal(path / "journal.jsonl") if entry["kind"] == kind]


# ------------------------------------------------------------------ when it is called


@pytest.mark.parametrize("point", [dt.At(iteration=8), dt.At(batch=8), dt.At(update=8), dt.At(epoch=1)])
def test_it_is_called_once_behind_the_validation_of_its_commit_and_before_its_checkpoint(tmp_path, point):
    told = []

    class Tells(dt.Callback):
        def on_train_epoch_end(self, trainer, event):
            told.append(("epoch end", event.iteration))

        def on_val_end(self, trainer, event):
            told.append(("validated", event.iteration))

        def on_save(self, trainer, event):
            told.append(("saved", event.iteration))

    t = plain(tmp_path, every=8, callbacks=[Tells()], checkpoints=dt.Checkpoints(every=dt.Every(batches=8)))
    said = t.at(point, lambda trainer: told.append(("called", trainer.progress.train.iterations)))
    assert said.startswith("scheduled as 0 ")
    t.fit()
    assert [what for what, at in told if at == 8] == ["epoch end", "validated", "called", "saved"]
    assert [at for what, at in told if what == "called"] == [8]


def test_a_batch_of_several_pieces_comes_to_its_point_once():
    at = []
    t = plain(preprocess="repeat")
    for point in (dt.At(batch=3), dt.At(iteration=7)):
        t.at(point, lambda trainer: at.append(trainer.progress.train.iterations))
    t.fit()
    assert len(at) == 2
    assert at[1] > at[0] + 1 or at[0] > at[1]


def test_several_at_one_point_come_in_the_order_of_registration_and_the_last_commit_has_its_own():
    told = []
    t = plain()
    for name in "abc":
        t.at(dt.At(epoch=2), lambda _, name=name: told.append(name))
    t.at(dt.At(iteration=999), lambda _: told.append("never"))
    t.fit()
    assert told == ["a", "b", "c"]
    assert t.progress.phase is dt.Phase.DONE


def test_a_point_that_is_behind_does_nothing_and_says_so():
    t = plain()
    t.fit(until=dt.At(iteration=5))
    assert "is behind the run, which stands at iteration 5" in t.at(dt.At(iteration=5), decay)
    t.fit()
    assert set(t.get(DECAY).values()) == {0.01}


def test_a_run_that_goes_back_comes_through_the_point_again(tmp_path):
    at = []
    t = plain()
    t.at(dt.At(iteration=5), lambda trainer: at.append(trainer.progress.train.iterations))
    t.fit(until=dt.At(iteration=3))
    t.save(tmp_path / "three")
    t.fit(until=dt.At(iteration=6))
    t.load(tmp_path / "three")
    t.fit()
    assert at == [5, 5]


def test_a_rewind_calls_it_again_where_the_run_comes_by_again(tmp_path):
    digests = []
    for back in (False, True):
        t = plain(tmp_path / str(back), checkpoints=dt.Checkpoints(every=dt.Every(batches=2), keep=99))
        recipes.schedule(t)
        t.fit(until=dt.At(iteration=13))
        if back:
            t.rewind(to=dt.At(iteration=5))  # over a point behind a checkpoint
        t.fit()
        t.close()
        digests.append([dt.digest(t.get(part)) for part in ("model", "optimizer", "random", "callbacks")])
    assert digests[0] == digests[1]


# ------------------------------------------------------------------ removing and refusing


def test_one_that_is_removed_is_not_called_and_the_others_keep_their_numbers(tmp_path):
    told = []
    t = plain(tmp_path)
    for name in "abc":
        t.at(dt.At(iteration=3), lambda _, name=name: told.append(name))
    assert t.schedule.remove(1).startswith("removed 1 ")
    with pytest.raises(ValueError, match="no scheduled function of number 1"):
        t.schedule.remove(1)
    t.fit()
    t.close()
    assert told == ["a", "c"]
    assert [label[0] for label in noted(t.run.path)] == ["0", "2"]
    assert [label[0] for label in noted(t.run.path, "unregistered")] == ["1"]


@pytest.mark.parametrize(("point", "fn"), [("epoch 5", decay), (5, decay), (dt.At(epoch=1), None)])
def test_what_is_no_point_or_no_function_is_refused(point, fn):
    with pytest.raises(TypeError, match="expected a"):
        plain().at(point, fn)


def test_registering_while_the_trainer_runs_is_refused():
    t, refused = plain(), []

    def register(trainer):
        with pytest.raises(RuntimeError, match="between two fit") as error:
            trainer.at(dt.At(epoch=2), decay)
        refused.append(error.value)

    class Handler(dt.Callback):
        def on_train_batch_end(self, trainer, event):
            if event.iteration == 2:
                register(trainer)
            if event.iteration == 3:
                thread = threading.Thread(target=register, args=(trainer,))
                thread.start()
                thread.join()

    t = plain(callbacks=[Handler()])
    t.at(dt.At(iteration=4), register)
    t.fit()
    assert len(refused) == 3
    assert len(t.schedule.entries) == 1


# ------------------------------------------------------------------ what it does when it fails


def test_an_exception_puts_back_what_it_drew_and_set_and_it_is_called_again():
    found = []
    for fails in (False, True):
        t, tried = plain(), []

        def fn(trainer, tried=tried, fails=fails):
            torch.rand(3)
            trainer.set(r"model.head\.bias", 0.5)
            trainer.request_validation()
            trainer.learner.optimizer.param_groups[0]["eps"] = (
                1e-3 + trainer.learner.optimizer.param_groups[0]["eps"]
            )
            trainer.train.skip(batches=1)
            tried.append(1)
            if fails and len(tried) == 1:
                raise OSError("once")

        t.at(dt.At(iteration=5), fn)
        if fails:
            with pytest.raises(OSError, match="once"):
                t.fit()
            assert t.info().pending[0].startswith("scheduled 0 ")
        t.fit()
        assert len(tried) == 1 + fails
        found.append(dt.digest(t.state_dict()))
    assert found[0] == found[1]


def test_one_that_fails_for_good_can_be_taken_off():
    t = plain()
    t.at(dt.At(iteration=5), lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        t.fit()
    t.schedule.remove(0)
    t.fit()
    expected = plain()
    expected.fit()
    assert dt.digest(t.state_dict()) == dt.digest(expected.state_dict())


def test_aborted_in_its_middle_it_is_called_again_from_its_beginning():
    found = []
    for aborts in (False, True):
        t, tried = plain(), []

        def fn(trainer, tried=tried, aborts=aborts):
            torch.rand(3)
            trainer.set(DECAY, 0.5)
            tried.append(1)
            if aborts and len(tried) == 1:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                while True:
                    pass

        t.at(dt.At(iteration=5), fn)
        if aborts:
            with pytest.raises(dt.Interrupted):
                t.fit()
            assert set(t.get(DECAY).values()) == {0.01}
        t.fit()
        found.append(dt.digest(t.state_dict()))
    assert found[0] == found[1]


def test_the_state_inside_it_is_the_one_in_which_it_is_not_called_yet():
    t = plain()
    t.at(dt.At(iteration=5), lambda trainer: kept.append(trainer.state_dict()["progress"]["pending"]))
    kept = []
    t.fit()
    assert [task["kind"] for task in kept[0]] == ["scheduled", "checkpoint"]


# ------------------------------------------------------------------ a script that is killed and run again


def _die(mark, place):
    """End the process once at a place, if it is the one that was asked for: a file says that it did."""
    wanted = mark is not None and mark.name == place
    if wanted and not mark.exists():
        mark.touch()
        os._exit(9)


def script(runs, mark=None, every=3, late=False):
    """Scheduled before everything, or `late`: behind the first epoch."""
    t = plain(runs, checkpoints=dt.Checkpoints(every=dt.Every(batches=every)))

    def fn(trainer):
        _die(mark, f"begin{trainer.progress.train.iterations}")
        trainer.set(r"model.head\.bias", torch.rand(()).item())
        trainer.request_validation()
        trainer.checkpoint()
        _die(mark, f"middle{trainer.progress.train.iterations}")

    took = t.delivery.end

    def end():
        _die(mark, f"before{t.progress.train.iterations}")
        took()
        _die(mark, f"after{t.progress.train.iterations}")

    t.delivery.end = end
    raised = t._raise_train_events

    def raise_events(*args):
        raised(*args)
        _die(mark, f"commit{t.progress.train.iterations}")

    t._raise_train_events = raise_events
    if late:
        t.fit(until=dt.At(epoch=1))
        t.set(DECAY, 0.125)
    for point in (dt.At(iteration=11), dt.At(batch=13), dt.At(epoch=2)):
        t.at(point, fn)
    if not late:
        t.fit(until=dt.At(epoch=1))
    t.fit(until=dt.At(batch=12))
    t.set(DECAY, 0.5)
    t.fit()
    t.close()
    return dt.digest(t.state_dict()), t.run.path


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("every", [1, 3])
def test_a_script_that_is_killed_around_its_scheduled_calls_comes_to_the_same_bits(tmp_path, every, late):
    expected, _ = fresh.run(script, tmp_path / "untouched", None, every, late)
    for at in (11, 13, 16):
        for place in ("commit", "begin", "middle", "before", "after"):
            mark = tmp_path / f"{place}{at}"
            digest, _ = again_and_again(script, tmp_path / f"runs-{place}{at}", mark, every, late)
            assert mark.exists()
            assert digest == expected, f"killed at {place}{at}"


def test_the_record_tells_of_registering_and_calling(tmp_path):
    _, path = fresh.run(script, tmp_path)
    labels = [
        f"{n} script.<locals>.fn {point}"
        for n, point in enumerate(("At(iteration=11)", "At(batch=13)", "At(epoch=2)"))
    ]
    assert noted(path) == labels
    assert noted(path, "registered") == labels
    made = [e["origin"] for e in read_journal(path / "journal.jsonl") if e["kind"] == "intervention"]
    assert made.count("callback") == 6


def pending_state():
    """A trainer's state in which a scheduled function is to be called next."""
    t = plain()
    t.at(dt.At(iteration=5), lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        t.fit()
    return t.state_dict()


def test_fit_to_a_point_behind_rests_until_what_is_pending_is_registered():
    state = pending_state()
    t, told = plain(), []
    t.load_state_dict(state)
    for until in (dt.At(iteration=3), dt.At(iteration=5)):
        t.fit(until=until)
        assert t.info().pending[0].startswith("scheduled 0 ")

    def same():
        return lambda _: told.append(1)

    fn = same()
    fn.__qualname__ = "pending_state.<locals>.<lambda>"
    assert "it is called next" in t.at(dt.At(iteration=5), fn)
    t.fit()
    assert told == [1]


@pytest.mark.parametrize("go", [lambda t: t.fit(), lambda t: t.step(1), lambda t: next(iter(t))])
def test_one_that_is_pending_and_not_registered_is_named_and_can_be_taken_off(go):
    t = plain()
    t.load_state_dict(pending_state())
    with pytest.raises(RuntimeError, match=r"'0 pending_state.*At\(iteration=5\)'.*remove\(0\)"):
        go(t)
    t.schedule.remove(0)
    t.fit()


def test_another_function_or_point_under_a_pending_number_is_refused():
    t = plain()
    t.load_state_dict(pending_state())
    with pytest.raises(RuntimeError, match=r"pending_state.*found '0 decay At\(iteration=5\)'"):
        t.at(dt.At(iteration=5), decay)
    registered = plain()
    registered.at(dt.At(iteration=5), decay)
    registered.load_state_dict(pending_state())
    with pytest.raises(RuntimeError, match="found '0 decay"):
        registered.fit()


def test_it_is_proved_as_any_other_part_of_a_run():
    from deeptrain.testing import prove

    prove(lambda: plain(scheduled=True), stops=4).check()
    assert recipes.SCHEDULE
