"""`deeptrain worst RUN`: the rows that the model has most trouble with, by the run's ledger of rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from deeptrain.data.batch import SetTable
    from deeptrain.evaluation.row_ledger import Read
    from deeptrain.evaluation.worst import Worst

KINDS = {
    "hardest": "highest loss over the newer half of the passes",
    "forgotten": "right in one pass and wrong in the next, most often",
    "doubted": "wrong in more than three of four passes, highest loss over all of them: probably mislabelled",
}


def add_worst(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    worst = commands.add_parser(
        "worst", help="the hardest, most forgotten and probably mislabelled rows, with their files"
    )
    worst.add_argument("path", metavar="RUN", type=Path)
    worst.add_argument("--of", default=None, help="train, val or val.NAME (default: each that there is)")
    worst.add_argument("--number", type=int, default=10, help="how many rows of each kind (default: 10)")
    worst.set_defaults(run=_worst)


def _worst(parsed: argparse.Namespace) -> int:
    for line in lines_of(parsed.path, parsed.of, parsed.number):
        print(line)  # noqa: T201 - a command's answer
    return 0


def lines_of(run: Path, of: str | None, number: int) -> Iterator[str]:
    """What is told of a run.

    Raises:
        FileNotFoundError: It has no such ledger.
    """
    from deeptrain.evaluation.row_ledger import FOLDER, read_ledger  # noqa: PLC0415 - a command pays for what it uses
    from deeptrain.evaluation.worst import worst_rows  # noqa: PLC0415

    folder = run / FOLDER
    names = [of] if of else sorted(place.name for place in folder.glob("*") if place.is_dir()) or ["train"]
    for name in names:
        ledger = read_ledger(folder / name)
        numbers, table = ledger.passes, ledger.table
        found = worst_rows(table, number)
        yield f"{name}: {table.shape[1]} rows, passes {numbers[0]} to {numbers[-1]} ({len(numbers)} kept)"
        for kind, words in KINDS.items():
            yield from _of_kind(f"{kind} ({words})", getattr(found, kind), found, ledger)
        if name == "train" and len(found.doubted):
            yield f"  to leave the doubted ones out:  trainer.train.exclude(rows={found.doubted.tolist()})"


def _of_kind(kind: str, rows: NDArray[Any], found: Worst, ledger: Read) -> Iterator[str]:
    if not len(rows):
        yield f"  {kind}: none"
        return
    yield f"  {kind}:"
    yield f"    {'row':>9}  {'loss':>9} {'over all':>9} {'right':>6} {'forgotten':>9}  where"
    places = [""] * len(rows) if ledger.sets is None else _named(ledger.sets, ledger.paths, rows)
    for row, place in zip(rows.tolist(), places, strict=True):
        right = "" if np.isnan(found.rights[row]) else f"{found.rights[row]:.0%}"
        figures = f"{found.losses[row]:>9.4g} {found.means[row]:>9.4g} {right:>6} {found.forgettings[row]:>9}"
        yield f"    {row:>9}  {figures}  {place}"


def _named(sets: SetTable, paths: tuple[str, ...], rows: NDArray[Any]) -> list[str]:
    """Each row's set and its number there, with the set's file."""
    names, places = sets.identify(rows)
    files = dict(zip(sets.names, paths, strict=False))
    return [
        f"{name}[{place}]{f'  {files[name]}' if name in files else ''}"
        for name, place in zip(names, places.tolist(), strict=True)
    ]
