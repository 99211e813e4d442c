"""Names of files and of arrays in a file: their numbers, which belong together, and what the words in them say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")
Role: TypeAlias = Literal["inputs", "labels", "class_labels"]

NUMBER = re.compile(r"(.*?)(\d+)(\D*)")  # what stands before the last run of digits, the digits, and the rest
WORD = re.compile(r"[a-z]+")
INPUTS = frozenset(
    ("x", "xs", "input", "inputs", "data", "feature", "features", "image", "images", "samples")
)
LABELS = frozenset(("y", "ys", "label", "labels", "target", "targets", "classes"))
CLASSES = frozenset(("class", "classes", "classlabels"))


def role_of(name: str) -> Role | None:
    """Say what a name says of its values: `class_labels`, `y_train`, `images1`; None where it says nothing."""
    words = set(WORD.findall(name.lower()))
    if "classlabels" in words or (words & CLASSES and words & (LABELS - CLASSES)):
        return "class_labels"
    if words & LABELS:
        return "labels"
    return "inputs" if words & INPUTS else None


def rest_of(name: str) -> frozenset[str]:
    """Give the words of a name that do not say what its values are: `{"train"}` of `x_train`."""
    return frozenset(WORD.findall(name.lower())) - INPUTS - LABELS - CLASSES


@dataclass(frozen=True, slots=True)
class Family(Generic[T]):
    """Names that differ in their number alone, or one name without a number.

    Attributes:
        before: What stands before the number.
        after: What stands after it.
        suffix: The kind of file.
        members: What the names stand for, by number in numeric order; by None where there is no number.
        twice: Two members that have one number.
    """

    before: str
    after: str
    suffix: str
    members: dict[int | None, T]
    twice: tuple[int, T, T] | None = None

    @property
    def role(self) -> Role | None:
        """What the name says."""
        return role_of(f"{self.before} {self.after}")

    @property
    def rest(self) -> frozenset[str]:
        """What else it says."""
        return rest_of(f"{self.before} {self.after}")

    @property
    def is_numbered(self) -> bool:
        """Whether the members have numbers."""
        return None not in self.members

    @property
    def pattern(self) -> str:
        """A pattern that all names fit: `data*.npy`."""
        return f"{self.before}{'*' if self.is_numbered else ''}{self.after}{self.suffix}"

    def __str__(self) -> str:
        """Give the pattern, and how many there are."""
        return f"{self.pattern} ({len(self.members)})" if self.is_numbered else self.pattern


def families(names: Iterable[tuple[str, str, T]]) -> list[Family[T]]:
    """Sort names into families.

    Args:
        names: Name without its suffix, suffix, and what it stands for.
    """
    found: dict[tuple[str, str, str], dict[int | None, T]] = {}
    twice: dict[tuple[str, str, str], tuple[int, T, T]] = {}
    for name, suffix, value in names:
        match = NUMBER.fullmatch(name)
        before, number, after = (name, None, "") if match is None else (match[1], int(match[2]), match[3])
        members = found.setdefault((before, after, suffix), {})
        other = members.setdefault(number, value)
        if other is not value and number is not None:
            twice.setdefault((before, after, suffix), (number, other, value))
    return [
        Family(*key, dict(sorted(members.items(), key=lambda item: item[0] or 0)), twice.get(key))
        for key, members in found.items()
    ]
