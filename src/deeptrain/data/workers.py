"""Reads batches of a map-style data set in torch's worker processes, or in this one, with the same bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch.utils.data import DataLoader, default_collate

from deeptrain.data.seeded import SeededCollate, SeededDataset, WorkerInit, streams_put_back
from deeptrain.state.hashing import mix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from deeptrain.data.seeded import Work


class Reader:
    """Reads the batches that it is told to, in the order in which it is told.

    Each sample's code and each collation run under seeds that come from (seed, epoch, sample) and (seed, epoch, batch):
    any number of workers gives the same bits. No global stream moves. Worker processes leave Ctrl-C to this one.

    Args:
        dataset: Any object with `__getitem__`, or `__getitems__` for whole batches.
        collate: Makes a batch of a list of samples; torch's `default_collate` if None.
        workers: Worker processes; with 0 the data set's code runs here.
        prefetch_factor: Batches that each worker reads ahead.
        pin_memory: Whether batches are copied to pinned memory.
        timeout: Seconds to wait for a worker's batch; 0 waits for ever.
        init: Called in each worker with its number, as torch's `worker_init_fn`.
        context: How workers are started: "fork", "spawn", "forkserver", a context, or None for Python's choice.
    """

    def __init__(
        self,
        dataset: Any,
        collate: Callable[[Any], Any] | None = None,
        *,
        workers: int = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
        timeout: float = 0.0,
        init: Callable[[int], None] | None = None,
        context: Any = None,
    ) -> None:
        self.workers = workers
        self._dataset = dataset
        self._collate = default_collate if collate is None else collate
        self._ahead = prefetch_factor
        self._more: dict[str, Any] = {
            "pin_memory": pin_memory,
            "timeout": timeout,
            "worker_init_fn": WorkerInit(init),
        }
        self._context = context

    def open(self, seed: int, epoch: int, work: Iterable[Work]) -> Batches:
        """Begin to read.

        Args:
            seed: What samples and collations are seeded from, with what `work` says.
            epoch: The epoch, which worker processes as such are seeded from.
            work: What to read. It is asked for as many batches ahead as the workers read ahead.

        Returns:
            An iterator over the collated batches; to be closed.
        """
        return self._start(seed, epoch, work, self.workers)

    def read(self, seed: int, work: Work) -> Any:
        """Read a single batch, in a process of its own where there are workers.

        What a data set opens when it is first read from (an HDF5 file, say) would break in workers that are forked
        later; so it is not read from in this process where there are any.
        """
        batches = self._start(seed, work.epoch, [work], min(self.workers, 1))
        try:
            return next(batches)
        finally:
            batches.close()

    def _start(self, seed: int, epoch: int, work: Iterable[Work], workers: int) -> Batches:
        generator = torch.Generator()
        generator.manual_seed(mix(seed, "workers", epoch))
        loader: DataLoader[Any] = DataLoader(
            SeededDataset(self._dataset, seed),
            batch_sampler=cast("Any", work),  # torch hands on what it gives, whatever it is
            collate_fn=SeededCollate(self._collate, seed),
            num_workers=workers,
            multiprocessing_context=self._context if workers else None,
            prefetch_factor=self._ahead if workers else None,
            generator=generator,  # else making an iterator would move the global stream
            **self._more,
        )
        with streams_put_back():
            return Batches(iter(loader), in_process=not workers)


class Batches:
    """An iterator over batches, with the worker processes that read them.

    Args:
        iterator: Of a `DataLoader`.
        in_process: Whether the data set's code runs in this process.
    """

    def __init__(self, iterator: Iterator[Any], *, in_process: bool) -> None:
        self._iterator = iterator
        self._in_process = in_process

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._in_process:
            return next(self._iterator)
        with streams_put_back():
            return next(self._iterator)

    @property
    def processes(self) -> list[Any]:
        """The worker processes."""
        return list(getattr(self._iterator, "_workers", ()))

    def close(self) -> None:
        """End the worker processes."""
        shut_down(self._iterator)


def shut_down(iterator: Any) -> None:
    """End the worker processes of a `DataLoader`'s iterator, if it has any.

    Without this they live until the iterator is collected, and a traceback may hold it for long.
    """
    end = getattr(iterator, "_shutdown_workers", None)
    if end is not None:
        end()
