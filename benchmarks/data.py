"""How fast batches come from files, as a ratio to reading the same files whole into one standing buffer.

    python benchmarks/data.py [--rounds 20] [--megabytes 200] [--only samples] [--cold]

Sets of 128 rows of 12.5 KB (1.6 MB a file, as MNIST sets of 128 have them four times over). Each arm runs in a process
of its own, as a user's one loader does: in a common process the arms drive each other's memory out of the caches. In
each round the arm makes one pass over all files, and right before or after it the raw read makes one. Given are the best
pass of the arm against the best of the raw read, and the median over the rounds of the ratio within the round: the first
says what the code can do, the second what was had beside whatever else ran on the machine. The first three rounds are
not counted: from its second reading on a file stands in memory. `--cold` drops the files from the page cache before each
pass, where the system lets a user do that.

Compressed sets are held against the codec itself, which unpacks the same files one after another. Then: how long the
first batch takes after resuming in 6.4 million shuffled rows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import deeptrain as dt

ROWS, WIDTH, PACKED = 128, 3136, 32
UNCOUNTED = 3


# ---------------------------------------------------------------------- data


def write(place, megabytes):
    generator = np.random.default_rng(0)
    count = max(PACKED, int(megabytes * 1e6 / (ROWS * WIDTH * 4)))
    # Values as a sensor gives them, so that codecs have something to do.
    values = (generator.normal(size=(ROWS, WIDTH)) * 8).round().astype(np.float32) / 8
    (place / "npy").mkdir()
    for number in range(count):
        np.save(place / "npy" / f"set{number}.npy", np.roll(values, number, axis=1))
    np.save(place / "npy" / "labels.npy", generator.integers(0, 10, count * ROWS))
    packed = np.concatenate([np.load(path) for path in stored(place)[:PACKED]])
    for name in ("blosc2", "lz4"):
        dt.write_sets(place / name, packed, rows_per_set=ROWS, format=name, progress=False)


def stored(place, folder="npy", suffix="npy"):
    return sorted((place / folder).glob(f"set*.{suffix}"), key=lambda path: int(path.stem[3:]))


def drop(files):
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


# ---------------------------------------------------------------------- what is measured, and against what


def raw(place):
    files = stored(place)
    # Aligned, as torch's memory is: into a bytearray the same read takes up to twice as long.
    view = memoryview(torch.empty(files[0].stat().st_size, dtype=torch.uint8).numpy())

    def run():
        for path in files:
            handle = os.open(path, os.O_RDONLY)
            os.preadv(handle, [view], 0)
            os.close(handle)

    return run


def blosc2(place):
    from blosc2 import open as opened

    files = stored(place, "blosc2", "b2nd")
    return lambda: [opened(str(path), mode="r")[:].shape for path in files]


def lz4(place):
    from lz4.frame import decompress

    files = stored(place, "lz4", "lz4")
    return lambda: [len(decompress(path.read_bytes())) for path in files]


def np_load(place):
    files = stored(place)
    return lambda: [np.load(path).shape for path in files]


def deeptrain(batch_size, shuffle=None, folder="npy", **options):
    def make(place):
        files = dt.Files(place / folder)
        loader = dt.BatchLoader(files, batch_size=batch_size, shuffle=shuffle, **options)

        def run():
            for _batch in loader:
                pass

        # So that nothing of the next pass is read ahead while something else is timed.
        run.rest = lambda: loader.load_state_dict(loader.state_dict())
        return run

    return make


class Mapped(torch.utils.data.Dataset):
    """One item is one file, mapped: the fastest that a torch DataLoader is commonly made of."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return torch.from_numpy(np.array(np.load(self.files[index], mmap_mode="r")))


class Samples(Mapped):
    """One item is one row, read through a memory map, in any order."""

    def __init__(self, files):
        super().__init__(files)
        self.maps = [np.load(path, mmap_mode="r") for path in files]

    def __len__(self):
        return len(self.files) * ROWS

    def __getitem__(self, index):
        return torch.from_numpy(np.array(self.maps[index // ROWS][index % ROWS]))


def torch_loader(kind, workers, **options):
    def make(place):
        dataset = kind(stored(place))

        def run():
            for _batch in torch.utils.data.DataLoader(dataset, num_workers=workers, **options):
                pass

        return run

    return make


ARMS = {
    "np.load, whole files": (raw, np_load),
    "whole sets (128)": (raw, deeptrain(ROWS)),
    "fractions (32)": (raw, deeptrain(ROWS // 4)),
    "fractions (32), not ahead": (raw, deeptrain(ROWS // 4, prefetch=0)),
    "multiples (512)": (raw, deeptrain(ROWS * 4)),
    "uneven (100)": (raw, deeptrain(100)),
    "batches shuffled (32)": (raw, deeptrain(ROWS // 4, "batches")),
    "samples shuffled (128)": (raw, deeptrain(ROWS, "samples")),
    "samples shuffled (32)": (raw, deeptrain(ROWS // 4, "samples")),
    "samples shuffled (100)": (raw, deeptrain(100, "samples")),
    "samples shuffled (128), not ahead": (raw, deeptrain(ROWS, "samples", prefetch=0)),
    "global (128)": (raw, deeptrain(ROWS, "global")),
    **{
        f"torch, mapped batch files, {workers} workers": (
            raw,
            torch_loader(Mapped, workers, batch_size=None),
        )
        for workers in (0, 1, 2)
    },
    **{
        f"torch, rows shuffled (128), {workers} workers": (
            raw,
            torch_loader(Samples, workers, batch_size=ROWS, shuffle=True),
        )
        for workers in (0, 1, 2)
    },
    "blosc2 (128), of the codec": (blosc2, deeptrain(ROWS, folder="blosc2")),
    "lz4 (128), of the codec": (lz4, deeptrain(ROWS, folder="lz4")),
}


# ---------------------------------------------------------------------- one arm, in its own process


def measure(name, place, rounds, cold):
    """Give the seconds of each counted pass: of what the arm is held against, and of the arm."""
    pair = [make(place) for make in ARMS[name]]
    times = ([], [])
    for number in range(rounds + UNCOUNTED):
        for which in (0, 1) if number % 2 else (1, 0):
            if cold:
                drop(stored(place))
            begin = time.perf_counter()
            pair[which]()
            times[which].append(time.perf_counter() - begin)
            getattr(pair[which], "rest", lambda: None)()
    return [kept[UNCOUNTED:] for kept in times]


def resume(batch_size, rows=6_400_000):
    """Give the seconds to the first batch of new loaders that go on in the middle of a shuffled epoch."""
    source = dt.Arrays(torch.zeros(rows, 1), torch.zeros(rows))
    place = dt.BatchLoader(source, batch_size=batch_size, shuffle="global", seed=1)
    place.seek(epoch=3, batch=rows // batch_size // 2)
    state = place.state_dict()
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        loader = dt.BatchLoader(source, batch_size=batch_size, shuffle="global", seed=1)
        loader.load_state_dict(state)
        loader.fetch()
        times.append(time.perf_counter() - begin)
    return times


# ---------------------------------------------------------------------- all of them


def in_its_own_process(parsed, place, **given):
    options = [f"--{key}={value}" for key, value in given.items()]
    command = [sys.executable, __file__, "--place", str(place), "--rounds", str(parsed.rounds), *options]
    done = subprocess.run(command + ["--cold"] * parsed.cold, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def show(name, against, arm, size):
    best = min(against) / min(arm)
    median = statistics.median(one / other for one, other in zip(against, arm, strict=True))
    print(
        f"  {name:40s} {size / min(arm) / 1e9:6.2f} GB/s   {best:5.2f} of it, median {median:5.2f}",
        flush=True,
    )


def run_all(parsed):
    with tempfile.TemporaryDirectory(prefix="deeptrain-bench-") as folder:
        place = Path(folder)
        write(place, parsed.megabytes)
        files = stored(place)
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files)} files of {files[0].stat().st_size / 1e6:.1f} MB, torch {torch.__version__}")
        for name in ARMS:
            if parsed.only in name:
                part = PACKED / len(files) if "codec" in name else 1
                show(name, *in_its_own_process(parsed, place, arm=name), size * part)
        for batch_size in (100, 90_000) if parsed.only in "resume" else ():
            times = sorted(1e3 * seconds for seconds in in_its_own_process(parsed, place, resume=batch_size))
            median = statistics.median(times)
            print(
                f"  first of {batch_size} after resuming in 6.4 million: {times[0]:.2f} ms, median {median:.2f}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--only", default="", help="a part of the arms' names")
    parser.add_argument("--cold", action="store_true")
    for name in ("place", "arm"):
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    parser.add_argument("--resume", type=int, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.arm is not None:
        print(json.dumps(measure(parsed.arm, Path(parsed.place), parsed.rounds, parsed.cold)))
    elif parsed.resume is not None:
        print(json.dumps(resume(parsed.resume)))
    else:
        run_all(parsed)


if __name__ == "__main__":
    main()
