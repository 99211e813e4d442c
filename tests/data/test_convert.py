"""`convert` and `deeptrain convert`: any format into any other one, in sets of any size, and nothing executed."""

import argparse
import pickle
import sys

import numpy as np
import pytest

from deeptrain.data import DataError, Files
from deeptrain.data.convert import convert
from deeptrain.data.convert_cli import add_convert
from deeptrain.data.write import write_sets
from deeptrain.data.writers.formats import FORMATS


def need(name):
    """Skip where the format's library is missing."""
    if FORMATS[name].needs is not None:
        pytest.importorskip(FORMATS[name].needs)


def everything(path, **more):
    """Sizes of the sets, and all rows in their order."""
    files = Files(path, **more)
    inputs, targets = files.read(np.arange(files.n_rows))[:2]
    files.close()
    return files.set_sizes, inputs.numpy(), None if targets is None else targets.numpy()


def command(*arguments):
    """Run `deeptrain convert` as the command line does."""
    parser = argparse.ArgumentParser()
    add_convert(parser.add_subparsers(dest="command"))
    parsed = parser.parse_args(["convert", *map(str, arguments)])
    return parsed.run(parsed)


@pytest.fixture
def data():
    return np.random.default_rng(0).standard_normal((23, 3)).astype(np.float32), np.arange(23) % 5


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_every_format_into_every_other_one(tmp_path, data, source, target):
    need(source)
    need(target)
    write_sets(tmp_path / "a", *data, rows_per_set=7, format=source)
    text = {"csv": {"dtype": "float32"}}
    written = convert(
        tmp_path / "a",
        tmp_path / "b",
        format=target,
        rows_per_set=10,
        source=text.get(source),
        progress=False,
    )
    assert (written.sets, written.rows, written.path) == (3, 23, tmp_path / "b")
    sizes, inputs, targets = everything(tmp_path / "b", **text.get(target, {}))
    assert sizes == (10, 10, 3)
    assert inputs.dtype == np.float32
    assert inputs.tobytes() == data[0].tobytes()
    assert targets.tolist() == data[1].tolist()


def test_one_array_into_sets(tmp_path, data):
    np.save(tmp_path / "long.npy", data[0])
    np.save(tmp_path / "answers.npy", data[1])
    convert(tmp_path / "long.npy", tmp_path / "d", rows_per_set=10, labels=tmp_path / "answers.npy")
    sizes, inputs, targets = everything(tmp_path / "d")
    assert sizes == (10, 10, 3)
    assert inputs.tobytes() == data[0].tobytes()
    assert targets.tolist() == data[1].tolist()


def test_some_sets_only_and_in_another_order(tmp_path, data):
    write_sets(tmp_path / "a", data[1], np.arange(23), rows_per_set=5)
    convert(
        tmp_path / "a", tmp_path / "b", rows_per_set=4, source={"sets": [1, 3]}, shuffle=2, remainder="drop"
    )
    sizes, inputs, targets = everything(tmp_path / "b")
    assert sizes == (4, 4)
    assert inputs.tolist() == data[1][targets].tolist()
    assert len(set(targets.tolist())) == 8
    assert set(targets.tolist()) < {*range(5), *range(10, 15)}
    assert targets.tolist() != sorted(targets.tolist())


def test_in_place(tmp_path, data):
    write_sets(tmp_path / "a", *data, rows_per_set=5)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        convert(tmp_path / "a", tmp_path / "a", rows_per_set=23)
    convert(tmp_path / "a", tmp_path / "a", rows_per_set=23, overwrite=True, shuffle=0)
    sizes, inputs, targets = everything(tmp_path / "a")
    assert sizes == (23,)
    assert sorted(map(tuple, inputs)) == sorted(map(tuple, data[0]))
    assert sorted(targets.tolist()) == sorted(data[1].tolist())


def test_the_command(tmp_path, data, capsys):
    need("hdf5")
    write_sets(tmp_path / "a", data[0], rows_per_set=5)
    np.save(tmp_path / "y.npy", data[1])
    arguments = ["--rows-per-set", 8, "--format", "hdf5", "--shuffle", 0, "--remainder", "oversample"]
    arguments += [
        "--labels",
        tmp_path / "y.npy",
        "--label-files",
        "one per set",
        "--dtype",
        "float64",
        "--name",
        "part",
    ]
    assert command(tmp_path / "a", tmp_path / "b", *arguments) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'b'}: 3 sets, 24 rows, 1 of them repeated\n"
    assert (tmp_path / "b" / "part3.h5").is_file()
    _, inputs, targets = everything(tmp_path / "b")
    assert inputs.dtype == np.float64
    pairs = {(*row, label) for row, label in zip(data[0].tolist(), data[1].tolist(), strict=True)}
    assert {(*row, label) for row, label in zip(inputs.tolist(), targets.tolist(), strict=True)} == pairs
    with pytest.raises(FileExistsError):
        command(tmp_path / "a", tmp_path / "b", "--rows-per-set", 8)
    assert command(tmp_path / "a", tmp_path / "b", "--rows-per-set", 30, "--overwrite", "--quiet") == 0
    assert everything(tmp_path / "b")[0] == (23,)


@pytest.mark.parametrize(
    "arguments", [["--format", "pickle"], ["--remainder", "pad"], ["--dtype", "flaot"], ["--name", "x1"]]
)
def test_wrong_settings_of_the_command_are_named(tmp_path, data, arguments):
    write_sets(tmp_path / "a", *data, rows_per_set=5)
    with pytest.raises(ValueError, match=arguments[0].strip("-")):
        command(tmp_path / "a", tmp_path / "b", "--rows-per-set", 8, *arguments)
    assert not (tmp_path / "b").exists()


def test_a_missing_library_is_an_error_that_the_command_line_shows(tmp_path, data, monkeypatch):
    write_sets(tmp_path / "a", *data, rows_per_set=5)
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(RuntimeError, match="deeptrain\\[zarr\\]"):
        command(tmp_path / "a", tmp_path / "b", "--rows-per-set", 8, "--format", "zarr")


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_nothing_is_executed(tmp_path):
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "set1.npy", np.array([Bomb()]), allow_pickle=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "set1.pkl").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "c.py").write_text("raise SystemExit('executed')")
    for source in ("a", "b", "c.py", "missing"):
        with pytest.raises(DataError, match=source):
            convert(tmp_path / source, tmp_path / "out", rows_per_set=2)
    assert not (tmp_path / "out").exists()
