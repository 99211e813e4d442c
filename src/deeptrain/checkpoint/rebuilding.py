"""Rebuilding a stretch of the history from the journal, which has the exact figures of every iteration and validation.

What comes of it counts only where every bit is what the checkpoint's chain says. It is for the rare case, so it may take
its time: some seconds for a million iterations.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from deeptrain.checkpoint.chain import Sum
from deeptrain.control.journal import read_journal
from deeptrain.state.history import Series

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deeptrain.checkpoint.line import Line
    from deeptrain.checkpoint.segments import Columns

Told: TypeAlias = "dict[str, tuple[array[int], array[float]]]"
_NONE = Series(np.empty(0, np.int64), np.empty(0, np.float64))


def rebuild(
    journal: Path,
    checkpoint: str,
    line: Line,
    wanted: Mapping[str, Sum],
    sides: tuple[Mapping[str, Columns], Mapping[str, Columns]],
) -> dict[str, Series] | None:
    """The series of a checkpoint, of which a stretch is missing.

    Args:
        journal: The run's.
        checkpoint: The checkpoint's name, as the journal has it.
        line: The branch that it is on.
        wanted: What the series have to be.
        sides: What there is of each before the missing stretch, and behind it.

    Returns:
        The whole series; None where the journal does not give the same bits.
    """
    try:
        for told in _tellings(journal, checkpoint, line):
            series = {
                name: _mended(total, told.get(name), *(_read(side, name) for side in sides))
                for name, total in wanted.items()
            }
            found = {name: whole for name, whole in series.items() if whole is not None}
            if len(found) == len(series):
                return found
    except (OSError, AttributeError, LookupError, TypeError, ValueError):  # the journal is not whole either
        return None
    return None


def _read(columns: Mapping[str, Columns], name: str) -> Series:
    return columns[name].series() if name in columns else _NONE


def _mended(
    total: Sum, told: tuple[array[int], array[float]] | None, before: Series, behind: Series
) -> Series | None:
    """A series with what is told of it between its two sides, where that gives what it has to be."""
    missing = total.size - len(before.values) - len(behind.values)
    for start in _starts(told, before):
        between = _NONE if told is None else _slice(told, start, missing)
        whole = Series(*(np.concatenate(parts) for parts in zip(before, between, behind, strict=True)))
        if Sum().plus(whole) == total:
            return whole
    return None


def _starts(told: tuple[array[int], array[float]] | None, before: Series) -> range:
    """Where the missing stretch may begin in what is told: behind the last value before it."""
    if told is None or not len(before.iterations):
        return range(1)
    last = int(before.iterations[-1])  # validations may stand there more than once
    return range(bisect_left(told[0], last), bisect_right(told[0], last) + 1)


def _slice(told: tuple[array[int], array[float]], start: int, count: int) -> Series:
    iterations, values = (column[start : start + max(count, 0)] for column in told)
    return Series(np.array(iterations, dtype=np.int64), np.array(values, dtype=np.float64))


def _tellings(journal: Path, checkpoint: str, line: Line) -> Iterator[Told]:
    """What the history was when the checkpoint was written, by the journal; and at the end, where it does not say."""
    until = {**dict(line.before), line.branch: math.inf}
    past = _Past()
    for entry in read_journal(journal):
        if int(entry.get("at", 0)) <= until.get(entry.get("branch", 0), -1):
            past.take(entry)
        if entry.get("kind") == "checkpoint" and entry.get("path") == checkpoint:
            yield past.series
    yield past.series


class _Past:
    """A history as it was in the memory of the processes that wrote a journal, line by line."""

    def __init__(self) -> None:
        self.series: Told = {}
        self._passes: dict[str, array[int]] = {}  # beside each of validation: with which pass a value came
        self._at = 0  # the last iteration

    def take(self, entry: Mapping[str, Any]) -> None:
        """Follow a line.

        One that is there already, as where iterations before a rewind's goal are computed again, changes nothing. Any other of
        an iteration or a pass that was there before says that the run went back before it.
        """
        kind, at, figures = entry.get("kind"), int(entry.get("at", 0)), entry.get("figures", {})
        if kind == "start":
            self._go_back(at)
        elif "cut" in entry:
            self._go_back(int(entry["cut"]) - 1)
        elif kind == "iteration" and not (at <= self._at and entry.get("replayed")):
            self._iterate(at, figures)
        elif kind == "validation":
            self._validate(at, figures, int(entry["pass"]))
        elif kind == "figures":
            self._record(at, figures)

    def _iterate(self, at: int, figures: Mapping[str, float]) -> None:
        if at <= self._at:
            self._go_back(at - 1)
        self._add(at, figures, "train.")
        self._at = at

    def _validate(self, at: int, figures: Mapping[str, float], number: int) -> None:
        if all(self._has(f"val.{name}", at, float(value), number) for name, value in figures.items()):
            return
        for name, passes in self._passes.items():
            self._shorten(name, bisect_left(passes, number))
        self._add(at, figures, "val.")
        for name in figures:
            self._passes.setdefault(f"val.{name}", array("q")).append(number)

    def _record(self, at: int, figures: Mapping[str, float]) -> None:
        """What a handler recorded; not again what is there already."""
        for name, value in figures.items():
            iterations, values = self.series.get(name, ([], []))
            known = bool(iterations) and (
                at < iterations[-1] or (at == iterations[-1] and repr(values[-1]) == repr(float(value)))
            )
            if not known:
                self._add(at, {name: value}, "")

    def _has(self, name: str, at: int, value: float, number: int) -> bool:
        """Whether a pass gave this value."""
        passes = self._passes.get(name, array("q"))
        place = bisect_left(passes, number)
        if place == len(passes) or passes[place] != number:
            return False
        iterations, values = self.series[name]
        return iterations[place] == at and repr(values[place]) == repr(value)

    def _go_back(self, at: int) -> None:
        self._at = at
        for name, (iterations, _) in self.series.items():
            self._shorten(name, bisect_right(iterations, at))

    def _shorten(self, name: str, count: int) -> None:
        for column in (*self.series[name], self._passes.get(name, array("q"))):
            del column[count:]

    def _add(self, at: int, figures: Mapping[str, float], prefix: str) -> None:
        for name, value in figures.items():
            iterations, values = self.series.setdefault(prefix + name, (array("q"), array("d")))
            iterations.append(at)
            values.append(float(value))
