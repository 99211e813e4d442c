"""How fast batches come from files, as a ratio to reading the same files whole into one standing buffer.

    python benchmarks/data.py [--rounds 8] [--megabytes 200] [--cold]

Sets of 128 rows of 12.5 KB (1.6 MB a file, as MNIST sets of 128 have them four times over). In each round every arm
makes one pass over all files, in another order each time; a ratio is the mean over rounds of the raw read's time in
that round over the arm's. The first two rounds are not counted: from its second reading on a file stands in memory.
Arms that fork worker processes have rounds of their own, because a fork makes the parent's memory slow to write to. `--cold` drops the files from the page cache before each pass, where the system lets a user
do that. Then: how long the first batch takes after resuming in 6.4 million shuffled rows.
"""

import argparse
import contextlib
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import deeptrain as dt

ROWS, WIDTH = 128, 3136


def write(place, megabytes):
    generator = np.random.default_rng(0)
    count = max(8, int(megabytes * 1e6 / (ROWS * WIDTH * 4)))
    # Values as a sensor gives them, so that codecs have something to do.
    values = (generator.normal(size=(ROWS, WIDTH)) * 8).round().astype(np.float32) / 8
    for number in range(count):
        np.save(place / f"set{number}.npy", np.roll(values, number, axis=1))
    np.save(place / "labels.npy", generator.integers(0, 10, count * ROWS))
    return sorted(place.glob("set*.npy"), key=lambda path: int(path.stem[3:]))


def drop(files):
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def raw(files):
    # Aligned, as torch's memory is: into a bytearray the same read takes up to twice as long.
    view = memoryview(torch.empty(files[0].stat().st_size, dtype=torch.uint8).numpy())

    def run():
        for path in files:
            handle = os.open(path, os.O_RDONLY)
            os.preadv(handle, [view], 0)
            os.close(handle)

    return run


def np_load(files):
    def run():
        for path in files:
            np.load(path)

    return run


def deeptrain(place, *, batch_size, shuffle=None, prefetch=1 << 26, **options):
    loader = dt.BatchLoader(
        dt.Files(place), batch_size=batch_size, shuffle=shuffle, prefetch=prefetch, **options
    )

    def run():
        for _batch in loader:
            pass
        if loader._ahead is not None:
            loader._ahead.clear()  # so that nothing is read ahead while another arm is timed

    return run


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


def torch_loader(dataset, workers, **options):
    def run():
        for _batch in torch.utils.data.DataLoader(dataset, num_workers=workers, **options):
            pass

    return run


def arms(place, files):
    found = {
        "raw": raw(files),
        "np.load, whole files": np_load(files),
        "deeptrain, whole sets (128)": deeptrain(place, batch_size=ROWS),
        "deeptrain, fractions (32)": deeptrain(place, batch_size=ROWS // 4),
        "deeptrain, multiples (512)": deeptrain(place, batch_size=ROWS * 4),
        "deeptrain, uneven (100)": deeptrain(place, batch_size=100),
        "deeptrain, fractions, not ahead": deeptrain(place, batch_size=ROWS // 4, prefetch=0),
        "deeptrain, batches shuffled (32)": deeptrain(place, batch_size=ROWS // 4, shuffle="batches"),
        "deeptrain, samples shuffled (128)": deeptrain(place, batch_size=ROWS, shuffle="samples"),
        "deeptrain, samples, not ahead": deeptrain(place, batch_size=ROWS, shuffle="samples", prefetch=0),
        "deeptrain, global (128)": deeptrain(place, batch_size=ROWS, shuffle="global"),
    }
    return found | torch_arms(files, 0)


def torch_arms(files, workers):
    return {
        f"torch, mapped batch files, {workers} workers": torch_loader(
            Mapped(files), workers, batch_size=None
        ),
        f"torch, rows shuffled (128), {workers} workers": torch_loader(
            Samples(files), workers, batch_size=ROWS, shuffle=True
        ),
    }


def measure(found, files, rounds, cold):
    times = {name: [] for name in found}
    for _ in range(rounds + 2):
        names = list(found)
        random.shuffle(names)
        for name in names:
            if cold:
                drop(files)
            begin = time.perf_counter()
            found[name]()
            times[name].append(time.perf_counter() - begin)
    size = sum(path.stat().st_size for path in files)
    for name in found:
        kept = times[name][2:]
        ratio = statistics.mean(r / t for r, t in zip(times["raw"][2:], kept, strict=True))
        print(f"  {name:45s} {size / statistics.mean(kept) / 1e9:6.2f} GB/s   {ratio:6.3f} of raw")


def packed(place, files, rounds):
    """A codec's own speed against DeepTrain's over files in it."""
    for name, suffix in (("blosc2", "b2nd"), ("lz4", "lz4")):
        with contextlib.suppress(ImportError):
            decode, target = CODECS[name], place.parent / name
            if not target.exists():
                dt.write_sets(
                    target,
                    np.concatenate([np.load(path) for path in files[:32]]),
                    rows_per_set=ROWS,
                    format=name,
                    progress=False,
                )
            packs = sorted(target.glob(f"*.{suffix}"))
            assert packs, sorted(target.iterdir())
            run, pairs = deeptrain(target, batch_size=ROWS), []
            for _ in range(rounds + 1):
                begin = time.perf_counter()
                for path in packs:
                    decode(path)
                middle = time.perf_counter()
                run()
                pairs.append((middle - begin) / (time.perf_counter() - middle))
            print(f"  {name:45s} {statistics.mean(pairs[1:]):6.3f} of the codec's own speed")


def _blosc2(path):
    import blosc2

    return blosc2.open(str(path), mode="r")[:]


def _lz4(path):
    import lz4.frame

    return np.frombuffer(lz4.frame.decompress(path.read_bytes()), np.uint8)


CODECS = {"blosc2": _blosc2, "lz4": _lz4}


def resume(batch_size, rows=6_400_000):
    """Seconds to the first batch of a new loader that goes on in the middle of a shuffled epoch."""
    source = dt.Arrays(torch.zeros(rows, 1), torch.zeros(rows))
    place = dt.BatchLoader(source, batch_size=batch_size, shuffle="global", seed=1)
    place.seek(epoch=3, batch=rows // batch_size // 2)
    state = place.state_dict()
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        loader = dt.BatchLoader(source, batch_size=batch_size, shuffle="global", seed=1)
        loader.load_state_dict(state)
        loader.fetch()
        times.append(time.perf_counter() - begin)
    return min(times), statistics.mean(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--cold", action="store_true")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deeptrain-bench-") as folder:
        place = Path(folder, "npy")
        place.mkdir()
        files = write(place, parsed.megabytes)
        print(f"{len(files)} files of {files[0].stat().st_size / 1e6:.1f} MB, torch {torch.__version__}")
        measure(arms(place, files), files, parsed.rounds, parsed.cold)
        forking = {"raw": raw(files)} | torch_arms(files, 1) | torch_arms(files, 2)
        measure(forking, files, parsed.rounds, parsed.cold)
        packed(place, files, parsed.rounds)
    for size in (100, 90_000):
        best, mean = resume(size)
        print(
            f"  first batch of {size} after resuming in 6.4 million: {best * 1e3:.2f} ms (mean {mean * 1e3:.2f})"
        )


if __name__ == "__main__":
    main()
