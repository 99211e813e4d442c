"""The files of a directory, and which of those beside the data are their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeptrain.data.errors import DataError, joined
from deeptrain.data.families import Family, Role, rest_of, role_of
from deeptrain.data.formats.registry import suffix_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deeptrain.data.formats.registry import Format


def files_in(
    directory: Path, reader: Format | None = None, skip: Sequence[Path] = (), pattern: str = "*"
) -> list[tuple[Path, str]]:
    """List the files of known formats in a directory, with their suffixes; under the user's own reader, all files.

    Args:
        directory: Where to look.
        reader: The user's own format.
        skip: Files to leave out.
        pattern: What their names must fit.
    """
    skipped = {path.resolve() for path in skip}
    found = []
    for path in sorted(directory.glob(pattern)):
        if path.name.startswith(".") or path.parent != directory:
            continue
        suffix = (path.suffix if path.is_file() else None) if reader is not None else suffix_of(path)
        if suffix is not None and (not skipped or path.resolve() not in skipped):
            found.append((path, suffix))
    return found


def stem_of(path: Path, suffix: str) -> str:
    """Give a name without its suffix; a directory that holds a Zarr node may have none."""
    return (
        path.name[: len(path.name) - len(suffix)] if path.name.lower().endswith(suffix.lower()) else path.name
    )


def only_directory(directory: Path, role: Role, expected: str) -> Path:
    """Give the one directory in a directory without files that holds what is looked for.

    Raises:
        DataError: There is none, or several.
    """
    inner = [path for path in sorted(directory.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    holding = [path for path in inner if files_in(path)]
    candidates = [path for path in holding if role_of(path.name) == role] or [
        path for path in holding if role != "inputs" or role_of(path.name) is None
    ]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise DataError(directory, found="no data sets", expected=expected, remedy="Check the path.")
    raise DataError(
        directory,
        found=f"several possible data sets: {joined(path.name for path in candidates)}",
        expected="one",
        remedy=f"Say which one: Files('{candidates[0]}').",
    )


def labels_beside(
    path: Path, family: Family[Path], siblings: Sequence[Family[Path]], role: Role
) -> Path | Family[Path] | None:
    """Find the labels of some sets: files beside them, a directory beside them, or these one directory up.

    Names must agree but for the words that say what they are: `y_train.npy` goes with `x_train.npy`, and so does
    `labels.npy`, but not `y_test.npy`.

    Args:
        path: The data's own path, for messages.
        family: The sets.
        siblings: The other families in their directory.
        role: Labels or class labels.

    Raises:
        DataError: Several might be them, or none for sure.
    """
    found: list[tuple[frozenset[str], Path | Family[Path]]] = [
        (other.rest, other) for other in siblings if other.role == role
    ]
    directory = next(iter(family.members.values())).parent
    found += [(rest_of(place.name), place) for place in _directories(directory, role)]
    if not found and role_of(directory.name) == "inputs":
        found += [
            (rest, place)
            for rest, place in _above(directory.parent, role)
            if rest in (family.rest, frozenset())
        ]
    if not found:
        return None
    same = [place for rest, place in found if rest == family.rest] or [
        place for rest, place in found if not rest
    ]
    if len(same) == 1:
        return same[0]
    names = [place.pattern if isinstance(place, Family) else place.name for _, place in found]
    raise DataError(
        path,
        found=f"{joined(names)}, {'each of which may' if same else 'which may or may not'} be its {role.replace('_', ' ')}",
        expected="one whose name says so",
        remedy=f"Say which: Files(path, {role}=...); {role}=False for none.",
    )


def _above(directory: Path, role: Role) -> list[tuple[frozenset[str], Path]]:
    stems = [(file.name.partition(".")[0], file) for file, _ in files_in(directory)]
    files = [(rest_of(stem), file) for stem, file in stems if role_of(stem) == role]
    return files + [(rest_of(place.name), place) for place in _directories(directory, role)]


def _directories(directory: Path, role: Role) -> list[Path]:
    return [
        path
        for path in sorted(directory.iterdir())
        if path.is_dir() and suffix_of(path) is None and role_of(path.name) == role and files_in(path)
    ]
