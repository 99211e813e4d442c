"""A run's history in segments, through the trainer: rebuilt from the journal, gone back in, copied away, and of before."""

import contextlib
import json
import os
import shutil
import signal
import warnings

import pytest

import deeptrain as dt
from deeptrain.checkpoint import segments as segment_files
from deeptrain.checkpoint.format import read_info, read_whole
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.checkpoint.verify import verify_all
from deeptrain.cli import main
from deeptrain.control.rewinding import Rewind
from tests.support import fresh, recipes

REBUILT = r"history/.*; rebuilt from the journal, every bit the same"


def make(runs, **more):
    more = {"checkpoints": dt.Checkpoints(every=dt.Every(batches=3), keep=100)} | more
    return recipes.trainer(runs=runs, name="r", every=2, **more)


def segments(run):
    return sorted((run / "history").iterdir())


def go(iterations=None, **more):
    """A run that nobody stopped, in its own process: the digests of its state and of its history."""
    t = make(None, **more)
    t.fit(until=None if iterations is None else dt.At(iteration=iterations))
    state = t.state_dict()
    return dt.digest(state), dt.digest(state["history"])


def untouched(iterations=None, **more):
    return fresh.run(go, iterations, **more)


def newest(run):
    return CheckpointStore(run / "checkpoints").newest()


def history_of(path):
    return dt.digest(read_whole(path).tree["history"])


def states(run):
    """The history of each checkpoint."""
    return {path: history_of(path) for path in CheckpointStore(run / "checkpoints").paths()}


def train_for(runs, iterations):
    t = make(runs)
    t.step(iterations)
    t.close()


def train_and_be_killed(runs, iterations):
    t = make(runs)
    t.step(iterations)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def run(tmp_path):
    """Four processes; the second was killed behind a checkpoint, so that the third repeated what the journal has."""
    runs = tmp_path / "runs"
    fresh.run(train_for, runs, 4)
    with contextlib.suppress(EOFError):
        fresh.run(train_and_be_killed, runs, 4)
    fresh.run(train_for, runs, 3)
    fresh.run(train_for, runs, 2)
    return runs / "M1__r"


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


# ---------------------------------------------------------------------- rebuilding


def test_the_tree_and_every_reader_show_the_values(run):
    state, history = untouched(11)
    assert len(segments(run)) == 4
    found = dt.open_run(run)
    assert found.info["iterations"] == 11
    assert dt.digest(found.state["history"]) == history == dt.digest(found.history.state_dict())
    assert dt.digest(found.state) == state
    assert main(["diff", str(run), str(found.checkpoint)]) == 0
    other = make(None)
    other.load(found.checkpoint)
    assert dt.digest(other.state_dict()) == state


@pytest.mark.parametrize("which", [[0], [1], [2], [3], [0, 2], [1, 2], [0, 1, 2, 3]])
@pytest.mark.parametrize("how", ["flip", "cut", "delete", "swap"])
def test_damaged_segments_are_rebuilt_from_the_journal(run, which, how):
    expected, files = states(run), segments(run)
    for number in which:
        if how == "flip":
            damage(files[number])
        elif how == "cut":
            os.truncate(files[number], files[number].stat().st_size - 1)
        elif how == "delete":
            files[number].unlink()
        else:
            files[number].write_bytes(b"DTHIST1\n" + bytes(files[number].stat().st_size))
    last = newest_quietly(run)
    for path, digest in expected.items():
        uses = {link.number for link in last.chain.links} if path == last.path else None
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert history_of(path) == digest
        assert uses is None or len(said) == 1
    verdicts = verify_all(run)
    assert all(verdict.whole for verdict in verdicts)
    assert f"00000{which[-1]}.seg" in verdicts[-1].about
    assert "rebuilt from the journal, every bit the same" in verdicts[-1].about


def newest_quietly(run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return newest(run)


def test_what_was_rebuilt_is_written_anew_and_the_run_goes_on_to_the_same_bits(run):
    damage(segments(run)[2])
    expected, _ = untouched()
    with pytest.warns(UserWarning, match=REBUILT):
        t = make(run.parent)
    t.fit()
    t.close()
    assert dt.digest(t.state_dict()) == expected
    found = newest(run)  # nothing to be rebuilt any more
    assert [link.number for link in found.chain.links] == [0, 1, 4]
    assert dt.digest(found.tree) == expected
    assert "rebuilt" not in verify_all(run)[-1].about


def spoil(journal):
    """Change the last bit of one figure of one line."""
    lines = journal.read_text().splitlines(keepends=True)
    number = next(n for n, line in enumerate(lines) if '"kind": "iteration"' in line)
    entry = json.loads(lines[number])
    entry["figures"]["loss"] += 2**-40
    journal.write_text("".join([*lines[:number], json.dumps(entry) + "\n", *lines[number + 1 :]]))


@pytest.mark.parametrize("how", ["changed", "missing", "no json", "other kinds"])
def test_where_the_journal_does_not_give_the_same_bits_loading_walks_back(run, how):
    journal = run / "journal.jsonl"
    damage(segments(run)[0])
    if how == "changed":
        spoil(journal)
    elif how == "missing":
        journal.unlink()
    elif how == "no json":
        journal.write_text(journal.read_text().replace("{", "", 1))
    else:
        journal.write_text(journal.read_text().replace('"figures": {', '"figures": [1], "old": {'))
    verdicts = verify_all(run)
    assert [verdict.whole for verdict in verdicts] == [True] + [False] * (
        len(verdicts) - 1
    )  # the first has no figures
    assert all("history/000000.seg: damaged at byte" in verdict.problem for verdict in verdicts[1:])
    found = dt.open_run(run)
    assert found.info["iterations"] == 0
    assert len(found.passed_over) == len(verdicts) - 1


def test_validations_at_one_iteration_and_at_a_restart_are_told_apart(tmp_path):
    """A checkpoint before a validation, a restart there, and validations that were asked for twice."""
    runs = tmp_path / "runs"
    for stop in range(3, 30, 4):
        t = make(runs, steered=True)
        recipes.advance(t, stop)
        t.run.save(t)
        t.close()
    run = runs / "M1__r"
    expected = states(run)
    for number, file in enumerate(segments(run)):
        kept = file.read_bytes()
        damage(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert states(run) == expected, number
        file.write_bytes(kept)


def test_after_going_back_both_branches_are_rebuilt(tmp_path):
    t = make(tmp_path / "runs")
    t.step(7)
    run = t.run.path
    back = CheckpointStore(run / "checkpoints").paths()[2]
    at = read_info(back)["iterations"]
    assert 0 < at < 7
    t.run.save(t)
    t.load(back)
    t.learner.optimizer.param_groups[0]["lr"] = 0.3  # another branch
    t.step(6)
    t.close()
    expected = states(run)
    assert [link.number for link in newest(run).chain.links] == [0, 1]
    for file in segments(run):
        kept = file.read_bytes()
        damage(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert states(run) == expected
        file.write_bytes(kept)


def test_rewinds_are_rebuilt_on_both_sides_also_one_that_was_left(tmp_path, monkeypatch):
    """A rewind computes iterations again, whose lines stand in the journal twice, and may be left before it arrives."""
    t = make(tmp_path / "runs")
    t.step(8)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Rewind, "arrive", lambda *_, **__: 1 / 0)
        t.rewind(to=dt.At(iteration=5))
    assert t.progress.train.iterations == 8
    t.step(2)
    t.checkpoint(tag="left")
    t.rewind(to=dt.At(iteration=4))
    t.set("optimizer.param_groups.*.weight_decay", 0.9)
    t.step(3)
    t.rewind(batches=2)
    t.step(4)
    t.rewind(to="left")  # a branch that is none of those before
    t.step(3)
    t.load(CheckpointStore(t.run.path / "checkpoints").paths()[3])
    t.step(1)
    t.close()
    run = t.run.path
    expected = states(run)
    assert dt.digest(newest(run).tree) == dt.digest(t.state_dict())
    assert len(newest(run).chain.links) > 1
    for file in segments(run):
        kept = file.read_bytes()
        damage(file)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert states(run) == expected, file
        file.write_bytes(kept)


# ---------------------------------------------------------------------- going back


def test_a_state_is_put_back_and_the_run_goes_on_from_it_in_a_new_segment(tmp_path):
    expected, _ = untouched()
    t = make(tmp_path / "runs")
    t.step(5)
    state = fresh_copy(t.state_dict())
    t.step(4)
    t.run.save(t)
    before = {file: file.read_bytes() for file in segments(t.run.path)}
    t.load_state_dict(state)
    t.step(1)
    t.run.save(t)
    assert history_of(CheckpointStore(t.run.path / "checkpoints").paths()[-1]) == dt.digest(
        t.history.state_dict()
    )
    t.fit()
    t.close()
    assert dt.digest(t.state_dict()) == expected
    assert dt.digest(newest(t.run.path).tree) == expected
    assert len(segments(t.run.path)) == 2
    assert {file: file.read_bytes() for file in before} == before
    assert all(verdict.whole for verdict in verify_all(t.run.path))


def fresh_copy(state):
    import copy

    return copy.deepcopy(state)


# ---------------------------------------------------------------------- other places


def test_a_path_of_the_users_holds_the_whole_history(tmp_path):
    t = make(tmp_path / "runs")
    t.step(5)
    t.save(tmp_path / "here")
    t.close()
    shutil.rmtree(tmp_path / "runs")
    found = read_whole(tmp_path / "here")
    assert found.chain is None
    assert dt.digest(found.tree) == dt.digest(t.state_dict())


def test_a_child_run_has_all_of_the_history_in_its_own_segments(run, tmp_path):
    parent = newest(run)
    t = recipes.trainer(runs=tmp_path / "runs", name="child", every=2, resume=parent.path)
    t.step(2)
    t.close()
    shutil.rmtree(run)
    found = dt.open_run(t.run.path)
    assert dt.digest(found.state) == dt.digest(t.state_dict())
    assert found.history["train.loss"].iterations.tolist() == list(range(1, 14))
    # What is of the parent is not in the child's journal, and what is its own is.
    damage(segments(t.run.path)[0])
    assert not verify_all(t.run.path)[-1].whole


def test_a_copied_checkpoint_loads_without_its_history_where_that_is_left_out(run, tmp_path):
    away = tmp_path / "away" / "mine"
    shutil.copytree(newest(run).path, away)
    missing = rf"mine: history/000000\.seg: is missing, expected at {tmp_path}/history/000000\.seg"
    t = recipes.trainer(every=2)
    before = dt.digest(t.state_dict())
    for wanted in ({}, {"only": ["history"]}, {"skip": ["model"]}, {"skip": ["history.series.val*"]}):
        with pytest.raises(
            dt.CorruptCheckpoint, match=missing + r'.*trainer\.load\(path, skip=\["history"\]\)'
        ):
            t.load(away, **wanted)
    assert dt.digest(t.state_dict()) == before
    with pytest.raises(
        dt.CorruptCheckpoint, match=missing + r'.*a trainer that was made without it.*skip=\["history"\]'
    ):
        recipes.trainer(runs=tmp_path / "runs", name="x", every=2, resume=away)
    report = t.load(away, skip=["history"])
    assert t.progress.train.iterations == 11
    assert len(t.history) == 0
    assert "history.series.train\\.loss.values" in report.ignored
    state, saved = t.state_dict(), newest(run).tree
    state["history"] = saved["history"]
    assert dt.digest(state) == dt.digest(saved)
    other = recipes.trainer(every=2)
    other.load(away, only=["model*", "optimizer"])
    dt.load_weights(away, recipes.Net())
    t.fit()


def test_a_damaged_history_does_not_keep_all_else_from_being_loaded(run):
    (run / "journal.jsonl").unlink()
    damage(segments(run)[0])
    t = recipes.trainer(every=2)
    t.load(run, skip=["history"])
    assert t.progress.train.iterations == 11
    t.load(run)
    assert t.progress.train.iterations == 0


def test_a_run_of_before_goes_on_and_its_history_comes_into_a_segment(tmp_path):
    """Checkpoints once held the history in themselves."""
    expected, _ = untouched(checkpoints=dt.Checkpoints(keep=100))
    t = make(tmp_path / "runs", checkpoints=dt.Checkpoints(keep=100))
    t.step(5)
    t.close()
    run = t.run.path
    info = read_info(newest(run).path)
    shutil.rmtree(run / "checkpoints")
    shutil.rmtree(run / "history")
    old = CheckpointStore(run / "checkpoints").commit(t.state_dict(), info)
    assert json.loads((old / "manifest.json").read_text())["version"] == 1
    assert dt.open_run(run).history["train.loss"].iterations.tolist() == [1, 2, 3, 4, 5]
    again = make(tmp_path / "runs", checkpoints=dt.Checkpoints(keep=100))
    assert again.progress.train.iterations == 5
    again.fit()
    again.close()
    assert dt.digest(again.state_dict()) == expected
    assert dt.digest(newest(run).tree) == expected
    assert verify_all(run)[0].whole
    assert len(segments(run)) == 1


# ---------------------------------------------------------------------- what it costs


def test_saving_copies_no_history_and_reads_no_segment(tmp_path, monkeypatch):
    t = make(tmp_path / "runs", checkpoints=dt.Checkpoints())
    t.step(3)
    t.run.save(t)

    def refuse(*_):
        raise AssertionError("the whole history")

    monkeypatch.setattr(t.history, "state_dict", refuse)
    monkeypatch.setattr(segment_files, "read_link", refuse)
    monkeypatch.setattr("deeptrain.checkpoint.past.read_link", refuse)
    monkeypatch.setattr("deeptrain.checkpoint.appending.read_link", refuse)
    t.step(3)
    t.run.save(t)
    t.close()
    monkeypatch.undo()
    assert newest(t.run.path).info["iterations"] == 6


def test_the_journal_has_all_that_a_checkpoint_has(tmp_path):
    """Lines of iterations wait; those before a checkpoint are written with it, or nothing could be rebuilt of them."""
    with contextlib.suppress(EOFError):
        fresh.run(save_and_be_killed, tmp_path / "runs")
    run = tmp_path / "runs" / "M1__r"
    kinds = [json.loads(line)["kind"] for line in (run / "journal.jsonl").read_text().splitlines()]
    assert kinds.count("iteration") == 3


def save_and_be_killed(runs):
    t = make(runs, checkpoints=dt.Checkpoints(every=dt.Every(seconds=1e6)))
    t.run.begin(t)
    t.run.journalling.file.flush_at = float("inf")
    while t.progress.train.iterations < 3:
        recipes.advance(t, 1)
    t.run.checkpoints.store.prepare = lambda: os.kill(os.getpid(), signal.SIGKILL)
    t.run.save(t)
