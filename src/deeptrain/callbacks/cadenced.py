"""`Cadenced`: the base of callbacks that act every so many iterations, batches, updates or epochs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.callbacks.base import Callback
from deeptrain.state.cadence import Every, Turn

if TYPE_CHECKING:
    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer

# The event that brings a unit to completion.
EVENT_OF = {
    "iterations": "train_iter_end",
    "updates": "train_iter_end",
    "batches": "train_batch_end",
    "epochs": "train_epoch_end",
}


class Cadenced(Callback):
    """A callback that acts every so many units, and pays for no event between.

    Args:
        every: When, by a count.

    Raises:
        TypeError: It is no `Every`.
        ValueError: It goes by the clock.
    """

    def __init__(self, every: Every) -> None:
        if not isinstance(every, Every):
            raise TypeError(
                f"{type(self).__name__}(every={every!r}): expected a cadence, such as dt.Every(epochs=1)"
            )
        if every.unit == "seconds":
            raise ValueError(
                f"{type(self).__name__}(every={every!r}) would act by the clock, which no rerun could repeat: give "
                "dt.Every(iterations=...), batches, updates or epochs"
            )
        self.every = every
        self._turn = Turn(every)

    def hears(self, event: str) -> bool:
        """The event that brings one of its units to completion, and whatever is no train event."""
        return event not in EVENT_OF.values() or event == EVENT_OF[self.every.unit]

    def on_start(self, trainer: Trainer, event: Event) -> None:
        """Count from where it joined the run."""
        del event
        self._turn.join(trainer.progress.train)

    def act(self, trainer: Trainer, event: Event) -> None:
        """Called at each occasion."""

    def _look(self, trainer: Trainer, event: Event) -> None:
        if self._turn(trainer.progress.train):
            self.act(trainer, event)

    on_train_iter_end = on_train_batch_end = on_train_epoch_end = _look

    def state_dict(self) -> dict[str, Any]:
        """The count of its unit when it looked last."""
        return dict(self._turn.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it over."""
        self._turn.load_state_dict(state)
