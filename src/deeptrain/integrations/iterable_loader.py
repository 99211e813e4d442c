"""`IterableFeed`: what can only be iterated over, from each epoch's beginning."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils.data import DataLoader, IterableDataset

from deeptrain.data.dataset import known_length
from deeptrain.data.feed import Position
from deeptrain.data.seeded import WorkerInit
from deeptrain.data.workers import shut_down
from deeptrain.integrations.forward import ForwardFeed
from deeptrain.integrations.walk import Mark, Walk, aside
from deeptrain.state.hashing import mix

if TYPE_CHECKING:
    from collections.abc import Iterator

SPENT = {"builtins", "itertools"}  # where the iterators are defined that can be gone through once


class IterableFeed(ForwardFeed):
    """A `DataLoader` over an `IterableDataset`, or any iterable over batches, or a function that gives one.

    A place within an epoch is reached by walking there from the epoch's beginning, with a warning, and a bar on a
    terminal. An epoch must be a function of its number (`set_epoch` of the iterable, its data set or its sampler is
    called where there is one) and of the global random streams, which are seeded from (seed, epoch, batch) and put
    back; if another batch comes than before, that is said. Of a `DataLoader` everything is kept but `persistent_workers`; the number of its
    workers is part of the order. An epoch may have any number of batches; no length is needed.

    A batch of two parts is inputs and targets; anything else is inputs.

    Args:
        iterable: The loader, or an object with `__iter__`, or a function without arguments.
        seed: What the random streams are seeded from.

    Raises:
        TypeError: It is neither, or it can be gone through only once, as a generator can.
    """

    remedy: ClassVar[str] = (
        "give it state_dict and load_state_dict, or use torchdata's StatefulDataLoader or a map-style data set, to be "
        "there at once"
    )

    def __init__(self, iterable: Any, seed: int) -> None:
        _refuse_unfit(iterable)
        name = getattr(iterable, "__qualname__", type(iterable).__name__)
        super().__init__(name, seed, known_length(iterable))
        self._iterable = iterable

    @property
    def dataset(self) -> Any:
        """The loader's data set; where it has none, the iterable."""
        return getattr(self._iterable, "dataset", self._iterable)

    def settings(self) -> dict[str, Any]:
        """Describe the iterable in plain values, as far as it tells."""
        return describe_loader(self._iterable)

    def close(self) -> None:
        """End the walk and the worker processes."""
        super().close()
        end_workers(self._iterable)

    def _nearest(self, position: Position) -> Mark:
        return Mark(Position(position.epoch, 0))

    def _mark_here(self) -> Mark:
        return self._marks.get(self._position, Mark(self._position))

    def _open(self, mark: Mark) -> Walk:
        epoch = mark.position.epoch
        for thing in (self._iterable, self.dataset, getattr(self._iterable, "sampler", None)):
            set_epoch = getattr(thing, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)
        with aside(self._base_seed, "epoch", epoch), workers_leave_ctrl_c(self._iterable):
            walk = Walk(self._iterate(epoch), mark, self._base_seed, lambda: None)
        if walk.is_over():
            raise ValueError(
                f"{self._name} gave no batch in epoch {epoch}; expected at least one in each epoch: __iter__ must begin "
                f"anew each time that it is called (an object that is its own iterator has to be put back by then)"
            )
        return walk

    def _iterate(self, epoch: int) -> Iterator[Any]:
        iterable = self._iterable
        if _is_plain(iterable):
            return iter(_again(iterable, mix(self._base_seed, "workers", epoch)))
        end_workers(iterable)  # those that persist have drawn random numbers in the epoch before
        return iter(iterable if hasattr(iterable, "__iter__") else iterable())


def _is_plain(iterable: Any) -> bool:
    return isinstance(iterable, DataLoader) and type(iterable).__iter__ is DataLoader.__iter__


def _again(loader: DataLoader[Any], seed: int) -> DataLoader[Any]:
    """The same loader with workers of one epoch alone, which ignore Ctrl-C, and seeds of its own."""
    workers = loader.num_workers
    generator = torch.Generator()
    generator.manual_seed(seed)
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        drop_last=loader.drop_last,
        collate_fn=loader.collate_fn,
        num_workers=workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=WorkerInit(loader.worker_init_fn),
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor if workers else None,
        generator=generator,
    )


@contextmanager
def workers_leave_ctrl_c(loader: Any) -> Iterator[None]:
    """Let the worker processes that are started meanwhile ignore Ctrl-C, which the trainer alone decides about."""
    if not getattr(loader, "num_workers", 0) or not hasattr(loader, "worker_init_fn"):
        yield
        return
    before = loader.worker_init_fn
    loader.worker_init_fn = WorkerInit(before)
    try:
        yield
    finally:
        loader.worker_init_fn = before


def end_workers(loader: Any) -> None:
    """End the worker processes that a `DataLoader` keeps for its next epoch, and let it start others then."""
    iterator = getattr(loader, "_iterator", None)
    if hasattr(iterator, "_shutdown_workers"):
        shut_down(iterator)
        loader._iterator = None  # noqa: SLF001 - else it would wait for ever for workers that have ended


def describe_loader(loader: Any) -> dict[str, Any]:
    """Describe someone else's loader in plain values: its class, its data set's, batch size and workers."""
    source: dict[str, Any] = {"loader": getattr(loader, "__qualname__", type(loader).__name__)}
    if hasattr(loader, "dataset"):
        source["dataset"] = type(loader.dataset).__name__
    settings: dict[str, Any] = {"source": source}
    for name, attribute in (("batch_size", "batch_size"), ("workers", "num_workers")):
        value = getattr(loader, attribute, None)
        if isinstance(value, int):
            settings[name] = value
    return settings


def _refuse_unfit(iterable: Any) -> None:
    once = inspect.isgenerator(iterable) or (
        hasattr(iterable, "__next__") and type(iterable).__module__ in SPENT
    )
    if once:
        raise TypeError(
            f"data: found a {type(iterable).__name__}, which can be gone through only once; expected what begins anew in "
            f"each epoch: give the function that makes it (batches, not batches()), or an object with __iter__"
        )
    if not hasattr(iterable, "__iter__") and not callable(iterable):
        raise TypeError(f"data: found {type(iterable).__name__}, expected an iterable over batches")
    if _is_plain(iterable) and not isinstance(iterable.dataset, IterableDataset):
        raise TypeError("IterableFeed: found a DataLoader over a map-style data set; TorchFeed is for these")
