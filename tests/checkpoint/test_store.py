"""The store: the newest whole checkpoint is found, whatever happened to the others or to the process."""

import os
import random
import shutil
import signal
import struct
import warnings
from pathlib import Path

import pytest
import torch

from deeptrain.checkpoint import files
from deeptrain.checkpoint.codec import CodecError
from deeptrain.checkpoint.format import CheckpointError, verify
from deeptrain.checkpoint.keeping import Keeping
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.state.tree import digest


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def tree(n):
    return {"n": n, "w": torch.full((50,), float(n)), "more": [torch.arange(n % 7), (n, {n: -0.0})]}


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "run" / "checkpoints", keep=2)


def fill(store, count):
    return [store.commit(tree(n), {"n": n}) for n in range(count)]


def names(store):
    return [path.name for path in store.paths()]


def damage(path, file="state.json"):
    (path / file).write_bytes((path / file).read_bytes()[:-1])


def test_commits_are_numbered_upward_and_the_newest_are_kept(store):
    assert store.paths() == []
    made = fill(store, 5)
    assert [path.name for path in made] == ["000000", "000001", "000002", "000003", "000004"]
    assert names(store) == ["000003", "000004"]
    assert entries(store.directory) == ["000003", "000004", "last.json"]
    newest = store.newest()
    assert (newest.path, newest.info, newest.passed_over) == (made[4], {"n": 4}, [])
    assert digest(newest.tree) == digest(tree(4))
    _, state, info, *_ = newest
    assert info["n"] == state["n"] == 4


def test_numbers_go_on_beyond_six_digits(store):
    store.commit(tree(0), {})
    (store.directory / "999999").mkdir()
    assert store.commit(tree(1), {}).name == "1000000"
    assert names(store) == [
        "000000",
        "999999",
        "1000000",
    ]  # two that can be read, and one that may have a tag
    store.commit(tree(2), {})
    assert names(store) == ["999999", "1000000", "1000001"]


@pytest.mark.parametrize("keep", [0, -1, True, 1.5, None])
def test_keep_is_checked(tmp_path, keep):
    with pytest.raises(ValueError, match="keep="):
        CheckpointStore(tmp_path, keep=keep)


def test_making_a_store_and_reading_one_writes_nothing(store):
    with pytest.raises(CheckpointError, match="there is no checkpoint here"):
        store.newest()
    assert not store.directory.exists()


def test_one_that_is_not_whole_is_passed_over_with_the_reason(store):
    store.keeping = Keeping(keep=4)
    made = fill(store, 4)
    damage(made[3])
    (made[2] / "tensors.safetensors").unlink()
    newest = store.newest()
    assert newest.path == made[1]
    assert [path for path, _ in newest.passed_over] == [made[3], made[2]]
    assert "state.json" in newest.passed_over[0][1]
    assert newest.passed_over[1][1] == "tensors.safetensors: is missing"


def test_if_none_is_whole_all_are_listed(store):
    made = fill(store, 2)
    damage(made[0], "manifest.json")
    damage(made[1])
    with pytest.raises(CheckpointError) as caught:
        store.newest()
    assert str(store.directory) in str(caught.value)
    assert "none of the 2 checkpoints is whole" in str(caught.value)
    assert "000001: state.json" in str(caught.value)
    assert "000000: manifest.json" in str(caught.value)


def test_a_renamed_checkpoint_is_not_taken_for_a_newer_one(store):
    made = fill(store, 2)
    shutil.copytree(made[0], store.directory / "000009")
    newest = store.newest()
    assert newest.path == made[1]
    assert "its sequence is 0" in newest.passed_over[0][1]
    assert store.commit(tree(2), {}).name == "000010"


def test_leftovers_and_strangers_are_ignored_and_leftovers_removed_at_the_next_commit(store):
    fill(store, 1)
    (store.directory / ".tmp-000001-abcd").mkdir()
    (store.directory / ".tmp-000001-abcd" / "state.json").write_text("{")
    (store.directory / "notes").mkdir()
    assert names(store) == ["000000"]
    assert store.newest().info == {"n": 0}
    store.commit(tree(1), {})
    assert entries(store.directory) == ["000000", "000001", "last.json", "notes"]


def test_a_commit_that_fails_leaves_the_others_as_they_were(store, monkeypatch):
    made = fill(store, 2)
    with pytest.raises(CodecError):
        store.commit({"x": object()}, {})

    def fail(_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_descriptor", fail)
        with pytest.raises(CheckpointError, match="000002"):
            store.commit(tree(2), {})
    assert store.paths() == made
    assert store.newest().path == made[1]


def test_older_ones_go_only_after_the_new_one_is_counted(store, monkeypatch):
    store.keeping = Keeping(keep=1)
    (first,) = fill(store, 1)
    seen = []
    rename = os.rename

    def watch(source, target, **more):
        seen.append((Path(source).name[:6], sorted(names(store))))
        return rename(source, target, **more)

    monkeypatch.setattr(os, "rename", watch)
    second = store.commit(tree(1), {})
    assert seen == [(".tmp-0", ["000000"]), ("000000", ["000000", "000001"])]
    assert store.paths() == [second]
    assert not first.exists()


def test_one_that_is_removed_while_it_is_read_is_no_failure(store, monkeypatch):
    store.keeping = Keeping(keep=1)
    fill(store, 1)
    paths, calls = CheckpointStore.paths, []

    def racing(self):
        found = paths(self)
        calls.append(found)
        if len(calls) == 1:  # the run that writes commits and prunes between the listing and the reading
            monkeypatch.setattr(CheckpointStore, "paths", paths)
            CheckpointStore(self.directory, keep=1).commit(tree(1), {"n": 1})
        return found

    monkeypatch.setattr(CheckpointStore, "paths", racing)
    assert store.newest().info == {"n": 1}


# ---------------------------------------------------------------------- killed


def commit_for_ever(directory, pipe):
    """In the child: commit, and tell of each step that reaches the disk and of each commit that returned."""
    sync = files.sync_descriptor

    def telling(descriptor):
        os.write(pipe, b"\0" * 8)
        sync(descriptor)
        os.write(pipe, b"\0" * 8)

    files.sync_descriptor = telling
    for module in ("format", "store"):
        __import__(f"deeptrain.checkpoint.{module}")
    store = CheckpointStore(directory, keep=2)
    for n in range(1, 10**6):
        store.commit(tree(n), {"n": n})
        os.write(pipe, struct.pack("<Q", n))


def start(directory):
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # a fork beside other threads: this child is careful
        child = os.fork()
    if child == 0:
        try:
            os.close(ours)
            commit_for_ever(directory, theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    return child, ours


def test_a_process_killed_at_any_moment_leaves_one_of_its_last_two_commits(tmp_path):
    chance = random.Random(0)
    after = 0
    for attempt in range(20):
        directory = tmp_path / str(attempt)
        child, pipe = start(directory)
        with os.fdopen(pipe, "rb") as told:
            # A first commit, and then some number of steps: one commit makes about fifteen of them.
            reports = []
            while not reports or reports[-1] == 0:
                reports.append(struct.unpack("<Q", told.read(8))[0])
            reports += [struct.unpack("<Q", told.read(8))[0] for _ in range(chance.randrange(60))]
            os.kill(child, signal.SIGKILL)
            rest = told.read()
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        reports += [report for (report,) in struct.iter_unpack("<Q", rest)]
        last = max(reports)
        newest = CheckpointStore(directory).newest()
        assert newest.info["n"] in (last, last + 1)  # whole on the disk before the child could say so
        assert newest.passed_over == []
        assert digest(newest.tree) == digest(tree(newest.info["n"]))
        after += newest.info["n"] == last + 1
        path = CheckpointStore(directory).commit(tree(0), {})  # and the next process goes on, and tidies
        verify(path)
        assert not list(directory.glob(".tmp-*"))
    assert after < 20
