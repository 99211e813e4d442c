"""`Delivery`: what a commit raised is told to the user's code, one handler at a time, each of which can be aborted."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from deeptrain.callbacks.base import Event
from deeptrain.state.progress import Task
from deeptrain.step.parts import group_values, put_back_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deeptrain.data.batch import Batch
    from deeptrain.step.base import Outcome
    from deeptrain.trainer import Trainer

    Commit = tuple[Batch, Outcome, dict[str, Any], tuple[str, ...]]


class Delivery:
    """What waits to be told to a trainer's callbacks goes through here.

    Args:
        trainer: Whose.

    Attributes:
        handling: While user code runs: whose it is, its declared state before, and where the random streams stood; else None.
        newest: The newest train iteration of this process, from which its event is made: batch, outcome, figures, and the
            names of all that follows from it. None before the first and after a load.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self.handling: tuple[str, dict[str, Any] | None, list[Any]] | None = None
        self.newest: Commit | None = None

    def event(self) -> Event:
        """The event of the newest train iteration."""
        assert self.newest is not None
        batch, outcome, figures, coincides = self.newest
        at = self._trainer.progress.train.iterations
        replaying = at <= self._trainer.run.replay_until
        return Event(
            "train_iter_end", at, batch.epoch, batch, outcome.predictions, dict(figures), coincides, replaying
        )

    def put(self, names: Sequence[str], event: Event, *, first: bool = False) -> None:
        """Put an event's handlers on the list of what is pending: at its end, or before everything else."""
        calls = self._trainer.handlers.calls
        tasks = [Task("handler", event.named(name), callback) for name in names for callback in calls[name]]
        if first:
            self._trainer.progress.pending.extendleft(reversed(tasks))
        else:
            self._trainer.progress.pending.extend(tasks)

    def handle(self, task: Task) -> None:
        """Call one handler; one of a validation's events under seeds of its own."""
        trainer = self._trainer
        callback, event = trainer.handlers.by_name[task.callback], task.event
        state = copy.deepcopy(callback.state_dict())
        seeds = (
            (*trainer.judging.key(trainer), event.name, task.callback)
            if event.name.startswith("val_")
            else None
        )

        def call() -> None:
            if seeds is not None:
                trainer.streams.seed(*seeds)
            trainer.handlers.calls[event.name][task.callback](trainer, event)

        place = self.call_abortably(
            task.callback, call, state, lambda: callback.load_state_dict(copy.deepcopy(state))
        )
        if seeds is not None:
            trainer.streams.restore(place)
        self.end()

    def call_abortably(
        self,
        name: str,
        call: Callable[[], object],
        state: dict[str, Any] | None,
        undo_more: Callable[[], None],
    ) -> list[Any]:
        """Call the user's code; if it does not come to its end, put back its declared state and what abort covers.

        Args:
            name: Whose code it is.
            call: Calls it.
            state: Its declared state before, if it declares one.
            undo_more: Puts that back.

        Returns:
            Where the random streams stood before.
        """
        trainer = self._trainer
        trainer.rollback.capture()
        place = trainer.rollback.place
        groups, order = group_values(trainer.learner.optimizers()), trainer.train.mark()

        def work() -> None:
            self.handling = (name, state, place)
            call()

        def undo(_: BaseException) -> None:
            self.handling = None
            trainer.records.forget()
            trainer.steering.forget_handler()
            trainer.rollback.restore()
            put_back_groups(trainer.learner.optimizers(), groups)
            trainer.train.back_to(order)
            undo_more()

        trainer.interrupts.abortably(work, undo)
        self.handling = None
        return place

    def end(self) -> None:
        """The user's code has returned: it is pending no more, and what it asked for is made."""
        self._trainer.progress.pending.popleft()
        self._trainer.records.make(self._trainer)
        self._trainer.steering.end_handler(self._trainer)

    def tell(self, name: str) -> None:
        """Call the handlers of something that happens at the user's times; it draws no random numbers."""
        trainer = self._trainer
        if not trainer.handlers.calls[name]:
            return
        place = trainer.streams.capture()
        try:
            done = trainer.progress.train
            trainer.handlers.tell(trainer, Event(name, done.iterations, done.epochs))
        finally:
            trainer.streams.restore(place)
