"""The reading half of the codec. It trusts nothing: each form, tag, dtype and shape is checked before its use."""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.checkpoint.forms import (
    ARRAY_NATURAL,
    MAPPING_TAGS,
    NATURAL,
    SEQUENCE_TAGS,
    TEXT_SCALARS,
    DecodeError,
    dtype_of,
    is_shape,
)
from deeptrain.state.leaves import DTYPES
from deeptrain.state.tree import MAX_DEPTH, join

if TYPE_CHECKING:
    from collections.abc import Callable

_PAIR = 2
_PLAIN = (type(None), bool, int, str)
_MAPPINGS = {tag: kind for kind, tag in MAPPING_TAGS.items()}
_SEQUENCES = {tag: kind for kind, tag in SEQUENCE_TAGS.items()}
_INFINITE = {"inf": math.inf, "-inf": -math.inf}


class Decoder:
    """One tree's way back from JSON and tensors."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors
        self._made: dict[str, tuple[object, Any]] = {}

    def tree(self, json: Any) -> Any:
        """The whole tree; every tensor must belong to it."""
        tree = self._value("", json, 0)
        if extra := [name for name in self._tensors if name not in self._made]:
            raise DecodeError(f"the tree does not mention these tensors: {', '.join(extra[:10])}")
        return tree

    def _value(self, path: str, json: Any, depth: int) -> Any:
        kind = type(json)
        _expect(path[:80], depth <= MAX_DEPTH, f"deeper than {MAX_DEPTH} levels", kind.__name__)
        if kind in _PLAIN:
            return json
        if kind is float:
            return _finite(path, json)
        if kind is list:
            return [self._value(join(path, n), item, depth + 1) for n, item in enumerate(json)]
        _expect(path, kind is dict, "expected a JSON value", json)
        tag = next(iter(json), "")
        if type(tag) is str and tag.startswith("$"):
            return self._tagged(path, tag, json, depth)
        return {
            _plain_key(path, key): self._value(join(path, key), item, depth + 1) for key, item in json.items()
        }

    def _tagged(self, path: str, tag: str, json: dict[str, Any], depth: int) -> Any:
        body = json[tag]
        if tag in ("$tensor", "$array", "$scalar"):
            _expect(path, list(json)[1:] in (["dtype", "shape"], ["dtype"]), f"a malformed {tag}", json)
            return self._stored(path, tag, json)
        _expect(path, len(json) == 1, f"a malformed {tag}", json)
        if tag in _SEQUENCES:
            _expect(path, type(body) is list, f"a malformed {tag}", body)
            items = [self._value(join(path, n), item, depth + 1) for n, item in enumerate(body)]
            _expect(path, tag != "$size" or all(map(_is_length, items)), "a malformed $size", body)
            return _SEQUENCES[tag](items)
        if tag in _MAPPINGS:
            return self._mapping(path, tag, body, depth)
        _expect(path, tag in _TEXTS, f"the unknown tag {tag} (written by a newer deeptrain?)", json)
        return _parsed(path, tag, body, _TEXTS[tag])

    def _mapping(self, path: str, tag: str, pairs: Any, depth: int) -> Any:
        _expect(path, type(pairs) is list, f"a malformed {tag}", pairs)
        found = _MAPPINGS[tag]()
        for pair in pairs:
            _expect(path, type(pair) is list and len(pair) == _PAIR, f"a malformed {tag}", pair)
            key, item = pair
            _expect(path, type(key) in (str, int), "a key that is neither str nor int", key)
            _expect(path, key not in found, "a key that is there twice", key)
            found[key] = self._value(join(path, key), item, depth + 1)
        return found

    def _stored(self, path: str, tag: str, json: dict[str, Any]) -> Any:
        name, spec, shape = json[tag], json["dtype"], json.get("shape", [])
        _expect(path, type(name) is str and is_shape(shape), f"a malformed {tag}", json)
        if tag == "$scalar":
            return _scalar(path, name, spec)
        said = (tag, repr(spec), tuple(shape))
        if name in self._made:
            _expect(path, self._made[name][0] == said, "a tensor that is described in two ways", name)
            return self._made[name][1]
        _expect(path, name in self._tensors, "a tensor that is missing from the tensors file", name)
        made = _make(path, tag, self._tensors[name], spec, shape)
        self._made[name] = (said, made)
        return made


def _expect(path: str, holds: bool, wrong: str, found: Any) -> None:
    if not holds:
        raise DecodeError(f"{path or 'the tree itself'}: {wrong}: {str(found)[:80]}")


def _finite(path: str, x: float) -> float:
    _expect(path, math.isfinite(x), "a number that JSON does not have", x)
    return x


def _plain_key(path: str, key: Any) -> str:
    _expect(path, type(key) is str and not key.startswith("$"), "a malformed key", key)
    return str(key)


def _parsed(path: str, tag: str, text: Any, parse: Callable[[str], Any]) -> Any:
    _expect(path, type(text) is str, f"a malformed {tag}", text)
    try:
        return parse(text)
    except (ValueError, struct.error) as error:
        raise DecodeError(f"{path}: a malformed {tag}: {text[:80]} ({error})") from error


def _float(text: str) -> float:
    return _INFINITE[text] if text in _INFINITE else float(struct.unpack(">d", bytes.fromhex(text))[0])


_TEXTS: dict[str, Callable[[str], Any]] = {
    "$float": _float,
    "$int": lambda text: int(text, 16),
    "$str": lambda text: bytes.fromhex(text).decode("utf-8", "surrogatepass"),
}


def _is_length(n: Any) -> bool:
    return type(n) is int and -(2**63) <= n < 2**63


def _make(path: str, tag: str, tensor: torch.Tensor, spec: Any, shape: list[int]) -> Any:
    try:
        return (_tensor if tag == "$tensor" else _array)(path, tensor, spec, shape)
    except DecodeError:
        raise
    except (RuntimeError, ValueError, OverflowError) as error:  # a shape that no memory has
        raise DecodeError(f"{path}: {tag} of dtype {str(spec)[:80]} and shape {shape}: {error}") from error


def _same_shape(path: str, tensor: torch.Tensor, shape: list[int]) -> torch.Tensor:
    found = list(tensor.shape)
    _expect(path, found == shape, f"a tensor of another shape than {shape}", found)
    return tensor


def _tensor(path: str, tensor: torch.Tensor, name: Any, shape: list[int]) -> torch.Tensor:
    dtype = DTYPES.get(name) if type(name) is str else None
    if dtype is None:
        raise DecodeError(f"{path}: a tensor of the unknown dtype {str(name)[:80]}")
    if dtype in NATURAL:
        _expect(path, tensor.dtype is dtype, f"a tensor of another dtype than {name}", tensor.dtype)
        return _same_shape(path, tensor, shape)
    raw = _raw(path, tensor, math.prod(shape) * dtype.itemsize)
    return raw.view(dtype).reshape(shape)


def _array(path: str, tensor: torch.Tensor, spec: Any, shape: list[int]) -> np.ndarray[Any, Any]:
    dtype = dtype_of(path, spec)
    if (natural := ARRAY_NATURAL.get(dtype)) is not None:
        _expect(path, tensor.dtype is natural, f"a tensor of another dtype than {natural}", tensor.dtype)
        return _same_shape(path, tensor, shape).numpy().view(dtype)
    raw = _raw(path, tensor, math.prod(shape) * dtype.itemsize)
    return raw.numpy().view(dtype).reshape(shape)


def _raw(path: str, tensor: torch.Tensor, size: int) -> torch.Tensor:
    _expect(path, tensor.dtype is torch.uint8, "a tensor that should be stored as uint8", tensor.dtype)
    return _same_shape(path, tensor, [size])


def _scalar(path: str, digits: str, spec: Any) -> np.generic:
    data = _parsed(path, "$scalar", digits, bytes.fromhex)
    if type(spec) is str and spec in TEXT_SCALARS:
        text = _parsed(path, "$scalar", digits, _TEXTS["$str"]) if spec == "str" else data
        words: np.generic = TEXT_SCALARS[spec](text)
        return words
    dtype = dtype_of(path, spec)
    _expect(
        path, len(data) == dtype.itemsize, f"a scalar of another size than {dtype.itemsize} bytes", digits
    )
    scalar: np.generic = np.frombuffer(data, dtype).copy()[0]
    return scalar
