"""Reading past the cache: the same sums as through it, whatever the file's size and whatever the system refuses."""

import errno
import gc
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise

import numpy as np
import pytest

from deeptrain.checkpoint import device
from deeptrain.checkpoint.device import Sums

PAGE = 1 << 12


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    monkeypatch.setattr(device, "_AT_ONCE", 4 * PAGE)
    monkeypatch.setattr(device, "_AHEAD", 8 * PAGE)


def write(path, size):
    path.write_bytes(np.random.default_rng(size).bytes(size))
    return path.read_bytes()


def sums(path, sizes):
    with path.open("rb", buffering=0) as file, closing(Sums(path, file)) as found:
        return [found.next(size) for size in sizes]


def cuts(size):
    """Give sizes that add up to a size: parts of pieces, whole ones, several, and nothing."""
    steps = [0, 1, PAGE - 1, 4 * PAGE, 0, 9 * PAGE, 7]
    made = []
    while sum(made) < size:
        made.append(min(steps[len(made) % len(steps)], size - sum(made)))
    return made


def expected(data, sizes):
    ends = np.cumsum([0, *sizes])
    return [zlib.crc32(data[start:stop]) for start, stop in pairwise(ends)]


SIZES = [0, 1, PAGE, 4 * PAGE - 1, 4 * PAGE, 4 * PAGE + 1, 40 * PAGE, 41 * PAGE + 77]


@pytest.mark.parametrize("size", SIZES)
def test_sums_of_any_file(tmp_path, size):
    data = write(tmp_path / "f", size)
    assert sums(tmp_path / "f", cuts(size)) == expected(data, cuts(size))
    assert sums(tmp_path / "f", [size, 1]) == [zlib.crc32(data), None]


def refusing_to_open(monkeypatch):
    opened = os.open

    def refuse(path, flags, *more):
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return opened(path, flags, *more)

    monkeypatch.setattr(os, "open", refuse)


def refusing_to_read(monkeypatch):
    read, count = os.preadv, iter(range(100))

    def refuse(*asked):
        if next(count) >= 2:
            raise OSError(errno.EINVAL, "Invalid argument")
        return read(*asked)

    monkeypatch.setattr(os, "preadv", refuse)


def cutting_short(monkeypatch):
    read, count = os.preadv, iter(range(100))

    def short(descriptor, buffers, offset):
        found = read(descriptor, buffers, offset)
        return found - 100 if next(count) == 2 else found

    monkeypatch.setattr(os, "preadv", short)


def without_threads(monkeypatch):
    def refuse(*_):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="the system has no such reading")
@pytest.mark.parametrize(
    "fault", [refusing_to_open, refusing_to_read, cutting_short, without_threads], ids=lambda f: f.__name__
)
def test_where_the_system_refuses_it_is_read_through_the_cache(tmp_path, monkeypatch, fault):
    size = 41 * PAGE + 77
    data = write(tmp_path / "f", size)
    gc.collect()  # files that tests before this one left open
    descriptors = len(os.listdir("/dev/fd"))
    fault(monkeypatch)
    assert sums(tmp_path / "f", cuts(size)) == expected(data, cuts(size))
    monkeypatch.undo()
    assert len(os.listdir("/dev/fd")) <= descriptors


def test_a_file_that_ends_before_says_so(tmp_path):
    data = write(tmp_path / "f", 5 * PAGE)
    assert sums(tmp_path / "f", [PAGE, 5 * PAGE]) == [zlib.crc32(data[:PAGE]), None]
