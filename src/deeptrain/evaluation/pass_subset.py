"""The best subset of a pass's batches, by the key metric and at the threshold that holds for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.evaluation.choosing.subset import best_subset
from deeptrain.evaluation.deciding import FindThreshold
from deeptrain.evaluation.measures import needs_threshold, with_form

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deeptrain.evaluation.choosing.subset import Subset
    from deeptrain.evaluation.deciding import Decided
    from deeptrain.evaluation.judgement import Judged
    from deeptrain.evaluation.measures import Resolved
    from deeptrain.evaluation.validation import Validation

NAN = float("nan")


def subset_of_pass(
    validation: Validation, part: Judged, metrics: Mapping[str, Resolved], decided: Decided | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Choose the batches on which the model does best by the key metric.

    Args:
        validation: How many are to be chosen, by what, at which threshold.
        part: What was judged.
        metrics: The validation's, told what the predictions are.
        decided: The rows under the best threshold, where one was searched.

    Returns:
        The figures by name; and the batches with the names of their sets.
    """
    assert validation.subset is not None
    key, size = validation.judged_by, min(validation.subset, len(part.batches))
    if key == "loss":
        chosen, score, rest = _by_loss(part, size)
    else:
        found = _by_metric(validation, part, metrics[key], decided, size)
        chosen, score, rest = [int(each) for each in found.batches], found.score, found.rest
    sources = {b.index: [str(source) for source in b.sources] for b in part.batches}
    figures = {"subset_optimistic": score, "subset_rest": NAN if rest is None else rest}
    return figures, {"batches": chosen, "sets": [sources[index] for index in chosen]}


def _by_metric(
    validation: Validation, part: Judged, metric: Resolved, decided: Decided | None, size: int
) -> Subset:
    batches = np.concatenate([np.full(b.stop - b.start, b.index) for b in part.batches])
    how = validation.threshold if needs_threshold(metric) else None
    if isinstance(how, FindThreshold) and not how.decides_for(metric):
        how = None
    if not isinstance(how, FindThreshold):
        return best_subset(
            part.predictions, part.targets, batches, metric, size, mode=validation.mode, threshold=how
        )
    assert decided is not None  # and is of two classes, see `Validation`
    column = decided.columns[0]
    return best_subset(
        column.scores,
        column.targets,
        batches,
        with_form(metric, "scores"),
        size,
        mode=validation.mode,
        threshold=how.find if how.in_subsets else column.best.threshold,
    )


def _by_loss(part: Judged, size: int) -> tuple[list[int], float, float | None]:
    """A mean over batches: those with the smallest are the best, exactly."""
    known = sorted(
        (batch.loss, batch.index)
        for batch in part.batches
        if batch.loss is not None and not np.isnan(batch.loss)
    )
    losses = [loss for loss, _ in known]
    rest = losses[size:]
    return (
        sorted(index for _, index in known[:size]),
        float(np.mean(losses[:size])) if known else NAN,
        float(np.mean(rest)) if rest else None,
    )
