"""Reads damaged files in a process of its own: `python -m tests.support.fuzz 'KIND;KIND' FIRST COUNT` in an empty directory.

Prints a line for each file that was neither read rightly nor refused with a `DataError`, and the number of the file
that it is at, so that a crash can be told too.
"""

import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np
import torch

from deeptrain.data import DataError, Files
from deeptrain.data.formats.npy import read_header
from tests.support.stored import KINDS, packed

MEMORY = 3 << 30  # bytes beyond what the process has at its start
MOST_ROWS = 2000
MOST_BYTES = 1 << 27  # a header may claim rows that nobody could hold; then nothing is read


def save_csv(path, array):
    lines = [",".join(map(repr, row)) for row in array.reshape(len(array), -1).tolist()]
    path.write_text("\n".join(["a,b,c,d", *lines]) + "\n")


def save_parquet(path, array):
    import pyarrow as pa
    import pyarrow.parquet

    flat = array.reshape(len(array), -1)
    table = pa.table({f"c{index}": flat[:, index] for index in range(flat.shape[1])})
    pyarrow.parquet.write_table(table, path, row_group_size=10, write_page_checksum=True)


def save_zstd_checked(path, array):
    import zstandard

    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(packed(array)))


def save_lz4_checked(path, array):
    import lz4.frame

    path.write_bytes(lz4.frame.compress(packed(array), content_checksum=True))


def save_lz4_bare(path, array):
    import lz4.frame

    path.write_bytes(lz4.frame.compress(array.tobytes(), content_checksum=True))


MORE = {
    "csv": (".csv", save_csv),
    "parquet": (".parquet", save_parquet),
    "zstd with checksum": (".npy.zst", save_zstd_checked),
    "lz4 with checksum": (".npy.lz4", save_lz4_checked),
    "lz4 without header": (".lz4", save_lz4_bare),
}
ALL = KINDS | MORE
CHECKED = {"npz deflated", "zstd with checksum", "lz4 with checksum", "lz4 without header"}
HEADS = {"npy": 128, "npy column by column": 128, "npy big-endian": 128}  # what comes before the values


def mutate(data, rng):
    """Damage some bytes; gives them, and the first place that is not as it was."""
    out = bytearray(data)
    where = rng.choice(["anywhere", "head", "tail"], p=[0.4, 0.4, 0.2])
    low, high = {
        "anywhere": (0, len(out)),
        "head": (0, min(256, len(out))),
        "tail": (max(0, len(out) - 256), len(out)),
    }[where]
    kind = rng.choice(["flip", "bytes", "cut", "splice", "insert", "extreme", "digits"])
    at = int(rng.integers(low, high))
    if kind == "flip":
        for _ in range(int(rng.integers(1, 5))):
            out[int(rng.integers(low, high))] ^= 1 << int(rng.integers(8))
    elif kind == "bytes":
        count = int(rng.integers(1, 17))
        out[at : at + count] = rng.bytes(min(count, len(out) - at))
    elif kind == "cut":
        del out[at:]
    elif kind == "splice":
        other, count = int(rng.integers(0, len(out))), int(rng.integers(1, 65))
        out[at : at + count] = out[other : other + count]
    elif kind == "insert":
        out[at:at] = rng.bytes(int(rng.integers(1, 33)))
    elif kind == "extreme":
        word = [b"\xff" * 8, b"\0" * 8, b"\xff\xff\xff\x7f", (1 << 40).to_bytes(8, "little"), b"\x01\0\0\0"]
        value = word[int(rng.integers(len(word)))]
        out[at : at + len(value)] = value[: len(out) - at]
    else:
        places = [index for index in range(low, high) if 48 <= out[index] < 58]
        for index in rng.choice(places, min(3, len(places))) if places else []:
            out[int(index)] = 48 + int(rng.integers(10))
    return bytes(out)


def original(kind, path):
    array = (np.random.default_rng(5).standard_normal((40, 4)) * 9).astype(
        "float64" if kind == "csv" else "float32"
    )
    ALL[kind][1](path, array)
    return array


def damage(path, rng):
    """Damage a file, or one of those in a directory; gives the range of bytes that may differ."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    file = files[int(rng.integers(len(files)))] if rng.random() < 0.6 else files[-1]
    before = file.read_bytes()
    after = mutate(before, rng)
    file.write_bytes(after)
    same = min(len(before), len(after))
    differ = [index for index in range(same) if before[index] != after[index]]
    return (differ[-1] + 1 if differ else 0) if len(after) >= len(before) else len(before)


def attempt(kind, number, place):
    """Read one damaged file; gives what is wrong with that, or None."""
    path = place / f"x{ALL[kind][0]}"
    array = original(kind, path)
    head = head_of(path) if kind in HEADS else None
    last = damage(path, np.random.default_rng([number, len(kind)]))
    try:
        files = Files(path, shape=(4,), dtype="float32") if kind == "lz4 without header" else Files(path)
        rows = np.arange(min(files.n_rows, MOST_ROWS, MOST_BYTES // files.row_bytes))
        if not len(rows):
            return None
        found = files.read(rows)[0].numpy()
        files.read(rows[::-3].copy())
        files.close()
    except DataError as error:
        return None if str(error).startswith(str(path)) and len(str(error)) < 2000 else f"message: {error}"
    except BaseException:
        return traceback.format_exc()
    # A header may say that the same bytes are of another shape, dtype or order: that is another sound file.
    same_head = kind in HEADS and last <= HEADS[kind] and head_of(path) == head
    if (kind in CHECKED or same_head) and not np.array_equal(found, array):
        return f"wrong values, damaged up to {last}"
    return None


def head_of(path):
    with path.open("rb") as file:
        return read_header(path, file)


def warm(kinds):
    """Read a sound file of each kind, so that what libraries hold is not counted as a damaged file's."""
    for index, kind in enumerate(kinds):
        path = Path(f"warm{index}{ALL[kind][0]}")
        array = original(kind, path)
        found = Files(path, shape=(4,), dtype=array.dtype).read(np.arange(40))[0]
        assert np.array_equal(found, array), kind


def limit():
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, held + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main():
    kinds, first, count = sys.argv[1].split(";"), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    warm(kinds)
    limit()
    for kind in kinds:
        for number in range(first, first + count):
            print(f"at {kind}: {number}", flush=True)
            place = Path("work")
            place.mkdir()
            wrong = attempt(kind, number, place)
            shutil.rmtree(place)
            if wrong is not None:
                print(f"wrong {kind}: {number}:", wrong.replace("\n", "\n    "), flush=True)
    print("done", flush=True)


if __name__ == "__main__":
    main()
