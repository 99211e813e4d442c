"""`CSVLogger`: figures, hyperparameters and interventions as CSV files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from deeptrain.loggers.base import Logger, Picture, Place, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from os import PathLike

ENTRY = ("at", "branch", "origin", "verb", "path", "value")


def folder_for(given: str | PathLike[str] | None, place: Place, name: str) -> Path:
    """The directory that a logger writes to: the run's own, or one of the run's name in one that was given.

    Raises:
        ValueError: There is neither.
    """
    if given is not None:
        folder = Path(given) if place.directory is None else Path(given) / place.name
    elif place.directory is not None:
        folder = place.directory / name
    else:
        raise ValueError(f"runs=None: there is no directory to write to; give the logger one ({name}=...)")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class CSVLogger(Logger):
    """Writes `train.csv`, `val.csv` and so on, one row for each iteration or pass, `hyperparameters.csv` and `interventions.csv`.

    The files show the present line of history: they are written anew from the run's history when it goes on or goes back. Floats are
    exact: read as floats they are the same bits.

    Args:
        directory: Where to; by default `csv` in the run's directory. In one that is given, each run has its own.
    """

    drops_tail: ClassVar[bool] = True

    def __init__(self, directory: str | PathLike[str] | None = None) -> None:
        self._given = directory
        self._folder = Path()
        self._columns: dict[str, list[str]] = {}  # by the file's name
        self._keeps_pictures = False

    def open(self, place: Place) -> Mapping[str, int]:
        """Begin the files anew; all rows come again."""
        self._folder = folder_for(self._given, place, "csv")
        self._keeps_pictures = place.directory is None
        self._columns.clear()
        for path in self._folder.glob("*.csv"):
            path.unlink()
        self._write("hyperparameters", [("name", "value"), *place.hyperparameters.items()])
        return {}

    def metrics(self, rows: Sequence[Row]) -> None:
        """Append rows, to a file for each part of the figures' names before the first dot."""
        files: dict[str, list[tuple[int, dict[str, float]]]] = {}
        for at, figures in rows:
            split: dict[str, dict[str, float]] = {}
            for name, value in figures.items():
                file, dot, column = name.partition(".")
                file, column = (file, column) if dot else ("figures", name)
                split.setdefault(file, {})[column] = value
            for file, found in split.items():
                files.setdefault(file, []).append((at, found))
        for file, found_rows in files.items():
            self._append(file, found_rows)

    def _append(self, file: str, rows: list[tuple[int, dict[str, float]]]) -> None:
        known = self._columns.get(file)
        columns = list(dict.fromkeys([*(known or ()), *(name for _, figures in rows for name in figures)]))
        if known is None:
            self._write(file, [("iteration", *columns)])
        elif columns != known:
            self._widen(file, columns)
        self._columns[file] = columns
        lines = [[at, *(_text(figures.get(name)) for name in columns)] for at, figures in rows]
        with self._path(file).open("a", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows(lines)

    def _widen(self, file: str, columns: list[str]) -> None:
        """A figure came that was not there from the beginning: it is empty in the rows before."""
        with self._path(file).open(newline="", encoding="utf-8") as text:
            _, *before = csv.reader(text)
        width = 1 + len(columns)
        self._write(file, [("iteration", *columns), *(row + [""] * (width - len(row)) for row in before)])

    def interventions(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Write them all."""
        self._write("interventions", [ENTRY, *([entry[name] for name in ENTRY] for entry in entries)])

    def picture(self, picture: Picture) -> None:
        """Write it, where the run has no directory, in which it would be already."""
        if self._keeps_pictures:
            (self._folder / f"{picture.at:08d}-{picture.name}.png").write_bytes(picture.png)

    def _path(self, file: str) -> Path:
        return self._folder / f"{file}.csv"

    def _write(self, file: str, rows: Iterable[Iterable[Any]]) -> None:
        with self._path(file).open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows(rows)


def _text(value: float | None) -> str:
    return "" if value is None else repr(value)
