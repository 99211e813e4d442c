"""Files of the user's own kind: a function that makes an array of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from deeptrain.data.errors import DataError
from deeptrain.data.formats.base import Array, Part
from deeptrain.data.formats.checks import check_shape, native, said
from deeptrain.data.formats.registry import Format, Hints
from deeptrain.data.source import spell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class FunctionFormat(Format):
    """Files that a function reads whole.

    The function is called for the first file when the data are opened. The others are expected to be like it, in
    their number of rows too, and are held against that when they are read. Where sets differ, write a `Format`.

    Args:
        reader: Takes a path and gives an array or tensor of shape `(rows, ...)`; the same one each time. It is called
            by several threads and must not draw from a global random stream.
    """

    def __init__(self, reader: Callable[[Path], Any]) -> None:
        self._reader = reader
        self._first: tuple[Path, tuple[int, ...], np.dtype[Any]] | None = None

    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:  # noqa: ARG002 - the function knows
        """Call the function for the first file."""
        if self._first is None:
            values = read(self._reader, path)
            self._first = path, values.shape, native(path, values.dtype)
        return {"": FunctionPart(path, self._reader, *self._first)}


def read(reader: Callable[[Path], Any], path: Path) -> Array:
    """Call the user's function.

    Raises:
        DataError: It raised, or did not give an array with rows.
    """
    try:
        values = reader(path)
    except Exception as error:
        raise DataError(
            path,
            found=f"{type(error).__name__} from the reader ({said(error, path)})",
            expected="an array",
            remedy="Mend the reader or the file.",
        ) from error
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    if not isinstance(values, np.ndarray):
        raise DataError(
            path,
            found=f"{type(values).__name__} from the reader",
            expected="a numpy.ndarray or a torch.Tensor",
            remedy="Have it return numpy.asarray(...).",
        )
    native(path, values.dtype)
    check_shape(path, values.shape)
    return values


class FunctionPart(Part):
    """What the user's function gives for one file."""

    whole: ClassVar[bool] = True

    def __init__(
        self,
        path: Path,
        reader: Callable[[Path], Any],
        first: Path,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self.path, self.rows, self.shape, self.dtype = path, shape[0], shape[1:], dtype
        self._reader, self._first = reader, first

    def read_into(self, out: Array, start: int) -> None:
        """Call the function, and keep the rows that are wanted."""
        values = read(self._reader, self.path)
        if values.shape != (self.rows, *self.shape) or values.dtype.newbyteorder("=") != self.dtype:
            raise DataError(
                self.path,
                found=f"{len(values)} rows of {spell(values.shape[1:], values.dtype)}",
                expected=f"{self.rows} rows of {spell(self.shape, self.dtype)}, as the reader gave for {self._first.name}",
                remedy="Where sets differ, give a Format: Files(path, reader=MyFormat()).",
            )
        out[...] = values[start : start + len(out)]
