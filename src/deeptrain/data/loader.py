"""`BatchLoader`: batches of a source in a reproducible order, at any position, with a cursor of consumed ones."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from deeptrain.data.batch import Batch, RowIds, SetTable, map_tensors
from deeptrain.data.feed import CursorFeed
from deeptrain.data.order import Last, Order, Shuffle
from deeptrain.data.source import RangeSource, Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SAMPLE = 32  # rows that are looked at to notice other data


class BatchLoader(CursorFeed):
    """Loads batches of a source; usable in any loop, and exactly resumable.

    Iterating gives the rest of the present epoch. A batch counts as consumed when it is handed out; after the last one
    the cursor stands at the start of the next epoch.

    Args:
        source: `Arrays`, `Files`, or anything that follows the `Source` protocol.
        batch_size: Rows in a batch; any number, whatever the sets' sizes.
        shuffle: None, `"sets"` (order of the sets), `"samples"` (rows within groups of sets), `"global"` (all rows), or
            True for `"global"`.
        seed: The order's seed; with the epoch and the batch's index it alone says which rows come.
        group: Sets in a group, under `"samples"`.
        last: Whether a short last batch is `"keep"`-ed or `"drop"`-ped.

    Raises:
        ValueError: A setting is out of range, or there are no rows.
        TypeError: The source is none.

    Example:
        >>> import torch
        >>> from deeptrain.data import Arrays
        >>> loader = BatchLoader(Arrays(torch.zeros(10, 4)), batch_size=4)
        >>> [batch.size for batch in loader]
        [4, 4, 2]
    """

    changeable: ClassVar[tuple[str, ...]] = ("batch_size", "shuffle", "seed", "group", "last")

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        shuffle: Shuffle = None,
        seed: int = 0,
        group: int = 8,
        last: Last = "keep",
    ) -> None:
        super().__init__()
        if not isinstance(source, Source):
            raise TypeError(
                f"BatchLoader: found {type(source).__name__} as source, expected dt.Arrays, dt.Files or another Source; "
                f"wrap tensors and arrays: dt.Arrays(inputs, targets)"
            )
        self.source = source
        self._sample: int | None = None
        self._table = SetTable(source.set_names, source.set_sizes)
        self._ranges = source if isinstance(source, RangeSource) else None
        self._order = Order(self._table.sizes, batch_size, shuffle, seed, group=group, last=last)

    @property
    def rows_total(self) -> int:
        """Rows of the source."""
        return self._order.rows_total

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self._order.batches

    def __iter__(self) -> Iterator[Batch]:
        """Give the rest of the cursor's epoch, moving the cursor along."""
        return _RestOfEpoch(self)

    def rows(self, epoch: int, batch: int) -> RowIds:
        """Give the source's row ids of any batch: int64 of shape `(size,)`; nothing is read.

        Raises:
            IndexError: There is no such batch.
        """
        return self._order.rows(epoch, batch)

    def batch(self, epoch: int, batch: int) -> Batch:
        """Read any batch; the cursor stays where it is.

        Raises:
            IndexError: There is no such batch.
        """
        return self._read(epoch, batch)

    def settings(self) -> dict[str, Any]:
        """Describe source and order in plain values."""
        if self._sample is None:
            self._sample = _checksum(self.source)
        return {"source": self.source.describe() | {"sample": self._sample}} | {
            name: getattr(self._order, name) for name in self.changeable
        }

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take the order's settings from a record.

        Where they differ from the present ones the cursor goes to its epoch's start, as a place within an epoch has no
        meaning under another order.

        Args:
            settings: What `settings` gave; entries that are missing stay as they are, the source's is not looked at.

        Raises:
            ValueError: A setting is out of range.
        """
        present = {name: getattr(self._order, name) for name in self.changeable}
        wanted = present | {name: settings[name] for name in self.changeable if name in settings}
        if wanted != present:
            self._order = Order(self._table.sizes, **wanted)
            self.seek(epoch=self.position.epoch)

    def _batches_in(self, epoch: int) -> int:  # noqa: ARG002 - every epoch has the same number here
        return self._order.batches

    def _read(self, epoch: int, batch: int) -> Batch:
        rows = self._order.rows(epoch, batch)
        if self._ranges is not None and self._order.shuffle is None:
            inputs, targets = self._ranges.read_range(*self._order.span(epoch, batch))
        else:
            inputs, targets = self.source.read(rows)
        return Batch(inputs, targets, epoch, batch, rows, self._table)


def _checksum(source: Source) -> int:
    """A checksum of some rows spread over the source, to notice that its data were changed since."""
    rows = np.unique(np.linspace(0, source.n_rows - 1, SAMPLE).astype(np.int64))
    found = 0

    def add(tensor: torch.Tensor) -> None:
        nonlocal found
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = zlib.crc32(plain.numpy().tobytes(), found)

    map_tensors(source.read(rows), add)
    return found


class _RestOfEpoch:
    """An iterator over what is left of an epoch; after an error it goes on where a generator would end."""

    def __init__(self, loader: BatchLoader) -> None:
        self._loader = loader
        self._epoch = loader.position.epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._loader.position.epoch != self._epoch:
            raise StopIteration
        batch = self._loader.fetch()
        self._loader.advance()
        return batch
