"""`Several`: validation loaders one after another as one feed, each by its name and perhaps only its first batches.

A pass goes through them in the order in which they were given. A batch's index counts through all of them, so that a place in
a pass is one number, as it is with one loader.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from deeptrain.data.feed import Position

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deeptrain.data.batch import Batch
    from deeptrain.data.feed import Feed
    from deeptrain.data.preprocess import Phase, Preprocessor
    from deeptrain.step.base import Outcome


class Several:
    """Feeds as one feed, of which a validation asks what it asks of one.

    Args:
        feeds: They, by name.
        limit: How many batches of each; None for all.

    Attributes:
        feeds: They, by name.
        limit: How many batches of each.

    Raises:
        ValueError: There are none, or one does not know its length.
    """

    preprocess: Preprocessor | None = None
    passed = 0

    def __init__(self, feeds: Mapping[str, Feed], limit: int | None = None) -> None:
        self.feeds, self.limit = dict(feeds), limit
        self._names = list(self.feeds)
        sizes = [self._size(name, feed) for name, feed in self.feeds.items()]
        self._ends = list(accumulate(sizes))
        self._at = 0

    def _size(self, name: str, feed: Feed) -> int:
        size = feed.batches
        if size is None and self.limit is None:
            raise ValueError(
                f"the validation loader {name!r} does not tell how many batches it has, which several of them must: give "
                "Validation(limit=...), or loaders with a length"
            )
        return (
            min(size, self.limit) if size is not None and self.limit is not None else size or self.limit or 0
        )

    # ------------------------------------------------------------------ where

    def name_of(self, index: int) -> str:
        """Which of them a batch of a pass is of."""
        return self._names[self._which(index)]

    def _which(self, index: int) -> int:
        return min(bisect_right(self._ends, index), len(self._ends) - 1)

    def _start(self, which: int) -> int:
        return self._ends[which - 1] if which else 0

    def _present(self) -> Feed:
        return self.feeds[self._names[self._which(self._at)]]

    @property
    def phase(self) -> Phase:
        """What the feeds are fed for."""
        return self._present().phase

    @phase.setter
    def phase(self, phase: Phase) -> None:
        for feed in self.feeds.values():
            feed.phase = phase

    @property
    def position(self) -> Position:
        """See `Feed`."""
        return Position(0, self._at)

    @property
    def batches(self) -> int | None:
        """See `Feed`."""
        return self._ends[-1]

    @property
    def rows_total(self) -> int:
        """See `Feed`."""
        return sum(feed.rows_total for feed in self.feeds.values())

    def seek(self, *, epoch: int, batch: int = 0) -> None:
        """See `Feed`; a pass has one epoch."""
        del epoch
        which = self._which(batch)
        for number, feed in enumerate(self.feeds.values()):
            feed.seek(epoch=0, batch=batch - self._start(which) if number == which else 0)
        self._at = batch

    def advance(self, *, whole: bool = True) -> bool:
        """See `Feed`."""
        which = self._which(self._at)
        feed = self._present()
        before = feed.position.batch
        if feed.advance(whole=whole):
            self._at = self._ends[which]  # also of one that had fewer batches than its limit
        else:
            self._at += feed.position.batch - before
        if self._at < self._ends[-1]:
            return False
        self._at = 0
        return True

    # ------------------------------------------------------------------ what

    def fetch(self) -> Batch:
        """See `Feed`."""
        return self._numbered(self._present().fetch())

    def whole(self) -> Batch:
        """See `Feed`."""
        return self._numbered(self._present().whole())

    def through(self, fn: Callable[[Batch], Outcome]) -> list[tuple[Batch, Outcome]]:
        """See `Feed`."""
        pieces = self._present().through(lambda batch: fn(self._numbered(batch)))
        return [(self._numbered(batch), outcome) for batch, outcome in pieces]

    def _numbered(self, batch: Batch) -> Batch:
        return replace(batch, index=self._at)

    def batch(self, epoch: int, batch: int, iteration: int = 0) -> Batch:
        """See `Feed`."""
        which = self._which(batch)
        found = self.feeds[self._names[which]].batch(epoch, batch - self._start(which), iteration)
        return replace(found, index=batch)

    def fed(self, epoch: int, batch: int, iteration: int) -> Batch:
        """See `Feed`."""
        which = self._which(batch)
        found = self.feeds[self._names[which]].fed(epoch, batch - self._start(which), iteration)
        return replace(found, index=batch)

    # ------------------------------------------------------------------ settings

    def settings(self) -> dict[str, Any]:
        """See `Feed`."""
        limited = {} if self.limit is None else {"limit": self.limit}
        return {name: feed.settings() for name, feed in self.feeds.items()} | limited

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """See `Feed`."""
        for name, feed in self.feeds.items():
            feed.adopt(settings[name])

    def close(self) -> None:
        """See `Feed`."""
        for feed in self.feeds.values():
            feed.close()
