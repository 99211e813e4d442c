"""What a directory of sets looks like: the names in it, and whether there is anything else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from deeptrain.data.errors import joined
from deeptrain.data.families import role_of
from deeptrain.data.writers.formats import FORMATS
from deeptrain.data.writers.rows import CLASSES, LABELS

if TYPE_CHECKING:
    from pathlib import Path

_EXTENSIONS = "|".join(re.escape(kind.extension) for kind in FORMATS.values())
_NAME = re.compile(r"[^\W\d_][\w .\-]*(?<![\d. ])")
_SET = re.compile(rf"(.*?)([1-9]\d*)({_EXTENSIONS})")
_LABELS = re.compile(rf"({LABELS}|{CLASSES})({_EXTENSIONS})?")


def check_name(name: str) -> str:
    """See that a set's number can be told from what stands before it.

    Raises:
        ValueError: It cannot, or the name is a path, hidden, or says that the values are labels.
    """
    if not _NAME.fullmatch(name) or role_of(name) not in {None, "inputs"}:
        raise ValueError(
            f"name: found {name!r}, expected letters, digits and '_ .-', with a letter at the beginning, no digit at the "
            f"end, and not a name of labels; such as 'set'"
        )
    return name


def refuse_to_replace(path: Path, *, overwrite: bool) -> None:
    """See that nothing would be lost that was not meant to be.

    Raises:
        FileExistsError: There is something at the path; with `overwrite`, something that is no directory of sets.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        raise FileExistsError(
            f"{path}: found a file or a link, expected a directory or nothing; give another path"
        )
    names = sorted(entry.name for entry in path.iterdir())
    if not names:
        return
    if not overwrite:
        raise FileExistsError(
            f"{path}: found {joined(names)}, expected nothing; give another path, or overwrite=True to replace a data set"
        )
    others = _others(path, names)
    if others:
        raise FileExistsError(
            f"{path}: found {joined(others)} beside numbered sets, expected a directory of sets alone, as write_sets makes "
            f"it, to overwrite; move it away, or give another path"
        )


def _others(path: Path, names: list[str]) -> list[str]:
    """Name what does not belong to one data set as `write_sets` leaves it: NAME1, NAME2, ... and their labels."""
    sets = {name: match for name in names if (match := _SET.fullmatch(name))}
    others = [name for name in names if name not in sets and not _LABELS.fullmatch(name)]
    if others:
        return others
    kinds = {(match[1], match[3]) for match in sets.values()}
    if len(kinds) != 1 or {int(match[2]) for match in sets.values()} != set(range(1, len(sets) + 1)):
        return names
    below = [path / name for name in (LABELS, CLASSES)]
    return [
        f"{place.name}/{entry.name}"
        for place in below
        if place.is_dir()
        for entry in place.iterdir()
        if entry.name not in sets
    ]
