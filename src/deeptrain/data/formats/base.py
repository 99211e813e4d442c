"""`Part`: the rows of one set in one column (the inputs, or the labels), wherever and however they are stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.batch import RowIds

Array: TypeAlias = npt.NDArray[Any]


class Part(ABC):
    """One set's values. Made by a reader from a header alone; nothing is read before `read_into`.

    Attributes:
        path: The file, for messages.
        rows: How many rows there are.
        shape: One row's shape.
        dtype: The values' dtype in this machine's byte order, one that torch has too.
        whole: Whether reading a few rows costs as much as reading all (what is compressed, or text). Then it is read
            once and kept for as long as the next batches need it.
    """

    whole: ClassVar[bool] = False

    path: Path
    rows: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of all values, as they are in memory."""
        return self.rows * int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @abstractmethod
    def read_into(self, out: Array, start: int) -> None:
        """Fill an array with the rows from `start` on. Several threads may call it at once.

        Args:
            out: Of shape `(n, *shape)` and `dtype`, C-contiguous; `start + n` is at most `rows`.
            start: The first row.

        Raises:
            DataError: The values cannot be read, or are not those of the header.
        """

    def pick_into(self, out: Array, places: RowIds, rows: RowIds) -> None:
        """Put chosen rows in chosen places: `out[places[i]] = self[rows[i]]`, where `rows` ascends."""
        for place, row in zip(places.tolist(), rows.tolist(), strict=True):
            self.read_into(out[place : place + 1], row)

    def standing(self) -> Array | None:
        """Give all rows as they stand in memory, to be copied from at once; None where they are not there."""
        return None

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of files and maps; the next read opens them again."""
