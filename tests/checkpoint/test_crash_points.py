"""Every system call of a commit: killed before and after it, failed, cut short, and the power gone.

What loads afterwards is exactly the state before the commit or exactly the one after it, what has a tag is
untouched, and the next commit works.
"""

import os
import random
import shutil
import warnings

import pytest
import torch
from tests.support.faults import KILLED, Disk, Layer, exit_status, lay_out, no_descriptor_left, on_disk

from deeptrain.checkpoint.files import TEMPORARY, CheckpointError
from deeptrain.checkpoint.keeping import Keeping
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.checkpoint.verify import verify_all
from deeptrain.state.tree import digest

KEEPING = Keeping(keep=1, best=1)


def tree(n):
    return {"n": n, "w": torch.full((300,), float(n)), "more": [torch.arange(n + 2), (n, {n: -0.0})]}


DIGESTS = {n: digest(tree(n)) for n in range(10)}


def open_store(run):
    return CheckpointStore(run / "checkpoints", keep=KEEPING)


def commit(run, n, key=None, tag=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a pointer that could not be written
        open_store(run).commit(tree(n), {"n": n, "key": key, "mode": "max"}, tag=tag)


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Which calls are made is what counts here; the power that goes is simulated."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A run with a tagged checkpoint, the best, and the newest, which the next commit will remove."""
    run = tmp_path_factory.mktemp("three") / "run"
    commit(run, 0, tag="first")
    commit(run, 1, key=0.9)
    commit(run, 2, key=0.1)
    assert [path.name for path in open_store(run).paths()] == ["000000", "000001", "000002"]
    return run


@pytest.fixture(scope="module")
def nothing(tmp_path_factory):
    """A run that has not saved yet: its directory is there and empty."""
    run = tmp_path_factory.mktemp("nothing") / "run"
    run.mkdir()
    return run


@pytest.fixture(scope="module")
def untidy(three, tmp_path_factory):
    """The three, and what processes left that died while they wrote, removed, and moved a pointer."""
    run = tmp_path_factory.mktemp("untidy") / "run"
    shutil.copytree(three, run)
    shutil.copytree(run / "checkpoints" / "000001", run / "checkpoints" / f"{TEMPORARY}000003-abcd")
    (run / "checkpoints" / f"{TEMPORARY}000003-abcd" / "manifest.json").unlink()
    (run / "checkpoints" / f"{TEMPORARY}last.json-abcd").write_text("{")
    return run


@pytest.fixture(params=["three", "nothing"])
def start(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(tmp_path):
    """Gives a fresh copy of a run each time, in one and the same directory."""

    def fresh(start):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(start, run)
        return run

    return fresh


NEXT = {"three": (2, 3), "nothing": (None, 3), "untidy": (2, 3)}


def advance(run):
    commit(run, 3, key=0.5)


def enumerate_calls(run):
    with Layer(run) as layer:
        advance(run)
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


def check_goes_on(run, old, *, tidy=True):
    """The tagged one is there, and the next commit works, tidies up, and is found by its pointer."""
    commit(run, 4, key=0.2)
    assert loads(run) == 4
    store = open_store(run)
    assert not list(store.directory.glob(f"{TEMPORARY}*"))
    assert whole(run) or not tidy
    kept = {verdict.path: verdict for verdict in verify_all(run)}
    if old is not None:
        assert kept[store.directory / "000000"].about.endswith("tag 'first'")
        assert store.directory / "000001" in kept  # the best
    assert f'"{store.paths()[-1].name}"' in (store.directory / "last.json").read_text()


def before_and_after(start):
    return NEXT[start.parent.name.rstrip("0123456789")]


def test_the_calls_of_a_commit_are_seen(place, start):
    run = place(start)
    disk = Disk(run)
    with Layer(run, told=disk.told) as layer:
        advance(run)
    assert {"open", "write", "fsync", "rename", "replace", "mkdir"} <= {name for name, _ in layer.calls}
    assert disk.as_it_is() == on_disk(run)  # nothing was written past the layer
    assert len(layer.calls) > 25


@pytest.mark.parametrize("when", ["kill before", "kill after"])
def test_killed_at_each_call(place, start, when):
    old, new = before_and_after(start)
    seen = []
    for number, call in enumerate(enumerate_calls(place(start))):
        run = place(start)

        def die(run=run, number=number):
            with Layer(run, number, when):
                advance(run)

        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # a fork beside other threads: the child is careful
            assert exit_status(die) == KILLED, call
        seen.append(loads(run))
        assert seen[-1] in (old, new), call
        assert whole(run), call
        check_goes_on(run, old)
    turn = seen.index(new)
    assert seen == [old] * turn + [new] * (len(seen) - turn)  # one call decides, the rename
    assert 0 < turn < len(seen)


@pytest.mark.parametrize("what", ["ENOSPC", "EIO", "short", "full"])
def test_each_call_failed(place, start, what):
    old, new = before_and_after(start)
    failed = 0
    for number, call in enumerate(enumerate_calls(place(start))):
        if what == "short" and call[0] != "write":
            continue
        run = place(start)
        with no_descriptor_left(), Layer(run, number, what):
            try:
                advance(run)
            except (CheckpointError, OSError):
                expected = old
                failed += 1
            else:
                expected = new
        assert loads(run) == expected, call  # a commit that failed did not happen
        assert whole(run), call
        check_goes_on(run, old)
    assert failed > 10 if what != "short" else failed == 0  # a short write is followed by the rest


def power_failures(run, start, fault=(None, None)):
    """Commit, and collect what a power failure after each call could leave; gives whether it went through.

    With a fault, only what comes after it.
    """
    disk, chance, images = Disk(run), random.Random(0), {}
    layer = Layer(run, *fault)

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
            advance(run)
        except (CheckpointError, OSError):
            went_through = False
    at_the_end = [(mode, "at the end", disk.image(mode, chance)) for mode in Disk.MODES]
    return went_through, list(images.values()), at_the_end


def check_power(run, start, after, fault=(None, None)):
    """See what loads from each image; gives how many there were."""
    old, new = NEXT[start.parent.name.rstrip("0123456789")]
    went_through, images, at_the_end = power_failures(run, start, fault)
    for mode, call, image in images + at_the_end:
        lay_out(image, after)
        expected = (new,) if went_through and call == "at the end" else (old, new)
        assert loads(after) in expected, (mode, call)
        # Nothing ever has a name that is not whole. Two faults, of which one is in the sync that a removal relies on,
        # may leave a name with half its files.
        assert whole(after) or fault != (None, None), (mode, call)
        check_goes_on(after, old, tidy=fault == (None, None))
        shutil.rmtree(after)
    return len(images)


def test_power_gone_at_each_call(place, start, tmp_path):
    assert check_power(place(start), start, tmp_path / "after") > 25


def test_power_gone_after_a_failed_fsync(place, start, tmp_path):
    """After a failed fsync nothing is known of what it was to write: it is not tried again, and not relied on."""
    calls = enumerate_calls(place(start))
    syncs = [number for number, (name, _) in enumerate(calls) if name == "fsync"]
    assert len(syncs) >= 7
    for number in syncs:
        check_power(place(start), start, tmp_path / "after", (number, "EIO"))


def test_tidying_up_may_be_cut_short_too(place, untidy, tmp_path):
    calls = enumerate_calls(place(untidy))
    assert [name for name, _ in calls].count("rmdir") == 2  # the leftover, and the one that is not kept
    for number, call in enumerate(calls):
        run = place(untidy)
        with Layer(run, number, "EIO"):
            try:
                advance(run)
            except (CheckpointError, OSError):
                assert loads(run) == 2, call
            else:
                assert loads(run) == 3, call
        check_goes_on(run, 2)
    assert check_power(place(untidy), untidy, tmp_path / "after") > 25


@pytest.mark.parametrize(
    "forgotten",
    ["files.sync_descriptor", "tensors.sync_descriptor", "format.sync_directory", "store.sync_directory"],
)
def test_a_forgotten_fsync_is_found(place, three, tmp_path, monkeypatch, forgotten):
    monkeypatch.setattr(f"deeptrain.checkpoint.{forgotten}", lambda _: None)
    with pytest.raises(AssertionError):
        check_power(place(three), three, tmp_path / "after")


def test_the_layer_is_taken_off_again(three):
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "rename", "close")}
    with Layer(three):
        assert os.open is not real["open"]
    assert {name: getattr(os, name) for name in real} == real
