"""`SupervisedStep`: predictions, a loss, its gradient, an optimizer, and perhaps a scheduler and metrics."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from deeptrain.data.batch import map_tensors
from deeptrain.step.base import Outcome, Totals, measured
from deeptrain.step.exchange import AskedTotals, Rest
from deeptrain.step.given import check_given, check_optimizer, described, name_of
from deeptrain.step.parts import (
    Parameters,
    default_device,
    evaluating,
    load_module,
    load_module_extra,
    load_optimizer,
    module_extra,
    without_params,
)
from deeptrain.step.stateful import Stateful, reset_states
from deeptrain.step.weights import weighted_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch.optim import Optimizer

    from deeptrain.data.batch import Batch

Unit = Literal["updates", "batches", "epochs", "validations"]


class SupervisedStep:
    """One update on a loss of predictions and targets.

    Args:
        model: The module; `model(inputs)` gives the predictions. It is moved to the device.
        loss: `loss(predictions, targets)` gives a tensor of shape (). A module's buffers and parameters are
            part of the state.
        optimizer: An optimizer over the model's parameters.
        scheduler: A torch scheduler over that optimizer, or a function of `(optimizer, totals)` that makes
            one; `totals` is a `Totals` of the whole run, for schedulers such as OneCycleLR that need it.
        scheduler_by: When the scheduler steps. By default after each update, and `ReduceLROnPlateau` after
            each validation, on the key metric.
        metrics: Train metrics by name: functions of `(predictions, targets)`, computed on the outputs that
            are there anyway, without gradients.
        device: Where to compute. By default the accelerator if there is one, else the CPU.

    Attributes:
        save_skip: Paths of its state that `trainer.save` leaves out, as `("optimizer.state",)`; none unless they are set.
            A run's own checkpoints hold them all.
        load_skip: Those that `trainer.load` leaves as they are, as `("optimizer.param_groups.*.lr",)`, and that a new run
            does not take over from another one.

    Raises:
        ValueError: The optimizer holds none of the model's parameters, or the scheduler another optimizer.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> step = SupervisedStep(model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1))
    """

    save_skip: Sequence[str] = ()
    load_skip: Sequence[str] = ()

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Callable[[Any, Any], torch.Tensor],
        optimizer: Optimizer,
        scheduler: LRScheduler
        | ReduceLROnPlateau
        | Callable[[Optimizer, Totals], LRScheduler | ReduceLROnPlateau]
        | None = None,
        scheduler_by: Unit | None = None,
        metrics: Mapping[str, Callable[[Any, Any], float | torch.Tensor]] | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        check_given(loss, scheduler, metrics, scheduler_by)
        self.device = default_device() if device is None else torch.device(device)
        self.model = model.to(self.device)
        self.metrics = dict(metrics or {})
        self._totals = self._whole = Totals(0, 0, 0, 0)
        self._rest: Rest | None = None  # what a schedule that was made on the way was made for
        self._away = self.device.type != "cpu"
        self.take({"loss": loss, "optimizer": optimizer, "scheduler": scheduler}, scheduler_by)

    def take(self, parts: Mapping[str, Any], scheduler_by: Unit | None = None) -> None:
        """Take the parts that are given. One whose scheduler is among them wants to be prepared.

        Raises:
            ValueError: They do not go with the others.
        """
        if "loss" in parts:
            loss = parts["loss"]
            self.loss = loss.to(self.device) if isinstance(loss, nn.Module) else loss
        if "optimizer" in parts:
            self.optimizer: Optimizer = parts["optimizer"]
            self.as_given = without_params(self.optimizer)
        if "scheduler" in parts:
            scheduler = parts["scheduler"]
            made = not callable(scheduler) or hasattr(scheduler, "step")
            self.scheduler: Any = scheduler if made else None
            self._make_scheduler: Any = None if made else scheduler
            self._scheduler_by = scheduler_by
            self._asked = False  # whether the factory looked at the totals
            self._scheduled: int | None = None  # after how many updates the schedule ends, where it does
        self._parameters = Parameters(self.modules(), [self.optimizer])
        self._carries = any(isinstance(m, Stateful) for root in self.modules() for m in root.modules())
        check_optimizer(self.model, self.optimizer)

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
            self._scheduler_by = "validations" if isinstance(self.scheduler, ReduceLROnPlateau) else "updates"

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

    def bind(self, begin_commit: Callable[[], None]) -> None:
        """Nothing in `compute` needs it here. See `Step`."""

    def compute(self, batch: Batch) -> Outcome:
        """Forward, loss and backward. See `Step`.

        Raises:
            ValueError: The loss is not a scalar.
        """
        if self._carries and not batch.iteration:
            reset_states(self.modules())  # also where the cursor was moved in the middle of another batch
        if self._scheduled is not None:
            self._refuse_to_outrun()
        inputs, targets = self._place(batch) if self._away else (batch.inputs, batch.targets)
        predictions = self.model(inputs)
        if batch.weights is None:
            loss = self.loss(predictions, targets)
        else:
            loss = weighted_loss(self.loss, predictions, targets, batch.weights.to(self.device))
        if not isinstance(loss, torch.Tensor):
            raise TypeError(
                f"the loss {name_of(self.loss)} gave a {type(loss).__name__}, expected a tensor of shape () that has a "
                "gradient: leave out .item() and the like"
            )
        if loss.dim():
            raise ValueError(
                f"the loss has shape {tuple(loss.shape)}, expected a scalar of shape (): "
                f"give {name_of(self.loss)} a reduction such as 'mean', or return loss.mean()"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        predictions = _detach(predictions)
        if not self.metrics:
            return Outcome(loss.detach(), predictions)
        with torch.no_grad():
            metrics = {
                name: measured(name, metric, predictions, targets) for name, metric in self.metrics.items()
            }
        return Outcome(loss.detach(), predictions, metrics)

    def discard(self) -> None:
        """Drop the gradients: between two updates there are none. See `Step`."""
        self._parameters.drop_gradients()

    def apply(self) -> None:
        """The optimizer's step, and the scheduler's. See `Step`."""
        self.optimizer.step()
        self._parameters.drop_gradients()
        if self._scheduler_by == "updates":
            self.scheduler.step()

    def end_batch(self) -> None:
        """Reset the state that modules carry from piece to piece; step a scheduler that goes by batches. See `Step`."""
        if self._carries:
            reset_states(self.modules())
        if self._scheduler_by == "batches" and self.scheduler is not None:
            self.scheduler.step()

    def end_epoch(self) -> None:
        """Step a scheduler that goes by epochs. See `Step`."""
        if self._scheduler_by == "epochs" and self.scheduler is not None:
            self.scheduler.step()

    def end_validation(self, key: float | None) -> None:
        """Step a scheduler that goes by validations. See `Step`."""
        if self._scheduler_by != "validations" or self.scheduler is None:
            return
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(float("nan") if key is None else key)
        else:
            self.scheduler.step()

    def evaluate(self, batch: Batch) -> Outcome:
        """Predictions and loss in evaluation mode. See `Step`."""
        with evaluating(self.modules()):
            inputs, targets = self._place(batch)
            predictions = self.model(inputs)
            return Outcome(self.loss(predictions, targets), predictions)

    def loss_over(self, predictions: Any, targets: Any) -> float | None:
        """The loss over predictions and targets of a whole pass, in one call. See `Step`."""
        with evaluating(self.modules()):
            return float(self.loss(self._to_device(predictions), self._to_device(targets)))

    def modules(self) -> Iterable[nn.Module]:
        """The model, and the loss where it is a module. See `Step`."""
        return (self.model, self.loss) if isinstance(self.loss, nn.Module) else (self.model,)

    def optimizers(self) -> Sequence[Optimizer]:
        """The one optimizer. See `Step`."""
        return (self.optimizer,)

    def _place(self, batch: Batch) -> tuple[Any, Any]:
        return self._to_device(batch.inputs), self._to_device(batch.targets)

    def _to_device(self, tensors: Any) -> Any:
        return map_tensors(tensors, lambda t: t.to(self.device, non_blocking=True))

    def settings(self) -> dict[str, Any]:
        """The parameters' shapes and how the other parts were made. See `Step`."""
        groups = without_params(self.optimizer)
        return {
            "model": {name: f"{p.dtype} {list(p.shape)}" for name, p in self.model.named_parameters()},
            "modules": {name: m for name, m in self.model.named_modules() if not any(m.children())},
            "loss": described(self.loss),
            "optimizer": {"class": type(self.optimizer).__name__, "param_groups": groups},
            "scheduler": None if self.scheduler is None else described(self.scheduler),
            "scheduler_by": self._scheduler_by,
            "metrics": sorted(self.metrics),
        }

    def state_dict(self) -> dict[str, Any]:
        """`model`, `model_extra`, `optimizer`, and `scheduler` and `loss` where they have a state. See `Step`."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "model_extra": module_extra(self.model),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.scheduler is not None:
            state["scheduler"] = self.scheduler.state_dict()
            if self._rest is not None:
                state["scheduler_rest"] = asdict(self._rest)
        if isinstance(self.loss, nn.Module):
            state["loss"] = {"state": self.loss.state_dict(), "extra": module_extra(self.loss)}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave. See `Step`."""
        load_module(self.model, state["model"], "model")
        load_module_extra(self.model, state["model_extra"])
        if isinstance(self.loss, nn.Module):
            load_module(self.loss, state["loss"]["state"], "loss")
            load_module_extra(self.loss, state["loss"]["extra"])
        if self.scheduler is not None:
            self.scheduler.load_state_dict(copy.deepcopy(state["scheduler"]))
            self._rest = Rest(**state["scheduler_rest"]) if "scheduler_rest" in state else None
            self._look_at_schedule(self._whole if self._rest is None else self._rest.of(self._whole))
        # After the scheduler: some of them write to the optimizer when they load.
        load_optimizer(self.optimizer, state["optimizer"])
        self.discard()


def _detach(tree: Any) -> Any:
    return tree.detach() if isinstance(tree, torch.Tensor) else map_tensors(tree, torch.Tensor.detach)
