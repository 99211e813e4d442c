"""The trainer's verbs that judge: a pass over the validation data at any pause, or over other data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from deeptrain.control.part import TrainerPart
from deeptrain.evaluation.judgement import Judgement
from deeptrain.evaluation.judging import Judging, feed_of, findings_of, whole_pass
from deeptrain.evaluation.validation import Validation
from deeptrain.state.progress import Phase, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deeptrain.evaluation.judgement import Judged
    from deeptrain.trainer import Trainer

T = TypeVar("T")
VAL = "val."  # before the names of a pass's figures


class JudgingVerbs(TrainerPart):
    """The part of a `Trainer` by which its model is judged."""

    judging: Judging

    @property
    def findings(self) -> dict[str, Any]:
        """What the newest recorded pass found beside figures: `threshold`, `calibration`, `subset`, as their `state_dict` gives them.

        Of several loaders by their names. Part of the state, as `evaluation`. Empty before the first pass, and where nothing is looked for.
        """
        return findings_of(self.judging.found)

    def validate(
        self, *, record: bool = False, keep_predictions: bool = False, callbacks: bool = False
    ) -> Judgement:
        """Validate now, whole. By default it leaves nothing behind: no record, no events, no random number drawn.

        Args:
            record: Make the pass one of the run: its figures join the history, callbacks and schedulers are told, and a script that
                is run again makes it once. What `request_validation` does, and at once.
            keep_predictions: Whether the result has the rows that were judged, as `judged`.
            callbacks: Call the callbacks' handlers of the pass, and put back their state and everything else afterwards.

        Returns:
            The figures by name, with what was kept.

        Raises:
            ValueError: There is nothing to validate on; or `record` goes with one of the others, or with a run that is done.

        Example:
            `trainer.validate(keep_predictions=True).judged.worst_batches()`
        """
        trainer = self._trainer
        if record:
            if keep_predictions or callbacks:
                raise ValueError(
                    "validate(record=True) makes a pass of the run, with its callbacks: leave keep_predictions and callbacks out"
                )
            return _recorded(trainer)
        if callbacks:
            return _with_callbacks(trainer, keep=keep_predictions)
        return _at_rest(trainer, lambda: trainer.judging.now(trainer, keep=keep_predictions))

    def evaluate(self, loader: Any, metrics: Mapping[str, Any] | None = None, **settings: Any) -> Judgement:
        """Judge the model on other data, as `validate` does, with what was predicted; nothing is left behind.

        Args:
            loader: A `BatchLoader`, or what else a trainer takes; or several by name.
            metrics: By name; by default those of the trainer's validation.
            settings: Other arguments of `Validation`, such as `limit` or `join`; by default the validation's `memory` and `join`.

        Returns:
            The figures, and as `judged` the rows.

        Example:
            `trainer.evaluate(test)["accuracy"]`
        """
        trainer = self._trainer
        known = trainer.judging.validation
        if known is not None:
            settings = {"memory": known.memory, "join": known.join} | settings
            metrics = known.metrics if metrics is None else metrics
        return _elsewhere(trainer, Validation(loader, metrics=metrics, **settings))

    def predict(self, loader: Any, **settings: Any) -> Judged:
        """Give the model's predictions for the rows of a loader, in its order; nothing is left behind.

        Args:
            loader: A `BatchLoader`, or what else a trainer takes. Its data need have no targets.
            settings: As for `evaluate`.

        Returns:
            The rows, with `predictions`, `rows` and `sets`, and targets where there are any.

        Example:
            `trainer.predict(test).predictions.argmax(1)`
        """
        trainer = self._trainer
        known = trainer.judging.validation
        if known is not None:
            settings = {"memory": known.memory, "join": known.join} | settings
        validation = Validation(loader, **settings)
        feed = feed_of(validation, trainer.seed)
        feed.phase = "val"
        place = feed.position
        try:
            whole = _at_rest(trainer, lambda: whole_pass(trainer, validation, feed))
        finally:
            feed.seek(epoch=place.epoch, batch=place.batch)
        return Judgement({}, whole.parts).judged


def _at_rest(trainer: Trainer, work: Callable[[], T]) -> T:
    """Do it under the trainer's signals, so that an interrupt puts everything back."""
    if trainer.delivery.handling is not None:
        return work()
    try:
        with trainer.interrupts:
            return trainer.judging.abortably(trainer, work)
    finally:
        trainer.steering.settle(trainer)  # another thread may have asked for something meanwhile


def _elsewhere(trainer: Trainer, validation: Validation) -> Judgement:
    other = Judging(validation, trainer.seed)
    other.prepare_weights(trainer.learner)
    return _at_rest(trainer, lambda: other.now(trainer, keep=True))


def _recorded(trainer: Trainer) -> Judgement:
    """Have it made as the run's own, and go on until it is through."""
    if trainer.progress.phase is Phase.DONE:
        raise ValueError(
            "validate(record=True): the run is done, and takes no more figures; validate() leaves nothing behind"
        )
    trainer.request_validation()
    trainer.step(0)
    return Judgement(_newest(trainer), {})


def _newest(trainer: Trainer) -> dict[str, float]:
    """The figures of the run's newest pass, as the history has them."""
    series = {name[len(VAL) :]: trainer.history[name] for name in trainer.history if name.startswith(VAL)}
    last = max((int(each.iterations[-1]) for each in series.values()), default=0)
    return {name: float(each.values[-1]) for name, each in series.items() if int(each.iterations[-1]) == last}


def _with_callbacks(trainer: Trainer, *, keep: bool) -> Judgement:
    """Make a pass as the run would, in a copy of its state."""
    from deeptrain.tuning.aside import aside  # noqa: PLC0415 - it is above

    trainer.judging.require()
    with aside(trainer, "validate"):
        trainer.progress.pending.clear()
        trainer.progress.pending.append(Task("validation"))
        trainer.progress.phase = Phase.TRAIN
        trainer.progress.validation.batches = 0
        trainer.judging.forget()
        trainer.retrace("batches", trainer.progress.train.batches, finish=False)
        return Judgement(_newest(trainer), trainer.judging.newest if keep else {})
