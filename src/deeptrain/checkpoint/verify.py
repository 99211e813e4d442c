"""Whether the checkpoints of a run are whole, every byte read from the disk and held against its checksum."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.manifest import MANIFEST, STATE, TENSORS
from deeptrain.checkpoint.past import read_past
from deeptrain.checkpoint.reading import CorruptCheckpoint, Reader
from deeptrain.checkpoint.store import CheckpointStore, check_sequence

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from os import PathLike


class Verdict(NamedTuple):
    """What was found of one checkpoint.

    Attributes:
        path: Its directory.
        problem: The file or the tensor, and what is wrong with it; None where the checkpoint is whole.
        about: The tag and the counts that it says of itself, where it is whole, and what of its history is to be rebuilt.
    """

    path: Path
    problem: str | None
    about: str = ""

    @property
    def whole(self) -> bool:
        """Whether every byte is as it was written."""
        return self.problem is None

    def __str__(self) -> str:
        return f"{self.path}: {self.problem or 'whole' + self.about}"


def verify_all(path: str | PathLike[str]) -> list[Verdict]:
    """Verify a checkpoint, or all of a run's, without keeping any in memory. Nothing is locked and nothing written.

    One that the run removes meanwhile is left out.

    Args:
        path: The directory of a run, such as "runs/M1__mnist", or of a checkpoint.

    Returns:
        What was found, oldest first.

    Raises:
        FileNotFoundError: The path is neither.
        CheckpointError: It is a run that has no checkpoint.

    Example:
        `all(verdict.whole for verdict in verify_all("runs/M1__mnist"))`
    """
    path = Path(path)
    if not (path / "checkpoints").is_dir():
        if not path.is_dir() or not any((path / name).exists() for name in (MANIFEST, STATE, TENSORS)):
            raise FileNotFoundError(
                f"{path}: expected the directory of a run, such as runs/M1__name, or of a checkpoint, such as "
                "runs/M1__name/checkpoints/000012"
            )
        return [_verdict(path)]
    store = CheckpointStore(path / "checkpoints")
    found = [verdict for place in store.paths() if (verdict := _in_store(place)) is not None]
    if not found:
        raise CheckpointError(
            f"{store.directory}: there is no checkpoint here: the run has not saved any yet"
        )
    return found


def _in_store(place: Path) -> Verdict | None:
    try:
        check_sequence(place)
    except CorruptCheckpoint as error:
        verdict = Verdict(place, error.what)
    else:
        verdict = _verdict(place)
    return verdict if verdict.whole or place.exists() else None


def _verdict(path: Path) -> Verdict:
    try:
        reader = Reader(path)
        reader.check()
        info, chain = reader.info(), reader.manifest.chain
        remark = None if chain is None else read_past(path, chain, info).remark
    except CorruptCheckpoint as error:
        return Verdict(path, error.what)
    said = [f"{info[name]} {name}" for name in ("epochs", "iterations") if type(info.get(name)) is int]
    said += [f"tag {info['tag']!r}"] if "tag" in info else []
    said += _when_and_how_good(info)
    said += [] if remark is None else [remark]
    return Verdict(path, None, "".join(f", {word}" for word in said))


def _when_and_how_good(info: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(key := info.get("key"), float):
        yield f"key metric {key:.6g}"
    if isinstance(time := info.get("time"), float):
        with suppress(ValueError, OverflowError, OSError):  # what no calendar has
            yield datetime.fromtimestamp(time).astimezone().strftime("saved %Y-%m-%d %H:%M:%S")
