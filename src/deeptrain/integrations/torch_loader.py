"""`TorchFeed`: a plain torch `DataLoader`, taken as it is and made exactly resumable."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from deeptrain.data.batch import Batch, SetTable
from deeptrain.data.cursor import CursorFeed
from deeptrain.data.dataset import inputs_and_targets, known_length
from deeptrain.data.feed import Feed, Position
from deeptrain.data.running import Running
from deeptrain.data.workers import Reader
from deeptrain.integrations.orders import Orders
from deeptrain.integrations.states import is_stateful
from deeptrain.integrations.walk import aside

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deeptrain.data.workers import Batches

# Things that can be iterated over and are no batches one after another.
COLLECTIONS = (list, tuple, dict, set, frozenset, str, bytes, torch.Tensor, np.ndarray, nn.Module, type)


class TorchFeed(CursorFeed):
    """A `DataLoader` over a map-style data set, in an order that depends on (seed, epoch) alone.

    Kept: data set, batch size, sampler or batch sampler, shuffling, `collate_fn`, workers and all that belongs to
    them. The batches of an epoch are drawn once, from the loader's own batch sampler, under streams seeded for this
    epoch; the seed here decides, not one given to a `torch.Generator`. A sampler with `state_dict` and
    `load_state_dict` draws from its own state, which is recorded as it was at the epoch's start. Each sample's code and
    each collation run under seeds of their own, so that any number of workers gives the same bits, as does a run that
    was stopped and continued. No global stream moves. `set_epoch` of a sampler is called. Not kept:
    `persistent_workers` (workers start anew in each epoch) and `in_order=False`.

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
        self._orders = Orders(loader, operator.index(seed))
        self._reader = _reader_of(loader)
        self._running = Running(self._start)
        first = self._orders.plan(0)
        if first.digest != self._orders.draw(0).digest:
            raise ValueError(
                f"DataLoader: {type(loader.batch_sampler).__name__} over {type(loader.sampler).__name__} gave another "
                f"order for the same epoch when asked twice; expected one that follows the global random streams, its "
                f"`generator`, set_epoch(epoch), or its state_dict and load_state_dict: then an epoch can be continued"
            )
        self._size = known_length(loader.dataset) or len(first.rows)
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
        """Give the cursor, the settings, the seed, a hash of the epoch's order, and the samplers' states at its start."""
        epoch = self.position.epoch
        state = super().state_dict() | {"seed": self._orders.seed, "order": self._orders.plan(epoch).digest}
        samplers = self._orders.state(epoch)
        return state if samplers is None else state | {"samplers": samplers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a recorded cursor, under the recorded seed: a script need not have chosen one.

        Raises:
            ValueError: The state is of another version, data set or order, or the sampler now draws another one.
        """
        self.adopt(state)
        position = self._checked(state)
        self._orders.restore(position.epoch, state.get("samplers", []))
        if position.batch and state.get("order") != self._orders.plan(position.epoch).digest:
            raise ValueError(
                f"TorchFeed state does not fit: the sampler draws another order for epoch {position.epoch} than the "
                f"recorded one; expected the same sampler, weights and torch version, or a state at an epoch's start"
            )
        self._running.close()
        super().load_state_dict(state)

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take the recorded seed. The rest belongs to the `DataLoader`; `load_state_dict` says what differs.

        Where the seed is another one, the cursor goes to its epoch's start.
        """
        seed = operator.index(settings.get("seed", self._orders.seed))
        if seed != self._orders.seed:
            self.close()
            self._orders.reseed(seed)
            self.seek(epoch=self.position.epoch)

    def close(self) -> None:
        """Let go of the held batch, and end the worker processes."""
        super().close()
        self._running.close()

    def _batches_in(self, epoch: int) -> int:
        return self._orders.plan(epoch).batches

    def _seed(self) -> int:
        return self._orders.seed

    def batch(self, epoch: int, batch: int, iteration: int = 0) -> Batch:
        """Read any batch again, without moving the cursor or the workers that read ahead of it."""
        del iteration  # a batch is one piece here
        work = next(self._orders.plan(epoch).work(Position(epoch, batch)))
        return self._as_batch(self._reader.read(self._orders.seed, work), epoch, batch)

    def _read(self, epoch: int, batch: int) -> Batch:
        return self._as_batch(self._running.take(Position(epoch, batch)), epoch, batch)

    def _as_batch(self, collated: Any, epoch: int, batch: int) -> Batch:
        rows = self._orders.plan(epoch).batch_rows(batch)
        return Batch(*inputs_and_targets(collated), epoch, batch, rows, self._table)

    def _start(self, position: Position) -> Batches:
        epoch = position.epoch
        return self._reader.open(self._orders.seed, epoch, self._orders.plan(epoch).work(position))


def _reader_of(loader: DataLoader[Any]) -> Reader:
    return Reader(
        loader.dataset,
        loader.collate_fn,
        workers=loader.num_workers,
        prefetch_factor=loader.prefetch_factor,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        init=loader.worker_init_fn,
        context=loader.multiprocessing_context,
    )


def as_feed(data: Any, seed: int) -> Feed:
    """Take what a user gives as training or validation data.

    Args:
        data: One of these, tried in this order:
            a `BatchLoader` or another feed, given back as it is;
            an iterable with `state_dict` and `load_state_dict`, as torchdata's `StatefulDataLoader` (`StatefulFeed`);
            a torch `DataLoader` over a map-style data set (`TorchFeed`);
            one over an `IterableDataset`, or any other iterable over batches, or a function that gives one
            (`IterableFeed`).
        seed: The seed for what is no `BatchLoader`, which has its own.

    Raises:
        TypeError: It is none of these; the message says what is accepted.
        ValueError: See the feeds.
    """
    if isinstance(data, Feed):
        return data
    if isinstance(data, COLLECTIONS):
        raise TypeError(_not_accepted(data))
    if hasattr(data, "__iter__") and is_stateful(data) and not _has_no_state_inside(data, seed):
        from deeptrain.integrations.stateful_loader import StatefulFeed  # noqa: PLC0415 - few have one

        return StatefulFeed(data, seed)
    if _is_map_style(data):
        return TorchFeed(data, seed)
    if hasattr(data, "__iter__") or callable(data):
        from deeptrain.integrations.iterable_loader import IterableFeed  # noqa: PLC0415 - few have one

        return IterableFeed(data, seed)
    raise TypeError(_not_accepted(data))


def _not_accepted(data: Any) -> str:
    mapped = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
    remedy = (
        "; for a torch Dataset: dt.BatchLoader(dt.FromDataset(dataset), batch_size=...)" if mapped else ""
    )
    return (
        f"data: found {type(data).__name__}; expected dt.BatchLoader(dt.Arrays(inputs, targets), batch_size=...), a "
        f"BatchLoader over dt.Files(...), a torch DataLoader, or an iterable over batches (an object with __iter__, or a "
        f"function that gives an iterator){remedy}"
    )


def _has_no_state_inside(loader: Any, seed: int) -> bool:
    """Whether a loader has a state, and the stream under it has none.

    torchdata's `StatefulDataLoader` then walks the stream by itself, and counts that twice, so that a second resume in
    one epoch goes astray (seen in 0.11); here it is walked as any other stream.
    """
    dataset = getattr(loader, "dataset", None)
    if not isinstance(loader, DataLoader) or not isinstance(dataset, IterableDataset) or is_stateful(dataset):
        return False
    with aside(seed, "look"):
        return not is_stateful(iter(dataset))


def _is_map_style(data: Any) -> bool:
    plain = isinstance(data, DataLoader) and type(data).__iter__ is DataLoader.__iter__
    return plain and not isinstance(data.dataset, IterableDataset)


def _refuse_unfit(loader: Any) -> None:
    if not _is_map_style(loader):
        raise TypeError(
            f"TorchFeed: found {type(loader).__name__}, expected a plain torch.utils.data.DataLoader over a map-style "
            f"data set"
        )
    if loader.batch_sampler is None:
        raise ValueError(
            "DataLoader: batch_size=None turns batching off; expected a batch_size of at least 1 or a batch_sampler"
        )
