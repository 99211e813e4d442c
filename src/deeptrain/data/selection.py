"""Which sets are used: those asked for, less those that cannot be."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from deeptrain.data.errors import DataError, joined
from deeptrain.data.formats.base import Part
from deeptrain.data.source import spell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from deeptrain.data.labelling import Found

MOST_SHOWN = 12  # numbers that a remedy writes out


def sizes_of(found: Mapping[str, Found]) -> dict[int, int | None]:
    """Give the rows of all sets in numeric order; None for a set that one of the inputs cannot open.

    Args:
        found: Each input's sets.
    """
    sizes: dict[int, int | None] = {}
    for number in sorted(set().union(*found.values())):
        rows = {
            part.rows if isinstance(part, Part) else None
            for part in (one.get(number) for one in found.values())
        }
        sizes[number] = rows.pop() if len(rows) == 1 else None
    return sizes


def choose(
    path: Path, numbers: Sequence[int], sets: Iterable[int | str] | Callable[[str], bool] | None
) -> tuple[list[int], list[int]]:
    """Choose sets.

    Args:
        path: The data, for messages.
        numbers: The sets that are there.
        sets: Those that are wanted: numbers, or a function of the name; None for all.

    Returns:
        The chosen numbers in numeric order; and those between them that are missing, where all are wanted.

    Raises:
        DataError: Sets are wanted that are not there, or none is.
    """
    if sets is None:
        return list(numbers), sorted(
            set(range(min(numbers), max(numbers) + 1)) - set(numbers)
        ) if numbers else []
    if callable(sets):
        wanted = {number for number in numbers if sets(str(number))}
    else:
        wanted = {_number(path, name) for name in ([sets] if isinstance(sets, str | int) else sets)}
    unknown = sorted(wanted - set(numbers))
    if unknown or not wanted:
        raise DataError(
            path,
            found=f"the sets {joined(numbers)}",
            expected=f"the sets {joined(unknown)} too" if unknown else "at least one set to be asked for",
            remedy="Give numbers of sets that are there.",
        )
    return [number for number in numbers if number in wanted], []


def _number(path: Path, name: int | str) -> int:
    try:
        return int(name)
    except ValueError:
        raise DataError(
            path,
            found=f"{name!r} in sets",
            expected="numbers, the last digits of the sets' names",
            remedy="Give the numbers, as 1 or '1'; or a function of the name.",
        ) from None


def gap(path: Path, numbers: Sequence[int], missing: Sequence[int]) -> DataError:
    """Make the error for missing numbers."""
    there = f"sets={list(numbers)}" if len(numbers) <= MOST_SHOWN else "sets=lambda name: True"
    return DataError(
        path,
        found=f"the sets {joined(numbers)}, without {joined(missing)}",
        expected="numbers without gaps",
        remedy=f"Put the missing sets there; or say that these are all: Files(path, {there}).",
    )


def bad_sets(path: Path, numbers: Iterable[int], found: Mapping[str, Found]) -> dict[int, DataError]:
    """Give the sets that cannot be used, with what is wrong with the first of their columns.

    Args:
        path: The data, for messages.
        numbers: The chosen sets.
        found: Each column's sets, in the order of importance.
    """
    kinds = {key: _usual_kind(numbers, parts) for key, parts in found.items()}
    bad: dict[int, DataError] = {}
    for number in numbers:
        parts = [parts.get(number) for parts in found.values()]
        errors = [_error(path, number, part, kind) for part, kind in zip(parts, kinds.values(), strict=True)]
        errors.append(_uneven([part for part in parts if isinstance(part, Part)]))
        error = next((error for error in errors if error is not None), None)
        if error is not None:
            bad[number] = error
    return bad


def _usual_kind(numbers: Iterable[int], parts: Found) -> Part | None:
    """Give the first part of the kind that most sets have."""
    usable = [part for part in (parts.get(number) for number in numbers) if isinstance(part, Part)]
    if not usable:
        return None
    most = Counter((part.shape, part.dtype.str) for part in usable).most_common(1)[0][0]
    return next(part for part in usable if (part.shape, part.dtype.str) == most)


def _error(path: Path, number: int, part: Part | DataError | None, usual: Part | None) -> DataError | None:
    if part is None:
        return DataError(
            path,
            found=f"no set {number} among some of the inputs",
            expected="the same sets of each input",
            remedy="Add it, or leave it out: Files(path, sets=...).",
        )
    if isinstance(part, DataError):
        return part
    if usual is None or (part.shape, part.dtype) == (usual.shape, usual.dtype):
        return None
    return DataError(
        part.path,
        found=f"rows of {spell(part.shape, part.dtype)}",
        expected=f"rows of {spell(usual.shape, usual.dtype)}, as in {usual.path.name}",
        remedy="Write all sets with one dtype and one shape beyond the first axis.",
    )


def _uneven(parts: Sequence[Part]) -> DataError | None:
    odd = [part for part in parts if part.rows != parts[0].rows]
    if not odd:
        return None
    return DataError(
        odd[0].path,
        found=f"{odd[0].rows} rows",
        expected=f"{parts[0].rows}, as in {parts[0].path.name}",
        remedy="Write one row for each row of the other inputs.",
    )
