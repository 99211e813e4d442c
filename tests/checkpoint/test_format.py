"""One checkpoint on disk: written in one step or not at all, and every bit of it under a checksum."""

import errno
import json
import os
import resource
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from deeptrain.checkpoint import files
from deeptrain.checkpoint import format as format_module
from deeptrain.checkpoint.codec import CodecError
from deeptrain.checkpoint.format import (
    CheckpointError,
    CorruptCheckpoint,
    read_checkpoint,
    verify,
    write_checkpoint,
)
from deeptrain.checkpoint.manifest import MANIFEST, STATE, TENSORS, Manifest
from deeptrain.state.tree import digest

FILES = (TENSORS, STATE, MANIFEST)


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def small():
    return {
        "model": {"a.weight": torch.arange(3.0), "b": torch.tensor([True, False])},
        "half": torch.ones(2).bfloat16(),
        "complex": torch.tensor([1 + 2j]),
        "array": np.arange(3, dtype=">i2"),
        "empty": torch.zeros(0, 2),
        "lr": float("nan"),
        "steps": {3: (1, 2)},
    }


@pytest.fixture
def path(tmp_path):
    write_checkpoint(tmp_path / "c", small(), {"iterations": 7, "best": float("inf")}, sequence=3)
    return tmp_path / "c"


def remake(path, manifest=None, **changes):
    """Give a manifest other content, with a checksum that fits: damage that was made on purpose."""
    body = manifest or (json.loads((path / MANIFEST).read_bytes()) | changes)
    body.pop("crc32", None)
    rest = json.dumps(body, indent=1).encode()[1:]
    (path / MANIFEST).write_bytes(b'{ "crc32": "%08x",' % zlib.crc32(rest) + rest)


def plant(path, tensors):
    """Put a tensors file in place that the manifest agrees with."""
    (path / TENSORS).write_bytes(tensors)
    size = min(int.from_bytes(tensors[:8], "little") + 8, len(tensors))
    remake(path, tensors_size=len(tensors), header_size=size, header_crc=zlib.crc32(tensors[:size]))


def both_refuse(path, match):
    for act in (verify, read_checkpoint):
        with pytest.raises(CorruptCheckpoint, match=match) as caught:
            act(path)
        assert str(path) in str(caught.value)
        assert isinstance(caught.value, CheckpointError)


def test_what_was_written_is_read(path):
    tree, info = read_checkpoint(path)
    assert digest(tree) == digest(small())
    assert info == {"iterations": 7, "best": float("inf")}
    assert entries(path) == sorted(FILES)
    assert entries(path.parent) == ["c"]
    verify(path)


def test_tensors_come_in_memory_of_their_own_at_64_byte_alignment(path):
    tree, _ = read_checkpoint(path)
    tensors = [tree["model"]["a.weight"], tree["half"], tree["complex"], tree["model"]["b"]]
    assert all(t.data_ptr() % 64 == 0 for t in tensors)
    assert len({t.untyped_storage().data_ptr() for t in tensors}) == 4
    before = (path / TENSORS).read_bytes()
    tensors[0].fill_(9)
    tree["array"][:] = 9
    assert (path / TENSORS).read_bytes() == before


def test_other_tools_can_read_the_tensors(path):
    tensors = load_file(path / TENSORS)
    assert tensors[r"model.a\.weight"].tolist() == [0, 1, 2]
    assert tensors["half"].dtype is torch.bfloat16


def test_the_manifest_is_json_and_says_what_the_checkpoint_is(path):
    manifest = json.loads((path / MANIFEST).read_text())
    assert (manifest["format"], manifest["version"], manifest["sequence"]) == ("deeptrain checkpoint", 1, 3)
    assert manifest["info"]["iterations"] == 7
    assert manifest["tensors_size"] == (path / TENSORS).stat().st_size
    assert manifest["tensors"]["half"] == zlib.crc32(b"\x80\x3f" * 2)


@pytest.mark.parametrize("tree", [{}, {"a": 1}, None, torch.ones(2), {"__metadata__": torch.ones(1)}])
def test_trees_of_every_extent_are_held(tree, tmp_path):
    write_checkpoint(tmp_path / "c", tree, {})
    assert digest(read_checkpoint(tmp_path / "c")[0]) == digest(tree)


def test_views_of_one_storage_are_stored_each_for_itself(tmp_path):
    w = torch.arange(6.0)
    tree = {"all": w, "first": w[:3], "last": w[3:], "array": w.numpy(), "again": w}
    write_checkpoint(tmp_path / "c", tree, {})
    again, _ = read_checkpoint(tmp_path / "c")
    assert digest(again) == digest(tree)
    assert again["all"] is again["again"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_device_are_written(tmp_path):
    w = torch.randn(4, 3, device="cuda")
    write_checkpoint(tmp_path / "c", {"w": w, "t": w.t()}, {})
    assert digest(read_checkpoint(tmp_path / "c")[0]) == digest({"w": w, "t": w.t()})


# ---------------------------------------------------------------------- damage


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_of_every_file_is_found(path, name):
    file = path / name
    whole = file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)
        with pytest.raises(CorruptCheckpoint):
            verify(path)
    for bit in range(8):  # and each bit of some bytes, by the other way in
        for position in (0, 7, 8, len(whole) // 2, len(whole) - 1):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            file.write_bytes(damaged)
            both_refuse(path, name)
    file.write_bytes(whole)
    verify(path)


def test_a_flipped_bit_names_the_tensor_that_it_is_in(path):
    whole = (path / TENSORS).read_bytes()
    damaged = bytearray(whole)
    damaged[whole.rindex(torch.arange(3.0).numpy().tobytes()) + 5] ^= 4
    (path / TENSORS).write_bytes(damaged)
    both_refuse(path, r"tensors.safetensors: the tensor model.a\\.weight: its checksum does not match")
    tree, _ = read_checkpoint(path, verify=False)
    assert tree["half"].tolist() == [1, 1]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_truncated_file_is_named(path, name, keep):
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    both_refuse(path, name)


@pytest.mark.parametrize("name", FILES)
def test_a_lengthened_file_is_named(path, name):
    with (path / name).open("ab") as file:
        file.write(b"\0")
    both_refuse(path, name)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(path, name):
    (path / name).unlink()
    both_refuse(path, f"{name}: is missing")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_something_else_is_named(path, name):
    (path / name).unlink()
    (path / name).mkdir()
    both_refuse(path, f"{name}: is no regular file")
    (path / name).rmdir()
    os.mkfifo(path / name)  # opening one would wait for ever
    both_refuse(path, f"{name}: is no regular file")


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_checkpoint_are_found(path, name):
    other = path.parent / "other"
    write_checkpoint(other, small() | {"lr": float("inf"), "half": torch.zeros(2).bfloat16()}, {})
    shutil.copy(other / name, path / name)
    both_refuse(path, f"{STATE}|{TENSORS}")


def test_a_checkpoint_that_is_not_there_is_said_to_be_so(tmp_path):
    both_refuse(tmp_path / "c", "there is no such directory")
    (tmp_path / "c").write_text("")
    both_refuse(tmp_path / "c", "there is no such directory")


# ---------------------------------------------------------------------- damage on purpose, with fitting checksums


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"files": {"../x": 1}}, "files"),
        ({"../x": 1}, r"\.\./x"),
        ({"version": 3}, "its version is 3, this deeptrain reads 1 and 2"),
        ({"format": "other"}, "format"),
        ({"sequence": -1}, "sequence"),
        ({"sequence": True}, "sequence"),
        ({"state_size": "3"}, "state_size"),
        ({"state_size": 2**62}, "state.json: has"),
        ({"tensors_size": 2**62, "header_size": 2**61}, "header_size"),
        ({"tensors_size": 2**62}, "tensors.safetensors: has"),
        ({"header_size": 0}, "header_size"),
        ({"header_size": 16}, "header's checksum"),
        ({"state_crc": 2**40}, "state_crc"),
        ({"tensors": []}, "checksums of the tensors"),
        ({"tensors": {"half": "x"}}, "checksums of the tensors"),
        ({"tensors": {}}, r"differ in the tensors \['array'"),
    ],
)
def test_a_manifest_with_other_entries_is_refused(path, change, named):
    remake(path, **change)
    both_refuse(path, named)


def test_a_manifest_with_an_extra_or_a_missing_tensor_is_refused(path):
    tensors = json.loads((path / MANIFEST).read_text())["tensors"]
    remake(path, tensors=tensors | {"../../etc/passwd": 1})
    both_refuse(path, r"differ in the tensors \['../../etc/passwd'\]")


def test_a_manifest_without_an_entry_or_that_is_no_manifest_is_refused(path):
    body = json.loads((path / MANIFEST).read_text())
    del body["state_crc"]
    remake(path, body)
    both_refuse(path, r"differs in \['state_crc'\]")
    rest = b"\n" + b"[" * 100_000
    (path / MANIFEST).write_bytes(b'{ "crc32": "%08x",' % zlib.crc32(rest) + rest)
    both_refuse(path, "it is no JSON")


@pytest.mark.parametrize("info", [3, {"$eval": 1}, {"$tensor": "half", "dtype": "bfloat16", "shape": [2]}])
def test_info_is_decoded_as_carefully_as_the_state(path, info):
    remake(path, info=info)
    with pytest.raises(CorruptCheckpoint, match=r"manifest\.json: "):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (b"{", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"NaN", "a number that JSON does not have"),
        (b"1e999", "a number that JSON does not have"),
        (b"1" * 5000, "is no JSON"),
        (b'{"$pickle": "gASV"}', "unknown tag"),
        (b"{}", "does not mention these tensors"),
    ],
)
def test_a_hostile_state_is_refused(path, state, named):
    (path / STATE).write_bytes(state)
    remake(path, state_size=len(state), state_crc=zlib.crc32(state))
    with pytest.raises(CorruptCheckpoint, match=f"state.json: .*{named}"):
        read_checkpoint(path)


def header(entries):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "tensors",
    [
        (2**63).to_bytes(8, "little") + b"{}",
        (10**8 + 1).to_bytes(8, "little") + b"{" * 100,
        (90_000_000).to_bytes(8, "little") + b"{}",
        header(b"garbage."),
        header(b"[" * 50_000),
        header(b'{"a":' * 50_000),
        header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}) + b"abcd",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 2**62]}}) + b"abcd",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}) + b"abcd",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]}}) + b"abcd" * 3,
        header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}) + b"abcd",
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + b"abcd",
        header({"a": 3}) + b"abcd",
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}) + b"abcdefgh",
        header({"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}) + b"abcd",
    ],
    ids=range(15),
)
def test_a_hostile_tensors_file_is_refused_without_a_large_allocation(path, tensors):
    plant(path, tensors)
    remake(path, tensors={"a": 0})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    both_refuse(path, TENSORS)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_tensors_of_another_shape_than_the_state_says_are_refused(path):
    tensors = load_file(path / TENSORS)
    tensors["half"] = tensors["half"].reshape(2, 1)
    save_file(tensors, path / TENSORS)
    plant(path, (path / TENSORS).read_bytes())
    with pytest.raises(CorruptCheckpoint, match="half: a tensor of another shape"):
        read_checkpoint(path)


# ---------------------------------------------------------------------- failures while writing


def nothing_is_left(place):
    return not entries(place)


def test_a_state_that_cannot_be_held_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(CodecError, match=r"^a\.b: found"):
        write_checkpoint(tmp_path / "c", {"a": {"b": object()}}, {})
    with pytest.raises(CheckpointError, match="info holds tensors or arrays"):
        write_checkpoint(tmp_path / "c", {}, {"x": torch.ones(1)})
    assert nothing_is_left(tmp_path)


def test_a_checkpoint_is_never_overwritten(path):
    with pytest.raises(CheckpointError, match="is there already"):
        write_checkpoint(path, {}, {})
    verify(path)


def test_directories_above_are_made(tmp_path):
    write_checkpoint(tmp_path / "a" / "b" / "c", {}, {})
    verify(tmp_path / "a" / "b" / "c")


def test_a_full_disk_is_found_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(CheckpointError, match=r"5\.\d MB are needed .* and 0\.0 MB are available") as caught:
        write_checkpoint(tmp_path / "c", {"w": torch.zeros(10**6)}, {})
    assert str(tmp_path) in str(caught.value)
    assert nothing_is_left(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/c: the checkpoint could not be written"):
        write_checkpoint(tmp_path / "file" / "c", {}, {})


def operations(monkeypatch, fail_at=None):
    """Note what is fsynced and renamed, in order; let the n-th of these fail."""
    done = []

    def note(kind, name):
        done.append((kind, name))
        if len(done) - 1 == fail_at:
            raise OSError(errno.EIO, "Input/output error")

    real_fsync, real_rename = os.fsync, Path.rename

    def fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        note("fsync", "temporary" if name.startswith(".tmp-") else name)
        real_fsync(descriptor)

    def rename(self, target):
        note("rename", Path(target).name)
        return real_rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", rename)
    monkeypatch.setattr(format_module, "verify", lambda path: (note("verify", Path(path).name), verify(path)))
    return done


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names descriptors by /proc")
def test_everything_is_on_the_disk_before_its_name_is(tmp_path, monkeypatch):
    done = operations(monkeypatch)
    write_checkpoint(tmp_path / "c", small(), {})
    assert done == [
        ("fsync", TENSORS), ("fsync", STATE), ("fsync", "temporary"), ("fsync", MANIFEST), ("fsync", "temporary"),
        ("rename", "c"), ("fsync", tmp_path.name), ("verify", "c"),
    ]  # fmt: skip


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names descriptors by /proc")
@pytest.mark.parametrize("at", range(8))
def test_whatever_fails_nothing_is_left_and_nothing_is_tried_again(tmp_path, monkeypatch, at):
    done = operations(monkeypatch, fail_at=at)
    with pytest.raises(
        CheckpointError, match=r"c: the checkpoint could not be written: .*Input/output error"
    ) as caught:
        write_checkpoint(tmp_path / "c", small(), {})
    assert str(tmp_path / "c") in str(caught.value)
    assert len(done) == at + 1
    assert nothing_is_left(tmp_path)


def test_a_write_that_went_wrong_is_found_at_once(tmp_path, monkeypatch):
    real = files.write_bytes

    def bad(path, data):
        real(path, data[:-1] + b"]" if path.name == STATE else data)

    monkeypatch.setattr(format_module, "write_bytes", bad)
    with pytest.raises(CorruptCheckpoint, match=r"c: state.json: its checksum"):
        write_checkpoint(tmp_path / "c", {"a": 1}, {})
    assert nothing_is_left(tmp_path)


def test_an_interrupt_leaves_nothing_either(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Manifest, "text", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path / "c", {}, {})
    assert nothing_is_left(tmp_path)


# ---------------------------------------------------------------------- single files


def test_a_json_file_is_replaced_in_one_step_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": [1, "é"]})
    assert json.loads(path.read_text()) == {"a": [1, "é"]}

    def fail(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        files.write_json(path, {"b": 2})
    assert json.loads(path.read_text()) == {"a": [1, "é"]}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(TypeError):
        files.write_json(path, object())
