"""Every system call of a commit: killed before and after it, failed, cut short, and the power gone.

What loads afterwards is exactly the state before the commit or exactly the one after it, what has a tag is
untouched, and the next commit works.
"""

import os
import random
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tests.support.faults import KILLED, Disk, Layer, exit_status, lay_out, no_descriptor_left, on_disk

from deeptrain.checkpoint.files import TEMPORARY, CheckpointError
from deeptrain.checkpoint.keeping import Keeping
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.checkpoint.verify import verify_all
from deeptrain.run.saving import Saver
from deeptrain.state.history import History, without_series
from deeptrain.state.tree import digest

KEEPING = Keeping(keep=1, best=1)
EACH = 3  # iterations from one state to the next


def tree(n):
    return {"n": n, "w": torch.full((300,), float(n)), "more": [torch.arange(n + 2), (n, {n: -0.0})]}


def train(history, n):
    """Go on to state n."""
    done = len(history["train.loss"].values) if "train.loss" in history else 0
    for at in range(done + 1, EACH * n + 1):
        history.add(at, {"loss": at / 7, "accuracy": -at}, "train.")
        if at % EACH == 1 and at > EACH:
            history.add(at, {"loss": at / 3}, "val.")


def whole_tree(n):
    history = History()
    train(history, n)
    return {**tree(n), "history": history.state_dict()}


DIGESTS = {n: digest(whole_tree(n)) for n in range(10)}


def open_store(run):
    return CheckpointStore(run / "checkpoints", keep=KEEPING)


class Process:
    """One that trains and saves, going on from the newest checkpoint."""

    def __init__(self, run):
        self.run, self.history = run, History()
        self.saver = Saver(open_store(run))
        if loads(run) is not None:
            newest = open_store(run).newest()
            self.history.load_state_dict(newest.tree["history"])
            self.saver.appender.adopt(newest.chain, self.history)

    def commit(self, n, key=None, tag=None):
        train(self.history, n)
        state, info = {**tree(n), "history": without_series()}, {"n": n, "key": key, "mode": "max"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a pointer that could not be written
            self.saver.save(state, self.history, info, at=EACH * n, position=n, tag=tag)
            self.saver.wait()
            self.saver.take()


def commit(run, n, key=None, tag=None):
    Process(run).commit(n, key, tag)


class Start(NamedTuple):
    """A run on the disk, the state that loads there, and the next one.

    Where it is `going`, the next checkpoint is the second of its process, which has a segment of its own by then.
    """

    path: Path
    old: int | None
    new: int
    going: bool = False


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Which calls are made is what counts here; the power that goes is simulated."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A run with a tagged checkpoint, the best, and the newest, which the next commit will remove."""
    run = tmp_path_factory.mktemp("three") / "run"
    commit(run, 0, tag="first")  # no figures yet, and no segment
    commit(run, 1, key=0.9)
    commit(run, 2, key=0.1)
    assert [path.name for path in open_store(run).paths()] == ["000000", "000001", "000002"]
    assert [path.name for path in sorted((run / "history").iterdir())] == ["000000.seg", "000001.seg"]
    return Start(run, 2, 3)


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """A run that has not saved yet: its directory is there and empty."""
    run = tmp_path_factory.mktemp("nothing") / "run"
    run.mkdir()
    return Start(run, None, 3)


@pytest.fixture(scope="module")
def going(three):
    return three._replace(old=3, new=4, going=True)


@pytest.fixture(scope="module")
def untidy(three, tmp_path_factory):
    """The three, and what processes left that died while they wrote, removed, and moved a pointer."""
    run = tmp_path_factory.mktemp("untidy") / "run"
    shutil.copytree(three.path, run)
    shutil.copytree(run / "checkpoints" / "000001", run / "checkpoints" / f"{TEMPORARY}000003-abcd")
    (run / "checkpoints" / f"{TEMPORARY}000003-abcd" / "manifest.json").unlink()
    (run / "checkpoints" / f"{TEMPORARY}last.json-abcd").write_text("{")
    (run / "history" / "000002.seg").write_bytes((run / "history" / "000001.seg").read_bytes()[:-9])
    return Start(run, 2, 3)


@pytest.fixture(params=["three", "nothing", "going"])
def start(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(tmp_path):
    """Gives a process in a fresh copy of a run each time, in one and the same directory."""

    def fresh(start):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(start.path, run)
        process = Process(run)
        if start.going:
            process.commit(start.old, key=0.3)
        return process

    return fresh


def advance(process, start):
    process.commit(start.new, key=0.5)


def enumerate_calls(process, start):
    with Layer(process.run) as layer:
        advance(process, start)
    return layer.calls


def loads(run):
    """Which state loads; None where there is none. What loads is what was committed, to the bit."""
    try:
        newest = open_store(run).newest()
    except CheckpointError:
        return None
    assert digest(newest.tree) == DIGESTS[newest.info["n"]]
    return newest.info["n"]


def whole(run):
    return not open_store(run).paths() or all(verdict.whole for verdict in verify_all(run))


def check_goes_on(run, start, *, tidy=True, process=None):
    """The tagged one is there, and the next commit works, tidies up, and is found by its pointer."""
    (process or Process(run)).commit(5, key=0.2)
    assert loads(run) == 5
    store = open_store(run)
    assert not list(store.directory.glob(f"{TEMPORARY}*"))
    assert whole(run) or not tidy
    kept = {verdict.path: verdict for verdict in verify_all(run)}
    if start.old is not None:
        assert kept[store.directory / "000000"].about.endswith("tag 'first'")
        assert store.directory / "000001" in kept  # the best
    assert f'"{store.paths()[-1].name}"' in (store.directory / "last.json").read_text()


def segments(run):
    """The bytes of the segments that there are."""
    return {path.name: path.read_bytes() for path in sorted((run / "history").glob("*.seg"))}


def test_the_calls_of_a_commit_are_seen(place, start):
    process = place(start)
    disk = Disk(process.run)
    with Layer(process.run, told=disk.told) as layer:
        advance(process, start)
    assert {"open", "write", "fsync", "rename", "replace", "mkdir"} <= {name for name, _ in layer.calls}
    assert (
        sum(path.endswith(".seg") for name, path in layer.calls if name == "open") == 2
    )  # to write, to forget
    assert disk.as_it_is() == on_disk(process.run)  # nothing was written past the layer
    assert len(layer.calls) > 25


def test_only_the_second_of_a_process_is_appended_and_nothing_is_overwritten(place, three, going):
    for start, more in ((three, 1), (going, 0)):
        process = place(start)
        before = segments(process.run)
        advance(process, start)
        after = segments(process.run)
        assert len(after) == len(before) + more
        assert all(after[name].startswith(data) for name, data in before.items())
        grown = [name for name in before if after[name] != before[name]]
        assert grown == ([] if more else [max(before)])


@pytest.mark.parametrize("when", ["kill before", "kill after"])
def test_killed_at_each_call(place, start, when):
    seen = []
    for number, call in enumerate(enumerate_calls(place(start), start)):
        process = place(start)

        def die(process=process, number=number):
            with Layer(process.run, number, when):
                advance(process, start)

        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # a fork beside other threads: the child is careful
            assert exit_status(die) == KILLED, call
        seen.append(loads(process.run))
        assert seen[-1] in (start.old, start.new), call
        assert whole(process.run), call
        check_goes_on(process.run, start)
    turn = seen.index(start.new)
    assert seen == [start.old] * turn + [start.new] * (len(seen) - turn)  # one call decides, the rename
    assert 0 < turn < len(seen)


@pytest.mark.parametrize("what", ["ENOSPC", "EIO", "short", "full"])
def test_each_call_failed(place, start, what):
    failed = 0
    for number, call in enumerate(enumerate_calls(place(start), start)):
        if what == "short" and call[0] != "write":
            continue
        process = place(start)
        with no_descriptor_left(), Layer(process.run, number, what):
            try:
                advance(process, start)
            except (CheckpointError, OSError):
                expected = start.old
                failed += 1
            else:
                expected = start.new
        assert loads(process.run) == expected, call  # a commit that failed did not happen
        assert whole(process.run), call
        check_goes_on(process.run, start, process=process if number % 2 else None)
    assert failed > 10 if what != "short" else failed == 0  # a short write is followed by the rest


def power_failures(process, start, fault=(None, None)):
    """Commit, and collect what a power failure after each call could leave; gives whether it went through.

    With a fault, only what comes after it.
    """
    disk, chance, images = Disk(process.run), random.Random(0), {}
    layer = Layer(process.run, *fault)

    def told(*call):
        disk.told(*call)
        if layer.at is not None and not layer.done:
            return
        for mode in (*Disk.MODES, *["torn"] * (9 if layer.at is None else 2)):
            image = disk.image(mode, chance)
            images.setdefault(repr(image), (mode, call[:2], image))

    went_through = True
    layer.told = told
    with layer:
        try:
            advance(process, start)
        except (CheckpointError, OSError):
            went_through = False
    at_the_end = [(mode, "at the end", disk.image(mode, chance)) for mode in Disk.MODES]
    return went_through, list(images.values()), at_the_end


def check_power(process, start, after, fault=(None, None)):
    """See what loads from each image; gives how many there were."""
    went_through, images, at_the_end = power_failures(process, start, fault)
    for mode, call, image in images + at_the_end:
        lay_out(image, after)
        expected = (start.new,) if went_through and call == "at the end" else (start.old, start.new)
        assert loads(after) in expected, (mode, call)
        # Nothing ever has a name that is not whole. Two faults, of which one is in the sync that a removal relies on,
        # may leave a name with half its files.
        assert whole(after) or fault != (None, None), (mode, call)
        check_goes_on(after, start, tidy=fault == (None, None))
        shutil.rmtree(after)
    return len(images)


def test_power_gone_at_each_call(place, start, tmp_path):
    assert check_power(place(start), start, tmp_path / "after") > 25


def test_power_gone_after_a_failed_fsync(place, start, tmp_path):
    """After a failed fsync nothing is known of what it was to write: it is not tried again, and not relied on."""
    calls = enumerate_calls(place(start), start)
    syncs = [number for number, (name, _) in enumerate(calls) if name == "fsync"]
    assert len(syncs) >= 8
    for number in syncs:
        check_power(place(start), start, tmp_path / "after", (number, "EIO"))


def test_tidying_up_may_be_cut_short_too(place, untidy, tmp_path):
    calls = enumerate_calls(place(untidy), untidy)
    assert [name for name, _ in calls].count("rmdir") == 2  # the leftover, and the one that is not kept
    for number, call in enumerate(calls):
        process = place(untidy)
        with Layer(process.run, number, "EIO"):
            try:
                advance(process, untidy)
            except (CheckpointError, OSError):
                assert loads(process.run) == 2, call
            else:
                assert loads(process.run) == 3, call
        check_goes_on(process.run, untidy)
    assert check_power(place(untidy), untidy, tmp_path / "after") > 25


FORGOTTEN = [
    ("three", "files.sync_descriptor"),
    ("three", "tensors.sync_descriptor"),
    ("three", "format.sync_directory"),
    ("three", "store.sync_directory"),
    ("three", "appending.sync_descriptor"),
    ("three", "appending.sync_directory"),
    ("going", "appending.sync_descriptor"),
    ("nothing", "files.sync_directory"),
]


@pytest.mark.parametrize(("start", "forgotten"), FORGOTTEN, indirect=["start"])
def test_a_forgotten_fsync_is_found(place, start, tmp_path, monkeypatch, forgotten):
    process = place(start)
    monkeypatch.setattr(f"deeptrain.checkpoint.{forgotten}", lambda _: None)
    with pytest.raises(AssertionError):
        check_power(process, start, tmp_path / "after")


def test_the_layer_is_taken_off_again(three):
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "rename", "close")}
    with Layer(three.path):
        assert os.open is not real["open"]
    assert {name: getattr(os, name) for name in real} == real
