"""`deeptrain verify`: every bit, every file, and what the exit status says."""

import argparse
import random
import re
import shutil

import pytest
import torch

from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.format import write_checkpoint
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.checkpoint.verify import verify_all
from deeptrain.checkpoint.verify_cli import add_verify

FILES = ("tensors.safetensors", "state.json", "manifest.json")


def tree(n):
    return {
        "n": n,
        "a": torch.full((40,), float(n)),
        "b": [torch.arange(9), (n, {n: -0.0})],
        "c": torch.ones(3, 3),
    }


@pytest.fixture
def run(tmp_path):
    store = CheckpointStore(tmp_path / "M1__x" / "checkpoints", keep=3)
    for n in range(3):
        store.commit(tree(n), {"epochs": n, "iterations": 10 * n}, tag="before surgery" if n == 1 else None)
    return tmp_path / "M1__x"


def place(run, n):
    return run / "checkpoints" / f"00000{n}"


def command(path):
    parser = argparse.ArgumentParser()
    add_verify(parser.add_subparsers())
    parsed = parser.parse_args(["verify", str(path)])
    return parsed.run(parsed)


def flip(file, bit):
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


def test_whole_ones_say_where_they_stand(run, capsys):
    assert command(run) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{place(run, 0)}: whole, 0 epochs, 0 iterations",
        f"{place(run, 1)}: whole, 1 epochs, 10 iterations, tag 'before surgery'",
        f"{place(run, 2)}: whole, 2 epochs, 20 iterations",
    ]
    assert command(place(run, 1)) == 0
    assert capsys.readouterr().out.count("\n") == 1


def test_the_exit_status_is_that_of_the_newest(run, capsys):
    flip(place(run, 0) / "state.json", 99)
    assert command(run) == 0
    assert f"{place(run, 0)}: state.json: its checksum does not match" in capsys.readouterr().out
    assert command(place(run, 0)) == 1
    flip(place(run, 2) / "manifest.json", 99)
    assert command(run) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{place(run, 2)}: manifest.json: its checksum does not match"
    assert [verdict.whole for verdict in verify_all(run)] == [False, True, False]


@pytest.mark.parametrize("file", FILES)
def test_any_flipped_bit_is_found_and_its_file_named(run, file):
    path = place(run, 2) / file
    original = path.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(original)), 200):
        flip(path, bit)
        verdict = verify_all(run)[-1]
        assert not verdict.whole, bit
        assert verdict.problem.startswith(file)
        path.write_bytes(original)
    assert verify_all(run)[-1].whole


def test_when_and_how_good(tmp_path):
    for time, said in ((0.0, r", key metric 0.25, saved (1969|1970)-\d\d-\d\d \d\d:\d\d:\d\d"), (1e300, ", key metric 0.25"), (float("nan"), ", key metric 0.25")):  # fmt: skip
        store = CheckpointStore(tmp_path / str(time), keep=1)
        path = store.commit(
            tree(0), {"epochs": 3, "iterations": 40, "key": 0.25, "mode": "max", "time": time}
        )
        assert re.fullmatch(re.escape(f"{path}: whole, 3 epochs, 40 iterations") + said, str(verify_all(path)[0]))  # fmt: skip


def test_a_flipped_bit_in_each_tensor_names_the_tensor(run):
    path = place(run, 2) / "tensors.safetensors"
    original = path.read_bytes()
    header = 8 + int.from_bytes(original[:8], "little")
    named = set()
    for byte in range(header, len(original)):
        flip(path, 8 * byte + byte % 8)
        (verdict,) = verify_all(place(run, 2))
        assert "its checksum does not match" in verdict.problem
        named.add(verdict.problem.split("the tensor ")[1].split(":")[0])
        path.write_bytes(original)
    assert named == {"a", "b.0", "c"}


@pytest.mark.parametrize("file", FILES)
def test_cut_deleted_swapped_and_lengthened_files(run, file):
    path = place(run, 2) / file
    original = path.read_bytes()
    for data in (b"", original[:-1], original[: len(original) // 2], original + b"\0"):
        path.write_bytes(data)
        assert verify_all(run)[-1].problem.startswith(file)
    path.unlink()
    assert verify_all(run)[-1].problem == f"{file}: is missing"
    shutil.copy(place(run, 1) / file, path)  # whole, and another checkpoint's
    assert not verify_all(run)[-1].whole
    path.unlink()
    path.mkdir()
    assert file in verify_all(run)[-1].problem


def test_a_renamed_one_is_not_whole_in_a_run(run):
    shutil.copytree(place(run, 0), place(run, 9))
    assert command(run) == 1
    assert verify_all(run)[-1].problem == "manifest.json: its sequence is 0, the directory was renamed"
    assert verify_all(place(run, 9))[0].whole  # by itself it is what was written


def test_one_that_the_run_removes_meanwhile_is_left_out(run, monkeypatch):
    paths = CheckpointStore.paths

    def removed_after_listing(self):
        found = paths(self)
        shutil.rmtree(found[0])
        return found

    monkeypatch.setattr(CheckpointStore, "paths", removed_after_listing)
    assert [verdict.path for verdict in verify_all(run)] == [place(run, 1), place(run, 2)]


def test_what_is_neither_a_run_nor_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected the directory of a run"):
        verify_all(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        verify_all(tmp_path / "nowhere")
    (tmp_path / "M1__x" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="there is no checkpoint here"):
        verify_all(tmp_path / "M1__x")


def test_a_checkpoint_anywhere_and_nothing_is_written(tmp_path):
    write_checkpoint(tmp_path / "mine", tree(0), {})
    before = sorted(tmp_path.rglob("*"))
    assert str(verify_all(str(tmp_path / "mine"))[0]) == f"{tmp_path / 'mine'}: whole"
    (tmp_path / "mine" / "manifest.json").unlink()
    assert verify_all(tmp_path / "mine")[0].problem == "manifest.json: is missing"
    assert len(before) == len(list(tmp_path.rglob("*"))) + 1
