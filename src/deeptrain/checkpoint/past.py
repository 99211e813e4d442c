"""Reading a history that lies in a run's segments, whole or not at all; what is damaged is rebuilt from the journal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.checkpoint.chain import HISTORY, Chain, Link, Sum
from deeptrain.checkpoint.line import Line
from deeptrain.checkpoint.reading import CorruptCheckpoint
from deeptrain.checkpoint.rebuilding import rebuild
from deeptrain.checkpoint.segments import Columns, SegmentError, blocks, read_link

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deeptrain.state.history import Series

_REMEDY = (
    f"put a whole copy of the run's directory {HISTORY}/ there, or load all else into a trainer that was made without it, with "
    'trainer.load(path, skip=["history"])'
)


class Past(NamedTuple):
    """The history of a checkpoint.

    Attributes:
        series: By their names.
        chain: That part of the checkpoint's chain which is whole on the disk: all of it, but where a segment is damaged.
        remark: What was damaged and how that was mended; None where nothing was.
    """

    series: dict[str, Series]
    chain: Chain
    remark: str | None


def home_of(path: Path) -> Path:
    """The directory of the run that a checkpoint lies in, also where it is reached by a link."""
    return path.resolve().parent.parent


def read_past(path: Path, chain: Chain, info: Mapping[str, Any]) -> Past:
    """Read the history of a checkpoint from its run's segments.

    Args:
        path: The checkpoint's directory.
        chain: What its manifest says.
        info: What it says of itself.

    Raises:
        CorruptCheckpoint: Something of it is not there any more; the message names the segment.
    """
    home = home_of(path)
    found = [_look(home, link) for link in chain.links]
    bad = [number for number, data in enumerate(found) if isinstance(data, SegmentError)]
    if not bad:
        series = _joined(chain, _gathered(path, found))
        if series is None:
            raise CorruptCheckpoint(path, "manifest.json: its history's series are not those of its segments")
        return Past(series, chain, None)
    before, behind = _gathered(path, found[: bad[0]]), _gathered(path, found[bad[-1] + 1 :])
    what = "; ".join(str(found[number]) for number in bad)
    name, line = path.resolve().name, Line.of(info)
    series = rebuild(home / "journal.jsonl", name, line, chain.series, (before, behind))
    if series is None:
        raise CorruptCheckpoint(path, f"{what}: {_REMEDY}")
    sums = {name: Sum().plus(columns.series()) for name, columns in before.items()}
    sound = Chain(chain.links[: bad[0]], sums)
    return Past(series, sound, f"{what}; rebuilt from the journal, every bit the same")


def placeholders(chain: Chain) -> dict[str, dict[str, Any]]:
    """The paths of a history that is not read, with nothing in them."""
    return {name: as_state(Columns(bytearray(), bytearray()).series()) for name in chain.series}


def as_state(series: Series) -> dict[str, Any]:
    """A series as a state tree has it."""
    return {"iterations": series.iterations, "values": series.values}


def _look(home: Path, link: Link) -> memoryview | SegmentError:
    try:
        return read_link(home, link)
    except SegmentError as error:
        return error


def _gathered(path: Path, found: list[Any]) -> dict[str, Columns]:
    """The series that some segments hold together."""
    series: dict[str, Columns] = {}
    for data in found:
        try:
            for _, pieces in blocks(data):
                for name, (iterations, values) in pieces:
                    columns = series.setdefault(name, Columns(bytearray(), bytearray()))
                    columns.iterations.extend(iterations)  # type: ignore[union-attr]
                    columns.values.extend(values)  # type: ignore[union-attr]
        except SegmentError as error:  # its checksum is right: somebody made it so
            raise CorruptCheckpoint(path, f"{HISTORY}/: a segment {error}") from error
    return series


def _joined(chain: Chain, found: Mapping[str, Columns]) -> dict[str, Series] | None:
    """The series in their order; None where there are others than the chain says."""
    if set(found) != set(chain.series) or any(found[name].size != s.size for name, s in chain.series.items()):
        return None
    return {name: found[name].series() for name in chain.series}
