"""Conditions such as `train.loss > 10 and val.accuracy < 0.5`: a small grammar of our own, parsed and never evaluated.

    or          and { "or" and }
    and         not { "and" not }
    not         "not" not | comparison
    comparison  sum [ ("<" | "<=" | ">" | ">=" | "==" | "!=") sum ]
    sum         term { ("+" | "-") term }
    term        factor { ("*" | "/") factor }
    factor      "-" factor | number | name | function "(" or ")" | "(" or ")"

A name is a path, in which `*` stands for any part of one key; a product therefore needs spaces, `a * b`. A name that
stands for several values makes a comparison true where it holds for any of them. A comparison with NaN is false, but
for `!=`; `isnan` and `isfinite` ask.
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Values: TypeAlias = list[float]
    Lookup: TypeAlias = Callable[[str], Sequence[float]]
    Node: TypeAlias = Callable[[Lookup], Values]

LONGEST, DEEPEST = 1000, 50  # characters, and brackets or signs within each other
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*(?:\.(?:[\w*]|\\.)+)*)"
    r"|(?P<sign><=|>=|==|!=|[<>+\-*/()]))"
)
_COMPARISONS = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "isnan": lambda x: float(math.isnan(x)),
    "isfinite": lambda x: float(math.isfinite(x)),
}
_CONSTANTS = {"inf": math.inf, "nan": math.nan}
_WORDS = {"and", "or", "not"}


class ExpressionError(ValueError):
    """A condition cannot be read. The message shows where, what was expected, and an example."""


@dataclass(frozen=True)
class Expression:
    """A condition that was read.

    Attributes:
        text: As it was written.
        names: The paths in it, in the order in which they first stand there.

    Example:
        >>> low = parse("val.accuracy < 0.5 or isnan(train.loss)")
        >>> low.names
        ('val.accuracy', 'train.loss')
        >>> low.holds({"val.accuracy": [0.4], "train.loss": [1.0]}.__getitem__)
        True
    """

    text: str
    names: tuple[str, ...]
    _node: Node = field(repr=False, compare=False)

    def holds(self, lookup: Lookup) -> bool:
        """Whether the condition holds.

        Args:
            lookup: Gives the values at a path; none where there are none yet, which makes its comparisons false.
        """
        return any(value != 0 for value in self._node(lookup))

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Expression:
    """Read a condition.

    Raises:
        ExpressionError: It is none; the message shows where.
        TypeError: It is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"found a {type(text).__name__}, expected a condition as text: 'train.loss > 10'")
    parser = _Parser(text)
    node = parser.whole()
    return Expression(text.strip(), tuple(dict.fromkeys(parser.names)), node)


class _Parser:
    """One text's way to a tree of functions; each method reads what it is named after."""

    def __init__(self, text: str) -> None:
        self.text, self.names = text, list[str]()
        self._tokens = self._cut()
        self._at = self._depth = 0

    def _cut(self) -> list[tuple[str, str, int]]:
        if len(self.text) > LONGEST:
            raise ExpressionError(
                f"found a condition of {len(self.text)} characters, expected {LONGEST} at most"
            )
        tokens, place, end = [], 0, len(self.text.rstrip())
        while place < end:
            match = _TOKEN.match(self.text, place)
            if match is None:
                raise self._error(place, "a number, a name or a sign")
            kind = str(match.lastgroup)
            tokens.append((kind, match[kind], match.start(kind)))
            place = match.end()
        return tokens

    def _error(self, place: int, expected: str) -> ExpressionError:
        rest = self.text[place:].strip()
        place += len(self.text[place:]) - len(self.text[place:].lstrip())
        found = repr(rest[:20]) if rest else "its end"
        return ExpressionError(
            f"{self.text!r}: found {found} at character {place + 1}, expected {expected}; write for example "
            "'train.loss > 10 and val.accuracy < 0.5'"
        )

    def _next(self) -> tuple[str, str, int]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "", len(self.text))

    def _takes(self, *texts: str) -> str | None:
        """Take the next token if it is one of these."""
        kind, text, _ = self._next()
        if kind == "end" or text not in texts:
            return None
        self._at += 1
        return text

    def whole(self) -> Node:
        node = self._or()
        if self._at < len(self._tokens):
            raise self._error(self._next()[2], "an operator or the end")
        return node

    def _or(self) -> Node:
        node = self._and()
        while self._takes("or"):
            node = _either(node, self._and())
        return node

    def _and(self) -> Node:
        node = self._not()
        while self._takes("and"):
            node = _both(node, self._not())
        return node

    def _not(self) -> Node:
        if not self._takes("not"):
            return self._comparison()
        node = self._deeper(self._not)
        return lambda lookup: [float(not _true(node(lookup)))]

    def _comparison(self) -> Node:
        node = self._sum()
        sign = self._takes(*_COMPARISONS)
        return node if sign is None else _pairwise(_COMPARISONS[sign], node, self._sum())

    def _sum(self) -> Node:
        node = self._term()
        while sign := self._takes("+", "-"):
            node = _pairwise(operator.add if sign == "+" else operator.sub, node, self._term())
        return node

    def _term(self) -> Node:
        node = self._factor()
        while sign := self._takes("*", "/"):
            node = _pairwise(operator.mul if sign == "*" else _divide, node, self._factor())
        return node

    def _factor(self) -> Node:
        if self._takes("-"):
            return _each(operator.neg, self._deeper(self._factor))
        if self._takes("("):
            return self._closed()
        kind, text, place = self._next()
        if kind == "number":
            self._at += 1
            return _constant(float(text))
        if kind != "name" or text in _WORDS:
            raise self._error(place, "a number, a name or a bracket")
        self._at += 1
        return self._named(text)

    def _named(self, name: str) -> Node:
        if name in _FUNCTIONS and self._takes("("):
            return _each(_FUNCTIONS[name], self._closed())
        if name in _CONSTANTS:
            return _constant(_CONSTANTS[name])
        self.names.append(name)
        return lambda lookup: list(map(float, lookup(name)))

    def _closed(self) -> Node:
        node = self._deeper(self._or)
        if not self._takes(")"):
            raise self._error(self._next()[2], "a closing bracket")
        return node

    def _deeper(self, read: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            raise ExpressionError(f"found more than {DEEPEST} brackets or signs within each other")
        node = read()
        self._depth -= 1
        return node


def _constant(value: float) -> Node:
    return lambda _: [value]


def _each(fn: Callable[[float], float], node: Node) -> Node:
    return lambda lookup: [float(fn(value)) for value in node(lookup)]


def _pairwise(fn: Callable[[float, float], float], left: Node, right: Node) -> Node:
    """Values one by one; a single one goes with each of several, and several with several in all pairs."""
    return lambda lookup: [float(fn(x, y)) for x in left(lookup) for y in right(lookup)]


def _divide(x: float, y: float) -> float:
    return x / y if y else (math.nan if x == 0 or math.isnan(x) else math.copysign(math.inf, x))


def _true(values: Values) -> bool:
    return any(value != 0 for value in values)


def _either(left: Node, right: Node) -> Node:
    return lambda lookup: [float(_true(left(lookup)) or _true(right(lookup)))]


def _both(left: Node, right: Node) -> Node:
    return lambda lookup: [float(_true(left(lookup)) and _true(right(lookup)))]
