"""`Updating`: the part of a step that makes an update of gradients: several pieces' together, clipped, in other precisions."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.step.base import Applied
from deeptrain.step.gathering import Gathered

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.optim import Optimizer

    from deeptrain.step.ema import Average
    from deeptrain.step.nonfinite import Watch
    from deeptrain.step.parts import Parameters
    from deeptrain.step.precision import Precision

NOTHING = Applied(updates=0)
ONE = Applied()
LEFT_OUT = "left_out"  # the figure of an iteration of which nothing came into the weights


class Updating:
    """How an optimizer is given gradients and stepped. All of it is part of a commit.

    Attributes:
        accumulate: How many iterations make one update.
        precision: In which format is computed.
        skipped: How many iterations were left out for values that were not finite.
        updated: Whether the last iteration ended with an update.
    """

    optimizer: Optimizer
    scheduler: Any
    average: Average | None
    watch: Watch
    accumulate: int
    precision: Precision
    skipped: int
    updated: bool
    _scheduler_by: Any
    _parameters: Parameters
    _means: bool  # whether the loss is a mean over rows

    def _set_updating(
        self, accumulate: int, clip_norm: float | None, clip_value: float | None, precision: Precision
    ) -> None:
        if isinstance(accumulate, bool) or not isinstance(accumulate, int) or accumulate < 1:
            raise ValueError(f"accumulate={accumulate!r}: expected a whole number of iterations from 1 up")
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and not (isinstance(limit, (int, float)) and limit > 0):
                raise ValueError(f"{name}={limit!r}: expected a number above 0, or None")
        self.accumulate, self.precision = accumulate, precision
        self._clip_norm, self._clip_value = clip_norm, clip_value
        self._gathered, self._weight = Gathered(), 1.0
        self._void = self._closes = self._masks = False
        self.skipped, self.updated = 0, True

    def _look_at_optimizer(self) -> None:
        """Note what the present optimizer asks for.

        Raises:
            ValueError: It evaluates the model by itself, and something else is asked for that this leaves no room for.
        """
        self._closes = _wants_closure(self.optimizer)
        self._masks = self.watch.policy != "ignore" and self.watch.is_masked(self.optimizer)
        clips = self._clip_norm is not None or self._clip_value is not None
        odd = {
            "accumulate": self.accumulate > 1,
            "clip_norm or clip_value": clips,
            "fp16": self.precision.scales,
        }
        if self._closes and (found := [name for name, given in odd.items() if given]):
            raise ValueError(
                f"{type(self.optimizer).__name__} evaluates the model by itself, several times in a step, which does not go "
                f"with {' and '.join(found)}: leave that out, or take another optimizer"
            )
        self._is_plain = not (
            self.accumulate > 1
            or clips
            or self.precision.scales
            or self.average is not None
            or self._closes
            or self._masks
        )

    def _pass_over(self) -> Applied:
        """Count an iteration of which nothing comes into the weights."""
        self._void = self.updated = False
        self.skipped += 1
        self._parameters.drop_gradients()
        made = NOTHING
        if self.accumulate > 1:
            self._gathered.pass_over()
            made = self._update_if_whole()
        return Applied(made.updates, {**made.figures, LEFT_OUT: 1.0})

    def _gather_or_update(self) -> Applied:
        if self.accumulate == 1:
            return self._update()
        self._gathered.add(self._parameters.all(), self._weight)
        self._parameters.drop_gradients()
        return self._update_if_whole()

    def _update_if_whole(self) -> Applied:
        if self._gathered.pieces < self.accumulate:
            self.updated = False
            return NOTHING
        return self._update_of_the_rest()

    def _update_of_the_rest(self) -> Applied:
        """Make an update of what was gathered, if anything was."""
        if not self._gathered.pieces:
            return NOTHING
        if not self._gathered.give_back(self._parameters.all(), mean=self._means):
            self.updated = False
            return NOTHING
        return self._update()

    def _update(self) -> Applied:
        figures = self._clip()
        self.updated = True if self._closes else self._step_optimizer()
        self._parameters.drop_gradients()
        if self.updated:
            if self.average is not None:
                self.average.update()
            if self._scheduler_by == "updates":
                self.scheduler.step()
        return Applied(int(self.updated), figures) if figures or not self.updated else ONE

    def _clip(self) -> dict[str, Any]:
        if self._clip_norm is None and self._clip_value is None:
            return {}
        self.precision.unscale(self.optimizer)
        parameters, figures = self._parameters.all(), {}
        if self._clip_norm is not None:
            figures["grad_norm"] = torch.nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        if self._clip_value is not None:
            torch.nn.utils.clip_grad_value_(parameters, self._clip_value)
        return figures

    def _step_optimizer(self, closure: Callable[[], torch.Tensor] | None = None) -> bool:
        """Step the optimizer by its rates, each times its group's `lr_scale`; whether it was stepped."""
        groups = self.optimizer.param_groups
        for group in groups:
            if group.get("lr_scale", 1) != 1:  # one that was added later has none
                break
        else:  # as nearly always
            return self._step_as_it_is(closure)
        rates = [group["lr"] for group in groups]
        try:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate * group.get("lr_scale", 1)
            return self._step_as_it_is(closure)
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def _step_as_it_is(self, closure: Callable[[], torch.Tensor] | None) -> bool:
        if closure is not None:
            self.optimizer.step(closure)  # type: ignore[arg-type]
            return True
        if self.precision.scales:
            return self.precision.step(self.optimizer)
        if self._masks:
            return self._step_masked()
        self.optimizer.step()
        return True

    def _step_masked(self) -> bool:
        """Let the device leave the update out where a gradient is not finite; what was found is read later."""
        optimizer: Any = self.optimizer
        optimizer.grad_scale, optimizer.found_inf = None, self.watch.flag(self._parameters.gradients())
        try:
            optimizer.step()
        finally:
            self.watch.note(optimizer.found_inf)
            del optimizer.grad_scale, optimizer.found_inf
        return True

    # ------------------------------------------------------------------ state

    def _settings_of_updating(self) -> dict[str, Any]:
        """What differs from the plainest step."""
        made = {
            "accumulate": (self.accumulate, 1),
            "clip_norm": (self._clip_norm, None),
            "clip_value": (self._clip_value, None),
            "precision": (self.precision.name, "fp32"),
            "ema": (None if self.average is None else self.average.settings(), None),
            "on_nonfinite": (self.watch.policy, "stop"),
        }
        return {name: value for name, (value, plainest) in made.items() if value != plainest}

    def _state_of_updating(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if self.average is not None:
            state["ema"] = self.average.state_dict()
        if self.precision.scales:
            state["scaler"] = self.precision.state_dict()
        if self.accumulate > 1:
            state["gathered"] = self._gathered.state_dict()
        if self.accumulate > 1 or self.skipped or not self.updated:
            state["updating"] = {"skipped": self.skipped, "updated": self.updated}
        return state

    def _load_updating(self, state: dict[str, Any]) -> None:
        if self.average is not None:
            self.average.load_state_dict(state["ema"])
        self.precision.load_state_dict(state.get("scaler", {}))
        self._gathered.clear()
        if self.accumulate > 1:
            self._gathered.load_state_dict(state["gathered"], self._parameters.all())
        made = state.get("updating", {})
        self.skipped, self.updated = made.get("skipped", 0), made.get("updated", True)
        self.watch.forget()


def _wants_closure(optimizer: Optimizer) -> bool:
    """Whether its `step` cannot be called without a function that evaluates the model."""
    if isinstance(optimizer, torch.optim.LBFGS):
        return True
    step = getattr(type(optimizer).step, "__wrapped__", type(optimizer).step)
    closure = inspect.signature(step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
