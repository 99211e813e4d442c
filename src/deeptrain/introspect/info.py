"""`Info`: where a run stands, in one place and in words."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from deeptrain.data.batch import describe
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.run.guarantee import Guarantee
    from deeptrain.state.progress import Progress
    from deeptrain.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Info:
    """Where a run stands. Its text is meant to be printed.

    Attributes:
        line: The place in one line.
        phase: "train", "validate" or "done".
        iterations: Completed train iterations.
        epoch: The epoch under way, from 0.
        batch: Completed batches of that epoch.
        pending: What the last commit left to be done, in words.
        sources: The sets and rows that fed the last batch, or "" where there is none.
        metrics: The figures of the last iteration.
        torn: Why the state is not whole, or None.
        path: The run's directory, or None.
        guarantee: Whether the run still ends with the bits of an untouched one, or is fed its samples, and why.
    """

    line: str
    phase: str
    iterations: int
    epoch: int
    batch: int
    pending: tuple[str, ...]
    sources: str
    metrics: dict[str, float]
    torn: str | None
    path: Path | None
    guarantee: Guarantee

    @classmethod
    def of(cls, trainer: Trainer) -> Info:
        """Look at a trainer."""
        progress, place, last = trainer.progress, trainer.train.position, trainer.last
        return cls(
            line=place_in_words(trainer),
            phase=progress.phase.value,
            iterations=progress.train.iterations,
            epoch=place.epoch,
            batch=place.batch,
            pending=pending_in_words(progress),
            sources="" if last is None else describe(last.sources),
            metrics={} if last is None else last.metrics,
            torn=progress.torn,
            path=trainer.run.path,
            guarantee=trainer.run.standing.guarantee(trainer),
        )

    def _repr_html_(self) -> str:
        """The same for a notebook: a table."""
        facts = {
            "NOT WHOLE": self.torn or "",
            "pending": ", ".join(self.pending),
            "last batch": self.sources,
            **{name: f"{value:.4g}" for name, value in self.metrics.items()},
            "record": str(self.path or "none, nothing is written"),
            "guarantee": self.guarantee.what,
        }
        rows = [f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in facts.items() if v]
        return f"<div><b>{escape(self.line)}</b><table>{''.join(rows)}</table></div>"

    def __repr__(self) -> str:
        lines = [self.line]
        if self.torn is not None:
            lines.append(f"NOT WHOLE: {self.torn}")
        lines.append("pending: " + (", ".join(self.pending) or "nothing"))
        if self.sources:
            figures = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
            lines.append(f"last batch: {self.sources}  {figures}")
        lines.append(f"record: {self.path or 'none, nothing is written'}")
        lines.append(f"guarantee: {self.guarantee}")
        return "\n".join(lines)


def place_in_words(trainer: Trainer) -> str:
    """Where a run stands, in one line."""
    progress, place = trainer.progress, trainer.train.position
    done, each = progress.train.iterations, trainer.train.batches
    if progress.phase is Phase.DONE:
        return f"done: {progress.train.epochs} epochs, {done} iterations"
    total = trainer.train.iterations(trainer.epochs)
    piece = f" piece {place.iteration}" if place.iteration else ""
    at = f"epoch {place.epoch + 1}/{trainer.epochs}, batch {place.batch}{piece}/{each or '?'}, iteration {done}/{total or '?'}"
    if place.epoch >= trainer.epochs and not any(
        place[1:]
    ):  # what follows from the last epoch is still to be done
        at = f"after epoch {trainer.epochs}/{trainer.epochs}, iteration {done}/{total or '?'}"
    if progress.phase is Phase.VALIDATE and trainer.judging.feed is not None:
        at += f", validating {progress.validation.batches}/{trainer.judging.feed.batches or '?'}"
    return at


def pending_in_words(progress: Progress) -> tuple[str, ...]:
    """What waits for delivery, such as "on_train_batch_end of Count"."""
    return tuple(
        f"on_{task.event.name} of {task.callback}"
        if task.kind == "handler"
        else f"{task.kind} {task.callback}".rstrip()
        for task in progress.pending
    )
