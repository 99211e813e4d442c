"""`StatefulFeed`: an iterable that gives its state and takes it back, such as torchdata's `StatefulDataLoader`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.utils.data import DataLoader

from deeptrain.data.dataset import known_length
from deeptrain.integrations.forward import START, ForwardFeed
from deeptrain.integrations.iterable_loader import (
    describe_loader,
    end_workers,
    workers_leave_ctrl_c,
)
from deeptrain.integrations.states import is_stateful, plain_copy
from deeptrain.integrations.walk import Mark, Walk, aside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeptrain.data.feed import Position


class StatefulFeed(ForwardFeed):
    """An iterable over batches, resumed through its own state at the consumed position.

    Its state is taken behind each batch, so that what it has read ahead counts as not consumed. Iterating over it gives
    an epoch, after `load_state_dict` what is left of one, and iterating again the next. What it draws for a batch from
    the global streams in this process depends on (seed, epoch, batch) alone, and no global stream moves; an order that
    it draws must be in its state. What its own worker
    processes draw is beyond reach: they are seeded when they start, so random augmentation in them differs after a
    resume, which is said when it happens. `dt.FromDataset`, and a plain `DataLoader`, have no such gap.

    A batch of two parts is inputs and targets; anything else is inputs. An epoch may have any number of batches.

    Args:
        loader: Has `__iter__`, `state_dict` and `load_state_dict`; it is iterated over by this feed alone.
        seed: What the random streams are seeded from.

    Raises:
        TypeError: It lacks one of these, or its state holds what no checkpoint can hold.
    """

    remedy: ClassVar[str] = "a state can only be gone on from, and there is none nearer to that place"

    def __init__(self, loader: Any, seed: int) -> None:
        if not hasattr(loader, "__iter__") or not is_stateful(loader):
            raise TypeError(
                f"StatefulFeed: found {type(loader).__name__}, expected __iter__, state_dict and load_state_dict"
            )
        super().__init__(type(loader).__name__, seed, known_length(loader))
        self._loader = loader
        self._standing: Position | None = START

    @property
    def dataset(self) -> Any:
        """The loader's data set; where it has none, the loader."""
        return getattr(self._loader, "dataset", self._loader)

    def settings(self) -> dict[str, Any]:
        """Describe the loader in plain values, as far as it tells."""
        return describe_loader(self._loader)

    def close(self) -> None:
        """End the walk and the worker processes; the loader is put to its place when the next batch is asked for."""
        super().close()
        end_workers(self._loader)
        if START in self._marks or self._standing != START:
            self._standing = None

    def _nearest(self, position: Position) -> Mark:
        known = [at for at in self._marks if at <= position]
        if not known and self._standing == START:
            self._marks[START] = Mark(START, state=self._first_state())
            known = [START]
        if not known:
            raise IndexError(
                f"{self._name} cannot go back to epoch {position.epoch}, batch {position.batch}: the earliest place that "
                f"its state is known of is epoch {min(self._marks).epoch}, batch {min(self._marks).batch}; load an "
                f"earlier checkpoint"
            )
        return self._marks[max(known)]

    def _open(self, mark: Mark) -> Walk:
        standing, self._standing = self._standing, None
        snapshot = partial(_snapshot, self._loader)
        iterator = self._iterate(mark, load=standing != mark.position)
        walk = Walk(iterator, mark, self._base_seed, snapshot)
        if mark.position.batch == 0 and walk.is_over():
            # Some take the state of an epoch's end for an epoch with nothing left.
            walk = Walk(self._iterate(mark, load=False), mark, self._base_seed, snapshot)
            if walk.is_over():
                raise ValueError(
                    f"{self._name} gave no batch in epoch {mark.position.epoch}, asked twice; expected at least one in "
                    f"each epoch: iterating over it again must begin the next epoch"
                )
        return walk

    def _iterate(self, mark: Mark, *, load: bool) -> Iterator[Any]:
        loader, epoch = self._loader, mark.position.epoch
        if load:
            self._load(mark)
        with aside(self._base_seed, "epoch", epoch), workers_leave_ctrl_c(loader):
            if epoch and not load and isinstance(loader, DataLoader):
                # Out of the state of an epoch's end torchdata makes two iterators, and the second is used. Each draws
                # a seed for its workers; so that they are the same, a draw is made here for the first.
                torch.empty((), dtype=torch.int64).random_()
            return iter(loader)

    def _load(self, mark: Mark) -> None:
        try:
            with aside(self._base_seed, "load", mark.position.epoch):
                self._loader.load_state_dict(plain_copy(self._name, mark.state))
        except Exception as error:
            raise ValueError(
                f"{self._name}.load_state_dict refused its state of epoch {mark.position.epoch}, batch "
                f"{mark.position.batch} ({type(error).__name__}: {error}); expected a loader made as the one that it was "
                f"saved with, with as many workers"
            ) from error

    def _end(self, walk: Walk) -> None:
        # The walk is not closed: workers that persist go on into the next epoch.
        self._standing = walk.mark.position

    def _first_state(self) -> Any:
        with aside(self._base_seed, "epoch", 0), workers_leave_ctrl_c(self._loader):
            return _snapshot(self._loader)


def _snapshot(loader: Any) -> Any:
    return plain_copy(f"{type(loader).__name__}.state_dict()", loader.state_dict())
