"""Checks of settings: each gives the value in its plain type, or an error with what was found and expected."""

from __future__ import annotations

import difflib
import operator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def whole(name: str, value: Any) -> int:
    """Take a whole number, of NumPy or torch too.

    Raises:
        TypeError: It is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: found {value!r}, expected a whole number") from None


def at_least(least: int, name: str, value: Any) -> int:
    """Take a whole number that is not below `least`.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is too small, or a truth value.
    """
    number = whole(name, value)
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name}: found {value!r}, expected a whole number of at least {least}")
    return number


def flag(name: str, value: Any) -> bool:
    """Take True or False.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(value, bool):
        return value
    raise TypeError(f"{name}: found {value!r}, expected True or False")


def known(name: str, value: Any, choices: Sequence[str | None]) -> str:
    """Take one of some texts; None may be shown among the choices, and is for the caller to take.

    Raises:
        ValueError: It is none of them; names the nearest.
    """
    if isinstance(value, str) and value in choices:
        return value
    texts = [choice for choice in choices if choice is not None]
    near = difflib.get_close_matches(str(value).lower(), texts, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}: found {value!r}, expected one of {', '.join(map(repr, choices))}{hint}")
