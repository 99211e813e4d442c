"""`Display`: what a run prints. A sink: it is told, keeps no state of the run, and never harms it.

On a terminal one live line says at each moment which sets are being fit, with the batch's own figures beside
the epoch's mean. Elsewhere the same line is printed plainly, at a cadence.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from deeptrain.data.batch import describe
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deeptrain.run.guarantee import Reason
    from deeptrain.run.replay import Verdict
    from deeptrain.run.resume import Found
    from deeptrain.trainer import Trainer

LIVE = 0.1  # seconds between two drawings of the live line
NEVER = float("inf")


class Display:
    """What a run prints.

    Args:
        verbosity: 0 nothing; 1 a line for each epoch and validation and the live line; 2 also a line for each
            batch.
        metrics: Which figures to show: names, or a mapping from names to what they are called. All by default.
        digits: Significant digits of a figure.
        every: Seconds between two plain lines where there is no terminal.
        stream: Where to write; by default standard output as it is at the time.

    Attributes:
        quiet: Whether nothing is printed for now, because the run goes over ground that it knows.

    Example:
        >>> Display(2, metrics={"accuracy": "acc"}, digits=3)
        Display(verbosity=2)
    """

    def __init__(
        self,
        verbosity: int = 1,
        *,
        metrics: Sequence[str] | Mapping[str, str] | None = None,
        digits: int = 4,
        every: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        if verbosity not in {0, 1, 2}:
            raise ValueError(
                f"verbosity={verbosity!r}: expected 0 (nothing), 1 (epochs, a live line) or 2 (each batch)"
            )
        self.verbosity = verbosity
        self.digits = digits
        self.every = every
        self._labels = dict(metrics) if hasattr(metrics, "keys") else {n: n for n in metrics or ()}  # type: ignore[arg-type]
        self._all = metrics is None
        self._stream = stream
        self._live_width = 0
        self.due_at = 0.0 if verbosity else NEVER
        self.quiet = False
        self._since: tuple[float, int] | None = None
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
        if (now >= self.due_at or epoch_ended) and not self.quiet:
            self._on_due_iteration(trainer, now, epoch_ended)

    def on_validation(self, trainer: Trainer, figures: dict[str, float]) -> None:
        """A validation pass was committed."""
        if self.verbosity:
            self.say(f"{self._place(trainer)}  validation  {self._figures(figures)}")

    def on_done(self, trainer: Trainer) -> None:
        """The run is done."""
        if self.verbosity:
            where = f"; record in {trainer.run.path}" if trainer.run.path else ""
            self.say(f"{trainer.info().line}{where}")

    def on_hold(self, trainer: Trainer, why: str) -> None:
        """The run is held at a safe point, for another process."""
        self._since = None  # its time is no training's
        self.say(f"paused at {trainer.info().line}")
        self.say(f"  {why}; to go on: deeptrain unpause {trainer.run.path}")

    def on_stop(self, trainer: Trainer) -> None:
        """The trainer stops running: leave the cursor on a line of its own."""
        del trainer
        self._since = None
        self._clear()

    # ------------------------------------------------------------------ lines

    def _on_due_iteration(self, trainer: Trainer, now: float, epoch_ended: bool) -> None:
        if not self.verbosity:
            return
        line = self._batch_line(trainer, now)
        if self.verbosity > 1 or epoch_ended:
            self.say(line)
        elif self._is_terminal():
            self._draw(line)
        elif self._since is not None:
            self.say(line)
        self.due_at = now + self._pause()
        self._since = self._since or (now, trainer.progress.train.iterations)

    def _pause(self) -> float:
        if self.verbosity > 1:
            return 0.0
        return LIVE if self._is_terminal() else self.every

    def _place(self, trainer: Trainer) -> str:
        last = trainer.last
        if last is None or last.batch is None:
            return f"epoch {trainer.progress.train.epochs}/{trainer.epochs}"
        return f"epoch {last.batch.epoch + 1}/{trainer.epochs}  batch {last.batch.index + 1}/{trainer.train.batches or '?'}"

    def _batch_line(self, trainer: Trainer, now: float) -> str:
        assert trainer.last is not None
        assert trainer.last.batch is not None
        done, batch = trainer.progress.train.iterations, trainer.last.batch
        began = self._epoch_began(trainer, batch.epoch)
        means = {name: trainer.history.mean_since(f"train.{name}", began) for name in trainer.last.figures}
        parts = [self._place(trainer), describe(batch.sources), self._figures(trainer.last.metrics, means)]
        if self._since is not None and now > self._since[0]:
            parts.append(f"{(done - self._since[1]) / (now - self._since[0]):.3g}/s")
        return "  ".join(parts)

    def _epoch_began(self, trainer: Trainer, epoch: int) -> int:
        """How many iterations there had been when an epoch began; where that cannot be counted, from what was seen."""
        began = trainer.train.iterations(epoch)
        if began is None and self._seen[0] != epoch:
            self._seen = (epoch, trainer.progress.train.iterations - 1)
        return self._seen[1] if began is None else began

    def _figures(self, figures: Mapping[str, float], means: Mapping[str, float] | None = None) -> str:
        shown = []
        for name, value in figures.items():
            if self._all or name in self._labels:
                mean = "" if means is None else f" (mean {means[name]:.{self.digits}g})"
                shown.append(f"{self._labels.get(name, name)} {value:.{self.digits}g}{mean}")
        return "  ".join(shown)

    # ------------------------------------------------------------------ writing

    def _out(self) -> TextIO:
        return sys.stdout if self._stream is None else self._stream

    def _is_terminal(self) -> bool:
        out: Any = self._out()
        return bool(getattr(out, "isatty", bool)())

    def say(self, line: str) -> None:
        """Print a line, unless nothing is to be printed."""
        if self.verbosity and not self.quiet:
            self._clear()
            self._write(line + "\n")

    def _draw(self, line: str) -> None:
        from shutil import get_terminal_size  # noqa: PLC0415 - only where there is a terminal

        line = line[: get_terminal_size().columns - 1]
        self._write("\r" + line.ljust(self._live_width))
        self._live_width = len(line)

    def _clear(self) -> None:
        if self._live_width:
            self._write("\r" + " " * self._live_width + "\r")
            self._live_width = 0

    def _write(self, text: str) -> None:
        out = self._out()
        try:
            out.write(text)
            out.flush()
        except (OSError, ValueError):  # the other end is gone; the training is not
            self.verbosity, self.due_at = 0, NEVER
