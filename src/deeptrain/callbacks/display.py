"""`Display`: what a run prints. A sink: it is told, keeps no state of the run, and never harms it.

On a terminal one live line says at each moment which sets are being fit, with the batch's own figures beside
the epoch's mean. In a notebook the cell has one area that is drawn again in its place. Elsewhere the same line
is printed plainly, at a cadence. What tells of progress is nowhere wider than 80 columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, TextIO

from deeptrain.callbacks.lines import GAP, WIDTH, columns, join, per_second, squeeze, wrap
from deeptrain.callbacks.notebook import Area, in_notebook
from deeptrain.callbacks.reading import Pace, Wanted, board_of, means_of
from deeptrain.callbacks.screen import Screen
from deeptrain.data.batch import describe
from deeptrain.preferences import KEYS, defaults
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deeptrain.run.guarantee import Reason
    from deeptrain.run.replay import Verdict
    from deeptrain.run.resume import Found
    from deeptrain.trainer import Trainer

LIVE = 0.1  # seconds between two drawings of the live line
AREA = 0.5  # and of a notebook's area, each of which goes through the browser
NEVER = float("inf")


class Display:
    """What a run prints.

    Args:
        verbosity: 0 nothing; 1 a line for each epoch and validation and the live line; 2 also a line for each
            batch (in a notebook the area, which names the batch's sets, in place of both). By default
            `dt.defaults.verbosity`.
        metrics: Which figures to show: names, or a mapping from names to what they are called. All by default.
        digits: Significant digits of a figure; by default `dt.defaults.digits`.
        every: Seconds between two plain lines where there is no terminal.
        stream: Where to write; by default a notebook's area, or standard output as it is at the time.

    Attributes:
        quiet: Whether nothing is printed for now, because the run goes over ground that it knows.

    Example:
        >>> Display(2, metrics={"accuracy": "acc"}, digits=3)
        Display(verbosity=2)
    """

    def __init__(
        self,
        verbosity: int | None = None,
        *,
        metrics: Sequence[str] | Mapping[str, str] | None = None,
        digits: int | None = None,
        every: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self.verbosity = (
            defaults.verbosity
            if verbosity is None
            else KEYS["verbosity"].checked(verbosity, f"verbosity={verbosity!r}")
        )
        self.digits = (
            defaults.digits if digits is None else KEYS["digits"].checked(digits, f"digits={digits!r}")
        )
        self.every = every
        labels = dict(metrics) if isinstance(metrics, Mapping) else {n: n for n in metrics or ()}
        self._wanted = Wanted(labels, metrics is None, self.digits)
        self._screen = Screen(stream)
        self._area: Area | None = None
        self._pace = Pace()
        self.due_at = 0.0 if self.verbosity else NEVER
        self.quiet = False
        self._seen = (-1, 0)

    def __repr__(self) -> str:
        return f"Display(verbosity={self.verbosity})"

    # ------------------------------------------------------------------ what the trainer tells

    def on_run(self, found: Found, place: Path | None) -> None:
        """A run was found or made, in that directory."""
        for line in found.passed_over:
            self.say(f"passed over a checkpoint that is not whole: {line}")
        if found.parent is not None:
            self.say(f"{place}: a new run from {found.parent}")
        elif found.finished is not None:
            self.say(
                f"{place}: a new run; {found.finished} is done and was made with other settings (to go on with that one: "
                'resume="keep" or "take", and more epochs)'
            )
        elif found.state is None:
            self.say(f"{place}: a new run")
        for path in found.unfinished[:1]:
            self.say(f"{path} is unfinished; to go on from it: Trainer(..., resume={str(path)!r})")

    def on_environment(self, differences: Sequence[Reason], lost: Sequence[Reason]) -> None:
        """A run goes on in another environment, or has done so before: what that costs, reason by reason."""
        costs = {reason.costs for reason in differences}
        if "order" in costs:
            self.say(
                "neither the bits nor the order of samples are promised any more: the environment is another"
            )
        elif "bits" in costs:
            self.say(
                "the bits are not promised any more, only the order of samples: the environment is another"
            )
        for reason in differences:
            self.say(f"  {reason}")
        before = [reason for reason in lost if not any(str(new) in str(reason) for new in differences)]
        if before:
            self.say("the bits of this run are not those of an untouched one:")
        for reason in before:
            self.say(f"  {reason}")

    def on_restored(self, trainer: Trainer, replay_until: int) -> None:
        """A trainer stands where its run is to go on."""
        name, line = trainer.run.path.name if trainer.run.path else "", trainer.info().line
        if trainer.progress.phase is Phase.DONE:
            self.say(f'{name}: {line}; nothing is left to train (more epochs, or resume="new", train on)')
            return
        travel = trainer.run.travel
        again = replay_until - trainer.progress.train.iterations if travel is None else 0
        more = f"; {again} or more of them again" if again > 0 else ""
        self.say(f"{name}: continuing at {line}{more}")

    def on_replay(self, verdict: Verdict) -> None:
        """What was computed again was held against the journal."""
        self.say(str(verdict))

    def on_iteration(self, trainer: Trainer, now: float, *, epoch_ended: bool) -> None:
        """An iteration was committed; called at the latest with the first one after `due_at`."""
        if (now >= self.due_at or epoch_ended) and not self.quiet and self.verbosity:
            self._on_due_iteration(trainer, now, epoch_ended)

    def on_validation_batch(self, trainer: Trainer, now: float) -> None:
        """A piece of a validation pass was committed."""
        if now >= self.due_at and not self.quiet and self.verbosity and self._has_area():
            self._draw_area(trainer, now, "validating")

    def on_validation(self, trainer: Trainer, figures: dict[str, float]) -> None:
        """A validation pass was committed. Called in the commit: a notebook's area is drawn later."""
        if self.verbosity and not self._has_area():
            self.say(wrap([*self._place(trainer), "validation", *self._wanted.pieces(figures)]))

    def on_done(self, trainer: Trainer) -> None:
        """The run is done."""
        if self.verbosity:
            where = "" if trainer.run.path is None else f"record in {trainer.run.path}"
            parts = [part for part in (trainer.info().line, where) if part]
            line = "; ".join(parts)
            # A path is not cut: it is there to be used.
            self.say(line if columns(line) <= WIDTH else f"\n{GAP}".join(parts))

    def on_hold(self, trainer: Trainer, why: str) -> None:
        """The run is held at a safe point, for another process."""
        self._pace.end()
        self.say(f"paused at {trainer.info().line}")
        self.say(f"  {why}; to go on: deeptrain unpause {trainer.run.path}")

    def on_stop(self, trainer: Trainer) -> None:
        """The trainer stops running: leave the cursor on a line of its own, and a notebook's area as it stands."""
        if self._area is not None and self.verbosity and not self.quiet:
            done = trainer.progress.phase is Phase.DONE
            self._draw_area(trainer, monotonic(), "done" if done else "stopped; fit() goes on")
            self.due_at = 0.0  # the next cell has an area of its own
        self._area = None
        self._pace.end()
        self._screen.clear()

    def say(self, line: str) -> None:
        """Print a line, unless nothing is to be printed."""
        if self.verbosity and not self.quiet:
            self._screen.say(line)
            self._look_whether_gone()

    # ------------------------------------------------------------------ drawing

    def _on_due_iteration(self, trainer: Trainer, now: float, epoch_ended: bool) -> None:
        if self._has_area():
            if now >= self.due_at:  # not at each of many short epochs
                self._draw_area(trainer, now, "training")
            return
        terminal = self._screen.is_terminal()
        if self.verbosity > 1 or epoch_ended:
            self.say(self._lines(trainer, now))
        elif terminal:
            self._screen.draw(self._live_line(trainer, now))
        elif self._pace.known:
            self.say(self._lines(trainer, now))
        pause = 0.0 if self.verbosity > 1 else LIVE if terminal else self.every
        self.due_at = now + pause
        self._pace.begin(now, trainer.progress.train.iterations)
        self._look_whether_gone()

    def _has_area(self) -> bool:
        """Whether a notebook's area is drawn; the first to ask in a cell decides."""
        if self._area is None and self._screen.stream is None and in_notebook():
            self._area = Area()
        return self._area is not None

    def _draw_area(self, trainer: Trainer, now: float, state: str) -> None:
        assert self._area is not None
        done = trainer.progress.train.iterations
        began = self._epoch_began(trainer, self._epoch(trainer))
        self._area.draw(board_of(trainer, self._wanted, self._pace.rate(now, done), began, state))
        self._pace.begin(now, done)
        self.due_at = NEVER if self._area.gone is not None else now + AREA

    def _look_whether_gone(self) -> None:
        if self._screen.gone:
            self.verbosity, self.due_at = 0, NEVER

    # ------------------------------------------------------------------ lines

    @staticmethod
    def _epoch(trainer: Trainer) -> int:
        last = trainer.last
        return trainer.progress.train.epochs if last is None or last.batch is None else last.batch.epoch

    @staticmethod
    def _place(trainer: Trainer) -> list[str]:
        last = trainer.last
        if last is None or last.batch is None:
            return [f"epoch {trainer.progress.train.epochs}/{trainer.epochs}"]
        each = trainer.train.batches or "?"
        return [f"epoch {last.batch.epoch + 1}/{trainer.epochs}", f"batch {last.batch.index + 1}/{each}"]

    def _pieces(self, trainer: Trainer, now: float, word: str) -> list[str]:
        """What is said of a batch: place, sets, figures, and last the rate, "" where it is not known."""
        last = trainer.last
        assert last is not None
        assert last.batch is not None
        means = means_of(trainer, last, self._epoch_began(trainer, last.batch.epoch))
        figures = self._wanted.pieces(last.metrics, means, word)
        rate = self._pace.rate(now, trainer.progress.train.iterations)
        speed = "" if rate is None else per_second(rate)
        return [*self._place(trainer), describe(last.batch.sources), *figures, speed]

    def _lines(self, trainer: Trainer, now: float) -> str:
        """The batch in one line; where that is too wide also without the word "mean" and the rate, in several."""
        full, short = self._pieces(trainer, now, "mean "), self._pieces(trainer, now, "")
        for pieces in (full, short, short[:-1]):
            if columns(line := join(pieces)) <= WIDTH:
                return line
        return wrap(short)

    def _live_line(self, trainer: Trainer, now: float) -> str:
        sources, width = 2, self._screen.live_width()
        line = join(self._pieces(trainer, now, "mean "))
        return line if columns(line) <= width else squeeze(self._pieces(trainer, now, ""), sources, width)

    def _epoch_began(self, trainer: Trainer, epoch: int) -> int:
        """How many iterations there had been when an epoch began; where that cannot be counted, from what was seen."""
        began = trainer.train.iterations(epoch)
        if began is None and self._seen[0] != epoch:
            self._seen = (epoch, trainer.progress.train.iterations - 1)
        return self._seen[1] if began is None else began
