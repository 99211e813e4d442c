"""The chain: which bytes of which segments hold the history that belongs to a checkpoint.

It stands in the checkpoint's manifest in place of the history itself, and grows by one link for each segment, not
with the iterations. See `segments` for what is in the files.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deeptrain.state.history import Series

HISTORY = "history"  # the directory of segments, in the run's
_DIGITS = 6
SEGMENT = re.compile(rf"([0-9]{{{_DIGITS},18}})\.seg")  # the names of the files in it
_MOST = 2**63
_CRC = 2**32


class Link(NamedTuple):
    """A segment, and how much of it counts.

    Attributes:
        number: Which one.
        size: How many bytes from its beginning are used.
        crc: Their crc32.
    """

    number: int
    size: int
    crc: int

    @property
    def name(self) -> str:
        """The file's path in the run, "history/000002.seg"."""
        return f"{HISTORY}/{self.number:0{_DIGITS}d}.seg"


class Sum(NamedTuple):
    """What a series is recognised by, however it lies in segments.

    Attributes:
        size: How many values it has.
        iterations, values: The crc32 of the bytes of all, as a segment has them.
    """

    size: int = 0
    iterations: int = 0
    values: int = 0

    def plus(self, more: Series) -> Sum:
        """The sum of the series with more values behind it, at the cost of those alone."""
        return Sum(
            self.size + len(more.values),
            zlib.crc32(more.iterations.astype("<i8", copy=False).data, self.iterations),
            zlib.crc32(more.values.astype("<f8", copy=False).data, self.values),
        )


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a history lies.

    Attributes:
        links: The segments in the order in which they follow each other.
        series: What all of them together hold, by the series' names.
    """

    links: tuple[Link, ...] = ()
    series: Mapping[str, Sum] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """The chain as a manifest has it."""
        sums = {name: list(total) for name, total in self.series.items()}
        return {"segments": [list(link) for link in self.links], "series": sums}

    @classmethod
    def parse(cls, plain: Any) -> Chain:
        """Read what `plain` gave.

        Raises:
            ValueError: It is something else; nothing in it is ever taken as a path.
        """
        if type(plain) is not dict or list(plain) != ["segments", "series"]:
            raise ValueError('its history should have the entries "segments" and "series"')
        segments, series = plain["segments"], plain["series"]
        if type(segments) is not list or type(series) is not dict:
            raise ValueError("its history's segments should be a list and its series an object")
        links = tuple(Link(*_numbers(link, (_MOST, _MOST, _CRC))) for link in segments)
        sums = {name: Sum(*_numbers(total, (_MOST, _CRC, _CRC))) for name, total in series.items()}
        return cls(links, sums)


def _numbers(found: Any, bounds: tuple[int, ...]) -> list[int]:
    whole = type(found) is list and len(found) == len(bounds)
    if not whole or not all(type(n) is int and 0 <= n < most for n, most in zip(found, bounds, strict=True)):
        raise ValueError(f"its history has {str(found)[:80]}, expected {len(bounds)} whole numbers")
    return list(found)
