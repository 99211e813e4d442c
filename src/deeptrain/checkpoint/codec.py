"""The codec: a state tree to plain JSON values and named tensors, and back, with every type kept.

JSON says most values as they are. What it cannot say is an object with one tag as its first key:

    {"$float": "inf"}                       inf, -inf, or a NaN's 16 hexadecimal digits
    {"$int": "0x1f..."}                     an int beyond 64 bits
    {"$str": "eda080"}                      a str with half a surrogate pair, as UTF-8 in hexadecimal digits
    {"$tuple": [...]}, {"$size": [...]}     tuple, torch.Size
    {"$dict": [[key, value], ...]}          a dict with int keys, or with keys that begin with "$"
    {"$ordered": [...]}, {"$counter": ...}  OrderedDict, Counter
    {"$tensor": name, "dtype", "shape"}     a tensor, by its name in the tensors file
    {"$array": name, "dtype", "shape"}      an array, likewise
    {"$scalar": "0000803f", "dtype"}        a NumPy scalar's bytes as hexadecimal digits

A tensor's name is the path where it is first met; aliases have the same name and come back as one object.
Dtypes that safetensors may not hold go as uint8. Reading executes nothing: unknown tags are refused.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.checkpoint.decoder import Decoder
from deeptrain.checkpoint.forms import (
    ARRAY_NATURAL,
    MAPPING_TAGS,
    NATURAL,
    SEQUENCE_TAGS,
    CodecError,
    DecodeError,
    dtype_spec,
)
from deeptrain.state.leaves import (
    CONTAINERS,
    DTYPE_NAMES,
    MAPPINGS,
    byte_view,
    check_dtype,
    check_tensor,
    refusal,
)
from deeptrain.state.tree import MAX_DEPTH, children, join

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    Array = np.ndarray[Any, Any]

__all__ = ["CodecError", "DecodeError", "Encoded", "decode", "encode"]

_INT_BITS = 63
_RESERVED = ("", "__metadata__")  # as a name in the tensors file they say nothing, or something else


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded tree.

    Attributes:
        json: Plain values: dict with str keys, list, str, int, finite float, bool, None.
        tensors: By path. They share memory with the tree's tensors wherever that is possible.
    """

    json: Any
    tensors: dict[str, torch.Tensor]


# ---------------------------------------------------------------------- encoding


def encode(tree: Any) -> Encoded:
    """Encode a state tree. Tensors are not copied where they are stored as they are.

    `requires_grad` is dropped and a parameter is stored as a tensor. Tensors that are the same memory read in
    the same way (tied weights) are stored once; other views of one storage are stored each for itself.

    Raises:
        CodecError: It holds something else than a state tree may; the message names path, type and remedy.
    """
    encoder = _Encoder()
    return Encoded(encoder.value("", tree, 0), encoder.tensors)


class _Encoder:
    """One tree's way to JSON and tensors."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[Hashable, str] = {}

    def value(self, path: str, value: Any, depth: int) -> Any:
        kind = type(value)
        plain = _PLAIN.get(kind)
        if plain is not None:
            return plain(value)
        if kind in CONTAINERS:
            return self._container(path, value, depth)
        if isinstance(value, torch.Tensor):
            return self._tensor(path, value)
        if kind is np.ndarray:
            return self._array(path, value)
        if isinstance(value, np.generic):
            return _scalar(path, value)
        raise CodecError(refusal(path, f"a {kind.__module__}.{kind.__qualname__}"))

    def _container(self, path: str, node: Any, depth: int) -> Any:
        if depth >= MAX_DEPTH and node:
            raise CodecError(
                f"{path[:60]}...: deeper than {MAX_DEPTH} levels: does the state contain itself?"
            )
        kind = type(node)
        if kind not in MAPPINGS:
            items = [self.value(join(path, n), child, depth + 1) for n, child in children(node)]
            return items if kind is list else {SEQUENCE_TAGS[kind]: items}
        pairs = [[key, self.value(_key_path(path, key), child, depth + 1)] for key, child in node.items()]
        if kind is dict and all(type(key) is str and key[:1] != "$" for key in node):
            return dict(pairs)
        if len({str(key) for key in node}) < len(node):
            raise CodecError(
                f"{path or 'the tree itself'}: an int key and a str key are written alike: {list(node)}"
            )
        return {MAPPING_TAGS[kind]: pairs}

    def _tensor(self, path: str, tensor: torch.Tensor) -> dict[str, Any]:
        check_tensor(path, tensor, CodecError)
        key = _memory(tensor, tensor.data_ptr(), tensor.stride())
        if key not in self._names:
            self._store(key, path, _storable(tensor))
        return {"$tensor": self._names[key], "dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape)}

    def _array(self, path: str, array: Array) -> dict[str, Any]:
        check_dtype(path, array.dtype, CodecError)
        spec = dtype_spec(path, array.dtype)
        key = _memory(array, array.__array_interface__["data"][0], array.strides)
        if key not in self._names:
            self._store(key, path, _array_tensor(array))
        return {"$array": self._names[key], "dtype": spec, "shape": list(array.shape)}

    def _store(self, key: Hashable, path: str, tensor: torch.Tensor) -> None:
        name = f"{path}\\" if path in _RESERVED else path  # no path ends in one backslash
        self.tensors[name] = tensor
        self._names[key] = name


def _key_path(path: str, key: Any) -> str:
    if type(key) is int and -(2**_INT_BITS) <= key < 2**_INT_BITS:
        return join(path, key)
    if type(key) is not str:
        raise CodecError(refusal(path, f"the key {key!r} of the type {type(key).__name__}"))
    if not _is_text(key):
        raise CodecError(refusal(path, f"the key {key!r}, which is no valid Unicode"))
    return join(path, key)


def _scalar(path: str, value: np.generic) -> dict[str, Any]:
    check_dtype(path, value.dtype, CodecError)
    if type(value) is np.str_:
        return {"$scalar": value.encode("utf-8", "surrogatepass").hex(), "dtype": "str"}
    if type(value) is np.bytes_:
        return {"$scalar": bytes(value).hex(), "dtype": "bytes"}
    return {"$scalar": np.asarray(value).tobytes().hex(), "dtype": dtype_spec(path, value.dtype)}


def _memory(thing: Any, pointer: int, strides: tuple[int, ...]) -> Hashable:
    """Equal for two tensors, or two arrays, that read the same memory in the same way."""
    if 0 in thing.shape:
        return id(thing)  # where there are no bytes, an address says nothing
    if isinstance(thing, torch.Tensor):
        signs = thing.is_conj(), thing.is_neg()
        return "tensor", pointer, strides, tuple(thing.shape), thing.dtype, thing.device, signs
    return "array", pointer, strides, thing.shape, thing.dtype


def _storable(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in NATURAL:
        return byte_view(tensor)
    return tensor.detach().resolve_conj().resolve_neg()


def _array_tensor(array: Array) -> torch.Tensor:
    whole = array if array.flags.c_contiguous and array.flags.aligned else array.copy(order="C")
    if not whole.flags.writeable:
        whole = whole.copy()  # torch warns of memory that it may not write
    if whole.dtype in ARRAY_NATURAL:
        return torch.from_numpy(whole)
    if not whole.nbytes:
        return torch.empty(0, dtype=torch.uint8)
    return torch.from_numpy(whole.reshape(-1).view(np.uint8))


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _encode_float(x: float) -> Any:
    if math.isfinite(x):
        return x
    return {"$float": struct.pack(">d", x).hex() if math.isnan(x) else repr(x)}


def _encode_int(x: int) -> Any:
    return x if x.bit_length() <= _INT_BITS else {"$int": hex(x)}


def _encode_str(x: str) -> Any:
    return x if _is_text(x) else {"$str": x.encode("utf-8", "surrogatepass").hex()}


_PLAIN: dict[type, Callable[[Any], Any]] = {
    type(None): lambda x: x,
    bool: lambda x: x,
    int: _encode_int,
    float: _encode_float,
    str: _encode_str,
}


# ---------------------------------------------------------------------- decoding


def decode(json: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """The tree that was encoded.

    Args:
        json: What `encode` gave, perhaps by way of a JSON text.
        tensors: The tensors by name. Those of the tree, and its arrays, share their memory.

    Raises:
        DecodeError: (a ValueError) It is not what `encode` writes: unknown tags, wrong types, tensors that are
            missing, left over, or of another dtype or shape.

    Example:
        >>> encoded = encode({"lr": float("inf"), 3: (1, 2)})
        >>> decode(encoded.json, encoded.tensors)
        {'lr': inf, 3: (1, 2)}
    """
    return Decoder(tensors).tree(json)
