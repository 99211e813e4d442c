"""`TorchFeed`: a plain torch `DataLoader`, taken as it is and made exactly resumable."""

from __future__ import annotations

import operator
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from deeptrain.data.batch import Batch, RowIds, SetTable, aligned, map_tensors
from deeptrain.data.feed import CursorFeed, Feed, Position
from deeptrain.integrations.seeded import (
    SeededCollate,
    SeededDataset,
    Work,
    WorkerInit,
    seed_streams,
    streams_put_back,
)
from deeptrain.state.hashing import mix

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PAIR = 2


class TorchFeed(CursorFeed):
    """A `DataLoader` over a map-style data set, in an order that depends on (seed, epoch) alone.

    Kept: data set, batch size, sampler or batch sampler, shuffling, `collate_fn`, workers and all that belongs to
    them. The batches of an epoch are drawn once, from the loader's own batch sampler, under streams seeded for this
    epoch; the seed here decides, not one given to a `torch.Generator`. Each sample's code and each collation run under
    seeds of their own, so that any number of workers gives the same bits, as does a run that was stopped and
    continued. No global stream moves. `set_epoch` of a sampler is called. Not kept: `persistent_workers` (workers start
    anew in each epoch) and `in_order=False`.

    A batch of two parts is inputs and targets; anything else is inputs. Randomness that a data set draws from a
    generator of its own is beyond reach: draw it from Python's, NumPy's or torch's global stream.

    Args:
        loader: The loader; it is read from and not changed.
        seed: The seed of order and samples.

    Raises:
        TypeError: It is no plain `DataLoader`, its data set is an iterable, or its indices are no whole numbers.
        ValueError: It has no automatic batching or no rows, or its sampler cannot be made to repeat an epoch.
    """

    changeable: ClassVar[tuple[str, ...]] = ("seed",)

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        super().__init__()
        _refuse_unfit(loader)
        self._loader = loader
        self._seed = operator.index(seed)
        self._running: tuple[Iterator[Any], Position] | None = None
        self._cached: tuple[int, _Plan] | None = None
        first, again = self._draw(0), self._draw(0)
        if first.digest != again.digest:
            raise ValueError(
                f"DataLoader: {type(loader.batch_sampler).__name__} over {type(loader.sampler).__name__} gave another "
                f"order for the same epoch when asked twice; expected one that follows the global random streams, its "
                f"`generator`, or set_epoch(epoch): then an epoch can be continued"
            )
        self._cached = (0, first)
        self._size = _length(loader.dataset) or len(first.rows)
        self._table = SetTable(("dataset",), (self._size,))

    @property
    def dataset(self) -> Any:
        """The user's data set."""
        return self._loader.dataset

    @property
    def rows_total(self) -> int:
        """Samples in the data set."""
        return self._size

    def settings(self) -> dict[str, Any]:
        """Describe data set and order in plain values; what cannot change a bit, as the workers, is left out."""
        loader = self._loader
        return {
            "source": {"dataset": type(loader.dataset).__name__, "rows": self._size, "sets": 1},
            "batch_size": loader.batch_size,
            "sampler": type(loader.sampler).__name__,
            "batch_sampler": type(loader.batch_sampler).__name__,
            "last": "drop" if loader.drop_last else "keep",
        }

    def state_dict(self) -> dict[str, Any]:
        """Give the cursor, the settings, the seed, and a hash of the epoch's order."""
        return super().state_dict() | {"seed": self._seed, "order": self._plan(self.position.epoch).digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a recorded cursor, under the recorded seed: a script need not have chosen one.

        Raises:
            ValueError: The state is of another version, data set or order, or the sampler now draws another one.
        """
        self.adopt(state)
        position = self._checked(state)
        if position.batch and state.get("order") != self._plan(position.epoch).digest:
            raise ValueError(
                f"TorchFeed state does not fit: the sampler draws another order for epoch {position.epoch} than the "
                f"recorded one; expected the same sampler, weights and torch version, or a state at an epoch's start"
            )
        super().load_state_dict(state)

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take the recorded seed. The rest belongs to the `DataLoader`; `load_state_dict` says what differs.

        Where the seed is another one, the cursor goes to its epoch's start.
        """
        seed = operator.index(settings.get("seed", self._seed))
        if seed != self._seed:
            self.close()
            self._seed, self._cached = seed, None
            self.seek(epoch=self.position.epoch)

    def close(self) -> None:
        """Let go of the held batch, and end the worker processes."""
        super().close()
        running, self._running = self._running, None
        if running is not None:
            _shut_down(running[0])

    def _batches_in(self, epoch: int) -> int:
        return self._plan(epoch).batches

    def batch(self, epoch: int, batch: int) -> Batch:
        """Read any batch again, without moving the cursor or the workers that read ahead of it."""
        iterator = self._start(Position(epoch, batch))
        try:
            return self._as_batch(self._pull(iterator), epoch, batch)
        finally:
            _shut_down(iterator)

    def _read(self, epoch: int, batch: int) -> Batch:
        return self._as_batch(self._next(Position(epoch, batch)), epoch, batch)

    def _as_batch(self, fetched: Any, epoch: int, batch: int) -> Batch:
        data = map_tensors(fetched, aligned)
        paired = isinstance(data, list | tuple) and len(data) == PAIR
        inputs, targets = data if paired else (data, None)
        return Batch(inputs, targets, epoch, batch, self._plan(epoch).batch_rows(batch), self._table)

    def _next(self, position: Position) -> Any:
        # Taken out while it runs: whatever ends this early leaves no iterator behind that has moved past the cursor,
        # or that ended with its exception and would now look like the end of an epoch.
        running, self._running = self._running, None
        if running is not None and running[1] != position:
            _shut_down(running[0])
            running = None
        iterator = self._start(position) if running is None else running[0]
        try:
            data = self._pull(iterator)
        except StopIteration as error:
            _shut_down(iterator)
            raise RuntimeError(
                f"DataLoader: the data set or collate_fn raised StopIteration in {position}; expected a batch"
            ) from error
        except BaseException:
            _shut_down(iterator)
            raise
        self._running = (iterator, Position(position.epoch, position.batch + 1))
        return data

    def _pull(self, iterator: Any) -> Any:
        if self._loader.num_workers:
            return next(iterator)  # the user's code runs in other processes
        with streams_put_back():
            return next(iterator)

    def _start(self, position: Position) -> Iterator[Any]:
        loader, workers = self._loader, self._loader.num_workers
        generator = torch.Generator()
        generator.manual_seed(mix(self._seed, "workers", position.epoch))
        rest = DataLoader(
            SeededDataset(loader.dataset, self._seed),
            batch_sampler=_Rest(self._plan(position.epoch), position),
            collate_fn=SeededCollate(loader.collate_fn, self._seed),
            num_workers=workers,
            pin_memory=loader.pin_memory,
            timeout=loader.timeout,
            worker_init_fn=WorkerInit(loader.worker_init_fn),
            multiprocessing_context=loader.multiprocessing_context,
            prefetch_factor=loader.prefetch_factor if workers else None,
            generator=generator,  # else making an iterator would move the global stream
        )
        with streams_put_back():
            return iter(rest)

    def _plan(self, epoch: int) -> _Plan:
        cached = self._cached
        if cached is None or cached[0] != epoch:
            self._cached = cached = (epoch, self._draw(epoch))
        return cached[1]

    def _draw(self, epoch: int) -> _Plan:
        loader = self._loader
        samplers: list[Any] = [
            loader.batch_sampler,
            getattr(loader.batch_sampler, "sampler", None),
            loader.sampler,
        ]
        generators = {
            id(owner.generator): owner.generator for owner in (loader, *samplers) if _has_generator(owner)
        }
        with streams_put_back(list(generators.values())):
            for number, generator in enumerate(generators.values()):
                generator.manual_seed(mix(self._seed, "sampler", epoch, number))
            for sampler in samplers:
                if callable(getattr(sampler, "set_epoch", None)):
                    sampler.set_epoch(epoch)
            seed_streams(mix(self._seed, "order", epoch))
            return _Plan(_whole_numbers(samplers[0]), epoch)


class _Plan:
    """One epoch's order: all indices in one array, and where each batch begins."""

    def __init__(self, batches: list[list[int]], epoch: int) -> None:
        if not any(batches) or not all(batches):
            raise ValueError(
                f"DataLoader: the sampler gave {'an empty batch' if any(batches) else 'no rows'} in epoch {epoch}; "
                f"expected at least one row in each batch (with drop_last=True, at least batch_size rows)"
            )
        lengths = np.fromiter(map(len, batches), np.int64, len(batches))
        self.batches = len(batches)
        self.rows: RowIds = np.fromiter(
            (row for batch in batches for row in batch), np.int64, int(lengths.sum())
        )
        self._starts = np.concatenate(([0], np.cumsum(lengths)))
        self._repeats = _repeats(self.rows)
        self.digest = blake2b(self._starts.tobytes() + self.rows.tobytes(), digest_size=8).hexdigest()

    def batch_rows(self, batch: int) -> RowIds:
        return self.rows[self._starts[batch] : self._starts[batch + 1]].copy()

    def work(self, position: Position) -> Iterator[Work]:
        bounds = self._starts[position.batch :].tolist()
        for batch, (start, stop) in enumerate(pairwise(bounds), position.batch):
            repeats = None if self._repeats is None else self._repeats[start:stop].tolist()
            yield Work(position.epoch, batch, self.rows[start:stop].tolist(), repeats)


class _Rest:
    """The batch sampler of what is left of an epoch."""

    def __init__(self, plan: _Plan, position: Position) -> None:
        self._plan, self._position = plan, position

    def __iter__(self) -> Iterator[Any]:
        return self._plan.work(self._position)

    def __len__(self) -> int:
        return self._plan.batches - self._position.batch


def as_feed(data: Any, seed: int) -> Feed:
    """Take what a user gives as training or validation data.

    Args:
        data: A `BatchLoader` or another feed (given back as it is), or a torch `DataLoader`.
        seed: The seed for a `DataLoader`; a `BatchLoader` has its own.

    Raises:
        TypeError: It is neither; the message says what is accepted.
        ValueError: See `TorchFeed`.
    """
    if isinstance(data, DataLoader):
        return TorchFeed(data, seed)
    if isinstance(data, Feed):
        return data
    raise TypeError(
        f"data: found {type(data).__name__}; expected dt.BatchLoader(dt.Arrays(inputs, targets), batch_size=...), a "
        f"BatchLoader over dt.Files(...), or a torch DataLoader over a map-style data set"
    )


def _refuse_unfit(loader: DataLoader[Any]) -> None:
    if not isinstance(loader, DataLoader) or type(loader).__iter__ is not DataLoader.__iter__:
        raise TypeError(
            f"found {type(loader).__name__}, expected a torch.utils.data.DataLoader (one that iterates in its own way "
            f"cannot be taken over): give a plain one"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise TypeError(
            f"DataLoader: its data set {type(loader.dataset).__name__} is an IterableDataset, which has no positions to "
            f"continue at; expected a map-style one (__getitem__ and __len__). Iterable data sets are for a later release"
        )
    if loader.batch_sampler is None:
        raise ValueError(
            "DataLoader: batch_size=None turns batching off; expected a batch_size of at least 1 or a batch_sampler"
        )


def _has_generator(owner: Any) -> bool:
    return isinstance(getattr(owner, "generator", None), torch.Generator)


def _whole_numbers(batch_sampler: Any) -> list[list[int]]:
    try:
        return [[operator.index(row) for row in batch] for batch in batch_sampler]
    except TypeError as error:
        raise TypeError(
            f"DataLoader: its batch sampler {type(batch_sampler).__name__} gave something other than lists of whole "
            f"numbers ({error}); expected indices of the data set"
        ) from error


def _repeats(rows: RowIds) -> RowIds | None:
    """For each row say how often it came before; None if none comes twice."""
    order = np.argsort(rows, kind="stable")
    fresh = np.diff(rows[order], prepend=rows[order[0]] - 1) != 0
    if fresh.all():
        return None
    places = np.arange(len(rows))
    counts = np.empty_like(rows)
    counts[order] = places - np.maximum.accumulate(np.where(fresh, places, 0))
    return counts


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def _shut_down(iterator: Any) -> None:
    # Without this the workers live until the iterator is collected, and a traceback may hold it for long.
    shut_down = getattr(iterator, "_shutdown_workers", None)
    if shut_down is not None:
        shut_down()
