"""`Judging`: validation as a phase of the loop, one batch for each transition.

The pass under way lives here; how far it is lives in the progress, which is saved. A trainer that loads a
state from the middle of a pass computes the pass again up to there, silently.
"""

from __future__ import annotations

import copy
import warnings
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from deeptrain.callbacks.base import Event
from deeptrain.evaluation.judgement import Judgement
from deeptrain.evaluation.passing import Pass
from deeptrain.evaluation.several import Several
from deeptrain.integrations.torch_loader import as_feed
from deeptrain.state.progress import Phase, Task
from deeptrain.step.base import Outcome, figures_of
from deeptrain.step.parts import put_back, training_flags
from deeptrain.step.row_weights import WeighsPasses
from deeptrain.step.supervised import SupervisedStep
from deeptrain.step.weights import refuse_unweighable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deeptrain.data.batch import Batch
    from deeptrain.data.feed import Feed
    from deeptrain.evaluation.judgement import Judged
    from deeptrain.evaluation.validation import Validation
    from deeptrain.state.history import History
    from deeptrain.step.base import Step
    from deeptrain.trainer import Trainer

Fed: TypeAlias = "Feed | Several"
T = TypeVar("T")
COLUMN = (
    "threshold."  # before the number of a label or class; so many figures are for the history, not for a line
)
_BOTH_ENDS = ("val_iter_end", "val_batch_end")


class Judging:
    """The validation of one trainer.

    Attributes:
        validation: What to validate on, how and when; None where there is no validation.
        feed: Its data.
        found: What the newest recorded pass found beside figures, by the loader's name: a threshold, a calibration, a subset. Part
            of the state, as `evaluation`.
        newest: What the newest pass of this process judged, by the loader's name; empty before the first.
    """

    def __init__(self, validation: Validation | None, seed: int) -> None:
        self.validation = validation
        self.feed = None if validation is None else feed_of(validation, seed)
        if self.feed is not None:
            self.feed.phase = "val"
        for feed in self.feeds():
            if getattr(feed, "edits", None):
                raise ValueError(
                    "the validation's loader has an edited order, which no state of the run holds: make it over the sets to "
                    "validate on, dt.Files(path, sets=...)"
                )
        self._pass: Pass | None = None
        self.newest: Mapping[str, Judged] = {}
        self.found: dict[str, dict[str, Any]] = {}

    def feeds(self) -> list[Feed]:
        """The data of each of its loaders."""
        if self.feed is None:
            return []
        return [*self.feed.feeds.values()] if isinstance(self.feed, Several) else [self.feed]

    def prepare_weights(self, step: Step) -> None:
        """Where the validation is to be weighted, see that the step can do it, and count what is to be counted.

        Raises:
            TypeError: It cannot, or its loss cannot.
        """
        if self.validation is None or self.feed is None or not self.validation.row_weights:
            return
        if not isinstance(step, WeighsPasses):
            raise TypeError(
                f"Validation(class_weights=..., sample_weight=...): the step {type(step).__name__} has no method "
                "weighted_loss_over(predictions, targets, weights), which would be asked for the weighted loss: add one, or "
                "leave the weights out"
            )
        if isinstance(step, SupervisedStep):
            refuse_unweighable(step.loss)
        self.validation.row_weights = self.validation.row_weights.counted(
            *self.feeds(), ignored=step.ignored_class
        )

    def warn_of_shared_rows(self, train: Feed) -> None:
        """Say where rows are trained on and validated on, so that the figures look better than they are."""
        theirs = getattr(train, "source", None)
        for feed in self.feeds():
            mine = getattr(feed, "source", None)
            if mine is None or theirs is None:
                continue
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

    def _parts(self) -> tuple[Validation, Fed]:
        if self.validation is None or self.feed is None:
            raise ValueError("this trainer has no validation: give it validation=dt.Validation(loader, ...)")
        return self.validation, self.feed

    def best_by(self, history: History) -> dict[str, Any]:
        """What checkpoints are compared by: the key metric's newest value, and which direction is better."""
        if self.validation is None or self.validation.mode is None:
            return {}
        key = history.last(f"val.{self.validation.key_metric}")
        return {} if key is None else {"key": key, "mode": self.validation.mode}

    def _is_new_best(self, history: History) -> bool:
        """Whether the key metric's newest value is better than all before; NaN never is, and the first value always."""
        assert self.validation is not None
        values = history[f"val.{self.validation.key_metric}"].values
        known = values[:-1][~np.isnan(values[:-1])]
        if not len(known):
            return not np.isnan(values[-1])
        return bool(values[-1] > known.max() if self.validation.mode == "max" else values[-1] < known.min())

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
        known = [] if self.validation is None else self.validation.names()
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

    def cut_short(self) -> None:
        """The pass under way is to have no more batches than it has; for a dry run."""
        if self._pass is not None:
            self._pass.ended = True

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
            self.newest, key = {}, self._pass_key(trainer)
            begun = Pass(validation, feed, trainer.learner, trainer.streams, key=key, place=trainer.run.path)
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
        run.gather()
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
        if self._pass is not None:
            self.newest, self.found = self._pass.parts, self._pass.kept
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
        self._note_subsets(trainer)
        event = Event("val_end", at, progress.train.epochs, None, None, dict(figures), ("val_end",))
        event.replaying = at <= trainer.run.replay_until
        trainer.delivery.put(("val_end",), event, first=True)
        saved = any(task.kind == "checkpoint" for task in progress.pending)  # at this safe point, anyway
        if trainer.checkpoints.best and not saved and self._is_new_best(trainer.history):
            progress.pending.append(Task("checkpoint"))
        trainer.display.on_validation(trainer, {k: v for k, v in figures.items() if COLUMN not in k})

    def _note_subsets(self, trainer: Trainer) -> None:
        """The journal has the names of the sets that were chosen, of which the history has the figures."""
        number, at = trainer.progress.validation.passes, trainer.progress.train.iterations
        for name, found in self.found.items():
            if "subset" in found:
                trainer.run.journalling.note(
                    "subset", at=at, **{"pass": number}, loader=name, **found["subset"]
                )

    def now(self, trainer: Trainer, *, keep: bool = False) -> Judgement:
        """Make a whole pass that leaves nothing behind. See `Trainer.validate`."""
        validation, feed = self._parts()
        place = feed.position
        try:
            whole = whole_pass(trainer, validation, feed)
            return Judgement(whole.figures(), whole.parts if keep else {}, whole.kept)
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

    def state_dict(self) -> dict[str, Any]:
        """What the newest pass found; nothing where nothing is looked for."""
        return {"evaluation": self.found} if self.found else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what the newest pass of a saved state found; the pass under way is not its."""
        self._pass = None
        self.found = copy.deepcopy(state.get("evaluation", {}))

    def close(self) -> None:
        """End the loader's workers."""
        if self.feed is not None:
            self.feed.close()


def findings_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a pass found, of the only loader where that has no name; of several by their names."""
    return dict(found.get("", found))


def feed_of(validation: Validation, seed: int) -> Fed:
    """The data of a validation as the trainer asks for it.

    Args:
        validation: Whose.
        seed: The seed for what is no `BatchLoader`, which has its own.
    """
    feeds = {name: as_feed(loader, seed) for name, loader in validation.loaders.items()}
    if validation.limit is None and "" in feeds:
        return feeds[""]
    return Several(feeds, validation.limit)


def whole_pass(trainer: Trainer, validation: Validation, feed: Fed) -> Pass:
    """Evaluate all batches, with random numbers that the run's own passes do not see."""
    key = (trainer.seed, "validate", trainer.progress.validation.passes)
    whole = Pass(validation, feed, trainer.learner, trainer.streams, key=key, place=trainer.run.path)
    whole.catch_up()
    return whole
