r"""State trees: every leaf has one path, and trees are searched, compared and hashed by path.

Paths join keys and list indexes with dots. A dot or a backslash inside a key is written with a backslash
before it, and an empty key as `\e`. What lies below a dict key "volatile" (clocks, paths, the run's identity)
counts neither in digests nor in differences.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from deeptrain.state.leaves import (
    CONTAINERS,
    MAPPINGS,
    SEQUENCES,
    Leaf,
    LeafError,
    count_differing,
    largest_difference,
    leaf,
    short,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VOLATILE = "volatile"
MAX_DEPTH = 200  # what is deeper is taken for a tree that contains itself
_NEAR = 3  # similar paths that a message names
_ABSENT = "nothing"


# ---------------------------------------------------------------------- paths


def join(parent: str, key: str | int) -> str:
    r"""The path of a key below a path.

    Example:
        >>> join("model", "conv1.weight")
        'model.conv1\\.weight'
    """
    return f"{parent}.{_escape(key)}" if parent else _escape(key)


def _escape(key: str | int) -> str:
    if type(key) is int:
        return str(key)
    if type(key) is not str:
        raise LeafError(f"a key of the type {type(key).__name__} ({key!r}); a state's keys are str or int")
    if "." in key or "\\" in key:
        return key.replace("\\", "\\\\").replace(".", "\\.")
    return key or "\\e"


def split(path: str) -> list[str]:
    r"""The keys that a path is made of, unescaped; the root's path "" has none.

    Example:
        >>> split("model.conv1\\.weight")
        ['model', 'conv1.weight']
    """
    return [_unescape(part) for part in components(path)]


def components(path: str) -> list[str]:
    """The components as written, with their escapes."""
    if not path:
        return []
    parts, start, at = [], 0, 0
    while at < len(path):
        if path[at] == ".":
            parts.append(path[start:at])
            start = at + 1
        at += 2 if path[at] == "\\" else 1
    return [*parts, path[start:]]


def _unescape(part: str) -> str:
    return "" if part == "\\e" else re.sub(r"\\(.)", r"\1", part, flags=re.DOTALL)


# ---------------------------------------------------------------------- walking


def walk(tree: Any, *, volatile: bool = True) -> Iterator[tuple[str, Any]]:
    """Go through the leaves with their paths, in the tree's order; an empty container is a leaf.

    Args:
        tree: A state tree.
        volatile: Whether to give volatile leaves too.

    Raises:
        LeafError: A key is neither str nor int, or the tree contains itself.

    Example:
        >>> list(walk({"a": [1, 2], "b": {}}))
        [('a.0', 1), ('a.1', 2), ('b', {})]
    """
    stack: list[tuple[str, Any, int]] = [("", tree, 0)]
    while stack:
        path, node, depth = stack.pop()
        kind = type(node)
        if kind not in CONTAINERS:
            yield path, node
            continue
        if not volatile and kind in MAPPINGS and VOLATILE in node:
            node = _without_volatile(node)
        if not node:
            yield path, node
            continue
        if depth >= MAX_DEPTH:
            raise LeafError(f"{path[:60]}...: deeper than {MAX_DEPTH} levels: does the tree contain itself?")
        below = [(join(path, key), child, depth + 1) for key, child in children(node)]
        below.reverse()
        stack += below


def children(node: Any) -> Iterable[tuple[Any, Any]]:
    """The keys and values of a container."""
    return node.items() if type(node) in MAPPINGS else enumerate(node)


def _without_volatile(node: Any) -> Any:
    rest = node.copy()
    del rest[VOLATILE]
    return rest


# ---------------------------------------------------------------------- searching


class UnknownPathError(KeyError):
    """There is nothing at a path. The message names similar paths."""

    def __str__(self) -> str:
        return str(self.args[0])


def get(tree: Any, path: str) -> Any:
    r"""The value at a path: a leaf or a whole subtree.

    Args:
        tree: A state tree.
        path: A path. A `*` in it stands for any part of one key (`\*` for the character).

    Returns:
        The value; where the path has a `*`, a dict from each path that matches to its value.

    Raises:
        UnknownPathError: (a KeyError) There is nothing there; the message names similar paths.

    Example:
        >>> get({"groups": [{"lr": 0.1}, {"lr": 0.2}]}, "groups.*.lr")
        {'groups.0.lr': 0.1, 'groups.1.lr': 0.2}
    """
    found = [tree]
    for key in split(path):
        found = [child for node in found for child in _child(node, key)]
    if found:
        return found[0]
    matches = matching(tree, path) if "*" in path else {}
    if not matches:
        raise UnknownPathError(f"there is nothing at {path!r} in the state{similar(tree, path)}")
    return matches


def _child(node: Any, key: str) -> list[Any]:
    """What is below a key as a path writes it: that child alone, or nothing."""
    if type(node) in MAPPINGS:
        if key in node:
            return [node[key]]
        number = _number(key)
        return [node[number]] if number is not None and number in node else []
    number = _number(key)
    if type(node) in SEQUENCES and number is not None and 0 <= number < len(node):
        return [node[number]]
    return []


def _number(key: str) -> int | None:
    return int(key) if re.fullmatch(r"0|-?[1-9][0-9]{0,18}", key) else None


def matching(tree: Any, pattern: str) -> dict[str, Any]:
    """Everything that a path with any number of `*` in it stands for, by path; nothing where that is nowhere."""
    found = [("", tree)]
    for part in components(pattern):
        pieces = [re.escape(_unescape(piece)) for piece in re.split(r"(?<!\\)\*", part)]
        matches = re.compile(".*".join(pieces), re.DOTALL).fullmatch
        found = [
            (join(path, key), child)
            for path, node in found
            if type(node) in CONTAINERS
            for key, child in children(node)
            if matches(str(key))
        ]
    return dict(found)


def similar(tree: Any, path: str) -> str:
    """The end of a message about a path that is not there: which ones are near it."""
    known: dict[str, None] = {}
    for place, _ in walk(tree):
        keys = components(place)
        known.update(dict.fromkeys(".".join(keys[:n]) for n in range(1, len(keys) + 1)))
    near = difflib.get_close_matches(path, known, n=_NEAR, cutoff=0.5)
    if near:
        return f"; near it there are {', '.join(near)}"
    return f"; its first level is {', '.join(name for name in known if len(components(name)) == 1)}"


# ---------------------------------------------------------------------- comparing


@dataclass(frozen=True, slots=True)
class Difference:
    """One path at which two trees differ.

    Attributes:
        path: Where.
        kind: "missing" (only expected), "unexpected" (only found), "type", "dtype", "shape" or "value".
        found: What is there, in a few words.
        expected: What should be.
        differing: Of arrays that differ in value: how many elements do.
        size: How many elements there are.
        largest: The largest absolute difference of their elements; NaN where NaNs or infinities are among them.
    """

    path: str
    kind: str
    found: str
    expected: str
    differing: int | None = None
    size: int | None = None
    largest: float | None = None

    def __str__(self) -> str:
        if self.differing is None:
            return f"{self.path}: {self.kind}: found {self.found}, expected {self.expected}"
        by = "" if self.largest is None else f", by at most {self.largest:.6g}"
        return f"{self.path}: value: {self.differing} of {self.size} elements of {self.found} differ{by}"


def diff(a: Any, b: Any, *, volatile: bool = False) -> list[Difference]:
    """Compare two trees bit for bit: the same NaN is equal to itself, and -0.0 is not 0.0.

    Args:
        a: What was found.
        b: What was expected.
        volatile: Whether volatile subtrees count too.

    Returns:
        The differences in the order of `a`'s leaves, and then what is missing. None: the digests are equal.

    Example:
        >>> [str(d) for d in diff({"lr": 0.1, "x": 1}, {"lr": 0.2, "x": 1})]
        ['lr: value: found 0.1, expected 0.2']
    """
    found, expected = dict(walk(a, volatile=volatile)), dict(walk(b, volatile=volatile))
    differences = []
    for path, value in found.items():
        if path not in expected:
            differences.append(Difference(path, "unexpected", short(value), _ABSENT))
        elif (difference := _compare(path, value, expected[path])) is not None:
            differences.append(difference)
    missing = [path for path in expected if path not in found]
    return differences + [Difference(path, "missing", _ABSENT, short(expected[path])) for path in missing]


def _compare(path: str, a: Any, b: Any) -> Difference | None:
    x, y = leaf(path, a), leaf(path, b)
    for kind, left, right in (("type", x.kind, y.kind), ("dtype", x.dtype, y.dtype)):
        if left != right:
            return Difference(path, kind, left, right)
    if x.shape != y.shape:
        return Difference(path, "shape", str(list(x.shape)), str(list(y.shape)))
    if x.kind in ("tensor", "array"):
        return _compare_arrays(path, a, b, x, y)
    if x.data == y.data:
        return None
    texts = short(a), short(b)
    if texts[0] == texts[1]:  # NaNs with other bits, or long texts that differ at their end
        texts = f"{texts[0]} #{_hash(x.data)}", f"{texts[1]} #{_hash(y.data)}"
    return Difference(path, "value", *texts)


def _compare_arrays(path: str, a: Any, b: Any, x: Leaf, y: Leaf) -> Difference | None:
    if not len(x.data):
        return None
    differing, where = count_differing(x, y)
    if not differing:
        return None
    largest = largest_difference(a, b, where)
    return Difference(path, "value", short(a), short(b), differing, where.size, largest)


def _hash(data: bytes | memoryview) -> str:
    return blake2b(data, digest_size=4).hexdigest()


# ---------------------------------------------------------------------- hashing


def digest(tree: Any) -> str:
    """One hash for a whole state: equal where two states are the same bit for bit.

    Each leaf counts with its path, type, dtype, shape and row-major bytes. The device, the order of a dict's
    keys, gradients and whatever lies below a key "volatile" do not count.

    Args:
        tree: A state tree, such as `trainer.state_dict()` or `model.state_dict()`.

    Returns:
        40 hexadecimal characters (blake2b, 160 bits).

    Raises:
        TypeError: The tree holds something that is no part of a state; the message names its path.

    Example:
        >>> digest({"a": 1, "b": 2.0}) == digest({"b": 2.0, "a": 1}) != digest({"a": 1, "b": 2})
        True
    """
    total, before = blake2b(digest_size=20), None
    for path, value in sorted(walk(tree, volatile=False), key=_path):
        if path == before:
            raise LeafError(f"{path}: two keys have this path, one a str and one an int: keep one of them")
        before = path
        kind, dtype, shape, data = leaf(path, value)
        # The lengths keep one leaf's bytes from being read as another's.
        head = f"{len(path)}:{path}|{kind}|{dtype}|{shape}|{len(data)}:"
        total.update(head.encode("utf-8", "surrogatepass"))
        total.update(data)
    return total.hexdigest()


def _path(item: tuple[str, Any]) -> str:
    return item[0]
