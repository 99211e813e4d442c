"""Which checkpoints stay: the rules of `Checkpoints`, as a function of what the checkpoints say of themselves.

Nothing is remembered between two commits, so that a run that died, or was continued with other rules, keeps what
a run that lived through would keep.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.checkpoint.line import Line
from deeptrain.checkpoint.reading import CorruptCheckpoint, Reader
from deeptrain.state.cadence import Every

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

MODES = ("max", "min")
_UNITS = ("iterations", "batches", "updates", "epochs")
_MOST = 2**63  # of a count or an integer metric


@dataclass(frozen=True, kw_only=True)
class Keeping:
    """How many checkpoints are kept. The fields are those of `Checkpoints`.

    Raises:
        ValueError, TypeError: A value is out of its bounds; the message says what was expected.

    Example:
        >>> Keeping(keep=3, best=1)
        Keeping(keep=3, best=1, each=None, most_bytes=None)
    """

    keep: int = 2
    best: int = 0
    each: int | Every | None = None
    most_bytes: float | None = None

    def __post_init__(self) -> None:
        _require_whole("keep", self.keep, 1)
        _require_whole("best", self.best, 0)
        if self.each is not None and not isinstance(self.each, Every):
            _require_whole("each", self.each, 1, "None, an Every, such as Every(epochs=10), or ")
        most = self.most_bytes
        if most is not None and (isinstance(most, bool) or not isinstance(most, int | float) or not most > 0):
            raise ValueError(
                f"Checkpoints(most_bytes={most!r}): expected None, or a number above 0, such as 20e9"
            )


def _require_whole(name: str, value: object, least: int, others: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"Checkpoints({name}={value!r}): expected {others}a whole number from {least} up")


class Facts(NamedTuple):
    """What the rules look at in one checkpoint.

    Attributes:
        path: Its directory.
        size: Bytes of its files.
        readable: Whether its manifest is whole. Where it is not, the checkpoint may be a tagged one.
        tag: The name that it was given, or None.
        key: The key metric's value, or None.
        mode: Whether the "max" or the "min" of the key metric is the best.
        counts: What had been completed, by unit, and "seconds" by the clock.
        line: The branch that it was saved on, and those that it came from.
        head: Whether it is what its branch began with.
        rest: Where everything that followed from its last iteration was through, and nothing else was done: the units of which
            that iteration brought one to completion.
    """

    path: Path
    size: int
    readable: bool = True
    tag: object = None
    key: float | None = None
    mode: str | None = None
    counts: dict[str, float] = {}  # noqa: RUF012 - never changed
    line: Line = Line()
    head: bool = False
    rest: tuple[str, ...] = ()

    @property
    def sequence(self) -> int:
        """Its place among the commits."""
        return int(self.path.name)


def look(path: Path) -> Facts:
    """Read what a checkpoint's manifest says; one that cannot be read raises nothing."""
    size = _size(path)
    try:
        info = Reader(path).info()
    except CorruptCheckpoint:
        return Facts(path, size, readable=False)
    mode = info.get("mode")
    counts = {unit: value for unit in _UNITS if (value := _number(info.get(unit))) is not None}
    if (time := _number(info.get("time"))) is not None:
        counts["seconds"] = time
    return Facts(
        path,
        size,
        tag=info.get("tag"),
        key=_number(info.get("key")),
        mode=mode if mode in MODES else None,
        counts=counts,
        line=Line.of(info),
        head=info.get("head") is True,
        rest=tuple(unit for unit in _UNITS if unit in _listed(info.get("rest"))),
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float | None:
    """A float, or a whole number that is one in every bit that matters; nothing that a manifest made up."""
    if type(value) is float:
        return value
    return value if type(value) is int and abs(value) < _MOST else None


def _size(path: Path) -> int:
    try:
        with os.scandir(path) as entries:
            return sum(entry.stat(follow_symlinks=False).st_size for entry in entries)
    except OSError:
        return 0  # it is being removed, or cannot be read and then says nothing else either


class Choice(NamedTuple):
    """What is to be done.

    Attributes:
        go: The checkpoints to remove, oldest first.
        size: Bytes of those that stay.
        over: How many bytes they are above the bound, 0 where they are not.
    """

    go: list[Facts]
    size: int
    over: float


def choose(present: Sequence[Facts], keeping: Keeping) -> Choice:
    """Decide which checkpoints stay.

    The newest stays, and those with a tag, and the best, and the one that the present branch began with. So does one whose manifest cannot be read: it may have a
    tag, and a disk that fails for a moment must not cost it. The newest `keep` that can be read and those that
    `each` keeps for good stay as well, unless the bound on bytes takes them, oldest first.

    Args:
        present: The checkpoints, oldest first.
        keeping: The rules.

    Example:
        >>> from pathlib import Path
        >>> present = [Facts(Path(f"00000{n}"), 10, key=key, mode="max") for n, key in enumerate([0.5, 0.9, 0.7])]
        >>> [facts.path.name for facts in choose(present, Keeping(keep=1, best=1)).go]
        ['000000']
    """
    readable = [facts for facts in present if facts.readable]
    firm = _paths([*present[-1:], *best_of(present, keeping.best)])
    firm |= {facts.path for facts in present if facts.tag is not None or not facts.readable}
    firm |= {facts.path for facts in readable if facts.head and facts.line == readable[-1].line}
    loose = _paths([*readable[-keeping.keep :], *_for_good(readable, keeping.each)]) - firm
    size = sum(facts.size for facts in present if facts.path in firm | loose)
    most = math.inf if keeping.most_bytes is None else keeping.most_bytes
    for facts in present:
        if size > most and facts.path in loose:
            loose.remove(facts.path)
            size -= facts.size
    go = [facts for facts in present if facts.path not in firm | loose]
    return Choice(go, size, max(0, size - most))


def best_of(present: Sequence[Facts], count: int) -> list[Facts]:
    """The best by the key metric, best first; of equal ones the earliest. NaN is never among them.

    Only checkpoints that agree with the newest on what is better are compared.
    """
    modes = [facts.mode for facts in present if facts.mode is not None]
    able = [
        (facts.key, facts)
        for facts in present
        if facts.mode is not None and facts.mode == modes[-1] and facts.key is not None
    ]
    sign = -1 if modes[-1:] == ["max"] else 1
    ranked = sorted(
        (pair for pair in able if not math.isnan(pair[0])),
        key=lambda pair: (sign * pair[0], pair[1].sequence),
    )
    return [facts for _, facts in ranked[:count]]


def _paths(chosen: Iterable[Facts]) -> set[Path]:
    return {facts.path for facts in chosen}


def _for_good(present: Sequence[Facts], each: int | Every | None) -> list[Facts]:
    """The first checkpoint of each stretch: as the first of a stretch never goes, no later one takes its place."""
    if each is None:
        return []
    first: dict[float, Facts] = {}
    for facts in present:
        count = facts.counts.get(each.unit) if isinstance(each, Every) else facts.sequence
        if count is not None and math.isfinite(count):
            first.setdefault(count // (each.n if isinstance(each, Every) else each), facts)
    return list(first.values())
