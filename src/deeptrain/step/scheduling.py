"""`Scheduling`: the part of a step that is about its optimizer's schedule: when it is made, stepped, and where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch.optim.lr_scheduler import ReduceLROnPlateau

from deeptrain.step.exchange import AskedTotals, Rest
from deeptrain.step.given import accepted, name_of
from deeptrain.step.parts import without_params

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.optim import Optimizer

    from deeptrain.step.base import Totals

Unit = Literal["updates", "batches", "epochs", "validations"]


class Scheduling:
    """An optimizer and its scheduler.

    Attributes:
        optimizer: The optimizer.
        scheduler: The scheduler; None where there is none, and before a factory has made it.
        as_given: What the optimizer's groups held when they were given.
    """

    optimizer: Optimizer
    scheduler: Any
    as_given: list[dict[str, Any]]
    _totals: Totals
    _whole: Totals
    _rest: Rest | None = None  # what a schedule that was made on the way was made for
    scheduler_on: str | None = None

    def _take_optimizer(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        accepted(optimizer)
        self.as_given = without_params(optimizer)

    def _take_scheduler(self, scheduler: Any, by: Unit | None) -> None:
        made = not callable(scheduler) or hasattr(scheduler, "step")
        self.scheduler = scheduler if made else None
        self._make_scheduler: Any = None if made else scheduler
        self._scheduler_by = by
        self._asked = False  # whether the factory looked at the totals
        self._scheduled: int | None = None  # after how many updates the schedule ends, where it does

    def prepare(self, totals: Totals) -> None:
        """Make the scheduler, where a factory was given. See `Step`."""
        self._whole = totals
        totals = totals if self._rest is None else self._rest.of(totals)
        if self._make_scheduler is not None:
            # A second trainer on this step: the rates have moved, and the factory wants those of before.
            self.reset_rates()
            self.scheduler = self._made(totals)
        if self.scheduler is None:
            return
        if not hasattr(self.scheduler, "step"):
            raise TypeError(
                f"scheduler={name_of(self._make_scheduler)} returned a {type(self.scheduler).__name__}, expected a "
                "torch scheduler: write scheduler=lambda optimizer, totals: OneCycleLR(optimizer, ...)"
            )
        if getattr(self.scheduler, "optimizer", self.optimizer) is not self.optimizer:
            raise ValueError("the scheduler drives another optimizer than the one given to SupervisedStep")
        if self._scheduler_by is None:
            self._scheduler_by = "validations" if self._goes_by_figure() else "updates"
        self._look_at_schedule(totals)

    def prepare_rest(self, rest: Rest | None, totals: Totals) -> None:
        """Prepare for a schedule that was made on the way, for the rest of a run; None for one of the whole run."""
        self._rest = rest
        self.prepare(totals)

    def reset_rates(self) -> None:
        """Give the optimizer's groups the values that it was made with."""
        for group, values in zip(self.optimizer.param_groups, self.as_given, strict=True):
            for key in set(group) - {*values, "params"}:
                del group[key]  # what a scheduler added, and the next one would begin from
            group.update(values)

    def follow(self, whole: Totals, rest: Rest) -> None:
        """Go on with the same schedule in a run that has become another one, as by other data.

        Raises:
            ValueError: Its factory would be told other totals, or it ends before the run.
        """
        told = whole if self._rest is None else self._rest.of(whole)
        if self._make_scheduler is not None and self._asked and told != self._totals:
            raise ValueError(
                f"the schedule of {type(self.scheduler).__name__} was made for {self._totals}, and with the new train loader it "
                f"would be made for {told}: give scheduler= too, a function of (optimizer, totals), or None"
            )
        steps = getattr(self.scheduler, "total_steps", None)
        due = getattr(rest.of(whole), str(self._scheduler_by), None)
        if steps is not None and due is not None and due > steps - self.scheduler.last_epoch:
            raise ValueError(
                f"the schedule of {type(self.scheduler).__name__} has {steps - self.scheduler.last_epoch} steps left and the run "
                f"{due} {self._scheduler_by}: give scheduler= too, a function of (optimizer, totals), or None"
            )
        self._whole = whole
        if self.scheduler is not None:
            self._look_at_schedule(told)

    def _goes_by_figure(self) -> bool:
        return isinstance(self.scheduler, ReduceLROnPlateau)

    def _look_at_schedule(self, totals: Totals) -> None:
        self._totals = totals
        by_updates = self._scheduler_by == "updates"
        self._scheduled = getattr(self.scheduler, "total_steps", None) if by_updates else None
        self._refuse_short_schedule()

    def _made(self, totals: Totals) -> Any:
        told = AskedTotals.of(totals)
        try:
            made = self._make_scheduler(self.optimizer, told)
        except (TypeError, ValueError) as error:
            if totals.updates is None:
                error.add_note(
                    "totals.updates is None: how often the step is called is not known before, as the loader has no length "
                    "or a preprocessor decides by the outcome. Give the scheduler its number of steps yourself, or step it "
                    "by batches or epochs: scheduler_by='batches' with totals.batches"
                )
            raise
        self._asked = told.asked
        return made

    def _refuse_short_schedule(self) -> None:
        """A schedule with an end raises when it is stepped past it, which would tear the state in the middle of a run.

        Raises:
            ValueError: The run is longer than its schedule.
        """
        steps = getattr(self.scheduler, "total_steps", None)
        totals = self._totals
        counts = {"updates": totals.updates, "batches": totals.batches, "epochs": totals.epochs}
        due = counts.get(str(self._scheduler_by))
        if steps is not None and due is not None and due > steps:
            raise ValueError(
                f"the scheduler {type(self.scheduler).__name__} was made for {steps} steps and this run has {due} "
                f"{self._scheduler_by}: give it total_steps=totals.{self._scheduler_by}; a run that was begun with it "
                'cannot be given more epochs, start another with resume="new"'
            )

    def _refuse_to_outrun(self) -> None:
        """Where the run became longer than its schedule, say so before the commit, which the scheduler would tear."""
        if self.scheduler.last_epoch >= self._scheduled:
            raise RuntimeError(
                f"the schedule of {type(self.scheduler).__name__} ends after {self._scheduled} updates, and the run goes on: "
                "an edit of the order or a move of the cursor made it longer. The state is whole: stop here, or give a new "
                "run a longer schedule (total_steps) from this checkpoint on"
            )

    def _step_schedule(self, unit: Unit) -> None:
        if self._scheduler_by == unit and self.scheduler is not None:
            self.scheduler.step()

    def end_validation(self, key: float | None, figures: Mapping[str, float] | None = None) -> None:
        """Step a scheduler that goes by validations. See `Step`."""
        if not self._goes_by_figure():
            self._step_schedule("validations")
            return
        if self._scheduler_by != "validations":
            return
        if self.scheduler_on is not None:
            found = figures or {}
            if self.scheduler_on not in found:
                raise ValueError(
                    f"scheduler_on={self.scheduler_on!r}: the validation has the figures {sorted(found)}, expected one of "
                    "them, as it is named there"
                )
            key = found[self.scheduler_on]
        self.scheduler.step(float("nan") if key is None else key)

    def _load_schedule(self, state: Mapping[str, Any], rest: Mapping[str, Any] | None) -> None:
        self.scheduler.load_state_dict(state)
        self._rest = None if rest is None else Rest(**rest)
        self._look_at_schedule(self._whole if self._rest is None else self._rest.of(self._whole))
