"""What every reader checks before it hands out an array: its dtype, its shape, how much memory its header claims."""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
TORCH = frozenset(
    map(np.dtype, ("bool", *INTEGERS, "float16", "float32", "float64", "complex64", "complex128"))
)
SAID = 200  # characters of a library's own message
SLACK = 1 << 20


def native(path: Path, stored: np.dtype[Any]) -> np.dtype[Any]:
    """Give a dtype in this machine's byte order.

    Raises:
        DataError: torch has none like it, or it holds Python objects.
    """
    if stored.hasobject:
        found = "pickled Python objects, which are not loaded"
    elif stored.newbyteorder("=") in TORCH:
        return stored.newbyteorder("=")
    else:
        found = f"dtype {stored}"
    raise DataError(
        path,
        found=found,
        expected="numbers or booleans that torch has a dtype for",
        remedy="Convert the array, for example with array.astype(numpy.float32), and save it again.",
    )


def check_shape(path: Path, shape: Sequence[int]) -> None:
    """Refuse an array without rows or without values in them.

    Raises:
        DataError: It holds no row.
    """
    if not shape or 0 in shape:
        raise DataError(
            path,
            found=f"an array of shape {tuple(shape)}, which holds no row",
            expected="at least one row, along the first axis",
            remedy="Remove the file or write its rows.",
        )


def nbytes(shape: Sequence[int], dtype: np.dtype[Any]) -> int:
    """Count an array's bytes, however absurd its shape is."""
    return math.prod(shape) * dtype.itemsize


def check_ratio(path: Path, claimed: int, ratio: int) -> None:
    """Refuse a claim that no file of this size can hold, before memory is asked for.

    Args:
        path: The compressed file.
        claimed: Bytes that its header claims.
        ratio: The most bytes that its codec can make of one.

    Raises:
        DataError: The claim is too large.
    """
    stored = path.stat().st_size
    if claimed > stored * ratio + SLACK:
        raise DataError(
            path,
            found=f"{stored} bytes that claim to hold {claimed}",
            expected=f"at most {ratio} times the file's size, the most that its codec can make of it",
            remedy="The file is damaged: write or copy it again.",
        )


def unreadable(path: Path, what: str, error: BaseException) -> DataError:
    """Make the error for a file that its library does not read."""
    return DataError(
        path,
        found=f"no readable {what} ({said(error, path)})",
        expected=f"{what} that is whole and undamaged",
        remedy="Write or copy the file again.",
    )


def said(error: BaseException, path: Path) -> str:
    """Give another library's message in one short line and without the file's place, which may change."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(text.replace(str(path), path.name).split())
    return (text if len(text) <= SAID else text[:SAID] + "...") or type(error).__name__


def needed(module: str, extra: str) -> Any:
    """Import a library that only one format needs.

    Raises:
        ImportError: It is not installed; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"reading this format needs {module.partition('.')[0]}, which cannot be imported ({error}): "
            f"pip install 'deeptrain[{extra}]'"
        ) from error
