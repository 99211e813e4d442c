"""One file: which of the arrays in it are inputs, labels and class labels, and which numbers they have."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from deeptrain.data.errors import DataError, joined
from deeptrain.data.families import Family, Role, families
from deeptrain.data.formats.registry import Format, Hints, format_of, suffix_of, suffixes

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.formats.base import Part

NUMBERED = "a directory of numbered .npy files (name1.npy, name2.npy, ...), or of another known format"


@dataclass(frozen=True, slots=True)
class Opening:
    """How files are opened.

    Attributes:
        hints: Shape and dtype of values without a header.
        reader: The user's own format, for all files whatever their names end with.
        skip: Files that are something else, such as labels that were named.
        beside: What to look for beside the sets: labels that were not named.
    """

    hints: Hints = field(default_factory=Hints)
    reader: Format | None = None
    skip: tuple[Path, ...] = ()
    beside: tuple[Role, ...] = ()


@dataclass(slots=True)
class Content:
    """What was found at a path.

    Attributes:
        path: The path.
        parts: Numbered sets; for one that cannot be opened, the error that says why.
        single: One array, which may hold all sets.
        number: Its set's number, if it is one set.
        columns: A table's columns that are named by numbers.
        labels: The labels that lie in the same files, or beside them.
        class_labels: The class labels, likewise.
    """

    path: Path
    parts: dict[int, Part | DataError] = field(default_factory=dict)
    single: Part | None = None
    number: int = 0
    columns: dict[int, Part] = field(default_factory=dict)
    labels: Content | None = None
    class_labels: Content | None = None


def open_one(path: Path, opening: Opening, role: Role, inner: str = "") -> Content:
    """Open one file, and find out which of the arrays in it are what.

    Args:
        path: The file.
        opening: How files are opened.
        role: What is looked for.
        inner: Where in the file to look: an array's name, or what its name begins with up to a `/`.

    Raises:
        DataError: It cannot be opened, or holds nothing, or several things.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        # To open a pipe would be to wait for somebody to write to it.
        raise DataError(path, found="a pipe or a device", expected="a file", remedy="Check the path.")
    form = opening.reader or format_of(_suffix(path))
    entries = form.entries(path, opening.hints)
    if inner:
        entries = {
            n: part for n, part in entries.items() if f"{n}/".startswith(f"{inner}/") or fnmatch(n, inner)
        }
    if not entries:
        raise DataError(
            path,
            found=f"no arrays{f' named {inner}' if inner else ''}",
            expected="at least one",
            remedy="Check the file, and the name.",
        )
    found = families((name, "", name) for name in entries)
    family = choose_family(path, found, role, f"{path}/")
    content = _of_entries(path, family, entries)
    content.columns = _columns(path, form)
    if role == "inputs":
        for other in found:
            if other is not family and other.role == "labels":
                content.labels = _of_entries(path, other, entries)
            elif other is not family and other.role == "class_labels":
                content.class_labels = _of_entries(path, other, entries)
    return content


def _of_entries(path: Path, family: Family[str], entries: dict[str, Part]) -> Content:
    refuse_twice(path, family)
    members = {number: entries[name] for number, name in family.members.items()}
    if len(members) > 1:
        return Content(path, parts={number or 0: part for number, part in members.items()})
    [(number, part)] = members.items()
    return Content(path, single=part, number=_number_of(path) if number is None else number)


def _number_of(path: Path) -> int:
    number = next(iter(families([(path.name.partition(".")[0], "", path)])[0].members))
    return number or 0


def _columns(path: Path, form: Format) -> dict[int, Part]:
    found = families((name, "", part) for name, part in form.columns(path).items())
    numbered = [family for family in found if family.is_numbered]
    if len(found) != 1 or not numbered:
        return {}
    refuse_twice(path, numbered[0])
    return {number: part for number, part in numbered[0].members.items() if number is not None}


def _suffix(path: Path) -> str:
    suffix = suffix_of(path)
    if suffix is None:
        raise DataError(
            path,
            found="a file of no known format",
            expected=f"{NUMBERED}: {', '.join(suffixes())}",
            remedy="Check the path, or bring a reader: Files(path, reader=...).",
        )
    return suffix


def choose_family(path: Path, found: list[Family[Any]], role: Role | None, prefix: str) -> Family[Any]:
    """Choose what is looked for among families.

    Raises:
        DataError: There is nothing, or more than one that it might be.
    """
    if len(found) == 1:
        return found[0]
    candidates = [family for family in found if family.role == role] if role not in (None, "inputs") else []
    if role == "inputs":
        candidates = [family for family in found if family.role in ("inputs", None)]
    candidates = candidates or found
    numbered = [family for family in candidates if family.is_numbered]
    if len(numbered) == 1:
        # A single file of another kind beside the sets is a note or a table about them.
        candidates = [f for f in candidates if f.is_numbered or f.suffix == numbered[0].suffix]
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        path,
        found=f"several possible data sets: {joined(candidates)}" if candidates else "no data sets",
        expected="sets whose names differ in their numbers alone, the last digits of the name, and nothing else"
        if candidates
        else NUMBERED,
        remedy=f"Say which one: Files('{prefix}{candidates[0].pattern}'); or move the others elsewhere."
        if candidates
        else "Check the path.",
    )


def refuse_twice(path: Path, family: Family[Any]) -> None:
    """Refuse two members with one number.

    Raises:
        DataError: There are two.
    """
    if family.twice is not None:
        number, one, other = family.twice
        names = sorted(getattr(value, "name", value) for value in (one, other))
        raise DataError(
            path,
            found=f"files that both have the number {number}: {joined(names)}",
            expected="one number for each set, the last digits of the name",
            remedy="Rename them, or move what is no set elsewhere.",
        )
