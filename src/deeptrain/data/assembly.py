"""From paths to columns: what was found, as the parts of the sets that are used, each with its labels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from deeptrain.data.discover import Content, Opening, discover, found_labels
from deeptrain.data.formats.base import Part
from deeptrain.data.labelling import Found, label_parts, spread
from deeptrain.data.selection import bad_sets, choose, gap, sizes_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from os import PathLike

    from deeptrain.data.errors import DataError
    from deeptrain.data.families import Role

Place: TypeAlias = "str | PathLike[str]"
SAME = "inputs"  # labels that are the inputs themselves
TARGETS, CLASSES = "targets", "class_labels"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the user asked for; see `Files`."""

    labels: Place | Literal[False] | None
    class_labels: Place | Literal[False] | None
    sets: Iterable[int | str] | Callable[[str], bool] | None
    layout: Literal["sets", "rows"] | None
    rows_per_set: int | None
    skip_bad: bool


@dataclass(frozen=True, slots=True)
class Assembly:
    """The sets in use.

    Attributes:
        numbers: Their numbers, ascending.
        parts: Each column's values of them: of the inputs, and of `targets` and `class_labels` where there are any.
        skipped: The sets that were left out, with the reasons.
    """

    numbers: list[int]
    parts: dict[str, list[Part]]
    skipped: dict[str, str]


def assemble(places: Mapping[str, Path], opening: Opening, wanted: Wanted) -> Assembly:
    """Find inputs and labels, choose sets, and match them.

    Args:
        places: Each input's path.
        opening: How files are opened.
        wanted: What the user asked for.

    Raises:
        DataError: Something does not fit.
    """
    path = next(iter(places.values()))
    contents, outer = _find(places, opening, wanted)
    found = {
        key: spread(one, outer.get(TARGETS), wanted.layout, wanted.rows_per_set)
        for key, one in contents.items()
    }
    sizes = sizes_of(found)
    numbers, missing = choose(path, list(sizes), wanted.sets)
    _refuse_bad(path, numbers, missing, found, wanted)
    for key, content in outer.items():
        found[key] = label_parts(content, sizes, numbers)
    bad = bad_sets(path, numbers, found)
    if bad and (not wanted.skip_bad or len(bad) == len(numbers)):
        raise next(iter(bad.values()))
    skipped = dict.fromkeys(map(str, missing), "found nothing; expected a set of this number")
    skipped |= {str(number): error.reason for number, error in bad.items()}
    numbers = [number for number in numbers if number not in bad]
    return Assembly(
        numbers, {key: [_part(parts[number]) for number in numbers] for key, parts in found.items()}, skipped
    )


def _find(
    places: Mapping[str, Path], opening: Opening, wanted: Wanted
) -> tuple[dict[str, Content], dict[str, Content]]:
    given = [Path(place) for place in (wanted.labels, wanted.class_labels) if place and place != SAME]
    roles: tuple[tuple[Role, Any], ...] = (("labels", wanted.labels), ("class_labels", wanted.class_labels))
    beside = tuple(role for role, place in roles if place is None)
    inner = replace(opening, skip=tuple(given), beside=beside)
    contents = {key: discover(place, inner) for key, place in places.items()}
    outer = {
        TARGETS: _labels(wanted.labels, contents, opening, "labels"),
        CLASSES: _labels(wanted.class_labels, contents, opening, "class_labels"),
    }
    return contents, {key: content for key, content in outer.items() if content is not None}


def _labels(
    labels: Place | Literal[False] | None, contents: dict[str, Content], opening: Opening, role: Role
) -> Content | None:
    if labels is False or labels == SAME:
        return None
    if labels is not None:
        return found_labels(Path(labels), opening, role)
    inside = (one.labels if role == "labels" else one.class_labels for one in contents.values())
    return next((content for content in inside if content is not None), None)


def _refuse_bad(
    path: Path, numbers: list[int], missing: list[int], found: dict[str, Found], wanted: Wanted
) -> None:
    """Tell of what is wrong with the inputs before anything is said of labels, which that would make wrong too."""
    if wanted.skip_bad:
        return
    if missing:
        raise gap(path, numbers, missing)
    for error in bad_sets(path, numbers, found).values():
        raise error


def _part(found: Part | DataError) -> Part:
    assert isinstance(found, Part)
    return found
