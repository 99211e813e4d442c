"""`Order`: a command of another process, read out of plain JSON and checked before anything is looked at."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

# What each verb takes: the names and types of its values, and whether they may be left out.
COMMANDS: dict[str, dict[str, tuple[type | None, bool]]] = {
    "set": {"path": (str, False), "value": (None, False)},
    "validate": {},
    "checkpoint": {"tag": (str, True)},
    "stop": {},
    "pause": {},
    "unpause": {},
    "step": {"iterations": (int, False)},
    "break": {"condition": (str, False)},
    "unbreak": {"condition": (str, True)},
}
MOST_STEPS = 10**9


@dataclass(frozen=True, slots=True)
class Order:
    """A command that was read.

    Attributes:
        verb: One of `COMMANDS`.
        text: The path, tag or condition in it; "" where there is none.
        value: The value or the count of iterations in it; None where there is none.
    """

    verb: str
    text: str = ""
    value: Any = None


def parse_order(content: dict[str, Any]) -> Order:
    """Read a command.

    Args:
        content: A JSON object with a `verb`, and what that verb takes.

    Raises:
        ValueError: It is none; the message says what was found and what was expected.

    Example:
        >>> parse_order({"version": 1, "verb": "set", "path": "optimizer.param_groups.0.lr", "value": 0.1})
        Order(verb='set', text='optimizer.param_groups.0.lr', value=0.1)
    """
    verb = content.get("verb")
    if not isinstance(verb, str) or verb not in COMMANDS:
        near = difflib.get_close_matches(str(verb)[:40], COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"found the command {verb!r:.60}, expected one of {', '.join(COMMANDS)}{hint}")
    takes = COMMANDS[verb]
    unknown = sorted(content.keys() - takes.keys() - {"version", "verb"})
    if unknown:
        raise ValueError(f"{verb}: found {str(unknown)[:80]}, expected nothing but {list(takes)}")
    for name, (kind, may_lack) in takes.items():
        _check(verb, name, content, kind, may_lack)
    texts = [content.get(name) for name, (kind, _) in takes.items() if kind is str]
    values = [content.get(name) for name, (kind, _) in takes.items() if kind is not str]
    return Order(verb, next(iter(texts), None) or "", next(iter(values), None))


def _check(verb: str, name: str, content: dict[str, Any], kind: type | None, may_lack: bool) -> None:
    if name not in content:
        if may_lack:
            return
        raise ValueError(f"{verb}: found no {name}")
    found = content[name]
    if kind is not None and type(found) is not kind:
        raise ValueError(f"{verb}: {name} is {found!r:.60}, expected a {kind.__name__}")
    if kind is int and not 1 <= found <= MOST_STEPS:
        raise ValueError(f"{verb}: {name} is {found}, expected a number from 1 up")
