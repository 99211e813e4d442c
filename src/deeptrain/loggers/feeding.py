"""`Loggers`: what the run keeps is sent to its loggers, every few seconds, each thing once.

Nothing is sent as it happens. A logger has a cursor into the run's history, its interventions and its pictures, and what lies
behind the cursor is sent. So an iteration that a replay computes again is not sent again, and what a process that was killed
had not sent yet is sent by the next one. Where a cursor stands is noted in the run's directory after each time:

    loggers/TensorBoardLogger.json

A kill may come between the sending and the note. A logger that can drop what it has from an iteration on does so when the run
goes on, and is told from there; one that can count what it has is asked; else those few seconds may come twice.
"""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from time import monotonic
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.files import temporary_beside
from deeptrain.loggers.base import Logger, Place
from deeptrain.loggers.pictures import Pictures, as_png, iteration_of
from deeptrain.loggers.sources import Interventions, counts_until, hyperparameters, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from deeptrain.checkpoint.line import Line
    from deeptrain.trainer import Trainer

FOLDER, VERSION = "loggers", 1
SECONDS = 5.0  # between two times
NEVER = float("inf")


class Loggers:
    """The loggers of one trainer.

    Args:
        loggers: They.

    Attributes:
        due_at: When, by `time.monotonic()`, they are to be told again.

    Raises:
        TypeError: Something in the list is no `Logger`.
    """

    def __init__(self, loggers: Sequence[Logger]) -> None:
        if isinstance(loggers, Logger):
            raise TypeError(f"loggers is one {type(loggers).__name__}, expected a list: write loggers=[...]")
        self._fed: list[_Fed] = []
        for logger in loggers:
            if not isinstance(logger, Logger):
                raise TypeError(
                    f"loggers holds a {type(logger).__name__}, expected instances of deeptrain.Logger, such as dt.CSVLogger()"
                )
            self._fed.append(_Fed(logger, _free_name(type(logger).__name__, [fed.name for fed in self._fed])))
        self.due_at = 0.0 if self._fed else NEVER
        self._pictures: Pictures | None = None

    def look(self, trainer: Trainer, now: float) -> None:
        """Tell them, where that is due."""
        if now >= self.due_at:
            self.tell(trainer)

    def tell(self, trainer: Trainer) -> None:
        """Tell them of all that is new; nothing while the run tries something out, or goes over ground that it knows.

        The journal has it first: it is what a run that goes on after a kill compares with, and so finds out that
        something that was told comes out otherwise now.
        """
        if not self._fed or trainer.display.quiet:
            return
        trainer.run.journalling.flush()
        with _streams_kept(trainer):
            for fed in [*self._fed]:
                if not fed.tell(trainer, self.pictures(trainer)):
                    self._fed.remove(fed)
        self.due_at = monotonic() + SECONDS if self._fed else NEVER

    def pictures(self, trainer: Trainer) -> Pictures:
        """The pictures of the run."""
        if self._pictures is None:
            self._pictures = Pictures(trainer.run.path)
        return self._pictures

    def add_picture(self, trainer: Trainer, name: str, figure: Any) -> None:
        """Keep a picture of the present iteration, to be sent. See `Trainer.log_picture`."""
        if not trainer.display.quiet:
            at, branch = trainer.progress.train.iterations, trainer.run.line.branch
            self.pictures(trainer).add(name, at, branch, as_png(figure))

    def left_behind(self, trainer: Trainer, at: int) -> None:
        """What came of this iteration and later ones came out otherwise when it was computed again."""
        for fed in self._fed:
            fed.leave(trainer, at)

    def close(self, trainer: Trainer) -> None:
        """Tell them the rest, and let them go."""
        self.tell(trainer)
        with _streams_kept(trainer):
            for fed in self._fed:
                fed.close()


def _free_name(name: str, taken: list[str]) -> str:
    return name if name not in taken else f"{name}-{sum(one.split('-')[0] == name for one in taken) + 1}"


@contextmanager
def _streams_kept(trainer: Trainer) -> Iterator[None]:
    """Whatever a sink draws, the run's random streams stand where they stood."""
    place = trainer.streams.capture()
    try:
        yield
    finally:
        trainer.streams.restore(place)


@dataclass
class _Mark:
    """How far a logger was told.

    Attributes:
        branch: The branch of which it was told.
        through: The iteration of its newest row; -1 before the first.
        counts: How many values of each figure it was told.
        newest: How many of those are of that iteration.
        entries: How many interventions it was told of, and up to which iteration it had come by then.
        pictures: Which pictures.
        own: The logger's own values.
        left: The iteration from which on the run has since come out otherwise; None where there is none.
    """

    branch: int = 0
    through: int = -1
    counts: dict[str, int] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    entries: tuple[int, int] = (0, -1)
    pictures: list[str] = field(default_factory=list)
    own: dict[str, Any] = field(default_factory=dict)
    left: int | None = None

    def from_start(self, start: int, counts: dict[str, int]) -> _Mark:
        """The mark of a logger that has nothing of an iteration and later ones."""
        number, at = self.entries
        pictures = [file for file in self.pictures if iteration_of(file) < start]
        return _Mark(
            self.branch, start - 1, counts, {}, (number if at < start else 0, at), pictures, self.own
        )

    def agreed(self, line: Line) -> float:
        """Up to which iteration a line of history has what was told."""
        shared = float("inf") if self.branch == line.branch else dict(line.before).get(self.branch, -1)
        return shared if self.left is None else min(shared, self.left - 1)

    def without_newest(self) -> dict[str, int]:
        """The counts of what came before the newest iteration."""
        return {name: count - self.newest.get(name, 0) for name, count in self.counts.items()}


class _Fed:
    """One logger with its cursor."""

    def __init__(self, logger: Logger, name: str) -> None:
        self._logger, self.name = logger, name
        self._mark: _Mark | None = None  # None until it is opened
        self._interventions = Interventions(None)
        self._columns: object = None

    def leave(self, trainer: Trainer, at: int) -> None:
        """Note, for this process or the next, that what it was told from an iteration on is no more."""
        with suppress(OSError, ValueError):  # it is said when it is told next
            mark = self._mark or self._read(trainer)
            mark.left = at if mark.left is None else min(mark.left, at)
            self._note(trainer, mark)

    def tell(self, trainer: Trainer, pictures: Pictures) -> bool:
        """Tell it of what is new; False where it failed and is to be left out."""
        try:
            self._tell(trainer, pictures)
        except Exception as error:  # noqa: BLE001 - a sink is no reason to stop, whatever it has
            with suppress(Exception):
                self._logger.close()
            warnings.warn(
                f"the logger {self.name} failed and is left out from now on; the run goes on: {type(error).__name__}: {error}",
                stacklevel=4,
            )
            return False
        return True

    def close(self) -> None:
        """Let it go."""
        if self._mark is not None:
            self._mark = None
            with suppress(Exception):
                self._logger.close()

    def _tell(self, trainer: Trainer, pictures: Pictures) -> None:
        if self._mark is None:
            self._begin(trainer)
        else:
            self._follow(trainer)
        mark = self._mark
        assert mark is not None
        told = self._tell_rows(trainer)
        told |= self._tell_interventions(trainer)
        told |= self._tell_pictures(trainer, pictures)
        if told:
            self._logger.flush()
            self._note(trainer, mark)

    # ------------------------------------------------------------------ where it stands

    def _begin(self, trainer: Trainer) -> None:
        """Open it, and find out how far it was told by the process before."""
        run, mark = trainer.run, self._read(trainer)
        self._interventions = Interventions(None if run.path is None else run.path / "journal.jsonl")
        self._mark = mark
        if mark.agreed(run.line) < mark.through:
            self._open_from(trainer, int(mark.agreed(run.line)) + 1)
        elif self._logger.drops_tail:
            self._open(trainer, mark.from_start(max(0, mark.through), mark.without_newest()))
        else:
            self._open(trainer, mark)

    def _follow(self, trainer: Trainer) -> None:
        """Go back where the run went back since."""
        assert self._mark is not None
        mark, line, columns = self._mark, trainer.run.line, trainer.history.columns
        agreed = mark.agreed(line)
        if columns is not self._columns and self._is_shorter(trainer):
            agreed = min(agreed, trainer.progress.train.iterations)
        mark.branch, mark.left, self._columns = line.branch, None, columns
        if agreed < mark.through:
            self._logger.close()
            self._open_from(trainer, int(agreed) + 1)

    def _is_shorter(self, trainer: Trainer) -> bool:
        """Whether a state was loaded that has less than was told, and that no replay will make up for."""
        assert self._mark is not None
        if trainer.progress.train.iterations < trainer.run.replay_until:
            return False
        return trainer.progress.train.iterations < self._mark.through

    def _open_from(self, trainer: Trainer, start: int) -> None:
        assert self._mark is not None
        mark = self._mark.from_start(start, counts_until(trainer.history, start - 1))
        self._open(trainer, mark, goes_back=True)

    def _open(self, trainer: Trainer, mark: _Mark, *, goes_back: bool = False) -> None:
        path, line = trainer.run.path, trainer.run.line
        start = mark.through + 1
        name, values = "run" if path is None else path.name, hyperparameters(trainer)
        place = Place(name, path, line.branch, start, goes_back, values, mark.own)
        has = self._logger.open(place)
        self._mark, self._columns = mark, trainer.history.columns
        mark.branch, mark.left = line.branch, None
        if has is not None:
            mark.counts, mark.newest = dict(has), {}
            mark.entries = (0, -1) if not has else mark.entries
            mark.pictures = [] if not has else mark.pictures
        self._note(trainer, mark)  # at once: what was begun outside is to be found again

    # ------------------------------------------------------------------ what it is told

    def _tell_rows(self, trainer: Trainer) -> bool:
        assert self._mark is not None
        mark, new = self._mark, trainer.history.since(self._mark.counts)
        rows = rows_of(new)
        if not rows:
            return False
        self._logger.metrics(rows)
        newest = rows[-1].at
        before = mark.newest if newest == mark.through else {}
        for name, series in new.items():
            mark.counts[name] = mark.counts.get(name, 0) + len(series.iterations)
        mark.newest = {
            name: before.get(name, 0) + int((s.iterations == newest).sum()) for name, s in new.items()
        } | {name: count for name, count in before.items() if name not in new}
        mark.through = max(newest, mark.through)
        return True

    def _tell_interventions(self, trainer: Trainer) -> bool:
        assert self._mark is not None
        entries = self._interventions.all()
        if len(entries) == self._mark.entries[0]:
            return False
        self._logger.interventions(entries)
        self._mark.entries = len(entries), trainer.progress.train.iterations
        return True

    def _tell_pictures(self, trainer: Trainer, pictures: Pictures) -> bool:
        assert self._mark is not None
        sent = set(self._mark.pictures)
        names = pictures.names(trainer.run.line, trainer.progress.train.iterations)
        new = [name for name in names if name not in sent]
        for name in new:
            self._logger.picture(pictures.get(name))
            self._mark.pictures.append(name)
        return bool(new)

    # ------------------------------------------------------------------ the note

    def _path(self, trainer: Trainer) -> Path | None:
        return None if trainer.run.path is None else trainer.run.path / FOLDER / f"{self.name}.json"

    def _read(self, trainer: Trainer) -> _Mark:
        path = self._path(trainer)
        if path is None or not path.exists():
            return _Mark(trainer.run.line.branch)
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("version", None) != VERSION:
            raise ValueError(f"{path} is of another version of deeptrain: remove it, and all is sent again")
        return _Mark(**found)

    def _note(self, trainer: Trainer, mark: _Mark) -> None:
        path = self._path(trainer)
        if path is None:
            return
        path.parent.mkdir(exist_ok=True)
        temporary = temporary_beside(path)
        temporary.write_text(json.dumps({"version": VERSION, **asdict(mark)}), encoding="utf-8")
        temporary.replace(path)
