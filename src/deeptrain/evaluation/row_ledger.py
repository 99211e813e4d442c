"""A ledger on disk: the loss of every row in every pass, within a bound.

    ledger/train/000003.npy      what came of each row in the pass that is the third, an array of `ENTRY`
    ledger/train/sets.json       which sets the rows are of

Writing a pass again writes the same, so that what a process died over is simply computed and written once more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deeptrain.checkpoint.files import write_json
from deeptrain.data.batch import SetTable

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from deeptrain.data.batch import RowIds

FOLDER, SETS = "ledger", "sets.json"
ENTRY = np.dtype([("loss", "<f4"), ("right", "i1")])
UNKNOWN = -1  # whether it was right


@dataclass
class RowLedger:
    """What is known of the rows of one loader.

    Attributes:
        rows: How many rows there are.
        place: The directory; None keeps it in memory.
        paths: The sets' files, where they are files.
        most: How many bytes it may take. Past them every second of the older passes goes, never the first or the newest.
    """

    rows: int
    place: Path | None
    most: int
    paths: tuple[str, ...] = ()
    _is_named: bool = False
    _open: dict[int, NDArray[Any]] = field(default_factory=dict, repr=False)

    def note(self, number: int, rows: RowIds, losses: NDArray[Any], right: NDArray[Any]) -> None:
        """Write what came of rows in a pass; of a row that comes again the last counts.

        Args:
            number: The pass, from 0.
            rows: Their numbers, `(n,)`.
            losses: Their losses, `(n,)`.
            right: 1, 0, or `UNKNOWN`, `(n,)`.

        Raises:
            OSError: It could not be written.
        """
        table = self._pass(number)
        table["loss"][rows] = losses
        table["right"][rows] = right

    def _pass(self, number: int) -> NDArray[Any]:
        if number not in self._open:
            if self.place is not None:
                self._open.clear()
            self._open[number] = self._table(number)
            self._thin()
        return self._open[number]

    def _table(self, number: int) -> NDArray[Any]:
        empty = np.zeros(self.rows, ENTRY)
        empty["loss"], empty["right"] = np.nan, UNKNOWN
        if self.place is None:
            return empty
        path = self.place / f"{number:06d}.npy"
        if not _is_whole(path, self.rows):
            self.place.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".part")
            with temporary.open("wb") as file:
                np.save(file, empty)
            temporary.replace(path)
        return np.load(path, mmap_mode="r+")  # type: ignore[no-any-return]

    def flush(self) -> None:
        """See what was noted onto the disk."""
        for table in self._open.values():
            if isinstance(table, np.memmap):
                table.flush()

    def begin_anew(self, number: int) -> None:
        """Forget passes from a number on: the run went back before them."""
        for known in [known for known in self._open if known >= number]:
            del self._open[known]
        for path in self._files():
            if int(path.stem) >= number:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return [] if self.place is None else sorted(self.place.glob("[0-9]*.npy"))

    def _thin(self) -> None:
        size = self.rows * ENTRY.itemsize
        while True:
            known = list(self._open) if self.place is None else self._files()
            if len(known) <= 2 or len(known) * size <= self.most:  # noqa: PLR2004 - the first and the newest
                return
            for old in known[1:-1:2]:
                if isinstance(old, int):
                    del self._open[old]
                else:
                    old.unlink(missing_ok=True)

    def name_sets(self, table: SetTable | None) -> None:
        """Write down which sets the rows are of, and in which files they are."""
        if self.place is not None and table is not None and not self._is_named:
            self._is_named = True
            self.place.mkdir(parents=True, exist_ok=True)
            names = {"names": list(table.names), "sizes": list(table.sizes), "paths": list(self.paths)}
            write_json(self.place / SETS, names)

    def read(self) -> tuple[list[int], NDArray[Any]]:
        """The passes that are kept, and all of what came of the rows, an array of `ENTRY` of shape `(passes, rows)`."""
        if self.place is None:
            known = sorted(self._open)
            return known, np.array([self._open[number] for number in known], ENTRY).reshape(-1, self.rows)
        files = self._files()
        return [int(path.stem) for path in files], np.array([np.load(path) for path in files], ENTRY).reshape(
            -1, self.rows
        )


def _is_whole(path: Path, rows: int) -> bool:
    try:
        return bool(np.load(path, mmap_mode="r").shape == (rows,))
    except (OSError, ValueError):
        return False


class Read(NamedTuple):
    """A ledger that was read.

    Attributes:
        passes: Which passes are kept.
        table: What came of the rows, an array of `ENTRY` of shape `(passes, rows)`.
        sets: Which sets the rows are of; None where there are no names.
        paths: The sets' files; empty where they are none.
    """

    passes: list[int]
    table: NDArray[Any]
    sets: SetTable | None
    paths: tuple[str, ...]


def read_ledger(place: Path) -> Read:
    """What a run has written down.

    Raises:
        FileNotFoundError: It has written nothing; the message says how it would.
    """
    files = sorted(place.glob("[0-9]*.npy"))
    if not files:
        raise FileNotFoundError(
            f"{place}: no ledger of rows: train with dt.Validation(..., ledger=True), or callbacks=[dt.Ledger()]"
        )
    rows = len(np.load(files[0], mmap_mode="r"))
    numbers, found = RowLedger(rows, place, 0).read()
    sets = place / SETS
    named = json.loads(sets.read_text(encoding="utf-8")) if sets.exists() else None
    if named is None:
        return Read(numbers, found, None, ())
    return Read(numbers, found, SetTable(named["names"], named["sizes"]), tuple(named["paths"]))
