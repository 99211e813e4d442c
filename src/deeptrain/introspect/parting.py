"""Where two runs part, told by their journals alone: the first iteration that was fed another batch or found another figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.control.present import present_iterations
from deeptrain.introspect.trace import CAUSES, FirstDifference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

JOURNAL = "journal.jsonl"


def parting(one: Path, two: Path) -> FirstDifference | None:
    """The first iteration in which the journals of two runs differ, on their present lines of history; or None.

    Figures are compared to the last bit, batches by their place in the order. Iterations of which only one of the
    journals has a line are passed over: a crash may have left none. Nothing but two blocks of the journals is in memory.

    Args:
        one: The directory of a run.
        two: That of the other.

    Raises:
        ValueError: A journal holds what is no line of one; the message names the file and the place.

    Example:
        `print(parting(Path("runs/M1__a"), Path("runs/M2__a")))`
    """
    for mine, yours in _together(present_iterations(one / JOURNAL), present_iterations(two / JOURNAL)):
        found = _difference(mine, yours)
        if found is not None:
            return found
    return None


def _together(
    one: Iterator[dict[str, Any]], two: Iterator[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The lines of iterations that both have. Each gives its lines in rising order."""
    mine, yours = next(one, None), next(two, None)
    while mine is not None and yours is not None:
        if mine["at"] == yours["at"]:
            yield mine, yours
        behind = min(mine["at"], yours["at"])
        mine, yours = (
            next(one, None) if mine["at"] == behind else mine,
            next(two, None) if yours["at"] == behind else yours,
        )


def _difference(mine: Mapping[str, Any], yours: Mapping[str, Any]) -> FirstDifference | None:
    at = int(mine["at"])
    if mine.get("batch") != yours.get("batch"):
        what = f"the batch {mine.get('batch')} was fed in one, {yours.get('batch')} in the other (epoch, batch, piece)"
        return FirstDifference(at, what, CAUSES["rows"])
    ours, theirs = _figures(mine), _figures(yours)
    for name in {**ours, **theirs}:
        here, there = repr(ours.get(name, "(absent)")), repr(theirs.get(name, "(absent)"))
        if here != there:  # of floats it tells every bit, and one NaN is like the other
            return FirstDifference(at, f"{name} {here} in one, {there} in the other", CAUSES["figures"])
    return None


def _figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    figures = entry.get("figures")
    return figures if isinstance(figures, dict) else {}
