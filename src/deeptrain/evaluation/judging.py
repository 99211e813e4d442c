"""`Judging`: validation as a phase of the loop, one batch for each transition.

The pass under way lives here; how far it is lives in the progress, which is saved. A trainer that loads a
state from the middle of a pass computes the pass again up to there, silently.
"""

from __future__ import annotations

import warnings
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from deeptrain.callbacks.base import Event
from deeptrain.evaluation.validation import Pass, Validation
from deeptrain.state.progress import Phase
from deeptrain.step.base import Outcome, figures_of
from deeptrain.step.parts import put_back, training_flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.data.batch import Batch
    from deeptrain.data.feed import Feed
    from deeptrain.state.history import History
    from deeptrain.trainer import Trainer

T = TypeVar("T")
_BOTH_ENDS = ("val_iter_end", "val_batch_end")


class Judging:
    """The validation of one trainer.

    Attributes:
        validation: What to validate on, how and when; None where there is no validation.
        feed: Its data.
    """

    def __init__(self, validation: Validation | None, feed: Feed | None) -> None:
        self.validation = validation
        self.feed = feed
        if feed is not None:
            feed.phase = "val"
            if getattr(feed, "edits", None):
                raise ValueError(
                    "the validation's loader has an edited order, which no state of the run holds: make it over the sets to "
                    "validate on, dt.Files(path, sets=...)"
                )
        self._pass: Pass | None = None

    def warn_of_shared_rows(self, train: Feed) -> None:
        """Say where rows are trained on and validated on, so that the figures look better than they are."""
        mine, theirs = getattr(self.feed, "source", None), getattr(train, "source", None)
        if mine is None or theirs is None:
            return
        from deeptrain.data.files import shared_rows  # noqa: PLC0415 - who has no files does not pay for their readers

        if shared := shared_rows(mine, theirs):
            warnings.warn(
                f"{shared} of the {mine.n_rows} validation rows are trained on too, so that validation's figures are "
                "better than they would be on new data: split the sets, Files(path, sets=...)",
                stacklevel=4,
            )

    def key(self, trainer: Trainer) -> tuple[int | str, ...]:
        """What the random streams of the present piece are seeded from."""
        count = trainer.progress.validation
        return (*self._pass_key(trainer), count.batches)

    @staticmethod
    def _pass_key(trainer: Trainer) -> tuple[int | str, ...]:
        return (trainer.seed, "validation", trainer.progress.validation.passes)

    def _parts(self) -> tuple[Validation, Feed]:
        if self.validation is None or self.feed is None:
            raise ValueError("this trainer has no validation: give it validation=dt.Validation(loader, ...)")
        return self.validation, self.feed

    def best_by(self, history: History) -> dict[str, Any]:
        """What checkpoints are compared by: the key metric's newest value, and which direction is better."""
        if self.validation is None or self.validation.mode is None:
            return {}
        key = history.last(f"val.{self.validation.key_metric}")
        return {} if key is None else {"key": key, "mode": self.validation.mode}

    def refuse_unknown_best(self, best: int) -> None:
        """See that it is known which checkpoints are the best, where some of them are to be kept.

        Raises:
            ValueError: It is not.
        """
        if best and (self.validation is None or self.validation.mode is None):
            found = (
                "no validation" if self.validation is None else f"key_metric={self.validation.key_metric!r}"
            )
            raise ValueError(
                f"Checkpoints(best={best}): found {found} and no mode, so which are the best is not known: give "
                'dt.Validation(..., key_metric=..., mode="max") or mode="min"'
            )

    def refuse_unknown_figure(self, name: str | None) -> None:
        """See that there is the figure that a schedule goes by.

        Raises:
            ValueError: There is not.
        """
        known = [] if self.validation is None else sorted({"loss", *self.validation.metrics})
        if name is not None and name not in known:
            raise ValueError(f"scheduler_on={name!r}: expected one of the validation's figures {known}")

    def require(self) -> None:
        """See that there is something to validate on.

        Raises:
            ValueError: There is not.
        """
        self._parts()

    def advance(self, trainer: Trainer) -> None:
        """Do the next piece of the pass under way: one batch, or the figures of the whole pass."""
        commit = self.abortably(trainer, partial(self._compute, trainer))
        try:
            commit()
        except BaseException as error:
            trainer.tear(f"the validation after iteration {trainer.progress.train.iterations}", error)
            raise
        trainer.run.journalling.after_validation(trainer)
        now = monotonic()
        trainer.commands.look(trainer, now)
        trainer.display.on_validation_batch(trainer, now)

    @staticmethod
    def abortably(trainer: Trainer, work: Callable[[], T]) -> T:
        """Do a piece of work that evaluates, and put everything back where it does not come to its end."""
        trainer.rollback.capture()
        flags = training_flags(trainer.learner.modules())

        def undo(_: BaseException) -> None:
            put_back(flags)
            trainer.rollback.restore()

        return trainer.interrupts.abortably(work, undo)

    def _compute(self, trainer: Trainer) -> Callable[[], None]:
        """Compute one piece, and say how it is to be committed."""
        validation, feed = self._parts()
        if self._pass is None:
            begun = Pass(validation, feed, trainer.learner, trainer.streams, self._pass_key(trainer))
            begun.catch_up(trainer.progress.validation.batches)
            self._pass = begun
        if not self._pass.ended:
            pieces = self._pass.evaluate()
            figures = [figures_of(outcome) for _, outcome in pieces]
            return partial(self._end_batch, trainer, self._pass, pieces, figures)
        return partial(self._end, trainer, validation, self._pass.figures())

    @staticmethod
    def _end_batch(
        trainer: Trainer,
        run: Pass,
        pieces: list[tuple[Batch, Outcome]],
        figures: list[dict[str, Any]],
    ) -> None:
        run.gather(pieces)
        progress = trainer.progress
        progress.phase = Phase.VALIDATE
        progress.validation.batches += 1
        at = progress.train.iterations
        replaying = at <= trainer.run.replay_until
        # Each is put before what is pending, so the last piece goes first.
        for number, ((batch, outcome), found) in reversed(
            list(enumerate(zip(pieces, figures, strict=True), 1))
        ):
            names = _BOTH_ENDS if number == len(pieces) else _BOTH_ENDS[:1]
            event = Event(names[0], at, batch.epoch, batch, outcome.predictions, found, names, replaying)
            trainer.delivery.put(names, event, first=True)

    def _end(self, trainer: Trainer, validation: Validation, figures: dict[str, float]) -> None:
        self._pass = None
        progress = trainer.progress
        progress.phase = Phase.TRAIN
        progress.validation.passes += 1
        progress.validation.batches = 0
        progress.pending.popleft()
        at = progress.train.iterations
        trainer.learner.end_validation(figures.get(validation.key_metric), figures)
        trainer.history.add(at, figures, "val.")
        trainer.run.journalling.on_validation(trainer, figures)
        event = Event("val_end", at, progress.train.epochs, None, None, dict(figures), ("val_end",))
        event.replaying = at <= trainer.run.replay_until
        trainer.delivery.put(("val_end",), event, first=True)
        trainer.display.on_validation(trainer, figures)

    def now(self, trainer: Trainer) -> dict[str, float]:
        """Make a whole pass that leaves nothing behind. See `Trainer.validate`."""
        validation, feed = self._parts()
        place = feed.position
        key = (trainer.seed, "validate", trainer.progress.validation.passes)
        whole = Pass(validation, feed, trainer.learner, trainer.streams, key)
        try:
            whole.catch_up()
            return whole.figures()
        finally:
            feed.seek(epoch=place.epoch, batch=place.batch)

    def forget(self) -> None:
        """Another state was loaded: the pass under way is not its."""
        self._pass = None

    def settings(self) -> dict[str, Any] | None:
        """How the validation was made, for the run's fingerprint."""
        return None if self.validation is None else self.validation.settings()

    def data_settings(self) -> dict[str, Any]:
        """How its loader was made, for the run's fingerprint."""
        return {} if self.feed is None else {"validation": self.feed.settings()}

    def data_state(self) -> dict[str, Any]:
        """The loader's part of the state tree; its cursor is `progress.validation.batches`."""
        return {} if self.feed is None else {"validation": {"settings": self.feed.settings()}}

    def close(self) -> None:
        """End the loader's workers."""
        if self.feed is not None:
            self.feed.close()
