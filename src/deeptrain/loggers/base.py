"""`Logger`: something outside that is told of a run; derive your own from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Row(NamedTuple):
    """Figures of one moment.

    Attributes:
        at: Completed train iterations.
        figures: By their names in the history, such as "train.loss".
    """

    at: int
    figures: dict[str, float]


class Picture(NamedTuple):
    """A picture that the script or a callback made, see `Trainer.log_picture`.

    Attributes:
        name: What it shows.
        at: Completed train iterations when it was made.
        png: The file's bytes.
        path: The file, where the run keeps it.
    """

    name: str
    at: int
    png: bytes
    path: Path | None


@dataclass(slots=True)
class Place:
    """Of what run a logger is told, and from where on.

    Attributes:
        name: The run's, such as "M3__mnist".
        directory: The run's; None where it has none.
        branch: The branch that it is on.
        start: Rows of this iteration and later ones come now, whether or not they came to a former process.
        goes_back: Whether the run left some of what the logger was told behind, as a rewind does: from `start` on.
        hyperparameters: The run's config and settings, by dotted names; numbers, strings, booleans or None.
        own: What the logger wants to know in the next process; to be changed in place, kept as JSON.
    """

    name: str = "run"
    directory: Path | None = None
    branch: int = 0
    start: int = 0
    goes_back: bool = False
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    own: dict[str, Any] = field(default_factory=dict)

    def begin_line(self) -> str:
        """Count another line of history among the logger's own values.

        Returns:
            A name for it outside, where each line has a run of its own: the run's, with a number from the second one on.
        """
        number = self.own["lines"] = self.own.get("lines", 0) + 1
        return self.name if number == 1 else f"{self.name}-line-{number}"


class Logger:
    """A sink for figures, hyperparameters, pictures and interventions. What it does not want, it leaves as it is here.

    All that it is told comes from what the run keeps on the disk, in its order, every few seconds. A logger that raises is left
    out from then on, and the run goes on. It is no part of the state: it may be added to a run or taken away at any time, and
    is told of what was before.

    Attributes:
        drops_tail: Whether `open` drops whatever it has of iteration `place.start` and later ones. Then nothing comes twice, also
            where the process was killed before it could note what it had sent.

    Example:
        >>> class Prints(Logger):
        ...     def metrics(self, rows):
        ...         for at, figures in rows:
        ...             print(at, figures)
    """

    drops_tail: ClassVar[bool] = False

    def open(self, place: Place) -> Mapping[str, int] | None:
        """The run begins, goes on, or went back.

        Returns:
            How many values of each figure it has, where it can tell: those behind them come. None goes by what was noted.
        """
        del place
        return None

    def metrics(self, rows: Sequence[Row]) -> None:
        """Further figures, by rising iterations. Those of a validation may come behind the iteration's own."""

    def interventions(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """All interventions so far, oldest first, as there are more of them: `at`, `branch`, `origin`, `verb`, `path`, `value`."""

    def picture(self, picture: Picture) -> None:
        """A picture."""

    def flush(self) -> None:
        """See to it that what was told outlives the process."""

    def close(self) -> None:
        """The trainer was closed, or the run went back, or the logger is left out; `open` may follow."""
