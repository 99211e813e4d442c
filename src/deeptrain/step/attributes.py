"""Attributes that are no parts: what they were, and which of them have changed since."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN = bool | int | float | str | None


class _Opaque:
    """Stands for a value that is not looked into."""


OPAQUE = _Opaque()


def remembered(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Take note of attributes' values; names that begin with an underscore are left out.

    Args:
        attributes: By name.

    Returns:
        Their values for `changed` and `plain_values`: plain ones as they are, tensors and arrays by what tells of a change,
        lists, tuples and dicts of these likewise.
    """
    return {name: _noted(value) for name, value in attributes.items() if not name.startswith("_")}


def changed(before: Mapping[str, Any], attributes: Mapping[str, Any]) -> list[str]:
    """Name the attributes that have other values than were remembered, or are new.

    Example:
        >>> before = remembered({"count": 0, "seen": [], "_time": 1.0})
        >>> changed(before, {"count": 0, "seen": [3], "_time": 2.0})
        ['seen']
    """
    after = remembered(attributes)
    return [
        name
        for name in sorted(before.keys() | after.keys())
        if repr(before.get(name, OPAQUE)) != repr(after.get(name, OPAQUE))
    ]


def plain_values(noted: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the remembered values that say how a thing was made."""
    return {name: value for name, value in noted.items() if isinstance(value, PLAIN)}


def _noted(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, torch.Tensor):
        # The count of in-place changes has no public name; a tensor made in inference mode has none.
        return ("tensor", id(value), 0 if value.is_inference() else value._version)  # noqa: SLF001
    if isinstance(value, np.ndarray):
        return ("array", value.shape, str(value.dtype), zlib.crc32(np.ascontiguousarray(value).tobytes()))
    if isinstance(value, dict):
        return ("dict", [(repr(key), _noted(each)) for key, each in value.items()])
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    return ("list", [_noted(each) for each in value]) if isinstance(value, list | tuple) else OPAQUE
