"""The trainer's verbs that look: where it stands, what it is made of, how much it does. None of them changes anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.control.part import TrainerPart
from deeptrain.introspect.info import Info
from deeptrain.state import tree
from deeptrain.step.base import Totals
from deeptrain.step.gathering import updates_in

if TYPE_CHECKING:
    from deeptrain.callbacks.base import Event


class LookingVerbs(TrainerPart):
    """The part of a `Trainer` by which it is looked at."""

    def info(self) -> Info:
        """Where the run stands: what is pending, what fed the last batch, where its record lies."""
        return Info.of(self._trainer)

    def __repr__(self) -> str:
        return f"Trainer({Info.of(self._trainer).line})"

    @property
    def last(self) -> Event | None:
        """The newest train iteration of this process; None before the first and after a load."""
        delivery = self._trainer.delivery
        return None if delivery.newest is None else delivery.event()

    def get(self, path: str) -> Any:
        """The value at a path of the state tree; with `*` in it, a dictionary of all values that match.

        Raises:
            KeyError: There is none; the message names similar ones.

        Example:
            `trainer.get("optimizer.param_groups.*.lr")` gives `{"optimizer.param_groups.0.lr": 0.001}`.
        """
        return tree.get(self._trainer.state_dict(), path)

    def totals(self) -> Totals:
        """How much the whole run does, by the train loader."""
        train, epochs = self._trainer.train, self._trainer.epochs
        iterations, each = train.iterations(epochs), train.batches
        batches = None if each is None else epochs * each
        updates = updates_in(train, epochs, getattr(self._trainer.learner, "accumulate", 1))
        return Totals(iterations=iterations, batches=batches, updates=updates, epochs=epochs)

    def settings_of_parts(self) -> dict[str, Any]:
        """How every part was made, as plain values: what must match when a run is continued."""
        trainer = self._trainer
        data = {"train": trainer.train.settings(), **trainer.judging.data_settings()}
        return {
            "step": trainer.learner.settings(),
            "data": data,
            "validation": trainer.judging.settings(),
            "config": trainer.config,
        }
