"""Going back: to the exact state of then, on a new branch, that is on the disk once the call has returned."""

import io
import os
import threading

import pytest
import torch

import deeptrain as dt
from deeptrain.control import rewinding
from deeptrain.control.journal import Journal, read_journal
from tests.core.test_steering import DECAY, Dies, again_and_again
from tests.support import faults, fresh, recipes

EVERY = dt.Checkpoints(every=dt.Every(batches=3), keep=20)


def make(runs, *, checkpoints=EVERY, **more):
    return recipes.trainer("multistep", runs=runs, name="r", checkpoints=checkpoints, **more)


def state(t):
    """The state's digest without the record of what was asked for."""
    return dt.digest({key: part for key, part in t.state_dict().items() if key != "steering"})


def journal(t):
    t.run.journalling.file.flush()
    return list(read_journal(t.run.path / "journal.jsonl"))


def at(tmp_path, until, **more):
    t = make(tmp_path / f"untouched{until}", **more)
    t.fit(until=until)
    t.close()
    return state(t)


# ------------------------------------------------------------------ where it comes to


@pytest.mark.parametrize(
    ("to", "point"),
    [
        (dt.At(batch=10), dt.At(batch=10)),
        (dt.At(iteration=12), dt.At(batch=12)),
        (dt.At(update=7), dt.At(batch=7)),
        (dt.At(epoch=1), dt.At(epoch=1)),
        (dt.At(batch=0), dt.At(batch=0)),
        (4, dt.At(batch=10)),
        (0, dt.At(batch=14)),
    ],
)
def test_a_rewind_comes_to_the_bits_of_then_and_goes_on_as_before(tmp_path, to, point):
    end = at(tmp_path, None)
    t = make(tmp_path / "r")
    t.fit(until=dt.At(batch=14))
    losses = t.history["train.loss"].values
    t.rewind(**({"batches": to} if isinstance(to, int) else {"to": to}))
    assert state(t) == at(tmp_path, point)
    entries = journal(t)
    verdicts = [entry for entry in entries if entry["kind"] == "replay"]
    assert all(entry["identical"] for entry in verdicts)
    assert entries[-1]["branch"] == 1
    t.fit(until=dt.At(batch=14))
    assert t.history["train.loss"].values.tolist() == losses.tolist()
    t.fit()
    t.close()
    assert state(t) == end


def test_a_run_that_is_done_goes_back_too(tmp_path):
    t = make(tmp_path)
    t.fit()
    end = state(t)
    t.rewind(to=dt.At(batch=11))
    assert (t.progress.phase, t.progress.train.batches) == (dt.Phase.TRAIN, 11)
    t.close()
    again = make(tmp_path, verbosity=dt.Display(1, stream=(said := io.StringIO())))
    assert again.progress.train.batches == 11
    again.fit()  # the script runs again, and had come to the end by then
    assert again.progress.train.batches == 11
    assert (
        "fit() is passed over: the run had come to there before the script's rewind(batches=11)"
        in said.getvalue()
    )
    again.rewind(to=dt.At(batch=11))
    again.fit()
    assert state(again) == end


def test_back_to_a_checkpoint_by_its_tag_name_or_path(tmp_path):
    t = make(tmp_path / "r")
    t.fit(until=dt.At(batch=5))
    t.checkpoint(tag="before surgery")
    then = state(t)
    t.set(r"model.head\.bias", 0.5)
    t.fit(until=dt.At(batch=9))
    t.rewind(to="before surgery")
    assert state(t) == then
    t.fit(until=dt.At(batch=9))
    first = min((t.run.path / "checkpoints").glob("0*"))
    t.rewind(to=first)
    assert t.progress.train.batches == 0
    assert t.run.line.branch == 2
    with pytest.raises(ValueError, match=r"there are 000000, .*before surgery"):
        t.rewind(to="nowhere")
    t.close()


def test_what_was_changed_on_the_way_is_changed_again(tmp_path):
    def go(t, until):
        t.fit(until=dt.At(batch=7))
        t.set(DECAY, 0.5)
        t.train.skip(rows=[1, 2, 3])
        t.fit(until=dt.At(batch=8))
        t.request_validation()
        t.fit(until=dt.At(batch=until))

    def untouched(until):
        t = make(tmp_path / f"u{until}")
        go(t, until)
        return state(t)

    nine, eight = untouched(9), untouched(8)
    t = make(tmp_path / "r")
    go(t, 13)
    t.rewind(batches=4)
    assert state(t) == nine
    assert all(entry["identical"] for entry in journal(t) if entry["kind"] == "replay")
    t.rewind(to=dt.At(batch=8))  # on the first branch, before the second began
    assert t.run.line.branch == 2
    assert state(t) != eight  # where nothing had been asked for yet
    t.request_validation()
    t.fit(until=dt.At(batch=8))
    assert state(t) == eight


def test_what_was_changed_on_the_way_may_be_left_out(tmp_path):
    t = make(tmp_path / "r")
    t.fit(until=dt.At(batch=7))
    t.set(DECAY, 0.5)
    t.fit(until=dt.At(batch=13))
    t.rewind(to=dt.At(batch=8), interventions=False)
    assert state(t) == at(tmp_path, dt.At(batch=8))
    t.fit()
    t.close()
    assert state(t) == at(tmp_path, None)


def test_a_batch_is_passed_over(tmp_path):
    t = make(tmp_path)
    t.fit(until=dt.At(batch=6))
    bad = t.last.batch
    t.rewind(batches=3, skip=bad)
    t.fit(until=dt.At(epoch=1))
    served = [
        entry for entry in journal(t) if entry["kind"] == "iteration" and entry["branch"] and entry["at"] > 3
    ]
    rows = {row for entry in served for row in t.train.rows(*entry["batch"]).tolist()}
    assert not rows & set(bad.rows.tolist())
    assert t.progress.train.batches == 7  # of eight
    t.fit(until=dt.At(batch=10))
    late = t.last.batch
    t.rewind(to=dt.At(batch=5), skip=late)  # of the next epoch
    t.fit()
    rows = [row for batch in range(7) for row in t.train.rows(1, batch).tolist()]
    assert sorted(rows) == sorted(set(range(recipes.ROWS)) - set(late.rows.tolist()))
    t.close()


# ------------------------------------------------------------------ what cannot be


def test_what_cannot_be_gone_back_to_is_refused_and_nothing_changes(tmp_path):
    t = make(tmp_path, checkpoints=dt.Checkpoints(every=dt.Every(batches=3), keep=1))
    t.fit(until=dt.At(batch=8))
    before = state(t)
    with pytest.raises(ValueError, match="lies ahead"):
        t.rewind(to=dt.At(batch=9))
    with pytest.raises(ValueError, match=r"no checkpoint is left from which to go to batches=2; .*\[6\]"):
        t.rewind(to=dt.At(batch=2))
    with pytest.raises(ValueError, match="only 8 batches were completed"):
        t.rewind(batches=9)
    with pytest.raises(ValueError, match=r"either to=.*or batches="):
        t.rewind()
    with pytest.raises(TypeError, match="found 3"):
        t.rewind(batches=1, skip=[3])
    assert state(t) == before
    assert t.run.line.branch == 0
    t.close()
    with pytest.raises(ValueError, match="runs=None"):
        make(None).rewind(batches=0)


class Fails(dt.Callback):
    """Raises at an iteration that is computed again."""

    def __init__(self, error):
        self._error = error

    def on_train_iter_end(self, trainer, event):
        if event.replaying and self._error is not None:
            error, self._error = self._error, None
            raise error


@pytest.mark.parametrize("error", [OSError("the disk"), KeyboardInterrupt()])
def test_what_stops_a_rewind_leaves_the_run_where_it_was(tmp_path, error):
    t = make(tmp_path, callbacks=[*recipes.callbacks(), Fails(error)])
    t.fit(until=dt.At(batch=8))
    before = state(t)
    with pytest.raises(type(error)):
        t.rewind(batches=1)
    assert state(t) == before
    assert (t.run.line.branch, t.progress.torn) == (0, None)
    t.rewind(batches=1)
    assert t.progress.train.batches == 7
    t.fit()
    t.close()


def test_a_pause_on_the_way_leaves_the_run_where_it_was(tmp_path):
    class Pauses(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            if event.replaying:
                trainer.pause("enough")

    t = make(tmp_path, callbacks=[*recipes.callbacks(), Pauses()])
    t.fit(until=dt.At(batch=8))
    before = state(t)
    with pytest.raises(dt.Interrupted, match="enough"):
        t.rewind(batches=1)
    assert state(t) == before
    t.close()
    assert make(tmp_path, callbacks=[*recipes.callbacks(), Pauses()]).progress.train.batches == 8


def test_a_torn_state_is_left_by_going_back(tmp_path):
    t = make(tmp_path)
    t.fit(until=dt.At(batch=8))
    t.progress.torn = "the step was cut short"
    t.rewind(to=dt.At(batch=5))
    assert t.progress.torn is None
    t.fit()
    t.close()
    assert state(t) == at(tmp_path, None)


# ------------------------------------------------------------------ branches


FOUR = dt.Checkpoints(every=dt.Every(batches=4), keep=20)


def dies_behind_a_rewind(runs):
    t = make(runs, checkpoints=FOUR)
    t.fit(until=dt.At(batch=14))
    t.rewind(to=dt.At(batch=9))
    os._exit(9)


def test_after_a_crash_the_run_stands_on_the_new_branch(tmp_path):
    process, _ = fresh.start(dies_behind_a_rewind, tmp_path / "r")
    process.join()
    t = make(tmp_path / "r", checkpoints=FOUR)
    assert t.progress.train.batches == 9
    assert t.run.line.branch == 1
    assert state(t) == at(tmp_path, dt.At(batch=9), checkpoints=FOUR)
    t.fit()
    t.close()
    assert state(t) == at(tmp_path, None, checkpoints=FOUR)
    assert dt.open_run(t.run.path).line.branch == 1


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tensors.safetensors"])
def test_where_the_new_branch_cannot_be_read_the_run_does_not_go_back_to_what_it_left(tmp_path, name):
    t = make(tmp_path)
    t.fit(until=dt.At(batch=14))
    t.rewind(to=dt.At(batch=8))
    t.close()
    newest = max((t.run.path / "checkpoints").glob("0*"))
    data = bytearray((newest / name).read_bytes())
    data[len(data) // 2] ^= 1
    (newest / name).write_bytes(bytes(data))
    again = make(tmp_path)
    assert again.progress.train.batches == 6  # the newest before the point, and not 14
    again.fit()
    again.close()
    assert state(again) == at(tmp_path, None)


def test_the_head_of_the_present_branch_stays(tmp_path):
    t = make(tmp_path, checkpoints=dt.Checkpoints(every=dt.Every(batches=1), keep=2))
    t.fit(until=dt.At(batch=6))
    t.rewind(batches=1)
    head = max((t.run.path / "checkpoints").glob("0*"))
    t.fit(until=dt.At(batch=12))
    t.rewind(batches=7)
    assert t.progress.train.batches == 5
    assert head.exists()
    t.fit(until=dt.At(batch=12))
    t.close()
    assert not head.exists()


def test_loading_an_earlier_state_begins_a_branch(tmp_path):
    t = make(tmp_path)
    t.fit(until=dt.At(batch=6))
    t.save(tmp_path / "there")
    then = state(t)
    t.fit(until=dt.At(batch=9))
    t.load(tmp_path / "there")
    assert (t.run.line.branch, state(t)) == (1, then)
    newest = dt.open_run(t.run.path)
    assert (newest.line.branch, newest.info["iterations"]) == (1, 6)
    t.close()


def loads(runs, mark=None, iteration=None):
    """A script that loads twice: weights at its beginning, and an earlier state."""
    t = make(runs, callbacks=[*recipes.callbacks(), Dies(mark, iteration)])
    t.load(runs.with_suffix(".weights"), only=["model"])
    t.fit(until=dt.At(batch=4))
    if not runs.with_suffix(".there").exists():
        t.save(runs.with_suffix(".there"))
    t.fit(until=dt.At(batch=7))
    t.load(runs.with_suffix(".there"))
    t.fit(until=dt.At(batch=9))
    t.load(runs.with_suffix(".weights"), only=["model"])
    t.fit()
    t.close()
    return dt.digest({key: part for key, part in t.state_dict().items() if key != "steering"})


def other_weights(path):
    t = recipes.trainer(runs=None)
    t.fit(until=dt.At(batch=3))
    t.save(path)


def test_a_script_that_loads_is_killed_anywhere(tmp_path):
    fresh.run(other_weights, tmp_path / "u.weights")
    expected = fresh.run(loads, tmp_path / "u")
    for iteration in range(1, 17, 2):
        fresh.run(other_weights, tmp_path / f"{iteration}.weights")
        found = again_and_again(loads, tmp_path / str(iteration), tmp_path / f"{iteration}.died", iteration)
        assert found == expected, f"killed after iteration {iteration}"


# ------------------------------------------------------------------ once, whatever dies when


def script(runs, mark=None, iteration=None, every=3):
    """A script that goes back and passes over the last batch."""
    t = make(
        runs,
        callbacks=[*recipes.callbacks(), Dies(mark, iteration)],
        checkpoints=dt.Checkpoints(every=dt.Every(batches=every), keep=20),
    )
    t.fit(until=dt.At(batch=3))
    t.set(DECAY, 0.5)
    t.fit(until=dt.At(batch=6))
    bad = t.train.batch(0, 5)
    t.rewind(batches=2, skip=bad)
    t.fit(until=dt.At(batch=10))
    t.set(DECAY, 0.25)
    t.rewind(batches=1)
    t.fit()
    t.close()
    branches = [e["branch"] for e in read_journal(t.run.path / "journal.jsonl") if e["kind"] == "branch"]
    return dt.digest(t.state_dict()), branches, t.progress.train.iterations


@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_script_that_goes_back_is_killed_anywhere(tmp_path, every):
    expected, branches, iterations = fresh.run(script, tmp_path / "untouched", None, None, every)
    assert branches == [1, 2]
    assert iterations == 15  # one batch was passed over
    for iteration in range(1, iterations + 1, 1 if every == 3 else 4):
        place = tmp_path / str(iteration)
        found = again_and_again(script, place, tmp_path / f"{iteration}.died", iteration, every)
        assert found == (expected, branches, iterations), f"killed after iteration {iteration}"


MOMENTS = {
    "before anything": (rewinding.Rewind, "keep_tip", "before"),
    "the old tip is saved": (rewinding.Rewind, "keep_tip", "after"),
    "on the way": (Journal, "again", "before"),
    "the point is come to": (rewinding.Rewind, "travel", "after"),
    "before the journal's line": (Journal, "begin_branch", "before"),
    "after the journal's line": (Journal, "begin_branch", "after"),
    "at the end": (rewinding.Rewind, "arrive", "after"),
}


def die_at(moment, mark):
    """Have the process end at a moment of the next rewind, once."""
    kind, name, when = MOMENTS[moment]
    original = getattr(kind, name)

    def end():
        if not mark.exists():
            mark.touch()
            os._exit(9)

    def dies(self, *args, **kwargs):
        if when == "before":
            end()
        result = original(self, *args, **kwargs)
        if when == "after":
            end()
        return result

    setattr(kind, name, dies)


def dying_script(runs, mark, moment):
    die_at(moment, mark)
    return script(runs)


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_script_is_killed_in_the_middle_of_going_back(tmp_path, moment):
    expected = fresh.run(script, tmp_path / "untouched")
    assert again_and_again(dying_script, tmp_path / "r", tmp_path / "died", moment) == expected


class GoesBack(dt.Callback):
    """Goes back once when an iteration is through, and passes its batch over."""

    def __init__(self, iteration=11, batches=4):
        self._iteration, self._batches = iteration, batches

    def on_train_batch_end(self, trainer, event):
        if event.iteration == self._iteration and not trainer.train.edits:
            trainer.rewind(batches=self._batches, skip=event.batch)


def by_callback(runs, mark=None, iteration=None, moment=None):
    t = make(runs, callbacks=[*recipes.callbacks(), GoesBack(12, 3), Dies(mark, iteration)])
    t.fit()
    t.close()
    branches = [e["branch"] for e in read_journal(t.run.path / "journal.jsonl") if e["kind"] == "branch"]
    return dt.digest(t.state_dict()), branches, t.progress.train.iterations


def dying_callback(runs, mark, moment):
    die_at(moment, mark)
    return by_callback(runs)


def test_a_callback_goes_back_and_the_run_is_killed_anywhere(tmp_path):
    expected = fresh.run(by_callback, tmp_path / "untouched")
    assert expected[1:] == ([1], 15)
    for iteration in range(1, 16):
        found = again_and_again(
            by_callback, tmp_path / str(iteration), tmp_path / f"{iteration}.died", iteration
        )
        assert found == expected, f"killed after iteration {iteration}"


@pytest.mark.parametrize("moment", list(MOMENTS))
def test_a_run_is_killed_in_the_middle_of_a_callback_going_back(tmp_path, moment):
    expected = fresh.run(by_callback, tmp_path / "untouched")
    assert again_and_again(dying_callback, tmp_path / "r", tmp_path / "died", moment) == expected


# ------------------------------------------------------------------ loops, threads


def test_a_loop_over_iterations_goes_on_from_the_earlier_point(tmp_path):
    t, seen = make(tmp_path / "r"), []
    for it in t:
        seen.append(it.iteration)
        if len(seen) == 9:
            t.rewind(batches=3)
    assert seen == [*range(1, 10), *range(7, 17)]
    assert state(t) == at(tmp_path, None)
    t.close()


def test_a_handler_that_goes_back_in_a_loop(tmp_path):
    t, seen = make(tmp_path, callbacks=[*recipes.callbacks(), GoesBack(13, 3)]), []
    for it in t:
        seen.append(it.iteration)
    assert seen == [*range(1, 13), *range(11, 16)]
    t.close()


def test_a_thread_goes_back_while_the_trainer_runs(tmp_path):
    class Asks(dt.Callback):
        def __init__(self):
            self._asked = False

        def on_train_iter_end(self, trainer, event):
            if event.iteration == 9 and not self._asked:
                self._asked = True
                threading.Thread(target=trainer.rewind, kwargs={"batches": 4}).start()
                while not trainer.steering.waiting:
                    pass

    t = make(tmp_path / "r", callbacks=[*recipes.callbacks(), Asks()])
    t.fit()
    t.close()
    assert t.run.line.branch == 1
    expected = make(tmp_path / "u", callbacks=[*recipes.callbacks(), Asks()])
    expected.handlers.by_name["Asks"]._asked = True
    expected.fit()
    assert state(t) == state(expected)


def test_a_rewind_does_not_disturb_the_streams(tmp_path):
    t = make(tmp_path)
    t.fit(until=dt.At(batch=9))
    t.rewind(batches=0)
    drawn = torch.rand(3)
    other = make(tmp_path / "other")
    other.fit(until=dt.At(batch=9))
    assert torch.equal(drawn, torch.rand(3))


# ------------------------------------------------------------------ every system call


def under_faults(runs, at=None, what=None):
    """The script's rewind with a fault at one of its system calls; gives how many there are, and the end of the run."""
    t = make(runs)
    t.fit(until=dt.At(batch=11))
    with faults.Layer(runs, at, what) as layer:
        try:
            t.rewind(batches=4)
        except (dt.CheckpointError, OSError):
            assert layer.done
    if layer.done and t.run.line.branch == 0:
        assert (t.progress.train.batches, t.progress.torn) == (11, None)
        t.rewind(batches=4)
    t.fit()
    t.close()
    branch = t.run.line.branch
    return len(layer.calls), dt.digest(t.state_dict()), branch, t.progress.train.iterations


def kill_at_each(place, calls):
    _, *expected = fresh.run(under_faults, place / "untouched")
    for at in calls:
        for what in ("kill before", "kill after"):
            process, _ = fresh.start(under_faults, place / f"{at} {what}", at, what)
            process.join()
            assert process.exitcode == faults.KILLED
            assert fresh.run(under_faults, place / f"{at} {what}")[1:] == tuple(expected), (at, what)


def test_the_process_is_killed_before_and_after_sampled_calls(tmp_path):
    count = fresh.run(under_faults, tmp_path / "count")[0]
    assert count > 30
    kill_at_each(tmp_path, range(0, count, 6))


@pytest.mark.torture
def test_the_process_is_killed_before_and_after_each_call(tmp_path):
    kill_at_each(tmp_path, range(fresh.run(under_faults, tmp_path / "count")[0]))


@pytest.mark.parametrize("what", ["ENOSPC", "EIO", "short"])
def test_each_call_fails(tmp_path, what):
    count, *expected = fresh.run(under_faults, tmp_path / "untouched")
    for at in range(0, count, 7):
        assert fresh.run(under_faults, tmp_path / str(at), at, what)[1:] == tuple(expected), at


# ------------------------------------------------------------------ what an attack found


class Asks(dt.Callback):
    """Goes back from a handler, and asks for more."""

    def __init__(self, iteration, batch, more=False):
        self._iteration, self._batch, self._more = iteration, batch, more

    def on_train_batch_end(self, trainer, event):
        if event.iteration == self._iteration and trainer.run.line.branch == 0:
            trainer.rewind(to=dt.At(batch=self._batch))
            if self._more:
                trainer.set(DECAY, 0.5)
                trainer.train.skip(rows=[1, 2, 3])
                trainer.request_validation()


def handler_asks_for_more(runs, mark=None, iteration=None):
    t = make(runs, callbacks=[*recipes.callbacks(), Asks(10, 7, more=True), DiesOnBranch(mark, iteration)])
    t.fit()
    return ended(t)


def script_sets_behind(runs, mark=None, iteration=None):
    """What the script set lies on the branch that the handler left."""
    t = make(runs, callbacks=[*recipes.callbacks(), Asks(12, 7), DiesOnBranch(mark, iteration)])
    t.fit(until=dt.At(batch=8))
    t.set(DECAY, 0.5)
    t.fit()
    return ended(t)


def left_out(runs, mark=None, iteration=None):
    t = make(
        runs,
        callbacks=[*recipes.callbacks(), DiesOnBranch(mark, iteration)],
        checkpoints=dt.Checkpoints(every=dt.Every(batches=4), keep=20),
    )
    t.fit(until=dt.At(batch=5))
    t.set(DECAY, 0.5)
    t.fit(until=dt.At(batch=10))
    t.rewind(to=dt.At(batch=6), interventions=False)
    t.set(r"model.head\.bias", 0.7)
    t.fit()
    return ended(t)


def from_the_end(runs, mark=None, iteration=None):
    t = make(runs, callbacks=[*recipes.callbacks(), DiesOnBranch(mark, iteration)])
    t.fit()
    t.rewind(batches=5, skip="last")
    t.train.skip(rows=[1, 2])
    t.fit()
    return ended(t)


class DiesOnBranch(Dies):
    """Ends the process after an iteration of a branch that was begun, once."""

    def on_train_iter_end(self, trainer, event):
        if trainer.run.line.branch:
            super().on_train_iter_end(trainer, event)


def ended(t):
    t.close()
    count = t.progress.validation.passes
    return dt.digest(t.state_dict()), t.get(DECAY), count, t.progress.train.iterations


@pytest.mark.parametrize("fn", [handler_asks_for_more, script_sets_behind, left_out, from_the_end])
def test_killed_on_the_branch_that_was_begun(tmp_path, fn):
    expected = fresh.run(fn, tmp_path / "untouched")
    for iteration in (7, 8, 9, 12, 15):
        found = again_and_again(fn, tmp_path / str(iteration), tmp_path / f"{iteration}.died", iteration)
        assert found == expected, f"killed after iteration {iteration}"


def test_what_a_handler_asked_for_behind_a_rewind_is_on_the_new_branch(tmp_path):
    t = make(tmp_path, callbacks=[*recipes.callbacks(), Asks(10, 7, more=True)])
    t.fit()
    assert set(t.get(DECAY).values()) == {0.5}
    assert t.train.edits[0]["batch"] == 7
    assert 7 in t.history["val.loss"].iterations


def test_a_branch_whose_line_cannot_be_written_is_not_begun(tmp_path, monkeypatch):
    t = make(tmp_path)
    t.fit(until=dt.At(batch=10))
    before = state(t)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "begin_branch", full)
        with pytest.raises(OSError, match="No space"):
            t.rewind(to=dt.At(batch=4))
    assert (state(t), t.run.line.branch) == (before, 0)
    t.close()
    again = make(tmp_path)
    assert (again.progress.train.batches, again.run.line.branch) == (10, 0)
    again.rewind(to=dt.At(batch=4))
    assert again.progress.train.batches == 4


def test_another_runs_checkpoint_is_refused(tmp_path):
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    one.fit(until=dt.At(batch=6))
    two.fit(until=dt.At(batch=6))
    other = min((one.run.path / "checkpoints").glob("0*"))
    with pytest.raises(ValueError, match="it is no checkpoint of"):
        two.rewind(to=other)
    with pytest.raises(dt.CheckpointError, match="not all of them digits"):
        two.checkpoint(tag="000001")


def test_what_else_cannot_be_gone_back_by(tmp_path):
    t = recipes.trainer("multistep", runs=tmp_path, feed="torch", name="torch")
    t.fit(until=dt.At(batch=3))
    with pytest.raises(ValueError, match="cannot be edited"):
        t.rewind(batches=1, skip="last")
    child = recipes.trainer("multistep", runs=tmp_path, feed="torch", resume=str(t.run.path))
    with pytest.raises(ValueError, match="nothing was saved in this run yet"):
        child.rewind(batches=0)
