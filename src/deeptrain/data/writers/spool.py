"""Rows put aside in a file as they come, so that afterwards they can be had in any order without memory for all."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.writers.cutting import FIRST_ROOM, NO_ROWS, joined_to_sets
from deeptrain.data.writers.rows import ArrayTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from deeptrain.data.formats.base import Array
    from deeptrain.data.writers.cutting import Columns
    from deeptrain.data.writers.rows import Block, Table


class Spool:
    """A growing file of rows, all of one shape and dtype. As a context it removes the file at its end.

    Args:
        path: The file to make.

    Attributes:
        rows: How many were appended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("xb")
        self._row: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self.rows = 0

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def add(self, rows: Array) -> None:
        """Append rows of shape `(n, ...)`."""
        self._row = (rows.shape[1:], rows.dtype)
        self.rows += len(rows)
        self._file.write(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)

    def values(self) -> Array:
        """Map what was appended, as one array of shape `(rows, ...)`."""
        assert self._row is not None
        self._file.flush()
        shape, dtype = self._row
        return np.memmap(self._path, dtype, "r", shape=(self.rows, *shape))


@contextmanager
def spools(directory: Path) -> Iterator[dict[str, Spool]]:
    """Give spools in a directory by their names, made when they are asked for and removed at the end."""
    with ExitStack() as files:
        yield _Spools(directory, files)


class _Spools(dict[str, Spool]):
    """Makes what is missing."""

    def __init__(self, directory: Path, files: ExitStack) -> None:
        self._directory, self._files = directory, files

    def __missing__(self, name: str) -> Spool:
        self[name] = made = self._files.enter_context(Spool(self._directory / f".{name}"))
        return made


@contextmanager
def spooled(blocks: Iterable[Block], directory: Path, per_set: int) -> Iterator[Table]:
    """Put a stream's rows aside and give them as a table; what is put aside is removed at the end.

    Args:
        blocks: The stream's rows.
        directory: Where to put them.
        per_set: Rows for which there is memory.

    Raises:
        ValueError: The rows are not all alike, or there are none.
    """
    with spools(directory) as aside:
        _put_aside(joined_to_sets(blocks, min(per_set, FIRST_ROOM), short=True), aside)
        if not aside:
            raise ValueError(NO_ROWS)
        yield ArrayTable({name.removeprefix("all "): spool.values() for name, spool in aside.items()})


def _put_aside(parts: Iterable[Columns], aside: dict[str, Spool]) -> None:
    """Append all parts. A function of its own, so that the last part's memory is free when it returns."""
    for part in parts:
        for name, values in part.items():
            aside[f"all {name}"].add(values)
