"""Parts of a state: a saved one is merged into the present one, and what became of each value is told.

What is chosen (see `selecting`) becomes as it was saved and everything else stays as it is, with two exceptions: what
the trainer was made with (its parts, callbacks, loaders, the names in its modules) is neither added to nor taken away,
and tensors that are one in the present state (tied weights) stay one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.checkpoint.selecting import (
    ABSENT,
    Choice,
    all_or_none,
    leaves,
    patterns,
    require_matches,
    select,
)
from deeptrain.state.leaves import CONTAINERS, MAPPINGS, SEQUENCES, short
from deeptrain.state.tree import join, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

__all__ = ["Report", "merge", "require_shapes", "select", "written_as"]

_MADE = ("", "callbacks", "data")  # what these hold was decided when the trainer was made
_KEPT = (*_MADE, "random.streams")  # what was registered here stays registered
_FEW = 3  # paths that a report names one by one
_LISTED = 20


@dataclass(frozen=True, slots=True)
class Report:
    """What became of a state that was loaded in part, each a list of paths.

    Attributes:
        loaded: Taken from the saved state.
        kept: Of the present state and still there.
        ignored: Saved and not taken: not asked for, or the present state has no place for it.
        dropped: No longer there, because the saved state did not have it where it was loaded.
    """

    loaded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def __repr__(self) -> str:  # what a prompt shows: the paths themselves may be thousands
        return f"Report({self})"

    def __str__(self) -> str:
        said = [("loaded", self.loaded), ("kept", self.kept), ("ignored", self.ignored)]
        said += [("dropped", self.dropped)] if self.dropped else []
        return "; ".join(f"{what} {_in_words(paths)}" for what, paths in said)


def _in_words(paths: list[str]) -> str:
    if len(paths) <= _FEW:
        return ", ".join(paths) or "nothing"
    counts = Counter(path.partition(".")[0] for path in paths)
    return f"{len(paths)} values ({', '.join(f'{count} of {name}' for name, count in counts.items())})"


def merge(
    present: Any,
    saved: Any,
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    *,
    written: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Any, Report]:
    """Take the chosen part of a saved state into the present one. Neither is changed.

    Args:
        present: The present state. Its tensors are not copied.
        saved: The saved state, or a part of one.
        only: What to load: patterns. Everything where there are none.
        skip: What to leave as it is.
        written: The patterns "only" and "skip" with which `saved` was saved, where it was saved in part: what they
            left out is not missing from the state that was saved, and stays as it is.

    Returns:
        The merged state, and what became of each value.

    Raises:
        UnknownPathError: A pattern matches nothing; the message names similar paths.
        ValueError: The two cannot be merged: a list in part with one of another length, a part of a state of another
            version, tied tensors of different values; or nothing would be loaded.

    Example:
        >>> merged, report = merge({"a": 1, "b": 2}, {"a": 3, "b": 4}, skip=["b"])
        >>> merged, str(report)
        ({'a': 3, 'b': 2}, 'loaded a; kept b; ignored b')
    """
    only, skip = patterns("only", only), patterns("skip", skip)
    require_matches("only", only, [saved], "the saved state")
    require_matches("skip", skip, [saved, present], "the saved state or the present one")
    both = [present, saved]
    wanted = Choice(both, only, skip)
    there = Choice(both, *((written["only"], written["skip"]) if written else ((), ())))
    merger = _Merger(present, saved, lambda path: wanted(path) and there(path))
    merged = merger.node("", present, saved)
    if not merger.report.loaded:
        raise ValueError(f"nothing would be loaded of what was saved: {merger.report}")
    return merged, merger.report


class _Merger:
    """One saved state's way into a present one."""

    def __init__(self, present: Any, saved: Any, chosen: Callable[[str], bool]) -> None:
        self.report = Report()
        self._chosen = chosen
        self._saved = dict(walk(saved))
        self._tied = _tied(present)

    def node(self, path: str, a: Any, b: Any) -> Any:
        """What is to be at a path, of what is there and what was saved; either may be absent."""
        if b is ABSENT:
            return self._one_sided(path, a, saved=False)
        if a is ABSENT:
            return self._one_sided(path, b, saved=True)
        kinds = type(a), type(b)
        if MAPPINGS.issuperset(kinds):
            return self._mapping(path, a, b)
        if SEQUENCES.issuperset(kinds) and len(a) == len(b) > 0:
            below = [(join(path, n), x, y) for n, (x, y) in enumerate(zip(a, b, strict=True))]
            return kinds[1](self.node(*each) for each in below)
        return self._value(path, a, b)

    def _mapping(self, path: str, a: Any, b: Any) -> Any:
        before = len(self.report.loaded)
        fixed = path in _MADE or _is_of_module(a)
        found = {}
        for key in dict.fromkeys((*a, *b)):
            below, x, y = join(path, key), a.get(key, ABSENT), b.get(key, ABSENT)
            if y is ABSENT and (fixed or path in _KEPT):
                found[key] = self._keep(below, x)
            elif x is ABSENT and fixed:
                self.report.ignored.extend(p for p, _ in leaves(below, y))
            else:
                found[key] = self.node(below, x, y)
        self._check_version(path, a, b, before)
        if not b and self._chosen(path):
            self.report.loaded.append(path)
        kind = type(a) if fixed or not self._chosen(path) else type(b)
        return kind({key: value for key, value in found.items() if value is not ABSENT})

    def _value(self, path: str, a: Any, b: Any) -> Any:
        """A value, or things of different kinds or lengths, of which one is taken whole."""
        if all(type(x) not in CONTAINERS for x in (a, b)):
            return self._leaf(path, a, b)
        found = {self._chosen(below) for node in (a, b) for below, _ in leaves(path, node)}
        if len(found) > 1:
            raise ValueError(
                f"{path}: found {_kind(b)}, expected {_kind(a)}, of which only a part would be loaded: load it whole "
                f"({path!r}), or leave it out"
            )
        if found.pop():
            self.report.loaded.extend(below for below, _ in leaves(path, b))
            return b
        self._note_kept(path, a, b)
        return a

    def _leaf(self, path: str, a: Any, b: Any) -> Any:
        if self._chosen(path):
            self._check_tied(path, b)
            self.report.loaded.append(path)
            return b
        if path.rpartition(".")[2] == "version" and a == b:
            return a  # what both are of, and nothing that somebody chose
        followed = self._follow(path)
        if followed is not ABSENT:
            return followed
        self._note_kept(path, a, b)
        return a

    def _note_kept(self, path: str, a: Any, b: Any) -> None:
        self.report.kept.extend(below for below, _ in leaves(path, a))
        self.report.ignored.extend(below for below, _ in leaves(path, b))

    def _keep(self, path: str, a: Any) -> Any:
        """Something that the saved state does not have, and that stays."""
        followed = self._follow(path)
        if followed is not ABSENT:
            return followed
        self.report.kept.extend(below for below, _ in leaves(path, a))
        return a

    def _one_sided(self, path: str, node: Any, *, saved: bool) -> Any:
        """Something that only one state has: where it is chosen, it comes from the saved one and goes from the present."""
        if type(node) in MAPPINGS and node:
            rest = {key: self._one_sided(join(path, key), x, saved=saved) for key, x in node.items()}
            rest = {key: x for key, x in rest.items() if x is not ABSENT}
            return type(node)(rest) if rest else ABSENT
        report, chosen = self.report, all_or_none(path, node, self._chosen)
        told = (report.loaded, report.ignored) if saved else (report.dropped, report.kept)
        told[0 if chosen else 1].extend(below for below, _ in leaves(path, node))
        return node if chosen == saved else ABSENT

    # ------------------------------------------------------------------ what must hold

    def _check_version(self, path: str, a: Any, b: Any, before: int) -> None:
        """A part is of the version of its whole, which it must share with what it is put into."""
        here = join(path, "version")
        if "version" not in a or "version" not in b or self._chosen(here) or a["version"] == b["version"]:
            return
        if len(self.report.loaded) > before:
            raise ValueError(
                f"{here}: found {short(b['version'])}, expected {short(a['version'])}: a part of a state of another "
                "version cannot be loaded; load it with the version of deeptrain that wrote it"
            )

    def _sources(self, path: str) -> list[str]:
        """The paths of the same tensor that are loaded."""
        return [p for p in self._tied.get(path, ()) if p in self._saved and self._chosen(p)]

    def _follow(self, path: str) -> Any:
        """The saved value of a tensor that is the one at this path; absent where there is none."""
        sources = self._sources(path)
        if not sources:
            return ABSENT
        self.report.loaded.append(path)
        return self._saved[sources[0]]

    def _check_tied(self, path: str, b: Any) -> None:
        for other in self._sources(path)[:1]:
            saved = self._saved[other]
            if saved is not b and not (isinstance(saved, torch.Tensor) and torch.equal(saved, b)):
                raise ValueError(
                    f"{path}: in the present state this is the same tensor as {other}, and in the saved one their values "
                    "differ: load one of the two"
                )


def _kind(node: Any) -> str:
    return f"a {type(node).__name__} of {len(node)}" if type(node) in CONTAINERS else short(node)


def _is_of_module(node: Any) -> bool:
    """Whether it is what `Module.state_dict` gives, whose names are those of the module."""
    return type(node) is OrderedDict and hasattr(node, "_metadata")


def _tied(present: Any) -> dict[str, list[str]]:
    """For each tensor that is there under several paths: all of them."""
    groups: dict[object, list[str]] = {}
    for path, value in walk(present):
        if isinstance(value, torch.Tensor) and value.numel():
            key = value.data_ptr(), value.shape, value.stride(), value.dtype, value.device
            groups.setdefault(key, []).append(path)
    return {path: paths for paths in groups.values() if len(paths) > 1 for path in paths}


def require_shapes(present: Any, merged: Any, parameters: Collection[int]) -> None:
    """See that parameters were saved in the shapes that they have, before anything is changed.

    Args:
        present: The present state.
        merged: What is to be loaded.
        parameters: The addresses of the parameters' memory. Buffers may have grown, and are not among them.

    Raises:
        ValueError: They were not; the message names path, found and expected of each.
    """
    found = dict(walk(merged))
    problems = [
        f"{path}: found {short(found[path])}, expected {short(x)}"
        for path, x in walk(present)
        if isinstance(x, torch.Tensor) and x.numel() and x.data_ptr() in parameters
        if getattr(found.get(path), "shape", x.shape) != x.shape
    ]
    if problems:
        more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ValueError(
            "the saved state is of another model:\n  "
            + "\n  ".join(problems[:_LISTED])
            + more
            + "\nleave those out "
            "with skip=[...], or give the model that was saved; nothing was changed"
        )


def written_as(info: Mapping[str, Any]) -> dict[str, list[str]] | None:
    """With which patterns a checkpoint was saved, by what it says of itself; None where it is whole.

    Raises:
        ValueError: It says so in a way that is not known.
    """
    said = info.get("partial")
    if said is None:
        return None
    lists: list[Any] = [said.get(name) for name in ("only", "skip")] if type(said) is dict else []
    if not lists or not all(type(x) is list and all(type(p) is str for p in x) for x in lists):
        raise ValueError(
            f'info["partial"] is {short(said)}, expected {{"only": [patterns], "skip": [patterns]}}: it was written by '
            "another version of deeptrain; load it with that one"
        )
    return {"only": lists[0], "skip": lists[1]}
