"""The figures of a whole pass: loss and metrics over all of its rows, never a mean of batches' figures."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from deeptrain.data.batch import map_tensors
from deeptrain.step.base import figure, measured
from deeptrain.step.row_weights import WeighsPasses

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from deeptrain.evaluation.judgement import Judged
    from deeptrain.evaluation.validation import Validation
    from deeptrain.step.base import Step


def figures_of(validation: Validation, step: Step, part: Judged) -> dict[str, float]:
    """Loss and metrics of what was judged.

    Raises:
        ValueError: A metric gave something that is no number; the message names it.
    """
    found: dict[str, float] = {}
    loss = _loss(step, part)
    if loss is not None:
        found["loss"] = loss
    for name, metric in validation.metrics.items():
        found[name] = float(figure(name, measured(name, _whole(metric), part.predictions, part.targets)))
    return found


def _whole(metric: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A metric that adds up, as torchmetrics' do, begins anew with each pass."""
    if not all(hasattr(metric, name) for name in ("update", "compute", "reset")):
        return metric

    def once(predictions: Any, targets: Any) -> Any:
        fresh: Any = copy.deepcopy(metric)
        fresh.reset()
        fresh.update(predictions, targets)
        return fresh.compute()

    return once


# ---------------------------------------------------------------------- the loss


def _loss(step: Step, part: Judged) -> float | None:
    """In one call; where the rows lie in files, batch by batch, put together by what each is the mean of."""
    if part.spilled:
        return _loss_in_parts(step, part)
    loss = _loss_over(step, part.predictions, part.targets, part.weights)
    if loss is not None:
        return loss
    known = [(b.loss, b.stop - b.start) for b in part.batches if b.loss is not None]
    return sum(one * rows for one, rows in known) / sum(rows for _, rows in known) if known else None


def _loss_in_parts(step: Step, part: Judged) -> float | None:
    share_of: Callable[[Any, int], float | None] = getattr(step, "share_of", _rows)
    total, shares = 0.0, 0.0
    for batch in part.batches:
        if batch.stop == batch.start:
            continue
        cut = slice(batch.start, batch.stop)
        targets = _cut(part.targets, cut)
        loss = _loss_over(step, _cut(part.predictions, cut), targets, _cut(part.weights, cut))
        loss = batch.loss if loss is None else loss
        if loss is None:
            return None
        share = share_of(targets, batch.stop - batch.start)
        total, shares = total + loss * (1 if share is None else share), shares + (share or 0)
    return total / (shares or 1)


def _rows(_: Any, rows: int) -> float | None:
    return rows


def _cut(tree: Any, cut: slice) -> Any:
    return map_tensors(tree, lambda tensor: tensor[cut])


def _loss_over(step: Step, predictions: Any, targets: Any, weights: torch.Tensor | None) -> float | None:
    if targets is None:
        return None
    if weights is None:
        return step.loss_over(predictions, targets)
    assert isinstance(step, WeighsPasses)  # see `Judging.prepare_weights`
    return step.weighted_loss_over(predictions, targets, weights)
