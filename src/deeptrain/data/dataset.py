"""`FromDataset`: any map-style torch `Dataset` as a source, read by worker processes in the loader's order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch.utils.data import IterableDataset

from deeptrain.data.batch import aligned, map_tensors
from deeptrain.data.seeded import Work
from deeptrain.data.source import Source, table_of_contents
from deeptrain.data.workers import Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from deeptrain.data.batch import RowIds
    from deeptrain.data.running import Closable
    from deeptrain.data.workers import Batches

PAIR = 2


@runtime_checkable
class StreamingSource(Source, Protocol):
    """A source whose rows are made by code that may draw random numbers, and may run in other processes.

    A loader reads from it in the thread that asks for the batch (its code draws from the process's random streams,
    which are put back), and lets it read ahead by itself.
    """

    def open(self, seed: int, epoch: int, work: Iterable[Work]) -> Closable:
        """Begin to read batches, one after another.

        Args:
            seed: What random numbers are seeded from, together with epoch, batch and row.
            epoch: The epoch that all of the work is of.
            work: The batches to read, asked for as far ahead as the source reads ahead.

        Returns:
            An iterator that gives for each of them what `read` gives, with a `close()` that ends what it has started.
        """

    def read_batch(self, seed: int, work: Work) -> tuple[Any, Any]:
        """Read a single batch, with the bits that it has when it comes out of `open`."""


class FromDataset:
    """Any map-style torch `Dataset` as a source: one set named `"dataset"`, whose row i is `dataset[i]`.

    The `BatchLoader` decides which rows come in which batch; torch's own worker processes read them. Each sample's code
    runs under a seed that comes from (seed, epoch, row) and each collation under one from (seed, epoch, batch): random
    augmentation has the same bits with any number of workers, and in a run that was stopped and continued; a sample's
    do not depend on the batch size either. Randomness must be drawn from Python's, NumPy's or torch's global stream. No
    global stream moves in this process. New workers start in each epoch, with the data set as it then is; they leave
    Ctrl-C to the trainer and end with the loader's `close()`.

    A batch of two parts is inputs and targets; anything else is inputs.

    Args:
        dataset: Has `__getitem__` and `__len__`; `__getitems__(rows)`, where it has that too, reads a whole batch.
        workers: Worker processes; with 0 samples are read in this one.
        collate: Makes a batch of a list of samples; by default torch's `default_collate`, which stacks them.
        prefetch_factor: Batches that each worker reads ahead.
        pin_memory: Whether batches are copied to pinned memory, from where a GPU fetches them faster.
        timeout: Seconds to wait for a worker's batch; 0 waits for ever.
        worker_init: Called in each worker process with its number.
        context: How workers are started: "fork", "spawn", "forkserver", or None for Python's choice.

    Raises:
        TypeError: It is no map-style data set.
        ValueError: A number is out of range.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> source = FromDataset(TensorDataset(torch.arange(6.0), torch.arange(6)))
        >>> source.n_rows
        6
    """

    def __init__(
        self,
        dataset: Any,
        *,
        workers: int = 0,
        collate: Callable[[Any], Any] | None = None,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
        timeout: float = 0.0,
        worker_init: Callable[[int], None] | None = None,
        context: Any = None,
    ) -> None:
        _check_count("workers", workers, 0)
        _check_count("prefetch_factor", prefetch_factor, 1)
        self.dataset = dataset
        self._rows = _length(dataset)
        self._reader = Reader(
            dataset,
            collate,
            workers=workers,
            prefetch_factor=prefetch_factor,
            pin_memory=pin_memory,
            timeout=timeout,
            init=worker_init,
            context=context,
        )

    @property
    def n_rows(self) -> int:
        """The data set's length, as it was when this was made."""
        return self._rows

    @property
    def set_names(self) -> tuple[str, ...]:
        """`("dataset",)`."""
        return ("dataset",)

    @property
    def set_sizes(self) -> tuple[int, ...]:
        """The one set's row count."""
        return (self._rows,)

    def describe(self) -> dict[str, Any]:
        """Give row count, set, and the data set's class. Nothing is read: a sample may cost much, or be random."""
        return table_of_contents(self.set_names, self.set_sizes) | {"dataset": type(self.dataset).__name__}

    def read(self, rows: RowIds) -> tuple[Any, Any]:
        """Read rows as they are in epoch 0 under seed 0; a loader uses `open` and `read_batch`.

        Raises:
            IndexError: A row id is out of range.
        """
        return self.read_batch(0, Work.of(0, 0, rows))

    def read_batch(self, seed: int, work: Work) -> tuple[Any, Any]:
        """Read a single batch; see `StreamingSource`.

        Raises:
            IndexError: A row id is out of range.
        """
        return inputs_and_targets(self._reader.read(seed, self._checked(work)))

    def open(self, seed: int, epoch: int, work: Iterable[Work]) -> _Pairs:
        """Begin to read batches one after another; see `StreamingSource`."""
        return _Pairs(self._reader.open(seed, epoch, map(self._checked, work)))

    def _checked(self, work: Work) -> Work:
        # A data set would take -1 for its last row, and one without bounds whatever comes.
        if min(work.rows) < 0 or max(work.rows) >= self._rows:
            wrong = next(row for row in work.rows if not 0 <= row < self._rows)
            raise IndexError(f"FromDataset: no row {wrong}; there are the rows 0 to {self._rows - 1}")
        return work


class _Pairs:
    """What `FromDataset.open` gives: batches as inputs and targets."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.close = batches.close

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self

    def __next__(self) -> tuple[Any, Any]:
        return inputs_and_targets(next(self._batches))

    @property
    def processes(self) -> list[Any]:
        """The worker processes."""
        return self._batches.processes


def inputs_and_targets(collated: Any) -> tuple[Any, Any]:
    """Take a collated batch apart: two parts are inputs and targets, anything else is inputs; memory is aligned."""
    data = map_tensors(collated, aligned)
    if isinstance(data, list | tuple) and len(data) == PAIR:
        return data[0], data[1]
    return data, None


def known_length(thing: Any) -> int | None:
    """Say how long a data set, sampler or loader claims to be; None if it does not."""
    try:
        return len(thing)
    except (TypeError, NotImplementedError):
        return None


def _length(dataset: Any) -> int:
    name = type(dataset).__name__
    if isinstance(dataset, IterableDataset):
        raise TypeError(
            f"FromDataset: {name} is an IterableDataset, which has no rows to ask for; expected a map-style one. Give the "
            f"trainer torch's DataLoader({name}(...), batch_size=...) in the BatchLoader's place"
        )
    try:
        length = len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise TypeError(
            f"FromDataset: found {name}, which has no length ({error}); expected a map-style data set, with "
            f"__getitem__ and __len__"
        ) from None
    if not hasattr(dataset, "__getitem__"):
        raise TypeError(f"FromDataset: found {name} without __getitem__; expected a map-style data set")
    return length


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"FromDataset: {name}={value!r}, expected a whole number of at least {least}")
