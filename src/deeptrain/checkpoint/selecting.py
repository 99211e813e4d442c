"""Patterns over the paths of a state: what they choose, and that part of a tree.

A pattern is a path in which `*` stands for any part of one key, as in `trainer.get`; it covers whatever lies below
what it matches. A value is chosen where a pattern of `only` covers it, or there is none, and no pattern of `skip` does.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn

from deeptrain.state import tree as trees
from deeptrain.state.leaves import CONTAINERS, MAPPINGS
from deeptrain.state.tree import UnknownPathError, children, join, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ABSENT: Any = object()


class Choice:
    """Which paths of some trees the patterns choose.

    Args:
        among: The trees in which the patterns are looked up.
        only: What is chosen: patterns. Everything where there are none.
        skip: What is not.
    """

    def __init__(self, among: Sequence[Any], only: Sequence[str], skip: Sequence[str]) -> None:
        self._only = _covered(among, only)
        self._skip = _covered(among, skip)
        self._all = not only

    def __call__(self, path: str) -> bool:
        """Whether what is at a path is chosen."""
        above = {"", *accumulate(trees.components(path), lambda a, b: f"{a}.{b}")}
        return (self._all or not above.isdisjoint(self._only)) and above.isdisjoint(self._skip)


def _covered(among: Sequence[Any], patterns: Sequence[str]) -> set[str]:
    return {path for pattern in patterns for tree in among for path in trees.matching(tree, pattern)}


def patterns(name: str, given: str | Sequence[str]) -> tuple[str, ...]:
    """Patterns as they are given to `only` and `skip`; one alone may be given as it is.

    Raises:
        TypeError: They are no strings.
    """
    found = (given,) if isinstance(given, str) else tuple(given)
    for pattern in found:
        if not isinstance(pattern, str):
            raise TypeError(f"{name}={given!r}: expected paths, such as {name}=['model.*']")
    return found


def require_matches(name: str, given: Sequence[str], among: Sequence[Any], where: str) -> None:
    """Refuse a pattern that is meant for something else, before anything is saved or loaded.

    Raises:
        UnknownPathError: It matches nothing; the message names similar paths.
    """
    for pattern in given:
        if not any(trees.matching(tree, pattern) for tree in among):
            near = trees.similar(among[0], pattern)
            raise UnknownPathError(f"{name}=[{pattern!r}]: there is nothing at this in {where}{near}")


def select(tree: Any, only: str | Sequence[str] = (), skip: str | Sequence[str] = ()) -> Any:
    """The chosen part of a tree; its tensors are the same objects.

    Versions stay with what they are the versions of. A list keeps all of its places or is left out.

    Args:
        tree: A state tree.
        only: What to keep: patterns. Everything where there are none.
        skip: What to leave out.

    Raises:
        UnknownPathError: A pattern matches nothing; the message names similar paths.
        ValueError: A list would lose some of its places, or nothing is left at all.

    Example:
        >>> select({"model": {"w": 1}, "optimizer": {"lr": 0.1, "state": {}}}, skip=["optimizer.state"])
        {'model': {'w': 1}, 'optimizer': {'lr': 0.1}}
    """
    only, skip = patterns("only", only), patterns("skip", skip)
    require_matches("only", only, [tree], "the state")
    require_matches("skip", skip, [tree], "the state")
    found = _selected("", tree, Choice([tree], only, skip))
    if found is ABSENT:
        raise ValueError(f"only={list(only)} and skip={list(skip)} leave nothing of the state")
    return found


def _selected(path: str, node: Any, chosen: Choice) -> Any:
    kind = type(node)
    if kind not in CONTAINERS or not node:
        return node if chosen(path) else ABSENT
    parts = [(key, child, _selected(join(path, key), child, chosen)) for key, child in children(node)]
    left = [part for part in parts if part[2] is not ABSENT]
    if not left:
        return ABSENT
    if all(part is child for _, child, part in parts):
        return node
    if kind in MAPPINGS:
        return kind(
            {key: child if key == "version" else part for key, child, part in parts if _stays(key, part)}
        )
    if len(left) < len(parts):
        _refuse_part(path, node)
    return kind(part for _, _, part in parts)


def _stays(key: Any, part: Any) -> bool:
    return part is not ABSENT or key == "version"


def _refuse_part(path: str, node: Any) -> NoReturn:
    raise ValueError(
        f"{path}: only a part of this {type(node).__name__} of {len(node)} would be taken, and the places of its values "
        f"would change: take the whole ({path!r}), or nothing of it"
    )


def all_or_none(path: str, node: Any, chosen: Callable[[str], bool]) -> bool:
    """Whether a list or a value is chosen.

    Raises:
        ValueError: It is a list of which some is and some is not.
    """
    found = {chosen(below) for below, _ in leaves(path, node)}
    if len(found) > 1:
        _refuse_part(path, node)
    return found.pop()


def leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    """The leaves of the subtree at a path, with their paths in the whole tree."""
    for below, value in walk(node):
        yield (f"{path}.{below}" if path and below else path or below), value
