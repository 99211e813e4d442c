"""What the codec's two halves share: errors, tags, and dtypes as JSON."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from typing import Any

import numpy as np
import torch

from deeptrain.state.leaves import ARRAY_KINDS, DTYPE_NAMES, LeafError, refusal

# What safetensors holds in every version that is supported, by its own names; other dtypes are stored as uint8.
SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
NATURAL = frozenset(SAFETENSORS.values())
# The same for arrays: NumPy has neither bfloat16 nor floats of 8 bits.
ARRAY_NATURAL = {
    np.dtype(DTYPE_NAMES[t]): t for name, t in SAFETENSORS.items() if name != "BF16" and name[:2] != "F8"
}

MAPPING_TAGS: dict[type, str] = {dict: "$dict", OrderedDict: "$ordered", Counter: "$counter"}
SEQUENCE_TAGS: dict[type, str] = {tuple: "$tuple", torch.Size: "$size"}
_DTYPE = re.compile(r"[<>|=]?[?biufcmMSUVlLqQgG][0-9]{0,9}(\[[0-9]{0,9}[a-zA-Z]+\])?")
_FIELD = 3  # a field's name, dtype and shape
_NESTED = 8  # structured dtypes inside structured dtypes
TEXT_SCALARS = {"str": np.str_, "bytes": np.bytes_}  # of any length, also with zeros at the end


class CodecError(LeafError):
    """A state holds something that a checkpoint cannot. A TypeError; the message names the path."""


class DecodeError(ValueError):
    """What was read is not what this codec writes. The message names the path."""


def dtype_spec(path: str, dtype: np.dtype[Any]) -> Any:
    """A NumPy dtype as JSON, from which `dtype_of` makes it again.

    Raises:
        CodecError: It cannot be made again: fields with gaps or titles, no size, a type of some other library.
    """
    spec = _describe(dtype)
    try:
        again = dtype_of(path, spec)
    except DecodeError:
        again = None
    if again is None or again != dtype or again.type is not dtype.type or again.itemsize != dtype.itemsize:
        raise CodecError(
            refusal(
                path,
                f"NumPy values of dtype {dtype!r}, which is not made of plain fields without gaps and titles",
            )
        )
    return spec


def _describe(dtype: np.dtype[Any]) -> Any:
    if dtype.names is not None:
        fields = [(name, *(dtype[name].subdtype or (dtype[name], ()))) for name in dtype.names]
        return [[name, _describe(base), list(shape)] for name, base, shape in fields]
    if np.dtype(dtype.str).type is dtype.type:
        return dtype.str
    return dtype.str[0] + dtype.char  # a long long beside a long of the same size


def dtype_of(path: str, spec: Any) -> np.dtype[Any]:
    """The dtype that `dtype_spec` described.

    Raises:
        DecodeError: It describes none that may be read.
    """
    try:
        dtype = _build(spec, 0)
    except (TypeError, ValueError, OverflowError) as error:
        raise DecodeError(f"{path}: {str(spec)[:80]} is no NumPy dtype that may be read ({error})") from error
    if dtype.hasobject or dtype.kind not in ARRAY_KINDS or dtype.itemsize == 0:
        raise DecodeError(f"{path}: values of the dtype {dtype} cannot be read from bytes")
    return dtype


def _build(spec: Any, depth: int) -> np.dtype[Any]:
    if type(spec) is str and _DTYPE.fullmatch(spec):
        return np.dtype(spec)
    if type(spec) is not list or not spec or depth > _NESTED or not all(_is_field(field) for field in spec):
        raise ValueError("expected a dtype's code or a list of fields")
    return np.dtype([(name, _build(base, depth + 1), tuple(shape)) for name, base, shape in spec])


def _is_field(field: Any) -> bool:
    return type(field) is list and len(field) == _FIELD and type(field[0]) is str and is_shape(field[2])


def is_shape(shape: Any) -> bool:
    """Whether it is a list of lengths."""
    return type(shape) is list and all(type(n) is int and 0 <= n < 2**63 for n in shape)
