"""`Replaying`: a replay under way. It compares each iteration and validation, writes its line, and says what came of it.

See `Replay` for what is compared with what, and for what the journal has of it afterwards.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from deeptrain.control.journal import floats
from deeptrain.run.replay import Replay, ReplayMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from deeptrain.control.journal import Journal
    from deeptrain.data.batch import Batch
    from deeptrain.run.replay import Verdict
    from deeptrain.run.standing import Standing
    from deeptrain.trainer import Trainer

    _Write = Callable[[int, dict[str, Any]], None]  # given the iteration, and the verdict's line


class Replaying:
    """A run's replay, from its start to its verdict.

    Args:
        journal: The run's journal, open.
        after: The count of iterations of the state that the run goes on from.
        source: The journal to compare with, where it is another run's; then what is computed here is news here.

    Attributes:
        until: The last iteration that the journal tells of on the present line of history.
        verdict: What was found, once it is: the first that differs, where one does.
    """

    def __init__(self, journal: Journal, *, after: int, source: Path | None = None) -> None:
        self._journal, self._is_news = journal, source is not None
        self._replay = Replay(source or journal.path, after=after)
        self.until = self._replay.until
        self.verdict: Verdict | None = None
        self._done = self._replay.done
        # What is written should the run go on although it was stopped because it came out otherwise.
        self._refused: Callable[[], None] | None = None
        self._differing: tuple[Verdict, _Write] | None = None

    @property
    def over(self) -> bool:
        """Whether nothing is compared any more."""
        return self._done and not self._replay.awaits_validations

    def prepare(self, info: Mapping[str, Any], standing: Standing, *, comparable: bool) -> None:
        """Be told the environments of the process that wrote the checkpoint and of this one.

        Args:
            info: What the checkpoint says of itself, the former in it.
            standing: Knows the latter.
            comparable: False where the script's own values were taken, so that other figures are meant.
        """
        self._replay.prepare(info.get("environment") or {}, standing)
        if not comparable:
            self.leave()

    def leave(self) -> None:
        """Another state was loaded: what comes now is no replay."""
        self._done, self._refused = True, None
        self._replay.forget_validations()

    def on_iteration(self, trainer: Trainer, batch: Batch, figures: dict[str, Any]) -> None:
        """Hold an iteration against the journal, and put its line down as a repetition or as news.

        Raises:
            ReplayMismatch: It came out otherwise, and the run is to stop then. The state is whole.
        """
        at = trainer.progress.train.iterations
        self.go_on()
        if (
            self._done or at != self._replay.at + 1
        ):  # it is through, or a state was loaded past `Trainer.load`
            self.leave()
            self._journal.iteration(at, batch, figures)
            return
        verdict = self._replay.compare(at, batch, figures)
        if self._is_news:
            self._journal.iteration(at, batch, figures)
        elif verdict is None or verdict.identical:
            self._journal.again(at, batch, figures)
        if verdict is None:
            return
        self._note(verdict)
        trainer.display.on_replay(verdict)
        if verdict.identical:
            self._done = True
            self._journal.add("replay", **verdict.entry())
        else:
            self._go_another_way(trainer, verdict, partial(self._write_iteration, batch, figures))

    def _write_iteration(self, batch: Batch, figures: dict[str, Any], at: int, entry: dict[str, Any]) -> None:
        self.leave()
        if self._is_news:  # then its line is there already
            self._journal.add("replay", **entry)
        else:
            self._journal.add("replay", **entry, cut=at)
            self._journal.iteration(at, batch, figures)

    def _note(self, verdict: Verdict) -> None:
        if self.verdict is None or self.verdict.identical:
            self.verdict = verdict

    def on_validation(self, number: int, at: int, figures: dict[str, Any]) -> None:
        """Hold a pass against the journal; cannot fail. Its line is written, or waits for `settle` where it differs.

        Args:
            number: How many passes the run has completed with it.
            at: The iteration that it came after.
            figures: What it found.
        """
        line = {"at": at, "pass": number, "figures": floats(figures)}
        known, verdict = self._replay.compare_validation(number, at, figures)
        if verdict is None:
            self._journal.add(
                "validation", **line, **({"replayed": True} if known and not self._is_news else {})
            )
        else:
            self._differing = verdict, partial(self._write_validation, line)

    def _write_validation(self, line: dict[str, Any], at: int, entry: dict[str, Any]) -> None:
        del at  # no iteration is left: whether the training is another one is for its own figures to tell
        self._journal.add("replay", **entry)
        self._journal.add("validation", **line)

    def settle(self, trainer: Trainer) -> None:
        """Say of a pass that it came out otherwise; called once its commit is through.

        Raises:
            ReplayMismatch: The run is to stop then. The state is whole.
        """
        differing, self._differing = self._differing, None
        if differing is not None:
            verdict, write = differing
            self._note(verdict)
            trainer.display.on_replay(verdict)
            self._go_another_way(trainer, verdict, write)

    def _go_another_way(self, trainer: Trainer, verdict: Verdict, write: _Write) -> None:
        """Go on with what was found now, with a warning, or stop."""
        trainer.loggers.left_behind(trainer, verdict.at)
        if trainer.checkpoints.on_replay_mismatch == "stop":
            accepted = {"at": verdict.at, "identical": False, "accepted": True}
            self._refused = partial(write, verdict.at, accepted)
            self._journal.add("replay", **verdict.entry(), stopped=True)
            raise ReplayMismatch(verdict, self._journal.path.parent)
        write(verdict.at, verdict.entry())
        # Last, because a filter may make an exception of it.
        warnings.warn(f"{self._journal.path.parent}: {verdict}", stacklevel=2)

    def end(self) -> Verdict | None:
        """Compare no further; gives and writes down what was found, or None where nothing was or it was told already."""
        if self._done:
            return None
        self.leave()
        verdict = self._replay.verdict(whole=True)
        if not verdict.compared:
            return None
        self._note(verdict)
        self._journal.add("replay", **verdict.entry())
        return verdict

    def go_on(self) -> None:
        """Leave the old line of history, where the run was stopped because it came out otherwise and goes on now."""
        refused, self._refused = self._refused, None
        if refused is not None:
            refused()

    def say_how_far(self, trainer: Trainer | None) -> None:
        """Say and write down what was found, where an exception stops the run in the middle of the replay."""
        if sys.exception() is None or self._done or self._refused is not None:
            return
        verdict = self._replay.so_far()
        if verdict is None:
            return
        self._journal.add("replay", **verdict.entry())
        if trainer is not None:
            trainer.display.on_replay(verdict)
