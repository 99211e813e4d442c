"""Staging: what is written later is the state as it was, from memory that is used again and never torn."""

import errno
import gc
import os
import weakref
from collections import Counter, OrderedDict
from itertools import pairwise

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deeptrain.checkpoint import files
from deeptrain.checkpoint import tensors as tensors_module
from deeptrain.checkpoint.codec import CodecError
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.format import read_checkpoint, verify, write_checkpoint, write_staged
from deeptrain.checkpoint.manifest import MANIFEST, STATE, TENSORS
from deeptrain.checkpoint.staging import Staging
from deeptrain.checkpoint.tensors import write_tensors
from deeptrain.state.leaves import DTYPES
from deeptrain.state.tree import digest

FILES = (TENSORS, STATE, MANIFEST)


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def state():
    w = torch.arange(24.0).reshape(4, 6)
    return {
        "model": {"a.weight": w, "tied": w, "turned": w.t(), "part": w[1:3, ::2], 'é\u2028"': torch.ones(1)},
        "dtypes": {name: torch.ones(3).to(dtype) for name, dtype in DTYPES.items()},
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "channels": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "expanded": torch.ones(1).expand(5),
        "empty": torch.zeros(0, 2),
        "one": torch.tensor(3),
        "array": np.arange(6, dtype=">i2").reshape(2, 3).T,
        "scalar": np.float32(0.1),
        "plain": [1, (2.5, None), OrderedDict(a=Counter(b=2)), {3: float("nan")}],
    }


def change(tree):
    """Let training go on: every value is changed in place."""
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, torch.Tensor):
            value.untyped_storage().copy_(
                torch.full((value.untyped_storage().nbytes(),), 7, dtype=torch.uint8).untyped_storage()
            )
        elif isinstance(value, np.ndarray):
            value[...] = 9
        elif isinstance(value, (dict, list)):
            change(value)
    if isinstance(tree, list):
        tree.append("more")


def test_what_is_written_is_the_state_as_it_was_when_it_was_staged(tmp_path):
    tree = state()
    before = digest(tree)
    info = {"iterations": 7, "why": ["asked"]}
    staged = Staging().stage(tree, info)
    change(tree)
    info["why"].append("later")
    assert digest(tree) != before
    write_staged(tmp_path / "c", staged, sequence=4)
    read, said = read_checkpoint(tmp_path / "c")
    assert digest(read) == before
    assert said == {"iterations": 7, "why": ["asked"]}
    assert read["model"]["a.weight"] is read["model"]["tied"]
    assert entries(tmp_path / "c") == sorted(FILES)


def test_a_staged_state_and_the_live_one_are_written_to_the_same_bytes(tmp_path):
    write_checkpoint(tmp_path / "live", state() | {"channels": 0}, {"n": 1}, sequence=3)
    write_staged(tmp_path / "staged", Staging().stage(state() | {"channels": 0}, {"n": 1}), sequence=3)
    for name in FILES:
        assert (tmp_path / "live" / name).read_bytes() == (tmp_path / "staged" / name).read_bytes()


def pointers(staged):
    with staged.content() as content:
        return {name: tensor.data_ptr() for name, tensor in content.tensors.items()}


def test_the_same_memory_serves_again():
    staging = Staging()
    tree = {"w": torch.zeros(1000), "n": torch.zeros(3, dtype=torch.int64), "e": torch.zeros(0)}
    first = pointers(staging.stage(tree, {}))
    tree["w"] += 1
    staged = staging.stage(tree, {"n": 1})
    assert pointers(staged) == first
    assert all(pointer % 64 == 0 for pointer in first.values() if pointer)
    with staged.content() as content:
        assert content.tensors["w"].tolist() == [1.0] * 1000


def test_another_state_of_no_more_bytes_is_staged_in_the_same_memory(tmp_path):
    staging = Staging()
    block = pointers(staging.stage({"w": torch.zeros(1000)}, {}))["w"]
    other = {"a": torch.randn(10, 90).half(), "b": torch.arange(20)}
    staged = staging.stage(other, {})
    assert pointers(staged)["a"] == block
    write_staged(tmp_path / "c", staged)
    assert digest(read_checkpoint(tmp_path / "c")[0]) == digest(other)


def test_a_state_that_grows_a_little_does_not_move():
    staging = Staging()
    first = pointers(staging.stage({"w": torch.zeros(10_000)}, {}))
    assert pointers(staging.stage({"w": torch.zeros(10_500)}, {})) == first
    with staging.stage({"w": torch.ones(30_000)}, {}).content() as content:
        assert content.tensors["w"].sum() == 30_000


def test_a_state_that_was_staged_over_is_not_written(tmp_path):
    staging = Staging()
    old = staging.stage({"n": 1}, {})
    new = staging.stage({"n": 2}, {})
    with pytest.raises(RuntimeError, match="staged over by a later one"):
        write_staged(tmp_path / "c", old)
    assert entries(tmp_path) == []
    write_staged(tmp_path / "c", new)
    assert read_checkpoint(tmp_path / "c")[0] == {"n": 2}


def test_nothing_is_staged_over_a_state_that_is_being_written():
    staging = Staging()
    staged = staging.stage({"w": torch.zeros(2)}, {})
    with staged.content() as content:
        for act in (lambda: staging.stage({"w": torch.ones(2)}, {}), staging.free):
            with pytest.raises(RuntimeError, match="still being written: wait"):
                act()
        assert content.tensors["w"].tolist() == [0, 0]
    assert staging.stage({"w": torch.ones(2)}, {}) is not staged


def test_what_cannot_be_held_leaves_what_was_staged(tmp_path):
    staging = Staging()
    staged = staging.stage({"n": 1}, {})
    with pytest.raises(CodecError, match=r"^a\.b: found"):
        staging.stage({"a": {"b": object()}}, {})
    with pytest.raises(CheckpointError, match="the info holds tensors or arrays"):
        staging.stage({}, {"x": torch.ones(1)})
    write_staged(tmp_path / "c", staged)
    verify(tmp_path / "c")


def test_memory_goes_when_it_is_freed_or_forgotten():
    staging = Staging()
    staged = staging.stage({"w": torch.zeros(1000)}, {})
    block = weakref.ref(staging._block)
    staging.free()
    assert block() is None  # a stale state does not keep it
    with pytest.raises(RuntimeError, match="freed"), staged.content():
        pass
    gc.disable()
    try:
        staging.stage({"w": torch.zeros(1000)}, {})
        block = weakref.ref(staging._block)
        del staging, staged
        assert block() is None  # and there is no cycle
    finally:
        gc.enable()


def test_the_old_memory_goes_before_larger_memory_is_asked_for(monkeypatch):
    staging = Staging()
    kept = staging.stage({"w": torch.zeros(1000)}, {})
    block = weakref.ref(staging._block)
    there, empty = [], torch.empty

    def watch(size, **options):
        there.append((size, block() is not None))
        return empty(size, **options)

    monkeypatch.setattr(torch, "empty", watch)
    staging.stage({"w": torch.zeros(9000)}, {})
    assert [was for size, was in there if size > 9000] == [False]
    assert kept.size > 4000


def test_staging_inside_inference_mode_spoils_nothing(tmp_path):
    staging = Staging()
    with torch.inference_mode():
        staging.stage({"w": torch.ones(3)}, {})
    staged = staging.stage({"w": torch.nn.Parameter(torch.zeros(3))}, {})
    write_staged(tmp_path / "c", staged)
    assert read_checkpoint(tmp_path / "c")[0]["w"].tolist() == [0, 0, 0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_device_are_staged_while_it_goes_on(tmp_path):
    w = torch.arange(1 << 22, device="cuda")
    before = digest({"w": w, "t": w.reshape(2, -1).t()})
    staged = Staging().stage({"w": w, "t": w.reshape(2, -1).t()}, {})
    for _ in range(10):
        w += 1
    write_staged(tmp_path / "c", staged)
    assert digest(read_checkpoint(tmp_path / "c")[0]) == before


# ---------------------------------------------------------------------- the tensors file


def test_the_tensors_file_is_the_one_that_the_library_writes(tmp_path):
    tensors = {
        "b": torch.randn(3),
        'a/é\\"': torch.zeros(2, dtype=torch.uint8),
        "empty": torch.zeros(0, 2),
        "half": torch.ones(1).half(),
        "scalar": torch.tensor(1.0),
        "long": torch.arange(5),
    }
    written = write_tensors(tmp_path / "ours", tensors)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert written.size == (tmp_path / "ours").stat().st_size
    assert set(written.tensors) == set(tensors)


def test_many_small_tensors_are_written_together_and_large_ones_from_where_they_are(tmp_path, monkeypatch):
    sizes, write = [], os.write

    def watch(descriptor, data):
        sizes.append(len(data))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", watch)
    tensors = {f"{n:04}": torch.tensor(float(n)) for n in range(2000)}
    tensors["large"] = torch.randn(600_000)
    write_tensors(tmp_path / "x", tensors)
    assert len(sizes) < 8
    assert sum(sizes) == (tmp_path / "x").stat().st_size
    read = load_file(tmp_path / "x")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_short_writes_are_continued(tmp_path, monkeypatch):
    write = os.write
    monkeypatch.setattr(
        os, "write", lambda fd, data: write(fd, bytes(data[: max(1, min(len(data) // 2, 3000))]))
    )
    tree = state() | {"large": torch.randn(100_000)}
    write_checkpoint(tmp_path / "c", tree, {})
    monkeypatch.undo()
    assert digest(read_checkpoint(tmp_path / "c")[0]) == digest(tree)


@pytest.mark.parametrize("wrong", [0, OSError(errno.ENOSPC, "No space left on device")])
def test_a_write_that_fails_or_writes_nothing_is_reported_and_nothing_is_left(tmp_path, monkeypatch, wrong):
    def bad(*_):
        if isinstance(wrong, OSError):
            raise wrong
        return wrong

    monkeypatch.setattr(os, "write", bad)
    with pytest.raises(
        CheckpointError, match=r"c: the checkpoint could not be written: .*(No space|wrote 0 of)"
    ):
        write_checkpoint(tmp_path / "c", state(), {})
    assert entries(tmp_path) == []


def test_a_value_that_changes_on_its_way_to_the_disk_is_found(tmp_path, monkeypatch):
    write = os.write

    def bad(descriptor, data):
        return write(descriptor, bytes(data).replace(b"\x00\x00\x80\x3f", b"\x00\x00\x80\x3e"))

    monkeypatch.setattr(os, "write", bad)
    with pytest.raises(CheckpointError, match=r"the tensor w: its checksum does not match"):
        write_checkpoint(tmp_path / "c", {"w": torch.ones(3)}, {})
    assert entries(tmp_path) == []


def test_names_beyond_what_safetensors_holds_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors_module, "MAX_HEADER", 100)
    with pytest.raises(CheckpointError, match=r"c-.*: the names of 2 tensors take .* safetensors holds 100"):
        write_checkpoint(tmp_path / "c", {"a": torch.ones(1), "b": torch.ones(1)}, {})
    assert entries(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system has no such call")
def test_the_cache_is_dropped_before_the_reading_back(tmp_path, monkeypatch):
    seen, advise = [], os.posix_fadvise

    def watch(descriptor, offset, length, advice):
        seen.append((os.fstat(descriptor).st_size, offset, length, advice))
        advise(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", watch)
    write_checkpoint(tmp_path / "c", state(), {})
    sizes = [(tmp_path / "c" / name).stat().st_size for name in FILES]
    assert seen == [(size, 0, 0, os.POSIX_FADV_DONTNEED) for size in sizes]


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system has no such call")
def test_the_disk_works_while_the_rest_is_summed(tmp_path, monkeypatch):
    seen, advise = [], os.posix_fadvise

    def watch(descriptor, offset, length, advice):
        seen.append((offset, offset + length, advice))
        advise(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", watch)
    monkeypatch.setattr(tensors_module, "_AT_ONCE", 1 << 20)
    write_checkpoint(tmp_path / "c", {"a": torch.ones(1 << 20), "b": torch.ones(9)}, {})
    size = (tmp_path / "c" / TENSORS).stat().st_size
    begun = [one for one in seen if one[2] == os.POSIX_FADV_DONTNEED and one[1]]
    assert begun[0][0] == 0
    assert all(one[1] == other[0] for one, other in pairwise(begun))
    assert size - (1 << 20) < begun[-1][1] <= size


def test_where_the_cache_cannot_be_dropped_it_is_read_as_it_is(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fadvise", refuse, raising=False)
    write_checkpoint(tmp_path / "a", state(), {})
    monkeypatch.delattr(os, "posix_fadvise")
    write_checkpoint(tmp_path / "b", state(), {})
    files.drop_cache(tmp_path / "missing")
    verify(tmp_path / "a")
    verify(tmp_path / "b")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_files_have_the_modes_that_open_gives(tmp_path):
    mask = os.umask(0o027)
    try:
        write_checkpoint(tmp_path / "c", {}, {})
    finally:
        os.umask(mask)
    assert {(tmp_path / "c" / name).stat().st_mode & 0o777 for name in FILES} == {0o640}
