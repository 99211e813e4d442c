"""`Replaying`: a replay under way. It compares each iteration, writes its line, and says what came of it.

See `Replay` for what is compared with what, and for what the journal has of it afterwards.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from deeptrain.run.replay import Replay, ReplayMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deeptrain.control.journal import Journal
    from deeptrain.data.batch import Batch
    from deeptrain.run.replay import Verdict
    from deeptrain.trainer import Trainer


class Replaying:
    """A run's replay, from its start to its verdict.

    Args:
        journal: The run's journal, open.
        after: The count of iterations of the state that the run goes on from.
        source: The journal to compare with, where it is another run's; then what is computed here is news here.

    Attributes:
        until: The last iteration that the journal tells of on the present line of history.
        over: Whether nothing is compared any more.
        verdict: What was found, once it is.
    """

    def __init__(self, journal: Journal, *, after: int, source: Path | None = None) -> None:
        self._journal, self._is_news = journal, source is not None
        self._replay = Replay(source or journal.path, after=after)
        self.until = self._replay.until
        self.over = self._replay.done
        self.verdict: Verdict | None = None
        # The iteration at which the run was stopped; its line is written should the run go on nevertheless.
        self._refused: tuple[int, Batch, dict[str, Any]] | None = None

    def prepare(self, differences: Sequence[object], *, comparable: bool) -> None:
        """Be told how this process differs from the one that wrote the checkpoint.

        Args:
            differences: Those of the environment.
            comparable: False where the script's own values were taken, so that other figures are meant.
        """
        self._replay.environment = [str(difference) for difference in differences]
        self.over = self.over or not comparable

    def leave(self) -> None:
        """Another state was loaded: what comes now is no replay."""
        self.over = True

    def on_iteration(self, trainer: Trainer, batch: Batch, figures: dict[str, Any]) -> None:
        """Hold an iteration against the journal, and put its line down as a repetition or as news.

        Raises:
            ReplayMismatch: It came out otherwise, and the run is to stop then. The state is whole.
        """
        at = trainer.progress.train.iterations
        self.go_on()
        if self.over or at != self._replay.at + 1:  # a state was loaded past `Trainer.load`
            self.over = True
            self._journal.iteration(at, batch, figures)
            return
        verdict = self._replay.compare(at, batch, figures)
        if self._is_news:
            self._journal.iteration(at, batch, figures)
        elif verdict is None or verdict.identical:
            self._journal.again(at, batch, figures)
        if verdict is None:
            return
        self.verdict = verdict
        trainer.display.on_replay(verdict)
        if verdict.identical:
            self.over = True
            self._journal.add("replay", **verdict.entry())
        elif trainer.checkpoints.on_replay_mismatch == "stop":
            self._stop(verdict, batch, figures)
        else:
            self._warn(verdict, batch, figures)

    def _warn(self, verdict: Verdict, batch: Batch, figures: dict[str, Any]) -> None:
        self.over = True
        if self._is_news:
            self._journal.add("replay", **verdict.entry())
        else:
            self._journal.add("replay", **verdict.entry(), cut=verdict.at)
            self._journal.iteration(verdict.at, batch, figures)
        # Last, because a filter may make an exception of it.
        warnings.warn(f"{self._journal.path.parent}: {verdict}", stacklevel=2)

    def _stop(self, verdict: Verdict, batch: Batch, figures: dict[str, Any]) -> None:
        self._refused = (verdict.at, batch, figures)
        self._journal.add("replay", **verdict.entry(), stopped=True)
        raise ReplayMismatch(verdict, self._journal.path.parent)

    def end(self) -> Verdict | None:
        """Compare no further; gives and writes down what was found, or None where nothing was or it was told already."""
        if self.over:
            return None
        self.over = True
        verdict = self._replay.verdict(whole=True)
        if not verdict.compared:
            return None
        self._journal.add("replay", **verdict.entry())
        return verdict

    def go_on(self) -> None:
        """Leave the old line of history, where the run was stopped because it came out otherwise and goes on now."""
        if self._refused is None or self.over:
            return
        at, batch, figures = self._refused
        self.over = True
        self._journal.add("replay", at=at, identical=False, accepted=True, cut=at)
        self._journal.iteration(at, batch, figures)

    def say_how_far(self, trainer: Trainer | None) -> None:
        """Say and write down what was found, where an exception stops the run in the middle of the replay."""
        if sys.exception() is None or self.over or self._refused is not None:
            return
        verdict = self._replay.so_far()
        if verdict is None:
            return
        self._journal.add("replay", **verdict.entry())
        if trainer is not None:
            trainer.display.on_replay(verdict)
