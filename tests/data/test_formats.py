"""Each format: values come back as they were written, however rows are asked for, and what is not data is refused."""

import json
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.stored import (
    DTYPES,
    KINDS,
    RNG,
    packed,
    save_frame,
    save_h5,
    save_h5_gzip,
    save_zarr_2,
    save_zarr_sharded,
    save_zstd,
    values,
)

from deeptrain.data import BatchLoader, DataError, Files
from deeptrain.data.formats import Format, Hints, Part, format_of, register_format, registry, suffix_of
from deeptrain.data.formats.chunked import ChunkedPart, WholePart


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_come_back(tmp_path, kind, dtype):
    suffix, save = KINDS[kind]
    if save is save_frame and dtype == "bool":
        dtype = "complex64"
    arrays = {number: values(9 + number, dtype=dtype) for number in (1, 2, 3)}
    for number, array in arrays.items():
        save(tmp_path / f"set{number}{suffix}", array)
    files = Files(tmp_path)
    flat = torch.from_numpy(np.concatenate(list(arrays.values())))
    assert files.set_names == ("1", "2", "3")
    assert files.set_sizes == (10, 11, 12)
    rng = np.random.default_rng(1)
    for rows in (
        np.arange(33),
        np.arange(3, 29),
        rng.permutation(33),
        np.array([5]),
        rng.integers(0, 33, 50),
    ):
        assert torch.equal(files.read(rows)[0], flat[torch.from_numpy(rows)])
    assert torch.equal(files.read_range(8, 24)[0], flat[8:24])
    files.close()
    assert torch.equal(files.read_range(0, 33)[0], flat)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_single_values(tmp_path, kind):
    suffix, save = KINDS[kind]
    array = values(20, ())
    save(tmp_path / f"x{suffix}", array)
    files = Files(tmp_path / f"x{suffix}")
    assert files.describe()["inputs"] == "float32[]"
    assert torch.equal(files.read(np.arange(20)[::-1])[0], torch.from_numpy(array[::-1].copy()))


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if "chunks" in kind or "array" in kind or "zarr" in kind]
)
def test_large_sets_are_read_by_their_chunks(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("deeptrain.data.formats.chunked.SMALL", 100)
    suffix, save = KINDS[kind]
    array = values(37)
    save(tmp_path / f"x{suffix}", array)
    [part] = format_of(suffix).entries(tmp_path / f"x{suffix}", Hints()).values()
    assert isinstance(part, ChunkedPart)
    assert not part.whole
    for start in range(0, 37, 3):
        for stop in (start + 1, start + 5, start + 11, 37):
            out = np.empty((min(stop, 37) - start, 4, 3), np.float32)
            part.read_into(out, start)
            np.testing.assert_array_equal(out, array[start : min(stop, 37)])
    rows = np.sort(RNG.choice(37, 20))
    places = RNG.permutation(20)
    out = np.empty((20, 4, 3), np.float32)
    part.pick_into(out, places, rows)
    np.testing.assert_array_equal(out[places], array[rows])


def test_a_chunked_set_that_is_small_is_read_whole(tmp_path):
    save_h5_gzip(tmp_path / "x.h5", values())
    [part] = format_of(".h5").entries(tmp_path / "x.h5", Hints()).values()
    assert isinstance(part, WholePart)
    assert part.whole


@pytest.mark.parametrize("userblock", [0, 512])
def test_contiguous_hdf5_is_read_without_its_library(tmp_path, userblock, monkeypatch):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=userblock) as file:
        file["x"] = np.arange(24.0).reshape(6, 4)
    files = Files(tmp_path / "x.h5")
    monkeypatch.setattr(h5py, "File", None)
    assert files.read(np.arange(6))[0].flatten().tolist() == list(range(24))


def test_hdf5_in_a_forked_process(tmp_path):
    save_h5_gzip(tmp_path / "x.h5", values(30))
    [part] = format_of(".h5").entries(tmp_path / "x.h5", Hints()).values()
    before = np.empty((30, 4, 3), np.float32)
    part.read_into(before, 0)
    parent = part.base._handle._opened
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            after = np.empty_like(before)
            part.read_into(after, 0)
            mine = part.base._handle._opened
            code = 0 if np.array_equal(before, after) and mine is not parent and mine[0] == os.getpid() else 2
        finally:
            os._exit(code)
    os.close(read)
    os.close(write)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_threads_may_read_at_once(tmp_path, kind):
    suffix, save = KINDS[kind]
    array = values(64)
    save(tmp_path / f"x{suffix}", array)
    files = Files(tmp_path / f"x{suffix}")
    failed = []

    def read(seed):
        rng = np.random.default_rng(seed)
        for _ in range(10):
            rows = rng.integers(0, 64, 16)
            if not np.array_equal(files.read(rows)[0].numpy(), array[rows]):
                failed.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_reading_moves_no_random_stream(tmp_path):
    for index, (suffix, save) in enumerate(KINDS.values()):
        save(tmp_path / f"x{index}{suffix}", values())
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for path in sorted(tmp_path.iterdir()):
        Files(path).read(np.array([3, 1]))
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])


# ---------------------------------------------------------------------- tables


def write_csv(path, header, rows):
    lines = [",".join(header)] if header else []
    path.write_text("\n".join(lines + [",".join(map(str, row)) for row in rows]) + "\n")


def test_csv_as_inputs(tmp_path):
    pytest.importorskip("pyarrow")
    write_csv(tmp_path / "d1.csv", ["a", "b"], [(1, 2), (3, 4)])
    write_csv(tmp_path / "d2.csv", ["a", "b"], [(1.5, 2), (3, "")])
    files = Files(tmp_path)
    assert files.describe()["inputs"] == "float64[2]"
    inputs = files.read(np.arange(4))[0]
    assert inputs[:3].tolist() == [[1, 2], [3, 4], [1.5, 2]]
    assert bool(inputs[3, 1].isnan())


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1,2\n3,4\n", [[1, 2], [3, 4]]),
        ("0,1,2\n3,4,5\n", [[3, 4, 5]]),
        ("1;2\n3;4\n", [[1, 2], [3, 4]]),
        ("\ufeffa,b\n3,4\n", [[3, 4]]),
        ("0.5,1e3\n", [[0.5, 1000]]),
    ],
)
def test_the_first_line_of_csv(tmp_path, text, rows):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.csv").write_text(text)
    files = Files(tmp_path / "x.csv")
    assert files.read(np.arange(files.n_rows))[0].tolist() == rows


def test_csv_whose_integers_become_floats_late(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.csv").write_text("a\n" + "1\n" * 600_000 + "2.5\n")
    files = Files(tmp_path / "x.csv")
    assert files.read(np.array([600_000]))[0].tolist() == [[2.5]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,x\n", r"column 'b' of string.*bring a reader"),
        ("a,b\n1,\n", r"column 'b' of null"),
        ("a,b\n1,2\n,4\n", r"empty cell in column 'a', row 1, of int64"),
        ("", "an empty file"),
        ("a,b\n", r"column 'a' of null|holds no row"),
        ("a,b\n1,2\n3\n", "no readable CSV file of numbers"),
    ],
)
def test_csv_that_is_no_numbers(tmp_path, text, message):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        Files(tmp_path / "x.csv").read(np.arange(2))


def test_parquet(tmp_path, monkeypatch):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    array = values(50, (3,), "float64")
    table = arrow.table({f"c{index}": array[:, index] for index in range(3)})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=7)
    for small in (1 << 20, 10):
        monkeypatch.setattr("deeptrain.data.formats.chunked.SMALL", small)
        files = Files(tmp_path / "x.parquet")
        for rows in (np.arange(50), np.arange(3, 20), RNG.permutation(50)):
            np.testing.assert_array_equal(files.read(rows)[0].numpy(), array[rows])


# ---------------------------------------------------------------------- without a header


def test_values_without_a_header(tmp_path):
    lz4 = pytest.importorskip("lz4.frame")
    array = values(8, (4, 3))
    (tmp_path / "b1.npy").write_bytes(lz4.compress(array.tobytes()))
    (tmp_path / "b2.npy").write_bytes(lz4.compress(array.tobytes(), store_size=False))
    for shape in ((8, 4, 3), (4, 3), (-1, 4, 3)):
        files = Files(tmp_path, shape=shape, dtype="float32")
        assert files.set_sizes == (8, 8)
        np.testing.assert_array_equal(files.read(np.arange(8, 16))[0].numpy(), array)
    with pytest.raises(DataError, match=r"b1\.npy: found 384 bytes of values without a \.npy header.*shape="):
        Files(tmp_path)
    with pytest.raises(DataError, match=r"found 384 unpacked bytes; expected a multiple of 20"):
        Files(tmp_path, shape=(5,), dtype="float32")


# ---------------------------------------------------------------------- one's own


def test_a_reader_of_ones_own(tmp_path):
    for number in range(3):
        (tmp_path / f"r{number}.raw").write_bytes(np.full((4, 2), number, np.float32).tobytes())
    calls = []

    def reader(path):
        calls.append(path.name)
        return np.frombuffer(path.read_bytes(), np.float32).reshape(-1, 2)

    files = Files(tmp_path, reader=reader)
    assert calls == ["r0.raw"]
    assert files.read(np.array([11, 0, 5]))[0][:, 0].tolist() == [2, 0, 1]
    (tmp_path / "r1.raw").write_bytes(bytes(8))
    with pytest.raises(
        DataError, match=r"r1\.raw: found 1 rows of float32\[2\]; expected 4 rows.*r0\.raw.*Format"
    ):
        Files(tmp_path, reader=reader).read(np.arange(4, 8))
    with pytest.raises(DataError, match=r"r0\.raw: found ZeroDivisionError from the reader"):
        Files(tmp_path, reader=lambda path: 1 / 0)
    with pytest.raises(DataError, match="found list from the reader"):
        Files(tmp_path, reader=lambda path: [1])
    with pytest.raises(TypeError, match="found int as reader"):
        Files(tmp_path, reader=3)


class Lines(Format):
    def entries(self, path, hints):
        return {"": LinesPart(path)}


class LinesPart(Part):
    def __init__(self, path):
        self.path, self.shape, self.dtype = path, (), np.dtype(np.int64)
        self.rows = len(path.read_text().split())

    def read_into(self, out, start):
        out[...] = [int(line) for line in self.path.read_text().split()[start : start + len(out)]]


def test_a_format_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_FORMATS", dict(registry._FORMATS))
    (tmp_path / "a1.lines").write_text("1 2 3")
    (tmp_path / "a2.lines").write_text("4 5")
    for reader in (Lines, Lines()):
        assert Files(tmp_path, reader=reader).read(np.array([4, 0, 2]))[0].tolist() == [5, 1, 3]
    register_format(".lines", Lines())
    assert Files(tmp_path).set_sizes == (3, 2)
    assert suffix_of(tmp_path / "a1.lines") == ".lines"
    with pytest.raises(ValueError, match="starts with a dot"):
        register_format("lines", Lines())
    with pytest.raises(TypeError, match="expected an instance of a Format"):
        register_format(".lines", Lines)


# ---------------------------------------------------------------------- what is refused


class Dangerous:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def refuse_npz_objects(path):
    np.savez(path / "x.npz", x=np.array([Dangerous()], object))
    return r"x\.npz: found pickled Python objects, which are not loaded"


def refuse_structured(path):
    np.save(path / "x.npy", np.zeros(4, [("a", "f4"), ("b", "i4")]))
    return r"x\.npy: found no readable \.npy header"


def refuse_lz4_pickle(path):
    (path / "x.npy").write_bytes(pytest.importorskip("lz4.frame").compress(pickle.dumps(Dangerous())))
    return "bytes of values without a .npy header"


def refuse_external_link(path):
    h5py = pytest.importorskip("h5py")
    save_h5(path / "other.hdf", values())
    with h5py.File(path / "x.h5", "w") as file:
        file["x"] = h5py.ExternalLink(str(path / "other.hdf"), "/x")
    return r"x\.h5: found x, a link to .*other\.hdf, which is not followed"


def refuse_external_values(path):
    h5py = pytest.importorskip("h5py")
    (path / "secret").write_bytes(bytes(400))
    with h5py.File(path / "x.h5", "w") as file:
        file.create_dataset("x", (100,), "f4", external=[(str(path / "secret"), 0, 400)])
    return r"x\.h5: found the dataset x with values in other files"


def refuse_virtual(path):
    h5py = pytest.importorskip("h5py")
    save_h5(path / "other.hdf", values())
    layout = h5py.VirtualLayout((37, 4, 3), "f4")
    layout[...] = h5py.VirtualSource(str(path / "other.hdf"), "x", (37, 4, 3))
    with h5py.File(path / "x.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    return "with values in other files"


def refuse_hdf5_text(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path / "x.h5", "w") as file:
        file["x"] = ["a", "b"]
    return r"x\.h5: found pickled Python objects|x\.h5: found dtype"


def refuse_hdf5_variable_length(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path / "x.h5", "w") as file:
        file.create_dataset("x", (3,), h5py.vlen_dtype(np.float32))
    return r"x\.h5: found"


def refuse_hdf5_scalar(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path / "x.h5", "w") as file:
        file["x"] = 3.0
    return r"x\.h5: found an array of shape \(\), which holds no row"


def refuse_zarr_pickle(path):
    pytest.importorskip("zarr")
    save_zarr_2(path / "x.zarr", values())
    about = json.loads((path / "x.zarr/.zarray").read_text())
    about["filters"] = [{"id": "pickle", "protocol": 5}]
    (path / "x.zarr/.zarray").write_text(json.dumps(about))
    (path / "x.zarr/0.0.0").write_bytes(pickle.dumps(Dangerous()))
    return "found the codecs pickle; expected codecs that only decode numbers"


def refuse_zarr_nested_codec(path):
    pytest.importorskip("zarr")
    save_zarr_sharded(path / "x.zarr", values())
    about = json.loads((path / "x.zarr/zarr.json").read_text())
    about["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    (path / "x.zarr/zarr.json").write_text(json.dumps(about))
    return "found the codecs pickle"


def refuse_blosc2_expression(path):
    blosc2 = pytest.importorskip("blosc2")
    one = blosc2.asarray(values(), urlpath=str(path / "one.other"), mode="w")
    (one + one).save(urlpath=str(path / "x.b2nd"), mode="w")
    return r"x\.b2nd: found a Blosc2 object of another kind.*which is not evaluated"


def refuse_bomb(path):
    zstandard = pytest.importorskip("zstandard")
    header = packed(np.zeros((1, 4), np.float32))[:128].replace(b"(1, 4)", b"(1000000000000, 4)"[:17])
    (path / "x.npy.zst").write_bytes(zstandard.compress(header[:10] + header[10:].ljust(200)))
    return r"that claim to hold|no readable \.npy header"


def refuse_encrypted_member(path):
    np.savez(path / "x.npz", x=values())
    data = bytearray((path / "x.npz").read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 8] |= 1
    (path / "x.npz").write_bytes(data)
    return "or encrypted; expected arrays that are stored or deflated"


@pytest.mark.parametrize(
    "make",
    [value for name, value in sorted(globals().items()) if name.startswith("refuse_")],
    ids=lambda f: f.__name__,
)
def test_what_is_not_plain_values_is_refused(tmp_path, make):
    message = make(tmp_path)
    [path] = [path for path in tmp_path.iterdir() if path.name.startswith("x.")]
    with pytest.raises(DataError, match=message):
        Files(path).read(np.arange(2))
    assert not Path("executed").exists()


def test_a_claim_that_no_file_can_hold(tmp_path):
    lz4 = pytest.importorskip("lz4.frame")
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 4), }"
    header = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + text.ljust(117) + b"\n"
    (tmp_path / "x.npy.lz4").write_bytes(lz4.compress(header + bytes(100)))
    with pytest.raises(
        DataError, match=r"bytes that claim to hold 1599999999984; expected at most 256 times"
    ):
        Files(tmp_path / "x.npy.lz4")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "zarr" not in kind])
def test_half_a_file_is_an_error(tmp_path, kind):
    suffix, save = KINDS[kind]
    path = tmp_path / f"x{suffix}"
    save(path, values(400))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"x\{suffix}: found .*; expected .*\. "):
        Files(path).read(np.arange(400))


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    (tmp_path / "x.h5").write_bytes(b"")
    with pytest.raises(ImportError, match=r"h5py.*pip install 'deeptrain\[hdf5\]'"):
        Files(tmp_path / "x.h5")


def test_loaders_read_compressed_sets_in_any_order(tmp_path):
    arrays = [values(16) for _ in range(4)]
    for number, array in enumerate(arrays):
        save_zstd(tmp_path / f"x{number}.npy.zst", array)
    for shuffle in (None, "sets", "samples", "global"):
        loader = BatchLoader(Files(tmp_path), batch_size=5, shuffle=shuffle, seed=3, group=2)
        for batch in loader:
            np.testing.assert_array_equal(batch.inputs.numpy(), np.concatenate(arrays)[batch.rows])
