"""What lies at a path: the sets of a directory or of one file, found by their names, and the labels that go with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from deeptrain.data.containers import NUMBERED, Content, Opening, choose_family, open_one, refuse_twice
from deeptrain.data.errors import DataError, joined
from deeptrain.data.families import Family, Role, families
from deeptrain.data.formats.base import Part
from deeptrain.data.formats.csv import CsvPart
from deeptrain.data.formats.registry import suffix_of
from deeptrain.data.formats.tables import SinglePart
from deeptrain.data.neighbours import files_in, labels_beside, only_directory, stem_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Content", "Opening", "discover", "found_labels"]

GLOB = "*?["
TABLES = (".csv", ".parquet")
T = TypeVar("T")


def discover(path: Path, opening: Opening, role: Role = "inputs") -> Content:
    """Find what lies at a path.

    Args:
        path: A directory, a file, a pattern (`dir/train*.npy`), or an array in a file (`data.h5/train`).
        opening: How files are opened.
        role: What is looked for, where names say what is what.

    Raises:
        DataError: There is nothing, or there are several things.
    """
    if _is_one(path, opening):
        content = open_one(path, opening, role)
        siblings = _families_in(path.parent, opening)
        me = [family for family in siblings if path in family.members.values()]
        family = me[0] if me else Family(path.name, "", "", {None: path})
    elif path.is_dir():
        directory = path if _holds_sets(path, opening, role) else only_directory(path, role, NUMBERED)
        siblings = _families_in(directory, opening)
        family = choose_family(directory, siblings, role, f"{directory}/")
        content = _open_family(path, family, opening, role)
    elif any(letter in path.name for letter in GLOB) and path.parent.is_dir():
        siblings = _families_in(path.parent, opening)
        chosen = _families_in(path.parent, opening, path.name)
        family = choose_family(path, chosen, None, f"{path.parent}/")
        content = _open_family(path, family, opening, role)
    else:
        return _inside(path, opening, role)
    if opening.beside:
        _add_labels(content, family, siblings, opening)
    return content


def _is_one(path: Path, opening: Opening) -> bool:
    if path.is_dir():
        return opening.reader is None and suffix_of(path) is not None
    return path.exists()


def _inside(path: Path, opening: Opening, role: Role) -> Content:
    """Look for an array in a file: `data.h5/train`."""
    for parent in path.parents:
        if parent.exists():
            if _is_one(parent, opening):
                return open_one(parent, opening, role, path.relative_to(parent).as_posix())
            break
    raise DataError(path, found="nothing", expected=f"a file, or {NUMBERED}", remedy="Check the path.")


# ---------------------------------------------------------------------- directories


def _families_in(directory: Path, opening: Opening, pattern: str = "*") -> list[Family[Path]]:
    found = files_in(directory, opening.reader, opening.skip, pattern)
    return families((stem_of(path, suffix), suffix, path) for path, suffix in found)


def _holds_sets(directory: Path, opening: Opening, role: Role) -> bool:
    """Whether a directory has sets in it, and not just labels beside the directory that has them."""
    found = _families_in(directory, opening)
    others = [path for path in directory.iterdir() if path.is_dir() and files_in(path)]
    if role == "inputs" and others and all(family.role in ("labels", "class_labels") for family in found):
        return False
    return bool(found)


def _open_family(path: Path, family: Family[Path], opening: Opening, role: Role) -> Content:
    """Open all files of a family; each holds one set, perhaps with its labels."""
    refuse_twice(path, family)
    if len(family.members) == 1:
        return open_one(next(iter(family.members.values())), opening, role)
    contents: dict[int, Content | DataError] = {}
    for number, file in family.members.items():
        contents[number or 0] = _opened(file, opening, role)
    content = _gathered(path, contents)
    for kind in ("labels", "class_labels"):
        inner = {number: _kind(found, kind) for number, found in contents.items()}
        if any(isinstance(found, Content) for found in inner.values()):
            setattr(content, kind, _gathered(path, inner))
    return content


def _opened(file: Path, opening: Opening, role: Role) -> Content | DataError:
    try:
        return open_one(file, opening, role)
    except DataError as error:
        return error


def _kind(found: Content | DataError, kind: str) -> Content | DataError | None:
    return found if isinstance(found, DataError) else getattr(found, kind)


def _gathered(path: Path, contents: dict[int, Any]) -> Content:
    parts: dict[int, Part | DataError] = {}
    for number, found in contents.items():
        if isinstance(found, DataError):
            parts[number] = found
        elif found is not None:
            parts[number] = found.single if found.single is not None else _several(found)
    _promote(parts.values())
    return Content(path, parts=parts)


def _several(found: Content) -> DataError:
    return DataError(
        found.path,
        found=f"the arrays {joined(found.parts)}",
        expected="one set in each of several files",
        remedy="Open the file by itself, or write its sets as files.",
    )


def _promote(parts: Iterable[Part | DataError]) -> None:
    """Have text read as floats in all sets where it is floats in some."""
    texts = [part for part in parts if isinstance(part, CsvPart)]
    if len({part.dtype for part in texts}) > 1:
        dtype = np.result_type(*(part.dtype for part in texts))
        for part in texts:
            part.promote(dtype)


# ---------------------------------------------------------------------- labels


def _add_labels(
    content: Content, family: Family[Path], siblings: list[Family[Path]], opening: Opening
) -> None:
    others = [other for other in siblings if other is not family and other.pattern != family.pattern]
    for role in opening.beside:
        if getattr(content, role) is None:
            found = labels_beside(content.path, family, others, role)
            if found is not None:
                setattr(content, role, found_labels(found, opening, role))


def found_labels(found: Path | Family[Path], opening: Opening, role: Role) -> Content:
    """Open labels: at a path, or a family of files; with the user's reader only where no known format fits.

    Raises:
        DataError: They cannot be opened.
    """
    if isinstance(found, Family):
        content = _open_family(next(iter(found.members.values())).parent, found, Opening(), role)
    else:
        own = found.is_file() and suffix_of(found) is None
        content = discover(found, Opening(reader=opening.reader if own else None), role)
    if content.single is not None:
        content.single = _squeezed(content.single)
    content.parts = {number: _squeezed(part) for number, part in content.parts.items()}
    return content


def _squeezed(part: T) -> T | Part:
    """Give a table's only column as single values; arrays keep their shape."""
    if isinstance(part, Part) and part.shape == (1,) and suffix_of(part.path) in TABLES:
        return SinglePart(part)
    return part
