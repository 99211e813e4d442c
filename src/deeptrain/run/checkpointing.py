"""`Checkpointing`: when a run's state goes to the disk, what of it is there, and what a checkpoint says of itself."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.run.saving import Saver
from deeptrain.run.whole import gather
from deeptrain.state.cadence import BATCH_END, EPOCH_END, PIECE, WITHOUT_UPDATE
from deeptrain.state.history import without_series

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deeptrain.checkpoint.chain import Chain
    from deeptrain.trainer import Trainer

NEVER = float("inf")


class Checkpointing:
    """The checkpoints of one run, made by one trainer.

    Args:
        directory: Where they go.
        trainer: Whose settings say when and how many.
        journal: Writes a line to the run's journal.

    Attributes:
        store: Those that there are.
        muted: Whether nothing is to be saved, because the run goes over ground that it knows.
        saved: Where the run stood when it was saved last, or None where it never was.
    """

    def __init__(self, directory: Path, trainer: Trainer, journal: Callable[..., None]) -> None:
        self.store = CheckpointStore(directory, keep=trainer.checkpoints.keeping)
        self.saved: object = None
        self.muted = False
        self._saver, self._journal = Saver(self.store), journal
        every = trainer.checkpoints.every
        seconds = every.n if every.unit == "seconds" else NEVER
        self._seconds = float(os.environ.get("DEEPTRAIN_CHECKPOINT_SECONDS", seconds))
        self._due = time.monotonic() + self._seconds

    @property
    def save_at(self) -> float:
        """When, by `time.monotonic()`, one is due by the clock."""
        return NEVER if self.muted else self._due

    def save(
        self, trainer: Trainer, *, wait: bool = True, tag: str | None = None, head: bool = False
    ) -> None:
        """Commit a checkpoint of the present state.

        Args:
            trainer: Whose state.
            wait: Whether to return only once it is on the disk and verified; else it is written while training goes on,
                and `look` tells what became of it.
            tag: A name for it; then it is kept for good.
            head: Whether it is what a branch begins with.

        Raises:
            CheckpointError: It could not be written, or one before it.
        """
        if self.muted:
            return
        if not wait and self._saver.busy and trainer.checkpoints.when_busy == "skip":
            self._due = time.monotonic() + self._seconds
            self._journal("skipped", at=trainer.progress.train.iterations, what="checkpoint")
            return
        trainer.delivery.tell("save")
        self.settle()
        at, position = trainer.progress.train.iterations, position_of(trainer)
        with suppress(OSError):  # what waits goes on waiting
            trainer.run.write_journal(NEVER)  # whole up to here, it can mend the history
        # By the loop's own cadence it is saved once all that followed from an iteration is through, and nothing else was done.
        rests = not trainer.progress.pending and (head or not wait or self.saved is None)
        said = about(trainer) | {"head": head, "rest": ended(trainer) if rests else []}
        state = gather(trainer, without_series())
        self._saver.save(state, trainer.history, said, at=at, position=position, tag=tag)
        self._due = time.monotonic() + self._seconds
        if wait:
            self.settle()

    def settle(self) -> None:
        """Wait until nothing is being written, and note what came of it."""
        self._saver.wait()
        self.look()

    def wait(self) -> None:
        """Wait until nothing is being written; what came of it is told at the next look."""
        self._saver.wait()

    def look(self) -> None:
        """Note the checkpoints that have come to the disk since the last look.

        Raises:
            CheckpointError: One could not be written; said once. The state in memory is as it was.
        """
        for saved in self._saver.take():
            self.saved = saved.position
            entry = {"path": saved.path.name, "stalled": saved.stalled, "seconds": saved.seconds}
            self._journal("checkpoint", at=saved.at, **entry)

    def go_on_from(self, trainer: Trainer, chain: Chain | None) -> None:
        """The trainer was put where its run stands, and its history is in the run's segments, or a part of it."""
        self.saved = position_of(trainer)
        if chain is not None:
            self._saver.appender.adopt(chain, trainer.history)

    def is_behind(self, trainer: Trainer) -> bool:
        """Whether the trainer has gone on since the newest checkpoint, and its state is whole."""
        return trainer.progress.torn is None and self.saved != position_of(trainer)

    def leave(self) -> None:
        """The trainer went to another state, which no checkpoint here holds."""
        if self.saved is not None:
            self.saved = "another state"


def about(trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint of the present state says of itself."""
    if trainer.run.standing.is_behind(trainer):
        trainer.run.look_around(trainer)
    progress = trainer.progress
    return {
        "iterations": progress.train.iterations,
        "batches": progress.train.batches,
        "updates": progress.train.updates,
        "epochs": progress.train.epochs,
        "time": time.time(),
        **trainer.judging.best_by(trainer.history),
        "phase": progress.phase.value,
        "settings": trainer.settings,
        **trainer.run.standing.as_saved(trainer),
        **trainer.run.line.info(),
    }


def ended(trainer: Trainer) -> list[str]:
    """Of which units the newest iteration brought one to completion."""
    place = trainer.train.position
    moved = PIECE if place.iteration else BATCH_END if place.batch else EPOCH_END
    return list(moved if getattr(trainer.learner, "updated", True) else WITHOUT_UPDATE[moved])


def position_of(trainer: Trainer) -> object:
    """Where a trainer stands, so that two states of one run that differ in what was done have two positions."""
    progress = trainer.progress
    count = progress.validation
    done = progress.train.iterations, count.passes, count.batches, len(progress.pending), progress.phase
    return *done, trainer.steering.made, trainer.run.line.branch
