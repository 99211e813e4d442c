"""`SupervisedStep`: predictions, a loss, its gradient, an optimizer, and perhaps a scheduler and metrics.

An iteration computes the gradients of one piece, which can be aborted. Its commit makes an update of them, see `Updating`:
at once, or with those of other pieces.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deeptrain.data.batch import map_tensors
from deeptrain.step.base import Applied, Outcome, Totals
from deeptrain.step.ema import Average
from deeptrain.step.given import (
    accepted,
    check_given,
    check_model,
    check_optimizer,
    described,
    name_of,
    plain_model,
)
from deeptrain.step.measuring import by_name
from deeptrain.step.nonfinite import NonFiniteError, Watch
from deeptrain.step.own_loss import call, parted
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
from deeptrain.step.precision import Precision
from deeptrain.step.row_weights import ClassWeights, RowWeights, SampleWeight
from deeptrain.step.running import TrainMetrics
from deeptrain.step.scheduling import Scheduling, Unit
from deeptrain.step.stateful import Stateful, reset_states
from deeptrain.step.updating import Updating
from deeptrain.step.weights import counted_rows, ignored_class, refuse_unweighable, weighted_loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
    from torch.optim.swa_utils import AveragedModel

    from deeptrain.data.batch import Batch
    from deeptrain.data.feed import Feed
    from deeptrain.step import nonfinite, precision

__all__ = ["SupervisedStep", "Unit"]


class SupervisedStep(Scheduling, Updating):
    """One update on a loss of predictions and targets.

    Args:
        model: The module; `model(inputs)` gives the predictions. It is moved to the device. One that `torch.compile` gave is
            called as it is, and its paths are those of the plain model.
        loss: `loss(predictions, targets)` gives a tensor of shape (). A module's buffers and parameters are
            part of the state. None for a model that gives its own loss, as Hugging Face's do: it is called as
            `model(**inputs, labels=targets)`, or `model(inputs, targets)` where the inputs are no dict.
        optimizer: An optimizer over the model's parameters; those of several groups, and frozen ones, are kept apart as torch
            does. One that wants a closure (LBFGS) evaluates the model several times in an iteration, which from the second
            time on cannot be aborted.
        scheduler: A torch scheduler over that optimizer, or a function of `(optimizer, totals)` that makes
            one; `totals` is a `Totals` of the whole run, for schedulers such as OneCycleLR that need it.
        scheduler_by: When the scheduler steps: by "updates", "batches", "epochs" or "validations". By default after each
            update, and `ReduceLROnPlateau` after each validation.
        scheduler_on: The validation's figure that `ReduceLROnPlateau` goes by; the key metric by default.
        metrics: Train metrics by name: functions of `(predictions, targets)`, computed on the outputs that
            are there anyway, without gradients; objects that add up, such as torchmetrics has; or names, `["accuracy"]`,
            see `resolve_metric`.
        class_weights: A weight in the loss for the rows of each class, `{0: 3, 1: 1}`, or `"balanced"`, counted from the
            labels of the train loader. See `RowWeights`.
        sample_weight: A function of a batch that gives a weight for each row, `(size,)`, on top of the classes' and of the
            batch's own.
        accumulate: How many iterations make one update. Their gradients are put together as those of one loss over all their
            rows, also where they have different numbers of them. An epoch's end makes an update of what there is.
        clip_norm: To which norm the gradients of an update are cut; the norm before it is the figure `grad_norm`.
        clip_value: To which absolute value each of their elements is.
        precision: "fp32", "bf16" or "fp16", by autocast; fp16 with a `GradScaler`.
        ema: How much of a moving average of the weights stays at each update, such as 0.999; or an `AveragedModel`.
        evaluate_ema: Whether validation and prediction use the averaged weights.
        compile: Whether to compile the model, or the arguments for it: `{"mode": "reduce-overhead"}`. Each shape of a batch is
            compiled for itself (`dynamic=False`), as what torch makes for many shapes at once depends on which came first.
        on_nonfinite: What is done where a loss or a gradient is NaN or infinite, before it comes into the weights: "stop" raises
            `NonFiniteError`; "skip" counts the iteration and makes no update of it; "rewind" goes back before it and passes
            the batch over (this needs checkpoints); "ignore" does not look.
        device: Where to compute. By default the accelerator if there is one, else the CPU.

    Attributes:
        model: The plain model, to which paths lead.
        called: What is called for it; another one where it was given compiled.
        compiles_by_shape: Whether the model is compiled, for each shape by itself.
        skipped: How many iterations were left out for values that were not finite.
        save_skip: Paths of its state that `trainer.save` leaves out, as `("optimizer.state",)`; none unless they are set.
            A run's own checkpoints hold them all.
        load_skip: Those that `trainer.load` leaves as they are, as `("optimizer.param_groups.*.lr",)`, and that a new run
            does not take over from another one.

    Raises:
        ValueError: The optimizer holds none of the model's parameters, the scheduler another optimizer, or a setting is out
            of range.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> step = SupervisedStep(model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1))
    """

    save_skip: Sequence[str] = ()
    load_skip: Sequence[str] = ()
    compiles_by_shape = False

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Callable[[Any, Any], torch.Tensor] | None,
        optimizer: Optimizer,
        scheduler: LRScheduler
        | ReduceLROnPlateau
        | Callable[[Optimizer, Totals], LRScheduler | ReduceLROnPlateau]
        | None = None,
        scheduler_by: Unit | None = None,
        scheduler_on: str | None = None,
        metrics: Mapping[str, str | Callable[[Any, Any], float | torch.Tensor]] | Sequence[str] | None = None,
        class_weights: ClassWeights = None,
        sample_weight: SampleWeight = None,
        accumulate: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        precision: precision.Name = "fp32",
        ema: float | AveragedModel | None = None,
        evaluate_ema: bool = False,
        compile: bool | Mapping[str, Any] = False,  # noqa: A002 - torch's own word for it
        on_nonfinite: nonfinite.Policy = "stop",
        device: torch.device | str | None = None,
    ) -> None:
        check_model(model, optimizer)
        check_given(loss, scheduler, metrics, scheduler_by)
        self.device = default_device() if device is None else torch.device(device)
        self.called = model.to(self.device)
        self.model = plain_model(self.called)
        self.metrics = by_name(metrics, loss)
        self._measuring = TrainMetrics(self.metrics)
        self._measuring.to(self.device)
        self.scheduler_on = scheduler_on
        self.row_weights = RowWeights(class_weights, sample_weight)
        self._totals = self._whole = Totals(0, 0, 0, 0)
        self._away = self.device.type != "cpu"
        self._narrow = precision != "fp32"
        self._begin_commit: Callable[[], None] = lambda: None
        self.watch = Watch(on_nonfinite, away=self._away)
        self._set_updating(accumulate, clip_norm, clip_value, Precision(precision, self.device))
        self.average = None if ema is None else Average(self.model, ema)
        if evaluate_ema and self.average is None:
            raise ValueError(
                "evaluate_ema=True: there is no average of the weights to evaluate with: give ema=0.999 too"
            )
        self._judged = self.called if self.average is None or not evaluate_ema else self.average.module
        if not isinstance(compile, bool | Mapping):
            raise TypeError(
                f"compile={compile!r}: expected True, False, or a dict of torch.compile's settings"
            )
        self._compiled = compile
        if compile:
            how = {"dynamic": False} | ({} if compile is True else dict(compile))
            self.model.compile(**how)
            self.compiles_by_shape = how["dynamic"] is False
        self.take({"loss": loss, "optimizer": optimizer, "scheduler": scheduler}, scheduler_by)

    def take(self, parts: Mapping[str, Any], scheduler_by: Unit | None = None) -> None:
        """Take the parts that are given. One whose scheduler is among them wants to be prepared.

        Raises:
            ValueError: They do not go with the others.
        """
        if "loss" in parts:
            loss = parts["loss"]
            self.loss = loss.to(self.device) if isinstance(loss, nn.Module) else loss
            self._means = getattr(loss, "reduction", "mean") != "sum"
            self.ignored_class = ignored_class(self.loss)
            if self.row_weights:
                refuse_unweighable(self.loss)
        if "optimizer" in parts:
            self._take_optimizer(parts["optimizer"])
        if "scheduler" in parts:
            self._take_scheduler(parts["scheduler"], scheduler_by)
        self._parameters = Parameters(self.modules(), [self.optimizer])
        self._carries = any(isinstance(m, Stateful) for root in self.modules() for m in root.modules())
        check_optimizer(self.model, self.optimizer)
        self._look_at_optimizer()

    def count_labels(self, feed: Feed) -> None:
        """Count the labels of the train loader, where `class_weights="balanced"`. See `RowWeights.counted`."""
        self.row_weights = self.row_weights.counted(feed, ignored=self.ignored_class)

    def bind(self, begin_commit: Callable[[], None]) -> None:
        """Take what is called where an optimizer with a closure begins. See `Step`."""
        self._begin_commit = begin_commit

    # ------------------------------------------------------------------ computing

    def compute(self, batch: Batch) -> Outcome:
        """Forward, loss and backward. See `Step`.

        Raises:
            ValueError: The loss is not a scalar.
            NonFiniteError: The loss or a gradient is not finite, where that is looked at.
        """
        if self._carries and not batch.iteration:
            reset_states(self.modules())  # also where the cursor was moved in the middle of another batch
        if self._scheduled is not None:
            self._refuse_to_outrun()
        if self._masks:
            self._look_back()
            self.watch.begin(batch)
        loss, predictions, targets = self._backward(batch)
        if not self._masks and self.watch.policy != "ignore":
            self._look_at(loss, batch)
        outcome = Outcome(loss.detach(), _detach(predictions), left_out=self._void)
        if self.metrics:
            outcome.metrics = self._measuring.of(outcome.predictions, targets)
        if self._closes and not self._void:
            self._update_by_closure(batch, loss)
        return outcome

    def _backward(self, batch: Batch) -> tuple[torch.Tensor, Any, Any]:
        """Give loss, predictions and targets, and leave gradients."""
        if self._narrow:
            with self.precision.autocast():
                loss, predictions, targets = self._forward(batch)
            self.precision.scaled(loss).backward()  # type: ignore[no-untyped-call]
        else:
            loss, predictions, targets = self._forward(batch)
            loss.backward()  # type: ignore[no-untyped-call]
        if self.accumulate > 1:
            self._weight = counted_rows(self.loss, targets, batch.size - batch.padded) if self._means else 1
        return loss, predictions, targets

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, Any, Any]:
        inputs, targets = self._place(batch) if self._away else (batch.inputs, batch.targets)
        if self.loss is None:
            loss, predictions = parted(self.model, call(self.called, inputs, targets))
        else:
            predictions = self.called(inputs)
            weights = self.row_weights.of(batch, self.ignored_class)
            if weights is None:
                loss = self.loss(predictions, targets)
            else:
                loss = weighted_loss(self.loss, predictions, targets, weights.to(self.device))
        if not isinstance(loss, torch.Tensor) or loss.dim():
            raise _no_scalar(self.loss, loss)
        return loss, predictions, targets

    def _look_at(self, loss: torch.Tensor, batch: Batch) -> None:
        """See that all is finite, and do what is asked for where it is not."""
        # What a scaled gradient comes to is the scaler's to see.
        what = self.watch.found(loss, [] if self.precision.scales else self._parameters.gradients())
        if what is None:
            return
        if self.watch.policy == "stop":
            raise NonFiniteError(what, batch)
        self._void = True

    def _look_back(self) -> None:
        """Read what an accelerator has found in the iterations before; their updates it left out by itself."""
        found = self.watch.read()
        if found is None:
            return
        self.skipped += found[0]
        if self.watch.policy != "skip":
            raise NonFiniteError("a gradient was not finite", found[1])

    def _update_by_closure(self, batch: Batch, loss: torch.Tensor) -> None:
        """Let an optimizer evaluate the model as often as it wants; the first time was already."""
        self._begin_commit()
        known: list[torch.Tensor] = [loss.detach()]

        def closure() -> torch.Tensor:
            if known:
                return known.pop()
            self._parameters.drop_gradients()
            return self._backward(batch)[0].detach()

        self._step_optimizer(closure)

    def discard(self) -> None:
        """Drop the gradients of the present piece. See `Step`."""
        self._void = False
        self.watch.put_back()
        self._measuring.forget()
        self._parameters.drop_gradients()

    # ------------------------------------------------------------------ committing; more in `Updating`

    def apply(self) -> Applied | None:
        """Make an update of the gradients, or put them by for one. See `Step`."""
        self._measuring.commit()
        if self._void:
            return self._pass_over()
        if self._is_plain:
            self.updated = self._step_optimizer()
            self._parameters.drop_gradients()
            if self._scheduler_by == "updates":
                self.scheduler.step()
            return None
        return self._gather_or_update()

    def end_batch(self) -> None:
        """Reset the state that modules carry from piece to piece; step a scheduler that goes by batches. See `Step`."""
        if self._carries:
            reset_states(self.modules())
        self._step_schedule("batches")

    def end_epoch(self) -> Applied:
        """Make an update of the pieces that are left; step a scheduler that goes by epochs. See `Step`."""
        made = self._update_of_the_rest()
        self._step_schedule("epochs")
        return Applied(made.updates, {**made.figures, **self._measuring.end_epoch()})

    # ------------------------------------------------------------------ evaluating

    def evaluate(self, batch: Batch) -> Outcome:
        """Predictions and loss in evaluation mode. See `Step`."""
        with evaluating((self._judged, *self.modules())), self.precision.autocast():
            if self._judged is not self.called and not batch.iteration:
                reset_states([self._judged])
            inputs, targets = self._place(batch)
            if self.loss is None:
                return Outcome(*parted(self.model, call(self._judged, inputs, targets)))
            predictions = self._judged(inputs)
            return Outcome(None if targets is None else self.loss(predictions, targets), predictions)

    def loss_over(self, predictions: Any, targets: Any) -> float | None:
        """The loss over predictions and targets of a whole pass, in one call. See `Step`."""
        if self.loss is None:
            return None
        with evaluating(self.modules()), self.precision.autocast():
            return float(self.loss(self._to_device(predictions), self._to_device(targets)))

    def weighted_loss_over(self, predictions: Any, targets: Any, weights: torch.Tensor) -> float:
        """The loss over a whole pass, its rows weighted. See `WeighsPasses`."""
        with evaluating(self.modules()), self.precision.autocast():
            placed = self._to_device(predictions), self._to_device(targets)
            return float(weighted_loss(self.loss, *placed, weights.to(self.device)))

    def share_of(self, targets: Any, rows: int) -> float | None:
        """What the loss over some rows is the mean of: the rows that count, by their classes' weights; None of a sum.

        Args:
            targets: The rows' targets.
            rows: How many there are.
        """
        return counted_rows(self.loss, targets, rows) if self._means else None

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

    # ------------------------------------------------------------------ state

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
            **({} if self.scheduler_on is None else {"scheduler_on": self.scheduler_on}),
            "metrics": sorted(self.metrics),
            **self._settings_of_updating(),
            **self.row_weights.settings(),
        }

    def state_dict(self) -> dict[str, Any]:
        """`model`, `model_extra`, `optimizer`; `scheduler`, `loss`, `ema` and the like where there are any. See `Step`."""
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
        if adding := self._measuring.state_dict():
            state["metrics"] = adding
        return state | self._state_of_updating()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave. See `Step`."""
        load_module(self.model, state["model"], "model")
        load_module_extra(self.model, state["model_extra"])
        if isinstance(self.loss, nn.Module):
            load_module(self.loss, state["loss"]["state"], "loss")
            load_module_extra(self.loss, state["loss"]["extra"])
        if self.scheduler is not None:
            self._load_schedule(copy.deepcopy(state["scheduler"]), state.get("scheduler_rest"))
        # After the scheduler: some of them write to the optimizer when they load.
        load_optimizer(self.optimizer, state["optimizer"])
        accepted(self.optimizer)
        self._measuring.load_state_dict(state.get("metrics", {}))
        self._load_updating(state)
        self.discard()


def _detach(tree: Any) -> Any:
    return tree.detach() if isinstance(tree, torch.Tensor) else map_tensors(tree, torch.Tensor.detach)


def _no_scalar(loss: Any, found: Any) -> TypeError | ValueError:
    if not isinstance(found, torch.Tensor):
        return TypeError(
            f"the loss {name_of(loss)} gave a {type(found).__name__}, expected a tensor of shape () that has a "
            "gradient: leave out .item() and the like"
        )
    return ValueError(
        f"the loss has shape {tuple(found.shape)}, expected a scalar of shape (): "
        f"give {name_of(loss)} a reduction such as 'mean', or return loss.mean()"
    )
