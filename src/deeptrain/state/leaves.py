"""The leaves of a state tree: which values there may be, their bytes, and how two of them differ."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

MAPPINGS = frozenset({dict, OrderedDict, Counter})
SEQUENCES = frozenset({list, tuple, torch.Size})
CONTAINERS = MAPPINGS | SEQUENCES
TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})
ARRAY_KINDS = frozenset("biufcmMSUV")
_FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2")
_FLOATS_MORE = ("float8_e5m2fnuz", "float8_e8m0fnu", "complex128", "complex64")
_INTS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in (*_FLOATS, *_FLOATS_MORE, *_INTS)}
DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

ALLOWED = (
    "None, bool, int, float, str, dense tensors, NumPy arrays and scalars without objects, and dict, OrderedDict, "
    "Counter, list, tuple and torch.Size of these with str or int keys"
)
_REMEDY = "give it from state_dict() in one of these forms and rebuild it in load_state_dict()"
_LENGTH = 60  # of a value shown in a message


class LeafError(TypeError):
    """A state tree holds something that cannot be part of a state."""


class Leaf(NamedTuple):
    """What two leaves are compared by; equal where the two are the same bit for bit.

    Attributes:
        kind: The type, such as "float", "tensor", "array", "numpy.int64"; a parameter counts as a tensor.
        dtype: "" where there is none.
        shape: () where there is none.
        data: The bytes: of arrays row-major, of floats the 8 bytes of IEEE 754.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


def refusal(path: str, found: str) -> str:
    """The message for a value that cannot be part of a state."""
    return f"{path or 'the tree itself'}: found {found}; a state holds {ALLOWED}; {_REMEDY}"


def check_tensor(path: str, tensor: torch.Tensor, error: type[LeafError] = LeafError) -> None:
    """Refuse tensors that have no plain bytes: subclasses, sparse, quantized, without storage."""
    if type(tensor) not in TENSORS:
        raise error(refusal(path, f"a tensor of the class {_name(type(tensor))}"))
    if tensor.layout is not torch.strided:
        raise error(refusal(path, f"a tensor of layout {tensor.layout}"))
    if tensor.dtype not in DTYPE_NAMES:
        raise error(refusal(path, f"a tensor of dtype {tensor.dtype}"))
    if tensor.device.type == "meta":
        raise error(refusal(path, "a tensor on the device 'meta', which has no values"))


def check_dtype(path: str, dtype: np.dtype[Any], error: type[LeafError] = LeafError) -> None:
    """Refuse arrays and scalars whose bytes do not hold the values: objects, variable-length strings."""
    if dtype.kind not in ARRAY_KINDS or dtype.hasobject:
        raise error(refusal(path, f"NumPy values of dtype {dtype}"))


def byte_view(tensor: torch.Tensor) -> torch.Tensor:
    """The row-major bytes of a dense tensor as a flat uint8 tensor; a view where it is contiguous."""
    flat = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    if flat.stride(0) != 1:  # of at most one element, whose stride says nothing and yet stops `view`
        flat = flat.as_strided(flat.shape, (1,))
    return flat.view(torch.uint8)


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The row-major bytes of a dense tensor; a view of its memory where it is contiguous and on the CPU."""
    return byte_view(tensor.cpu()).numpy().data


def array_bytes(array: np.ndarray[Any, Any]) -> memoryview:
    """The row-major bytes of an array; a view of its memory where it is contiguous."""
    if array.nbytes == 0:
        return memoryview(b"")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


_PLAIN: dict[type, Callable[[Any], Leaf]] = {
    type(None): lambda _: Leaf("None", "", (), b""),
    bool: lambda x: Leaf("bool", "", (), b"\1" if x else b"\0"),
    int: lambda x: Leaf("int", "", (), b"%x" % x),
    float: lambda x: Leaf("float", "", (), struct.pack("<d", x)),
    str: lambda x: Leaf("str", "", (), x.encode("utf-8", "surrogatepass")),
}


def leaf(path: str, value: Any) -> Leaf:
    """What a value is compared and hashed by.

    Raises:
        LeafError: It cannot be part of a state.
    """
    kind = type(value)
    if (plain := _PLAIN.get(kind)) is not None:
        return plain(value)
    if isinstance(value, torch.Tensor):
        check_tensor(path, value)
        return Leaf("tensor", DTYPE_NAMES[value.dtype], tuple(value.shape), tensor_bytes(value))
    if kind is np.ndarray:
        check_dtype(path, value.dtype)
        return Leaf("array", _dtype_text(value.dtype), value.shape, array_bytes(value))
    if isinstance(value, np.generic):
        check_dtype(path, value.dtype)
        name = f"numpy.{kind.__name__}"
        return Leaf(name, _dtype_text(value.dtype), (), np.asarray(value).tobytes())
    if kind in CONTAINERS and not value:
        return Leaf(f"empty {kind.__name__}", "", (), b"")
    raise LeafError(refusal(path, f"a {_name(kind)}"))


def _dtype_text(dtype: np.dtype[Any]) -> str:
    return dtype.str if dtype.names is None else str(dtype)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def short(value: Any) -> str:
    """A value in a few words, for messages."""
    if isinstance(value, torch.Tensor):
        return f"tensor {str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"array {value.dtype} {list(value.shape)}"
    text = f"{type(value).__name__} ({value})" if isinstance(value, np.generic) else repr(value)
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 3]}..."


def count_differing(a: Leaf, b: Leaf) -> tuple[int, np.ndarray[Any, np.dtype[np.bool_]]]:
    """How many elements of two arrays of the same dtype and shape differ in their bytes, and which."""
    count = int(np.prod(a.shape))
    rows = (np.frombuffer(a.data, np.uint8) != np.frombuffer(b.data, np.uint8)).reshape(count, -1)
    differ = rows.any(axis=1)
    return int(differ.sum()), differ


def largest_difference(a: Any, b: Any, differ: np.ndarray[Any, np.dtype[np.bool_]]) -> float | None:
    """The largest absolute difference of the elements that differ: NaN where one has no number, None for text."""
    x, y = _numbers(a), _numbers(b)
    if x is None or y is None:
        return None
    with np.errstate(all="ignore"):
        return float(np.abs(x[differ] - y[differ]).max())


def _numbers(value: Any) -> np.ndarray[Any, Any] | None:
    if isinstance(value, torch.Tensor):
        wide = torch.complex128 if value.is_complex() else torch.float64
        return value.detach().cpu().reshape(-1).to(wide).numpy()
    if value.dtype.kind not in "biufc":
        return None
    return np.asarray(value).reshape(-1).astype(np.complex128 if value.dtype.kind == "c" else np.float64)
