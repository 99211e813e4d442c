"""The store: a run's checkpoints by commit sequence, of which the newest that verifies is the run's state."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.checkpoint.files import TEMPORARY, CheckpointError, temporary_beside
from deeptrain.checkpoint.format import read_checkpoint, write_checkpoint
from deeptrain.checkpoint.manifest import MANIFEST
from deeptrain.checkpoint.reading import CorruptCheckpoint, Reader

if TYPE_CHECKING:
    from os import PathLike

_DIGITS = 6
_NAME = re.compile(rf"[0-9]{{{_DIGITS},18}}")


class Newest(NamedTuple):
    """The newest whole checkpoint.

    Attributes:
        path: Its directory.
        tree: The state.
        info: What the checkpoint says of itself.
        passed_over: Newer ones that are not whole, newest first, each with the reason.
    """

    path: Path
    tree: Any
    info: dict[str, Any]
    passed_over: list[tuple[Path, str]]


class CheckpointStore:
    """The checkpoints in a directory, named 000000, 000001, ... in the order of their commits.

    One process writes (the run's lock sees to that); any number may read meanwhile.

    Args:
        directory: Where; it is made at the first commit.
        keep: How many of the newest stay. Older ones go only once a newer one is on the disk and verified.

    Raises:
        ValueError: `keep` is below 1.
    """

    def __init__(self, directory: str | PathLike[str], keep: int = 2) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ValueError(
                f"keep={keep!r}: expected how many checkpoints are kept, a whole number from 1 up"
            )
        self.directory = Path(directory)
        self.keep = keep

    def paths(self) -> list[Path]:
        """The checkpoints that were committed, oldest first, whole or not."""
        if not self.directory.is_dir():
            return []
        found = [place for place in self.directory.iterdir() if _NAME.fullmatch(place.name)]
        return sorted(found, key=lambda place: int(place.name))

    def commit(self, tree: Any, info: dict[str, Any]) -> Path:
        """Write a checkpoint; once it is on the disk and verified, remove those that are not to be kept.

        Returns:
            Its directory.

        Raises:
            CodecError, CheckpointError: It could not be written; those that were there are as they were.
        """
        self._remove_leftovers()
        present = self.paths()
        sequence = int(present[-1].name) + 1 if present else 0
        path = self.directory / f"{sequence:0{_DIGITS}d}"
        write_checkpoint(path, tree, info, sequence=sequence)
        for old in [*present, path][: -self.keep]:
            _remove(old)
        return path

    def newest(self) -> Newest:
        """Read the checkpoint of the highest sequence that is whole.

        Raises:
            CheckpointError: There is none; the message lists each with the reason.
        """
        while True:
            present = self.paths()
            passed_over: list[tuple[Path, str]] = []
            for path in reversed(present):
                try:
                    return Newest(path, *_read(path), passed_over)
                except CorruptCheckpoint as error:
                    passed_over.append((path, error.what))
            if self.paths() == present:  # else the run that writes here removed what was being read
                raise CheckpointError(self._nothing(passed_over))

    def _nothing(self, passed_over: list[tuple[Path, str]]) -> str:
        if not passed_over:
            return f"{self.directory}: there is no checkpoint here; expected directories named 000000, 000001, ..."
        lines = "".join(f"\n  {path.name}: {why}" for path, why in passed_over)
        return f"{self.directory}: none of the {len(passed_over)} checkpoints is whole:{lines}"

    def _remove_leftovers(self) -> None:
        """Remove what a process that died left half written or half removed."""
        if self.directory.is_dir():
            for place in self.directory.glob(f"{TEMPORARY}*"):
                shutil.rmtree(place, ignore_errors=True)


def _read(path: Path) -> tuple[Any, dict[str, Any]]:
    sequence = Reader(path).manifest.sequence
    if sequence != int(path.name):
        raise CorruptCheckpoint(path, f"{MANIFEST}: its sequence is {sequence}, the directory was renamed")
    return read_checkpoint(path)


def _remove(path: Path) -> None:
    """Remove a checkpoint; its name goes first, so that nothing half removed ever has it."""
    gone = temporary_beside(path)
    try:
        path.rename(gone)
    except OSError:
        return  # it takes space and does no harm; the next commit tries again
    shutil.rmtree(gone, ignore_errors=True)
