"""Values as arrays of a dtype that can be stored and read again, and casts that lose nothing unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.data.source import spell

if TYPE_CHECKING:
    from deeptrain.data.formats.base import Array


def as_array(value: Any, name: str, row: int) -> Array:
    """Give a tensor, array, number or nested list as an array in this machine's byte order; shared where it can be.

    Args:
        value: The value.
        name: What it is, for messages.
        row: The row that it is or begins with, for messages.

    Raises:
        TypeError: It is no array of numbers or booleans that torch has a dtype for.
    """
    if isinstance(value, list | tuple) and any(isinstance(part, np.ndarray | torch.Tensor) for part in value):
        raise TypeError(
            f"write_sets: {name} {row} is a {type(value).__name__} of several arrays, expected one: write each of several "
            f"inputs into a directory of its own, with the same shuffle, and read them as Files([one, other])"
        )
    try:
        array = _tensor(value) if isinstance(value, torch.Tensor) else np.asarray(value)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # ragged lists; bfloat16, sparse and quantised tensors
        raise TypeError(
            f"write_sets: {name} {row} is {_kind(value)}, which is no array ({error}); expected numbers or booleans of "
            f"one shape: convert it first, a bfloat16 tensor for example with tensor.float()"
        ) from error
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not storable(array.dtype):
        raise TypeError(
            f"write_sets: {name} {row} is {_kind(value)} of dtype {array.dtype}, expected numbers or booleans that torch "
            f"has a dtype for"
        )
    return array


def _tensor(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
    return array


def _kind(value: Any) -> str:
    return spell(value.shape, value.dtype) if isinstance(value, torch.Tensor) else type(value).__name__


def storable(dtype: np.dtype[Any]) -> bool:
    """Whether torch has the dtype too, so that what is written can be read."""
    try:
        torch.from_numpy(np.empty(0, dtype))
    except TypeError:
        return False
    return True


def as_dtype(value: Any) -> np.dtype[Any]:
    """Give the dtype that NumPy, torch or a text names.

    Raises:
        ValueError: There is no such dtype, or torch has none for it.
    """
    try:
        dtype = (
            torch.empty(0, dtype=value).numpy().dtype if isinstance(value, torch.dtype) else np.dtype(value)
        )
    except TypeError:
        dtype = np.dtype(object)
    if not storable(dtype):
        raise ValueError(f"dtype: found {value!r}, expected one that NumPy and torch have, such as 'float32'")
    return dtype


def cast(values: Array, dtype: np.dtype[Any], first: int) -> Array:
    """Cast rows. Numbers may be rounded to a floating-point dtype; anything else that would be lost is refused.

    Args:
        values: Of shape `(n, ...)`.
        dtype: What to cast to.
        first: The number of the first row, for the message.

    Raises:
        ValueError: A value has no place in the dtype: 300 in uint8, 0.5 in int64, 1e6 in float16.
    """
    if values.dtype == dtype:
        return values
    if values.dtype.kind == "c" and dtype.kind != "c":
        raise ValueError(
            f"write_sets: row {first} is {values.dtype}, which {dtype} cannot hold; take real or imag first"
        )
    with np.errstate(all="ignore"):  # what numpy would warn of is looked for below
        cast_values = values.astype(dtype)
        lost = np.isinf(cast_values) & ~np.isinf(values) if dtype.kind in "fc" else cast_values != values
    if lost.any():
        place = np.unravel_index(int(lost.argmax()), lost.shape)
        raise ValueError(
            f"write_sets: row {first + int(place[0])} holds {values[place]!s} ({values.dtype}), which {dtype} cannot "
            f"hold; choose a dtype with room for it, or scale the data first"
        )
    return cast_values
