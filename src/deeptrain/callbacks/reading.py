"""What a display reads of a trainer: the figures in words, the last validations as a table, how fast it goes."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from deeptrain.callbacks.board import Board
from deeptrain.callbacks.lines import duration, per_second
from deeptrain.data.batch import describe
from deeptrain.introspect.info import place_in_words
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer

ROWS = 5  # of the table of validations


class Wanted(NamedTuple):
    """Which figures are shown, and how.

    Attributes:
        labels: What they are called, by name.
        everything: Whether also those are shown that have no label.
        digits: Significant digits.
    """

    labels: Mapping[str, str]
    everything: bool
    digits: int

    def names(self, there: Sequence[str]) -> list[str]:
        """Which of them are shown."""
        return [name for name in there if self.everything or name in self.labels]

    def label(self, name: str) -> str:
        """What one is called."""
        return self.labels.get(name, name)

    def number(self, value: float | None) -> str:
        """A value; "" where there is none."""
        return "" if value is None else f"{value:.{self.digits}g}"

    def pieces(
        self, figures: Mapping[str, float], means: Mapping[str, float] | None = None, word: str = "mean "
    ) -> list[str]:
        """Figures in words, such as "loss 0.5 (mean 0.6)"."""
        texts = {name: f"{self.label(name)} {self.number(figures[name])}" for name in self.names([*figures])}
        if means is None:
            return [*texts.values()]
        return [f"{text} ({word}{self.number(means[name])})" for name, text in texts.items()]


class Pace:
    """How fast the training goes, since it was last begun."""

    def __init__(self) -> None:
        self._since: tuple[float, int] | None = None

    @property
    def known(self) -> bool:
        """Whether it has begun."""
        return self._since is not None

    def begin(self, now: float, done: int) -> None:
        """It goes on from here, unless it is under way; where it went back, it begins anew."""
        if self._since is None or done < self._since[1]:
            self._since = (now, done)

    def end(self) -> None:
        """The time from here on is no training's."""
        self._since = None

    def rate(self, now: float, done: int) -> float | None:
        """Iterations per second, or None where nothing can be said yet."""
        if self._since is None or now <= self._since[0] or done <= self._since[1]:
            return None
        return (done - self._since[1]) / (now - self._since[0])


def means_of(trainer: Trainer, last: Event, began: int) -> dict[str, float]:
    """The means of the last iteration's figures since the epoch began."""
    return {name: trainer.history.mean_since(f"train.{name}", began) for name in last.figures}


def board_of(trainer: Trainer, wanted: Wanted, rate: float | None, began: int, state: str) -> Board:
    """What a notebook shows of a trainer.

    Args:
        trainer: It is only read.
        wanted: Which figures.
        rate: Iterations per second, or None.
        began: At which iteration the epoch began.
        state: What the trainer does.
    """
    done, last, total = (
        trainer.progress.train.iterations,
        trainer.last,
        trainer.train.iterations(trainer.epochs),
    )
    pieces = [] if last is None else wanted.pieces(last.metrics, means_of(trainer, last, began))
    if last is not None and last.batch is not None:
        pieces.insert(0, describe(last.batch.sources))
    if rate is not None:
        pieces.append(per_second(rate))
        if total is not None and trainer.progress.phase is not Phase.DONE:
            pieces.append(f"{duration((total - done) / rate)} left")
    run = trainer.run.path
    header, rows = validations(trainer, wanted)
    title = f"{'Training' if run is None else run.name}: {state}"
    return Board(title, place_in_words(trainer), done, total, tuple(pieces), header, rows)


def validations(trainer: Trainer, wanted: Wanted) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """The last validations as a table: each with the means of the training since the one before it.

    Returns:
        Its columns and its rows; where the run does not validate, the last epochs are its rows.
    """
    points = _points(trainer)
    if len(points) < 2:  # noqa: PLR2004 - where it begins, and one at which something was completed
        return (), ()
    history = trainer.history
    trained = wanted.names([name.removeprefix("train.") for name in history if name.startswith("train.")])
    judged = wanted.names([name.removeprefix("val.") for name in history if name.startswith("val.")])
    columns = {name: _by_iteration(trainer, f"val.{name}") for name in judged}
    rows = [
        (
            str(at),
            *(wanted.number(history.mean_since(f"train.{name}", before, at)) for name in trained),
            *(wanted.number(columns[name].get(at)) for name in judged),
        )
        for before, at in pairwise(points)
    ]
    labels = (
        *(f"train {wanted.label(name)}" for name in trained),
        *(f"val {wanted.label(name)}" for name in judged),
    )
    return ("iteration", *labels), tuple(rows)


def _points(trainer: Trainer) -> list[int]:
    """At which iterations the rows are, with where the first of them begins."""
    if trainer.judging.validation is not None:
        names = [name for name in trainer.history if name.startswith("val.")]
        found = sorted({at for name in names for at in trainer.history[name].iterations.tolist()})
    else:
        ended = range(max(1, trainer.progress.train.epochs - ROWS), trainer.progress.train.epochs + 1)
        found = [at for at in map(trainer.train.iterations, ended) if at is not None]
    return [0, *found][-ROWS - 1 :]


def _by_iteration(trainer: Trainer, name: str) -> dict[int, float]:
    series = trainer.history[name]
    return dict(zip(series.iterations.tolist()[-ROWS:], series.values.tolist()[-ROWS:], strict=True))
