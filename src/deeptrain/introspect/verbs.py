"""The trainer's verbs that look: where it stands, what it is made of, how much it does. None of them changes anything."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from deeptrain.control.part import TrainerPart
from deeptrain.introspect.info import Info, place_in_words
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
        """Where it stands, in one line; `info()` says more."""
        trainer = self._trainer
        if "run" not in vars(trainer):  # seen by a debugger while it is made
            return "Trainer(not made yet)"
        name = "" if trainer.run.path is None else f"{trainer.run.path.name}: "
        torn = "" if trainer.progress.torn is None else f"; NOT WHOLE: {trainer.progress.torn}"
        running = "; running" if trainer.interrupts.running else ""
        return f"Trainer({name}{place_in_words(trainer)}{running}{torn})"

    def _repr_html_(self) -> str:
        """What a notebook shows of it: `info()`, and how it goes on."""
        trainer = self._trainer
        if "run" not in vars(trainer):
            return escape(repr(self))
        info = Info.of(trainer)
        name = "Trainer" if info.path is None else info.path.name
        more = "fit() goes on from here"
        if info.torn is not None:
            more = "load a checkpoint before it can go on"
        elif info.phase == "done":
            more = "nothing is left to train"
        elif trainer.interrupts.running:
            more = "running"
        return f"<div><b>{escape(name)}</b>: {more}{info._repr_html_()}</div>"

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
