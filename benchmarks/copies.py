"""Ways of bringing files in the page cache into memory, against reading them whole into one standing buffer.

    python benchmarks/copies.py [--rounds 25] [--megabytes 200]

What the data layer's way of reading was chosen by: sets of 128 rows of 12.5 KB, straight, or in groups of eight with their
rows in another order. Each round times all ways, in another order each time; given are the best pass, and its ratio to the
best of the raw read.
"""

import argparse
import mmap
import os
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from data import ROWS, WIDTH, stored, write

SETS = 8  # in a group
ROW = WIDTH * 4


def huge(rows):
    """Memory in pages of 2 MB, as far as the system gives them."""
    memory = mmap.mmap(-1, rows * ROW, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(rows, WIDTH)


class Ways:
    """The ways, each of which goes through all files once."""

    def __init__(self, files):
        self.files = files[: len(files) // SETS * SETS]
        self.size = files[0].stat().st_size
        self.header = self.size - ROWS * ROW
        self.handles = [os.open(path, os.O_RDONLY) for path in self.files]
        maps = [
            torch.UntypedStorage.from_file(str(path), shared=False, nbytes=self.size) for path in self.files
        ]
        flat = [torch.empty(0, dtype=torch.uint8).set_(one)[self.header :] for one in maps]
        self.values = [one.view(torch.float32).view(ROWS, WIDTH) for one in flat]
        self.arrays = [one.numpy() for one in self.values]
        self.whole = memoryview(torch.empty(self.size, dtype=torch.uint8).numpy())
        self.batch, self.block, self.other = (torch.empty(n * ROWS, WIDTH) for n in (1, SETS, SETS))
        self.huge = huge(SETS * ROWS)
        order = np.random.default_rng(0).permutation(SETS * ROWS)
        self.order, self.places = order.tolist(), np.argsort(order).reshape(SETS, ROWS)
        self.indices = torch.from_numpy(order).split(ROWS)

    def raw(self):
        for path in self.files:
            handle = os.open(path, os.O_RDONLY)
            os.preadv(handle, [self.whole], 0)
            os.close(handle)

    def groups(self, arrays):
        return [arrays[at : at + SETS] for at in range(0, len(arrays), SETS)]

    def straight_by_numpy(self):
        out = self.batch.numpy()
        for values in self.arrays:
            out[...] = values

    def straight_by_torch(self):
        for values in self.values:
            self.batch.copy_(values)

    def scattered(self, *blocks):
        for number, group in enumerate(self.groups(self.arrays)):
            out = blocks[number % len(blocks)]
            for places, values in zip(self.places, group, strict=True):
                out[places] = values

    def scattered_by_numpy(self):
        self.scattered(self.block.numpy())

    def scattered_to_two_blocks(self):
        self.scattered(self.block.numpy(), self.other.numpy())

    def scattered_to_huge_pages(self):
        self.scattered(self.huge)

    def scattered_by_torch(self):
        places = torch.from_numpy(self.places)
        for group in self.groups(self.values):
            for one, values in zip(places, group, strict=True):
                self.block.index_copy_(0, one, values)

    def scattered_by_the_kernel(self):
        memory = memoryview(self.block.numpy().reshape(-1).view(np.uint8))
        rows = [memory[at : at + ROW] for at in range(0, len(memory), ROW)]
        for number, handle in enumerate(self.handles):
            os.preadv(handle, [rows[place] for place in self.places[number % SETS]], self.header)

    def straight_and_gathered(self):
        for group in self.groups(self.arrays):
            for out, values in zip(self.block.numpy().reshape(SETS, ROWS, WIDTH), group, strict=True):
                out[...] = values
            for index in self.indices:
                torch.index_select(self.block, 0, index, out=self.batch)

    def row_by_row(self):
        out = self.batch.numpy()
        for group in self.groups(self.arrays):
            for place, row in enumerate(self.order):
                out[place % ROWS] = group[row // ROWS][row % ROWS]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--megabytes", type=int, default=200)
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="deeptrain-bench-") as folder:
        write(Path(folder), parsed.megabytes)
        ways = Ways(stored(Path(folder)))
        names = [name for name in vars(Ways) if name not in {"groups", "scattered"} and name[0] != "_"]
        times = {name: [] for name in names}
        for _ in range(parsed.rounds):
            random.shuffle(names)
            for name in names:
                begin = time.perf_counter()
                getattr(ways, name)()
                times[name].append(time.perf_counter() - begin)
    total = ways.size * len(ways.files)
    for name, found in times.items():
        ratios = np.array(times["raw"]) / np.array(found)
        print(
            f"  {name.replace('_', ' '):28s} {total / min(found) / 1e9:6.2f} GB/s   {min(times['raw']) / min(found):5.2f} of raw, "
            f"median {np.median(ratios):5.2f}"
        )


if __name__ == "__main__":
    main()
