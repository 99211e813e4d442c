"""Which label belongs to which row: labels of all sets in one array, or an array for each set, matched by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from deeptrain.data.errors import DataError, joined
from deeptrain.data.formats.base import Part
from deeptrain.data.formats.views import cut, unstack

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deeptrain.data.discover import Content

Found: TypeAlias = dict[int, "Part | DataError"]


def label_parts(labels: Content, sizes: Mapping[int, int | None], chosen: Iterable[int]) -> Found:
    """Give each chosen set its labels, or the error that says why it has none.

    Args:
        labels: What was found.
        sizes: Rows of all sets in numeric order, those that are not in use too; None where a set cannot be opened.
        chosen: The numbers of the sets in use.

    Raises:
        DataError: Labels in one array do not fit the sets.
    """
    wanted = list(chosen)
    for numbered in (labels.columns, labels.parts):
        if numbered and (labels.single is None or _fit(numbered, sizes, wanted)):
            return _by_number(labels, numbered, sizes, wanted)
    assert labels.single is not None
    if list(sizes) == [labels.number] or sizes.get(labels.number) != labels.single.rows:
        return {number: part for number, part in _in_one(labels, sizes).items() if number in set(wanted)}
    return _by_number(labels, {labels.number: labels.single}, sizes, wanted)


def _fit(
    numbered: Mapping[int, Part | DataError], sizes: Mapping[int, int | None], wanted: list[int]
) -> bool:
    parts = [(numbered.get(number), sizes[number]) for number in wanted]
    return all(isinstance(part, Part) and size in (None, part.rows) for part, size in parts)


def _by_number(
    labels: Content,
    numbered: Mapping[int, Part | DataError],
    sizes: Mapping[int, int | None],
    wanted: list[int],
) -> Found:
    """Match by number; there may be labels of more sets than there are."""
    missing = [number for number in wanted if number not in numbered]
    rows = {number: part.rows for number, part in numbered.items() if isinstance(part, Part)}
    odd = [n for n in wanted if n in rows and sizes[n] not in (None, rows[n])]
    return {
        number: _missing(labels, numbered, sizes, missing)
        if number in missing
        else _odd(labels, sizes, rows, odd)
        if number in odd
        else numbered[number]
        for number in wanted
    }


def _missing(
    labels: Content, numbered: Mapping[int, object], sizes: Mapping[int, object], missing: list[int]
) -> DataError:
    others = joined(sorted(numbered.keys() - sizes.keys())) or "(none)"
    return DataError(
        labels.path,
        found=f"no labels for the sets {joined(missing)}, and labels for sets that are not there: {others}",
        expected="labels with the same numbers as the sets",
        remedy="Add the labels or fix their numbers; or leave sets out: Files(path, sets=...).",
    )


def _odd(
    labels: Content, sizes: Mapping[int, int | None], rows: Mapping[int, int], odd: list[int]
) -> DataError:
    found = joined(f"{number} ({sizes[number]} rows, {rows[number]} labels)" for number in odd)
    return DataError(
        labels.path,
        found=f"other numbers of labels than rows in the sets {found}",
        expected="one label for each row",
        remedy="Write those sets' labels again.",
    )


def _in_one(labels: Content, sizes: Mapping[int, int | None]) -> Found:
    """Cut one array of labels: rows in the sets' order, or `(sets, rows in a set, ...)`."""
    part = labels.single
    assert part is not None
    known = {number: size for number, size in sizes.items() if size is not None}
    unknown = [number for number, size in sizes.items() if size is None]
    rest = part.rows - sum(known.values())
    if rest == 0 or (len(unknown) == 1 and rest > 0 and not _is_nested(part, sizes)):
        # A set that cannot be opened has its labels too, or somebody removed them with it.
        all_sizes = {n: known.get(n, rest) for n in sizes if rest or n in known}
        return dict(zip(all_sizes, cut(part, list(all_sizes.values())), strict=True))
    if _is_nested(part, sizes):
        return dict(zip(sizes, unstack(part), strict=True))
    raise _unfit(labels, part, known, len(sizes))


def _is_nested(part: Part, sizes: Mapping[int, int | None]) -> bool:
    return bool(part.shape) and part.rows == len(sizes) and set(sizes.values()) <= {part.shape[0], None}


def _unfit(labels: Content, part: Part, known: Mapping[int, int], count: int) -> DataError:
    total = sum(known.values())
    if part.shape and part.rows == count:
        odd = [f"{number} ({size} rows)" for number, size in known.items() if size != part.shape[0]]
        found = f"{part.shape[0]} labels for each set, but set {joined(odd)}"
    else:
        counts = joined(f"{number}: {size}" for number, size in known.items())
        found = f"labels of shape {(part.rows, *part.shape)} for {count} sets with {total} rows ({counts})"
    return DataError(
        labels.path,
        found=found,
        expected=f"shape ({total}, ...), or ({count}, rows in a set, ...) for sets of one size",
        remedy="Write one label for each row of each set in the directory.",
    )


# ---------------------------------------------------------------------- one array of inputs


def spread(content: Content, labels: Content | None, layout: str | None, rows_per_set: int | None) -> Found:
    """Give a content's sets by number; one array is cut into its sets.

    Args:
        content: The inputs.
        labels: What was found of their labels, whose shape tells how one array is meant.
        layout: `"sets"` or `"rows"`, where the user said so.
        rows_per_set: How many rows the user wants in a set.

    Raises:
        DataError: The array has too few axes for its layout.
        ValueError: A layout was given for sets that are files of their own.
    """
    part = content.single
    if part is None:
        if layout is not None or rows_per_set is not None:
            raise ValueError(
                f"{content.path}: found layout or rows_per_set for sets that are stored one by one; "
                "expected them only for one array that holds all rows"
            )
        return dict(content.parts)
    if rows_per_set is not None:
        full, rest = divmod(part.rows, rows_per_set)
        return dict(enumerate(cut(part, [rows_per_set] * full + [rest] * bool(rest))))
    if layout == "rows" or (layout is None and not (part.shape and _are_sets(part, labels))):
        return {content.number: part}
    if not part.shape:
        raise DataError(
            content.path,
            found=f"an array of shape ({part.rows},)",
            expected="(sets, rows in a set, ...)",
            remedy="Take layout='rows' or rows_per_set=.",
        )
    first = min((*labels.parts, *labels.columns), default=0) if labels is not None else 0
    return dict(enumerate(unstack(part), start=first))


def _are_sets(part: Part, labels: Content | None) -> bool:
    """Whether the labels' shape tells that an array is `(sets, rows, ...)` and not `(rows, ...)`."""
    if labels is None:
        return False
    sets, rows = part.rows, part.shape[0]
    for numbered in (labels.parts, labels.columns):
        sizes = [found.rows for found in numbered.values() if isinstance(found, Part)]
        if len(sizes) >= sets > 1 and set(sizes) == {rows}:
            return True
    one = labels.single
    if one is None:
        return False
    if one.rows != sets:
        return one.rows == sets * rows
    # Labels shaped like the inputs are as well an image for each image; with two axes, values for each row.
    return len(part.shape) > 1 and one.shape[:1] == (rows,) and one.shape != part.shape
