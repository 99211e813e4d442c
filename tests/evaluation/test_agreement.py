"""A metric by its name is the same one for a pass, for a threshold and for a subset."""

import numpy as np
import pytest

import deeptrain as dt
from deeptrain.evaluation.metrics.names import ALIASES
from deeptrain.evaluation.thresholds.confusion import COUNT_METRICS, count_metric

GENERATOR = np.random.default_rng(0)


@pytest.mark.parametrize("name", COUNT_METRICS)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_score_of_a_threshold_is_the_metric_at_it(name, weighted):
    for rows in (1, 2, 5, 40, 300):
        scores = GENERATOR.random(rows).round(2)
        targets = GENERATOR.integers(0, 2, rows)
        weights = GENERATOR.random(rows) if weighted else None
        found = dt.best_threshold(scores, targets, name, weights, bounds=(0.001, 1.0), bootstrap=0, folds=0)
        assert dt.resolve_metric(name)(scores, targets, weights, found.threshold) == pytest.approx(
            found.score
        ), rows
        again = dt.best_threshold(scores, targets, dt.resolve_metric(name), weights, bounds=(0.001, 1.0), bootstrap=0, folds=0)  # fmt: skip
        assert again == found


def test_every_alias_of_a_metric_of_counts_is_known():
    own = {"accuracy", "balanced_accuracy", "precision", "recall", "specificity", "f1", "f0.5", "f2", "informedness", "mcc", "tpr*tnr"}  # fmt: skip
    for alias, name in ALIASES.items():
        if name in own:
            assert count_metric(alias) is count_metric(name)
    with pytest.raises(ValueError, match="none of the metrics of confusion counts"):
        count_metric("auroc")
