"""The figures of a whole pass: loss and metrics over all of its rows, never a mean of batches' figures; and what else was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.data.batch import map_tensors
from deeptrain.evaluation.arrays import EvaluationError
from deeptrain.evaluation.deciding import FindThreshold, decide
from deeptrain.evaluation.measures import form_of, measure, needs_threshold, with_form
from deeptrain.evaluation.metrics.decisions import probabilities_of
from deeptrain.evaluation.metrics.named import Metric
from deeptrain.evaluation.metrics.reading import array_of
from deeptrain.evaluation.pass_subset import subset_of_pass
from deeptrain.evaluation.thresholds.reliability import calibration_error
from deeptrain.step.row_weights import WeighsPasses

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from deeptrain.evaluation.deciding import Column, Decided
    from deeptrain.evaluation.judgement import Judged
    from deeptrain.evaluation.measures import Resolved
    from deeptrain.evaluation.metrics.reading import Form
    from deeptrain.evaluation.validation import Validation
    from deeptrain.step.base import Step

Found = tuple[dict[str, float], dict[str, Any]]
NAN = float("nan")


def figures_of(validation: Validation, step: Step, part: Judged) -> Found:
    """Loss and metrics of what was judged.

    Returns:
        The figures by name; and what else is to be kept of the pass: the threshold, the calibration, the best subset.

    Raises:
        ValueError: A metric gave something that is no number, or cannot be computed; the message names it.
    """
    form = validation.form or form_of(getattr(step, "loss", None))
    figures: dict[str, float] = {}
    loss = _loss(step, part)
    if loss is not None:
        figures["loss"] = loss
    kept: dict[str, Any] = {}
    _refuse_no_targets(validation, part)
    decided = None
    metrics = {name: with_form(metric, form) for name, metric in validation.metrics.items()}
    try:
        if isinstance(validation.threshold, FindThreshold):
            decided = decide(validation.threshold, part.predictions, part.targets, part.rows, form)
            figures |= decided.figures()
            kept["threshold"] = decided.state_dict()
        for name, metric in metrics.items():
            figures |= _of_metric(name, metric, part, validation.threshold, decided)
        if validation.calibration is not None:
            _calibrate(validation, part, form, figures, kept)
        if validation.subset is not None:
            found, kept["subset"] = subset_of_pass(validation, part, metrics, decided)
            figures |= found
    except EvaluationError as error:
        error.add_note(_named(part, error.rows))
        raise
    return figures, kept


def _refuse_no_targets(validation: Validation, part: Judged) -> None:
    wants = [name for name, metric in validation.metrics.items() if isinstance(metric, Metric)]
    wants += ["calibration"] if validation.calibration is not None else []
    wants += ["threshold"] if isinstance(validation.threshold, FindThreshold) else []
    if part.targets is None and wants:
        raise EvaluationError(
            f"{', '.join(wants)}: the data has no targets, expected some to judge predictions by: give them, as dt.Arrays(inputs, targets), or "
            "take trainer.predict(loader), which needs none"
        )


def _of_metric(
    name: str,
    metric: Resolved,
    part: Judged,
    threshold: float | FindThreshold | None,
    decided: Decided | None,
) -> dict[str, float]:
    if decided is None or not (isinstance(threshold, FindThreshold) and threshold.decides_for(metric)):
        fixed = threshold if isinstance(threshold, float) and needs_threshold(metric) else None
        return {
            name: measure(name, metric, part.predictions, part.targets, weights=part.weights, threshold=fixed)
        }
    both = [_of_column(name, metric, column, part.weights) for column in decided.columns]
    return {
        name: float(np.mean([honest for honest, _ in both])),
        f"{name}_optimistic": float(np.mean([optimistic for _, optimistic in both])),
    }


def _of_column(
    name: str, metric: Resolved, column: Column, weights: torch.Tensor | None
) -> tuple[float, float]:
    """A metric of decisions between two classes: by thresholds that other rows chose, NaN where there are none; and by the best one."""
    honest = NAN
    targets = torch.from_numpy(np.ascontiguousarray(column.targets))
    if column.honest is not None:
        honest = measure(
            name, metric, torch.from_numpy(column.honest), targets, weights=weights, threshold=0.5
        )
    scores = torch.from_numpy(np.ascontiguousarray(column.scores))
    plain = with_form(metric, "scores")
    return honest, measure(name, plain, scores, targets, weights=weights, threshold=column.best.threshold)


def _named(part: Judged, rows: Sequence[int]) -> str:
    """Which rows of which sets these are."""
    if part.table is None or not rows:
        return "of the validation's predictions"
    names, places = part.table.identify(part.rows[list(rows)])
    few = ", ".join(f"{name}[{place}]" for name, place in zip(names[:6], places[:6].tolist(), strict=True))
    return f"these rows are {few}{', ...' if len(rows) > 6 else ''} of the validation's data"  # noqa: PLR2004 - what a line holds


# ---------------------------------------------------------------------- what else is found


def _calibrate(
    validation: Validation, part: Judged, form: Form | None, figures: dict[str, float], kept: dict[str, Any]
) -> None:
    """Fit the calibration on the pass's rows; say how far probabilities are off without it, and with one that other rows gave."""
    assert validation.calibration is not None
    predictions, targets = part.predictions, part.targets
    made = validation.calibration().fit(predictions, targets)
    kept["calibration"] = made.state_dict()
    plain = _probabilities(predictions, form)
    figures["calibration_error"] = calibration_error(plain, targets)
    half = np.random.default_rng(0).permutation(len(part)) % 2 == 0
    calibrated = np.empty(plain.shape)
    for mine in (half, ~half):
        rows = torch.from_numpy(np.flatnonzero(~mine))
        other = validation.calibration().fit(predictions[rows], targets[rows])
        found = other(predictions[torch.from_numpy(np.flatnonzero(mine))])
        calibrated[mine] = _probabilities(found, None)
    figures["calibration_error_calibrated"] = calibration_error(calibrated, targets)


def _probabilities(predictions: Any, form: Form | None) -> NDArray[Any]:
    """Of class 1, `(rows,)`, or of each class, `(rows, classes)`."""
    array = array_of(predictions)
    array = probabilities_of(array) if form == "logits" else array
    return array.reshape(-1) if array.size == len(array) else array


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
