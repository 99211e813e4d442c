"""The present line of history in a journal: its lines, in their order, without those of history that was left.

A journal only grows, so that lines of iterations may stand in it that were computed again, came out otherwise, or were
left by going back. Which are left is said by what comes after them (see `journal`); so it is read from its end, for
the places of the lines that stay, and then forward from there. In memory are a block of it and these places.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deeptrain.control.journal import is_news, parse, read_backwards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK = 1 << 16  # bytes of the journal that are in memory at a time


@dataclass(slots=True)
class Tail:
    """The present line of history after some iteration.

    Attributes:
        path: The journal.
        spans: Where its lines lie, oldest first: where the first line of each stretch begins, and the last.
        until: The last iteration that it tells of.
        environments: Lines that tell of an environment: where they begin, and what they tell, oldest first.
        validations: The newest line of each pass of validation, by the pass's number: where it begins, and the line.
    """

    path: Path
    spans: list[tuple[int, int]] = field(default_factory=list)
    until: int = 0
    environments: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    validations: dict[int, tuple[int, dict[str, Any]]] = field(default_factory=dict)

    def environment_at(self, place: int) -> dict[str, Any] | None:
        """The environment of the process that wrote the line at a place; None where it began before the tail."""
        known = [environment for begins, environment in self.environments if begins < place]
        return known[-1] if known else None

    def lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The lines of iterations, oldest first, each with its place. No file is open between two of them."""
        for first, last in self.spans:
            place = first
            while place <= last:
                with self.path.open("rb") as file:
                    file.seek(place)
                    lines = file.readlines(BLOCK)
                for line in lines:
                    if place <= last:
                        entry = parse(line, f"{self.path}, at byte {place}")
                        if is_news(entry):
                            yield place, entry
                    place += len(line)


def tail(path: Path, after: int, *, whole: bool = False) -> Tail:
    """The present line of history after an iteration. Read from the end, and no further than is needed.

    Args:
        path: The journal.
        after: The count of iterations that it begins after.
        whole: Collect environments and validations too.

    Raises:
        ValueError: A line that is come to is not one of a journal; the message names the file and the place.
    """
    found = Tail(path)
    below, joined = math.inf, False
    with closing(read_backwards(path)) as entries:
        for place, entry in entries:
            at = int(entry.get("at", 0))
            news = is_news(entry)
            if entry.get("kind") == "load" or (news and at <= after):
                found.until = found.until or min(at, after)
                break
            if news:
                kept = at < below
                if kept:
                    found.spans.append((place, found.spans.pop()[1] if joined else place))
                    found.until, below = found.until or at, at
                joined = kept
            elif whole:
                _collect(found, place, entry, present=at < below)
            below = min(below, entry.get("cut", below))
    found.spans.reverse()
    found.environments.reverse()
    return found


def _collect(found: Tail, place: int, entry: dict[str, Any], *, present: bool) -> None:
    if isinstance(entry.get("environment"), dict):
        found.environments.append((place, entry["environment"]))
    number = entry.get("pass")
    news = entry.get("kind") == "validation" and not entry.get("replayed")
    if news and present and type(number) is int and isinstance(entry.get("figures"), dict):
        found.validations.setdefault(number, (place, entry))


def present_iterations(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of iterations on the present line of history, oldest first, each iteration once.

    Iterations of which a crash left no line are not among them, nor what lies before a `load`.

    Raises:
        ValueError: A line is not one of a journal; the message names the file and the place.

    Example:
        `[entry["figures"]["loss"] for entry in present_iterations(run.path / "journal.jsonl")]`
    """
    return (entry for _, entry in tail(path, 0).lines())
