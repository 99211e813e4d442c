"""The orders that a `DataLoader`'s own samplers draw, repeatable: by epoch, under seeded streams, from known states."""

from __future__ import annotations

import operator
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.data.dataset import known_length
from deeptrain.data.seeded import Work, count_repeats, seed_streams, streams_put_back
from deeptrain.integrations.states import is_stateful, plain_copy
from deeptrain.state.hashing import mix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.utils.data import DataLoader

    from deeptrain.data.batch import RowIds
    from deeptrain.data.feed import Position

MOST_ROWS = (
    10_000_000  # of an epoch whose sampler says no length, where the data set has fewer than a thousandth
)


class Plan:
    """One epoch's order: all indices in one array, and where each batch begins.

    Args:
        batches: The batches' indices.
        epoch: The epoch, for messages.

    Attributes:
        rows: The epoch's indices, int64.
        batches: How many batches there are.
        digest: A hash of the order.
    """

    def __init__(self, batches: list[list[int]], epoch: int) -> None:
        if not any(batches) or not all(batches):
            raise ValueError(
                f"DataLoader: its batch sampler gave {'an empty batch' if batches else 'no batch'}, and so no rows in "
                f"epoch {epoch}; expected at least one row in each batch (is the data set smaller than batch_size with "
                f"drop_last?)"
            )
        self.rows = np.array([row for batch in batches for row in batch], np.int64)
        self._starts = np.cumsum([0, *map(len, batches)], dtype=np.int64)
        self._repeats = count_repeats(self.rows)
        self.batches = len(batches)
        self.digest = blake2b(self._starts.tobytes() + self.rows.tobytes(), digest_size=8).hexdigest()

    def batch_rows(self, batch: int) -> RowIds:
        """Give a batch's indices; a fresh array."""
        return self.rows[self._starts[batch] : self._starts[batch + 1]].copy()

    def work(self, position: Position) -> Iterator[Work]:
        """Give the batches from a position on, as they are sent to workers."""
        bounds = self._starts[position.batch :].tolist()
        for batch, (start, stop) in enumerate(pairwise(bounds), position.batch):
            repeats = None if self._repeats is None else self._repeats[start:stop].tolist()
            yield Work(position.epoch, batch, self.rows[start:stop].tolist(), repeats)


class Orders:
    """Draws the order of any epoch from a loader's batch sampler, whole, and leaves every generator as it was.

    A sampler with `state_dict` and `load_state_dict` is put to its state at the epoch's start before each draw. That
    state is known for the first epoch, and for any later one after the orders before it have been drawn.

    Args:
        loader: The loader; it is read from and not changed.
        seed: What the random streams are seeded from, together with the epoch.
    """

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        self.seed = seed
        inner = getattr(loader.batch_sampler, "sampler", None)
        self._samplers: list[Any] = [loader.batch_sampler, inner, loader.sampler]
        owners = [owner for owner in (loader, *self._samplers) if _has_generator(owner)]
        self._generators = list({id(owner.generator): owner.generator for owner in owners}.values())
        stateful = {id(sampler): sampler for sampler in self._samplers if is_stateful(sampler)}
        self._stateful: list[Any] = list(stateful.values())
        self._rows = known_length(loader.dataset)
        self._starts: dict[int, list[Any]] = {0: self._capture()}
        self._cached: tuple[int, Plan] | None = None

    def plan(self, epoch: int) -> Plan:
        """Give an epoch's order; that of the newest epoch is kept."""
        cached = self._cached
        if cached is None or cached[0] != epoch:
            self._cached = cached = (epoch, self.draw(epoch))
        return cached[1]

    def draw(self, epoch: int) -> Plan:
        """Draw an epoch's order anew."""
        if not self._stateful:
            return self._draw(epoch)
        known = max(start for start in self._starts if start <= epoch)
        for earlier in range(known, epoch):
            self._draw(earlier)
        plan = self._draw(epoch)
        self._starts = {at: state for at, state in self._starts.items() if at in {0, epoch, epoch + 1}}
        return plan

    def state(self, epoch: int) -> list[Any] | None:
        """Give the samplers' states at an epoch's start; None if they keep none."""
        if not self._stateful:
            return None
        self.plan(epoch)
        return self._starts[epoch]

    def restore(self, epoch: int, state: list[Any]) -> None:
        """Take the samplers' states at an epoch's start from a record."""
        if len(state) != len(self._stateful):
            raise ValueError(
                f"TorchFeed state does not fit: it has the states of {len(state)} samplers, and {len(self._stateful)} of "
                f"this DataLoader have state_dict and load_state_dict; expected the samplers that it was saved with"
            )
        if state:
            self._starts = {0: self._starts[0], epoch: plain_copy("sampler", state)}
            self._cached = None

    def reseed(self, seed: int) -> None:
        """Draw from another seed from now on."""
        self.seed, self._cached = seed, None
        self._starts = {0: self._starts[0]}

    def _capture(self) -> list[Any]:
        return [plain_copy(f"{type(s).__name__}.state_dict()", s.state_dict()) for s in self._stateful]

    def _load(self, states: list[Any]) -> None:
        for sampler, state in zip(self._stateful, states, strict=True):
            sampler.load_state_dict(plain_copy("sampler", state))

    def _draw(self, epoch: int) -> Plan:
        with streams_put_back(self._generators):
            present = self._capture()
            try:
                self._load(self._starts[epoch] if self._stateful else [])
                # After the state is loaded, which would put another epoch back.
                self._seed_for(epoch)
                batches = self._ask()
                if not batches and self._stateful:
                    batches = (
                        self._ask()
                    )  # some take the state of an epoch's end for an epoch with nothing left
                self._starts[epoch + 1] = self._capture()
            finally:
                self._load(present)
            return Plan(batches, epoch)

    def _seed_for(self, epoch: int) -> None:
        for number, generator in enumerate(self._generators):
            generator.manual_seed(mix(self.seed, "sampler", epoch, number))
        for sampler in self._samplers:
            if callable(getattr(sampler, "set_epoch", None)):
                sampler.set_epoch(epoch)
        seed_streams(mix(self.seed, "order", epoch))

    def _ask(self) -> list[list[int]]:
        sampler, batches, rows = self._samplers[0], [], 0
        most = None if known_length(sampler) is not None else max(MOST_ROWS, 1000 * (self._rows or 0))
        try:
            for batch in sampler:
                batches.append([operator.index(row) for row in batch])
                rows += len(batches[-1])
                if most is not None and rows > most:
                    raise ValueError(
                        f"DataLoader: its batch sampler {type(sampler).__name__} has no length and gave more than "
                        f"{most} rows for one epoch; expected an end: let each epoch's __iter__ end after some number"
                    )
        except TypeError as error:
            raise TypeError(
                f"DataLoader: its batch sampler {type(sampler).__name__} gave something other than lists of whole "
                f"numbers ({error}); expected indices of the data set"
            ) from error
        return batches


def _has_generator(owner: Any) -> bool:
    return isinstance(getattr(owner, "generator", None), torch.Generator)
