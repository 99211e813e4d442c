"""The store: a run's checkpoints by commit sequence, of which the newest that verifies is the run's state."""

from __future__ import annotations

import re
import shutil
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.checkpoint.files import TEMPORARY, CheckpointError, sync_directory, temporary_beside
from deeptrain.checkpoint.format import Whole, read_whole, write_checkpoint
from deeptrain.checkpoint.keeping import MODES, Choice, Facts, Keeping, best_of, choose, look
from deeptrain.checkpoint.line import Line
from deeptrain.checkpoint.manifest import MANIFEST
from deeptrain.checkpoint.pointers import BEST, move_pointers
from deeptrain.checkpoint.reading import CorruptCheckpoint, Reader
from deeptrain.state.cadence import Every

if TYPE_CHECKING:
    from os import PathLike

    from deeptrain.checkpoint.chain import Chain

_DIGITS = 6
_MAX_TAG = 100
_ENTRY = {"seconds": "time"}  # what an info calls it; the counts go by their own names
_NAME = re.compile(rf"[0-9]{{{_DIGITS},18}}")


class Newest(NamedTuple):
    """The newest whole checkpoint.

    Attributes:
        path: Its directory.
        tree: The state.
        info: What the checkpoint says of itself.
        passed_over: Newer ones that are not whole, newest first, each with the reason.
        line: The branch that the run is on.
        chain: What of its history is whole in the run's segments; None where it has the history in itself.
    """

    path: Path
    tree: Any
    info: dict[str, Any]
    passed_over: list[tuple[Path, str]]
    line: Line = Line()
    chain: Chain | None = None


class Place(NamedTuple):
    """Where the next checkpoint goes.

    Attributes:
        path: The directory to make.
        sequence: Its place among the commits.
    """

    path: Path
    sequence: int


class CheckpointStore:
    """The checkpoints in a directory, named 000000, 000001, ... in the order of their commits.

    One process writes (the run's lock sees to that), one checkpoint at a time; any number may read meanwhile.
    Beside the checkpoints lie `last.json` and, where the best are kept, `best.json`. They say to people and tools
    which checkpoint that is; nothing here ever reads them to decide what to load.

    Args:
        directory: Where; it is made at the first commit.
        keep: Which stay: how many of the newest, or all the rules. Others go only once a newer one is on the disk
            and verified.

    Raises:
        ValueError: `keep` is below 1.
    """

    def __init__(self, directory: str | PathLike[str], keep: int | Keeping = 2) -> None:
        self.keeping = keep if isinstance(keep, Keeping) else Keeping(keep=keep)
        self.directory = Path(directory)
        self.held: frozenset[Path] = (
            frozenset()
        )  # those that somebody still needs, and that do not go meanwhile
        self._known: dict[str, Facts] = {}
        self._is_over = False

    def paths(self) -> list[Path]:
        """The checkpoints that were committed, oldest first, whole or not."""
        if not self.directory.is_dir():
            return []
        found = [place for place in self.directory.iterdir() if _NAME.fullmatch(place.name)]
        return sorted(found, key=lambda place: int(place.name))

    def commit(self, tree: Any, info: dict[str, Any], *, tag: str | None = None) -> Path:
        """Write a checkpoint; once it is on the disk and verified, remove those that are not to be kept.

        It is `about`, `prepare`, writing, and `finish`, which may be called one by one where the writing is
        somebody else's.

        Args:
            tree: The state tree.
            info: What the checkpoint is to say of itself, see `about`.
            tag: A name. A checkpoint that has one is never removed.

        Returns:
            Its directory.

        Raises:
            CodecError, CheckpointError: It could not be written; those that were there are as they were.
        """
        said = self.about(info, tag=tag)
        place = self.prepare()
        write_checkpoint(place.path, tree, said, sequence=place.sequence)
        self.finish(place.path)
        return place.path

    def about(self, info: dict[str, Any], *, tag: str | None = None) -> dict[str, Any]:
        """The info with the tag in it, after seeing that the rules can read it.

        Args:
            info: What the checkpoint is to say of itself. The rules look at "key", the key metric's value or None,
                and then "mode", "max" or "min"; at "iterations", "batches", "updates" and "epochs", counts of what
                is completed; and at "time", seconds since 1970.
            tag: A name for it.

        Raises:
            CheckpointError: A rule cannot be followed by it; the message says what is missing.
        """
        key, mode, each = info.get("key"), info.get("mode"), self.keeping.each
        if key is not None and (type(key) not in (int, float) or mode not in MODES):
            raise CheckpointError(
                f'{self.directory}: key={key!r}, mode={mode!r}: expected a number, and "max" or "min"'
            )
        needed = _ENTRY.get(each.unit, each.unit) if isinstance(each, Every) else None
        if needed is not None and type(info.get(needed)) not in (int, float):
            raise CheckpointError(f"{self.directory}: each={each}: the info has no number {needed!r}")
        if tag is None:
            return info
        if not isinstance(tag, str) or not 0 < len(tag) <= _MAX_TAG or not tag.isprintable() or tag.isdigit():
            raise CheckpointError(
                f"{self.directory}: tag={tag!r}: expected a name of 1 to {_MAX_TAG} printable characters, not all of them digits"
            )
        return {**info, "tag": tag}

    def prepare(self) -> Place:
        """Say where the next checkpoint goes, and tidy up after a process that died. Not while one is written."""
        self._remove_leftovers()
        present = self.paths()
        sequence = int(present[-1].name) + 1 if present else 0
        return Place(self.directory / f"{sequence:0{_DIGITS}d}", sequence)

    def finish(self, path: Path) -> None:
        """Count a checkpoint that is on the disk and verified: move the pointers, then remove what is not to be kept.

        Whatever fails here costs space or a pointer, never the checkpoint: it is said in a warning.

        Args:
            path: The checkpoint's directory, as `prepare` gave it.

        Raises:
            CheckpointError: It is not there. Then nothing is removed.
        """
        present = self.paths()
        if path.name not in {place.name for place in present}:
            raise CheckpointError(f"{path}: there is no such checkpoint: write it before it is counted")
        self._known.pop(path.name, None)  # one of that name may have been there and been removed by hand
        facts = self.facts()
        choice = choose(facts, self.keeping)
        problems = move_pointers(self.directory, facts, self.keeping.best)
        self._remove([old.path for old in choice.go if old.path not in self.held])
        for problem in (*problems, *self._excess(choice)):
            warnings.warn(problem, stacklevel=2)

    def facts(self) -> list[Facts]:
        """What each checkpoint says of itself, oldest first."""
        return [self._facts(path) for path in self.paths()]

    def _facts(self, path: Path) -> Facts:
        """What a checkpoint says of itself. It never changes; but a failure to read it may pass."""
        known = self._known.get(path.name)
        if known is None:
            known = look(path)
            if known.readable:
                self._known[path.name] = known
        return known

    def _excess(self, choice: Choice) -> list[str]:
        """Said once, and again after it was mended."""
        was, self._is_over = self._is_over, choice.over > 0
        if was or not self._is_over:
            return []
        most = choice.size - choice.over
        problem = (
            f"{self.directory}: the checkpoints take {choice.size / 1e6:,.1f} MB, Checkpoints(most_bytes=...) allows "
            f"{most / 1e6:,.1f} MB: what is left are the newest, the best, those with a tag and those that cannot be "
            "read: remove some by hand, keep fewer of the best, or allow more"
        )
        return [problem]

    def newest(self, line: Line | None = None, *, history: bool = True) -> Newest:
        """Read the newest whole checkpoint of the branch that the run is on.

        Args:
            line: That branch; by default the one of the highest sequence whose manifest is whole.
            history: Whether the history is wanted. Else its series may be empty, and need not be whole.

        Raises:
            CheckpointError: There is none; the message lists each with the reason.
        """
        while True:
            present = self.paths()
            passed_over: list[tuple[Path, str]] = []
            present_line = line
            for path in reversed(present):
                try:
                    present_line = present_line or line_of(path)
                    if self._is_on(path, present_line):
                        tree, info, chain = _read(path, history=history)
                        return Newest(path, tree, info, passed_over, present_line, chain)
                except CorruptCheckpoint as error:
                    passed_over.append((path, error.what))
            if self.paths() == present:  # else the run that writes here removed what was being read
                raise CheckpointError(self._nothing(passed_over))

    def best(self, *, history: bool = True) -> Newest:
        """Read the best whole checkpoint by the key metric, of the branch that the run is on.

        Where the best cannot be read the next best is taken, and `passed_over` says so.

        Args:
            history: As for `newest`.

        Raises:
            CheckpointError: There is none.
        """
        line = self.newest(history=False).line
        kept = (self.directory / BEST).exists()  # else the best of the run may be gone
        known = [facts for facts in self.facts() if kept and facts.readable and self._is_on(facts.path, line)]
        passed_over: list[tuple[Path, str]] = []
        for facts in best_of(known, len(known)):
            try:
                tree, info, chain = _read(facts.path, history=history)
            except CorruptCheckpoint as error:
                passed_over.append((facts.path, error.what))
            else:
                return Newest(facts.path, tree, info, passed_over, line, chain)
        raise CheckpointError(
            f"{self.directory}: no checkpoint bears a figure to be the best by: train with dt.Checkpoints(best=1), and "
            'dt.Validation(..., key_metric=..., mode="max" or "min")'
        )

    def _is_on(self, path: Path, line: Line) -> bool:
        facts = self._facts(path)  # of one that cannot be read the reason is told where it is read
        return not facts.readable or line.holds(facts.line, facts.counts.get("iterations", 0))

    def _nothing(self, passed_over: list[tuple[Path, str]]) -> str:
        if not passed_over:
            return f"{self.directory}: there is no checkpoint here; expected directories named 000000, 000001, ..."
        lines = "".join(f"\n  {path.name}: {why}" for path, why in passed_over)
        return f"{self.directory}: none of the {len(passed_over)} checkpoints is whole:{lines}"

    def _remove_leftovers(self) -> None:
        """Remove what a process that died left half written or half removed."""
        if self.directory.is_dir():
            _clear(self.directory, list(self.directory.glob(f"{TEMPORARY}*")))

    def discard(self, paths: list[Path]) -> None:
        """Remove checkpoints that are not to be loaded. Not while one is written."""
        self._remove(paths)

    def _remove(self, old: list[Path]) -> None:
        """Remove checkpoints; their names go first, so that nothing half removed ever has one."""
        gone = []
        for path in old:
            self._known.pop(path.name, None)
            with suppress(OSError):  # it takes space and does no harm; the next commit tries again
                gone.append(path.rename(temporary_beside(path)))
        _clear(self.directory, gone)


def _read(path: Path, *, history: bool) -> Whole:
    check_sequence(path)
    return read_whole(path, history=history)


def line_of(path: Path) -> Line:
    """The line that a checkpoint was saved on.

    Raises:
        CorruptCheckpoint: Its manifest is not whole, or its directory was renamed.
    """
    check_sequence(path)
    return Line.of(Reader(path).info())


def check_sequence(path: Path) -> None:
    """See that a checkpoint of a store has the name that it was committed under.

    Raises:
        CorruptCheckpoint: It has another, or its manifest is not whole.
    """
    sequence = Reader(path).manifest.sequence
    if sequence != int(path.name):
        raise CorruptCheckpoint(path, f"{MANIFEST}: its sequence is {sequence}, the directory was renamed")


def _clear(directory: Path, gone: list[Path]) -> None:
    """Remove what has a temporary name, once no power failure can bring its old name back."""
    if not gone:
        return
    try:
        sync_directory(directory)
    except OSError:
        return  # the next commit tries again
    for place in gone:
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            with suppress(OSError):
                place.unlink()
