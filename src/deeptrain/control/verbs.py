"""The trainer's verbs that steer: values set by path, requests, breakpoints. See `Steering` and `Breaks`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.control.breaks import Breaks
from deeptrain.control.change import Change
from deeptrain.control.commands import Commands
from deeptrain.control.part import TrainerPart
from deeptrain.control.records import Records
from deeptrain.control.schedule import Schedule
from deeptrain.control.steering import Steering
from deeptrain.control.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from deeptrain.state.cadence import At
    from deeptrain.trainer import Trainer


class SteeringVerbs(TrainerPart):
    """The part of a `Trainer` by which it is steered.

    Attributes:
        steering: What is asked of the run.
        breaks: Its breakpoints.
        schedule: Its scheduled interventions.
        records: Figures that a handler has for its history.
        commands: What other processes ask of it.
        watcher: Takes these while it rests at a prompt.
    """

    def __init__(self) -> None:
        self.steering, self.breaks, self.commands = Steering(), Breaks(), Commands()
        self.schedule, self.records = Schedule(self._trainer), Records()
        self.watcher = Watcher()

    def set(self, path: str, value: Any) -> str:
        """Set a value of the state, such as a rate, a weight, or what a callback keeps. The change is part of the record.

        In a callback's handler, between two `fit()`, at a prompt, or from another thread while the trainer runs (then it
        waits for the next safe point). A script that is run again after a crash sets each value once.

        Args:
            path: A path of the state tree; with `*` in it, every value that matches.
            value: Of the old value's type: a number for a number, numbers or a tensor for a tensor.

        Returns:
            What became of it, in words.

        Raises:
            KeyError: There is nothing at the path; the message names similar ones.
            ValueError, TypeError: The value does not fit, or a scheduler owns what is there. Nothing was changed.

        Example:
            `trainer.set("optimizer.param_groups.*.weight_decay", 0.1)`
        """
        return self.steering.ask(self._trainer, Change("set", path, value))

    def request_validation(self) -> str:
        """Have a validation made and recorded, once what is pending is through; from where `set` may be called."""
        return self.steering.ask(self._trainer, Change("validation"))

    def request_checkpoint(self) -> str:
        """Have a checkpoint saved, once what is pending is through."""
        return self.steering.ask(self._trainer, Change("checkpoint"))

    def request_stop(self, reason: str | None = None) -> str:
        """End the run here, once what is pending is through: `fit()` returns, and the run is done.

        More epochs than were asked for now continue it.

        Args:
            reason: Why, for the journal.
        """
        return self.steering.ask(self._trainer, Change("stop", value=reason))

    def record(self, figures: Mapping[str, float | torch.Tensor]) -> None:
        """Put figures into the history, at the present count of iterations; from a handler or a scheduled function.

        They are there when it has returned, each once, also where it is aborted and called again. The history is part of
        the state: no clocks, and nothing else that another process would find otherwise.

        Args:
            figures: Numbers, or tensors of one element, by names that are not of the trainer's own "train." and "val.".

        Raises:
            RuntimeError: No handler asks; a script that is run again would record them twice.
            ValueError, TypeError: A name or a value is of another kind.

        Example:
            `trainer.record({"norm": model.weight.norm()})`
        """
        self.records.ask(self._trainer, figures)

    def pause(self, reason: str = "a pause was requested") -> bool:
        """Ask the running trainer to stop at the next safe point; from a handler or from any thread.

        `fit()` then raises `Interrupted`.

        Returns:
            False where nothing is running.
        """
        return self._trainer.interrupts.request(reason)

    def request_pause(self, reason: str = "a pause was requested") -> bool:
        """What `pause` does."""
        return self.pause(reason)

    def break_when(self, condition: str) -> str:
        """Pause after the first iteration for which a condition holds; `fit()` or `step(1)` goes on from there.

        Args:
            condition: Of figures (`train.loss`, `val.accuracy`), values of the state by their paths (a tensor counts by
                its norm), and gradients' norms (a parameter's path and `.grad`), with `< <= > >= == !=`, `and or not`,
                `+ - * /` between spaces, `abs`, `isnan`, `isfinite`. Where a name has a `*`, any match will do.

        Returns:
            The condition as it was read; `trainer.breaks.remove(condition)` removes it.

        Raises:
            ValueError: It is no condition, with the place; KeyError where it names a path that there is not.

        Example:
            `trainer.break_when("train.loss > 10 or model.*.grad > 100")`
        """
        return str(self.breaks.add(self._trainer, condition))

    def at(self, point: At, fn: Callable[[Trainer], object]) -> str:
        """Have a function called when the run comes to a point; a script that is run again registers the same again.

        It is called once the handlers of that commit and a validation that follows from it are through, and before a
        checkpoint, as a handler is: when it raises or is aborted, random streams, rates and the order are put back and it
        is called again when the run goes on. What it sets and asks for is made when it has returned. Several at one point
        are called in the order in which they were registered.

        Args:
            point: Such as `dt.At(epoch=5)`, counted from the run's beginning.
            fn: Called with the trainer.

        Returns:
            What became of it, in words: under which number it is registered, or that its point is behind, where nothing is
            called. `trainer.schedule.remove(number)` removes it.

        Raises:
            TypeError: It is no point, or no function.
            RuntimeError: The trainer runs; or the restored state waits for another function under this number.

        Example:
            `trainer.at(dt.At(epoch=5), lambda trainer: trainer.set("optimizer.param_groups.*.weight_decay", 0.1))`
        """
        return self.schedule.register(point, fn)
