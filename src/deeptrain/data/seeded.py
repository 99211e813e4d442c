"""Runs a data set's and a collate function's code under seeds of their own, in worker processes and in this one alike."""

from __future__ import annotations

import random
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Subset, get_worker_info

from deeptrain.state.hashing import mix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deeptrain.data.batch import RowIds


class Work(NamedTuple):
    """One batch's order, as it travels to a worker.

    Attributes:
        epoch: The epoch.
        batch: The batch's index in it.
        rows: The data set's indices.
        repeats: For each row how often it came before in the epoch; None if no row comes twice.
    """

    epoch: int
    batch: int
    rows: list[int]
    repeats: list[int] | None

    @classmethod
    def of(cls, epoch: int, batch: int, rows: RowIds) -> Work:
        """Make one from row ids of shape `(n,)`; a row that stands in them twice is counted within the batch alone."""
        counts = count_repeats(rows)
        return cls(epoch, batch, rows.tolist(), None if counts is None else counts.tolist())


def count_repeats(rows: RowIds) -> RowIds | None:
    """For each row say how often it came before; None if none comes twice."""
    order = np.argsort(rows, kind="stable")
    fresh = np.diff(rows[order], prepend=rows[order[0]] - 1) != 0
    if fresh.all():
        return None
    places = np.arange(len(rows))
    counts = np.empty_like(rows)
    counts[order] = places - np.maximum.accumulate(np.where(fresh, places, 0))
    return counts


def seed_streams(seed: int) -> None:
    """Seed Python's, NumPy's legacy and torch's CPU stream from one 64-bit number."""
    random.seed(seed)
    np.random.seed(seed >> 32)  # noqa: NPY002 - users' augmentations draw from this stream, and it takes 32 bits
    torch.default_generator.manual_seed(
        seed
    )  # torch.manual_seed seeds the devices too, and costs a hundred times more


@contextmanager
def streams_put_back(generators: Sequence[torch.Generator] = ()) -> Iterator[None]:
    """Put the three global streams, and the given generators, back as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    torch_states = [
        (generator, generator.get_state()) for generator in (torch.default_generator, *generators)
    ]
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        for generator, state in torch_states:
            generator.set_state(state)


class SeededDataset(Dataset[Any]):
    """A data set whose code runs under a seed for each sample, or for each batch where it reads whole batches.

    A sample's seed comes from (seed, epoch, index); where a sampler draws a sample again in an epoch, from its count
    too, so that it is not augmented in the same way again.

    Args:
        dataset: The user's data set.
        seed: The feed's seed.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self._seed = seed
        self._whole = _reads_whole_batches(dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def __getitems__(self, work: Work) -> tuple[Work, Any]:
        """Read a batch's samples. torch hands over whatever the batch sampler gave: here, the `Work`."""
        if self._whole:
            seed_streams(mix(self._seed, "samples", work.epoch, work.batch))
            return work, self.dataset.__getitems__(work.rows)
        return work, [self._sample(work, place) for place in range(len(work.rows))]

    def _sample(self, work: Work, place: int) -> Any:
        row = work.rows[place]
        repeat = work.repeats[place] if work.repeats else 0
        seed_streams(mix(self._seed, "sample", work.epoch, row, *((repeat,) if repeat else ())))
        return self.dataset[row]


def _reads_whole_batches(dataset: Any) -> bool:
    # A Subset always has __getitems__, and goes sample by sample if what it is a part of has none.
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return callable(getattr(dataset, "__getitems__", None))


class SeededCollate:
    """A collate function that runs under a seed for each batch.

    Args:
        collate: The user's function, from a list of samples to a batch.
        seed: The feed's seed.
    """

    def __init__(self, collate: Callable[[Any], Any], seed: int) -> None:
        self._collate = collate
        self._seed = seed

    def __call__(self, fetched: Any) -> Any:
        """Collate what `SeededDataset.__getitems__` gave."""
        work, samples = fetched
        seed_streams(mix(self._seed, "collate", work.epoch, work.batch))
        return self._collate(samples)


class WorkerInit:
    """What a worker process does first: leave Ctrl-C to the trainer, and show the user's function their own data set.

    Args:
        init: The user's `worker_init_fn`, or None.
    """

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self._init = init

    def __call__(self, worker: int) -> None:
        """Prepare the worker of this number, in its process."""
        # Ctrl-C reaches every process of the terminal. The trainer alone decides what it means, and goes on needing its
        # workers until the next safe point. (SIGTERM has torch's own handler here.)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._init is None:
            return
        info: Any = get_worker_info()
        if isinstance(info.dataset, SeededDataset):
            object.__setattr__(info, "dataset", info.dataset.dataset)  # torch forbids plain assignment
        self._init(worker)
