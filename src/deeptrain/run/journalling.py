"""`Journalling`: what happens in a run goes to its journal, and is held against it where it happened before."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from deeptrain.run.checkpointing import NEVER, position_of
from deeptrain.run.replay import ReplayMismatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeptrain.control.journal import Journal
    from deeptrain.data.batch import Batch
    from deeptrain.run.replay import Verdict
    from deeptrain.run.replaying import Replaying
    from deeptrain.trainer import Trainer


class Journalling:
    """A run's journal and the replay under way; without a journal nothing is written down.

    Args:
        file: The run's journal, open.

    Attributes:
        file: The same; None where there is no run, or it was closed.
        replay: What compares, while the run goes over ground that it knows; else None.
        verdict: What the newest replay found, or None.
    """

    def __init__(self, file: Journal | None = None) -> None:
        self.file = file
        self.replay: Replaying | None = None
        self.verdict: Verdict | None = None

    def write(self, kind: str, *, durable: bool = False, **entry: Any) -> None:
        """Write a line; where it is to be durable, wait until it is on the disk."""
        if self.file is not None:
            write = self.file.write_durably if durable else self.file.write
            write(kind, **entry)

    def note(self, kind: str, **entry: Any) -> None:
        """Put a line down, without writing it yet."""
        if self.file is not None:
            self.file.add(kind, **entry)

    def write_due(self, now: float) -> None:
        """Write what waits, where that is due; called outside a commit, because the disk may be full."""
        if self.file is not None and now >= self.file.flush_at:
            self.file.flush()

    def flush(self) -> None:
        """Write what waits."""
        if self.file is not None:
            self.file.flush()

    @property
    def due_at(self) -> float:
        """When, by `time.monotonic()`, there is something to write."""
        return NEVER if self.file is None else self.file.flush_at

    def on_iteration(self, trainer: Trainer, batch: Batch, figures: dict[str, Any]) -> None:
        """Put an iteration's line down. Called outside the commit, because the disk may be full.

        Raises:
            ReplayMismatch: It was computed before, came out otherwise, and the run is to stop then.
        """
        if self.replay is not None:
            self._on_replayed(trainer, self.replay, batch, figures)
        elif self.file is not None:
            self.file.iteration(trainer.progress.train.iterations, batch, figures)
        if trainer.run.proof is not None:
            trainer.run.proof.trace(trainer)

    def _on_replayed(
        self, trainer: Trainer, replay: Replaying, batch: Batch, figures: dict[str, Any]
    ) -> None:
        if self.file is None:  # the trainer was closed
            self.replay = None
            return
        if not trainer.run.replay_until:
            replay.leave()
        with self._stopping(trainer, replay):
            replay.on_iteration(trainer, batch, figures)

    @contextlib.contextmanager
    def _stopping(self, trainer: Trainer, replay: Replaying) -> Iterator[None]:
        """What differs is not to become, unasked, the state that the next start goes on from."""
        try:
            yield
        except ReplayMismatch:
            trainer.run.settle()
            if trainer.run.checkpoints is not None:
                trainer.run.checkpoints.saved = position_of(trainer)
            raise
        finally:
            if replay.over:
                self.replay, self.verdict = None, replay.verdict

    def on_validation(self, trainer: Trainer, figures: dict[str, float]) -> None:
        """Put the line of a pass of validation down. Called inside the commit; cannot fail."""
        at, number = trainer.progress.train.iterations, trainer.progress.validation.passes
        if self.replay is not None:
            self.replay.on_validation(number, at, figures)
        else:
            self.note("validation", at=at, **{"pass": number}, figures=figures)

    def after_validation(self, trainer: Trainer) -> None:
        """The commit of a piece of a validation is through: write what waits, and say where a replay differs.

        Raises:
            ReplayMismatch: The pass was computed before, came out otherwise, and the run is to stop then.
        """
        self.write_due(time.monotonic())
        if self.replay is not None:
            with self._stopping(trainer, self.replay):
                self.replay.settle(trainer)

    def close(self) -> None:
        """Write what waits, and let go of the journal."""
        if self.file is not None:
            self.file.close()
        self.file = self.replay = None
