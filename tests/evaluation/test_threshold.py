"""What `best_threshold` says beside the threshold: intervals, cross-fitting, calibrated optimum, columns, grids, states; and what it refuses."""

import json
import math

import numpy as np
import pytest
import torch

import deeptrain as dt
from deeptrain.evaluation.arrays import binary_inputs
from deeptrain.evaluation.thresholds import resampling
from deeptrain.evaluation.thresholds.cuts import cuts_of, sort_rows


def drawn(rows, seed=0, positive=0.3, apart=1.5):
    generator = np.random.default_rng(seed)
    targets = generator.random(rows) < positive
    return 1 / (1 + np.exp(-generator.normal(size=rows) - apart * (targets - 0.5))), targets


def test_the_example_of_the_issue_has_all_parts():
    scores, targets = drawn(500)
    found = dt.best_threshold(
        scores, targets, metric="f1", sample_weight=None, bounds=None, preferred=0.5, bootstrap=200
    )
    assert found.plateau[0] <= found.threshold <= found.plateau[1]
    assert found.interval.threshold[0] <= found.threshold <= found.interval.threshold[1]
    assert found.interval.score[0] <= found.score <= found.interval.score[1]
    assert "optimistic" in str(found)
    assert f"{found.cross_fitted:.4g} cross-fitted" in str(found)
    tp, fp, tn, fn = found.counts
    assert found.score == 2 * tp / (2 * tp + fp + fn)
    assert tp + fp + tn + fn == found.rows == 500


def test_cross_fitted_is_honest_where_the_best_score_is_not():
    """Scores that say nothing: the best of many thresholds looks good, the cross-fitted one is worth nothing on average."""
    optimistic, honest = [], []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        found = dt.best_threshold(
            generator.random(60), generator.random(60) < 0.5, "informedness", bootstrap=0, seed=seed
        )
        optimistic.append(found.score)
        honest.append(found.cross_fitted)
    assert np.mean(optimistic) > 0.15
    assert abs(np.mean(honest)) < 0.07


def test_the_interval_covers_what_is_true():
    """Of 60 samples, the metric of each one's threshold on endless rows lies within most intervals (19 in 20, less optimism)."""
    endless = drawn(200_000, seed=99)
    covered = 0
    for seed in range(60):
        found = dt.best_threshold(*drawn(400, seed), "balanced_accuracy", bootstrap=100, folds=0)
        called = endless[0] >= found.threshold
        truth = (called[endless[1]].mean() + (~called)[~endless[1]].mean()) / 2
        covered += found.interval.score[0] <= truth <= found.interval.score[1]
    assert covered >= 50


def test_same_seed_same_figures_and_no_stream_is_touched():
    scores, targets = drawn(300)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = dt.best_threshold(scores, targets, seed=3)
    assert dt.best_threshold(scores, targets, seed=3) == first
    assert dt.best_threshold(scores, targets, seed=4).interval != first.interval
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("weighted", [False, True])
def test_cells_say_what_rows_say(weighted, monkeypatch):
    """Of many rows cells are drawn; they give the intervals and the cross-fitted score that rows give."""
    scores, targets = drawn(30_000)
    weights = np.random.default_rng(1).exponential(size=len(scores)) ** 2 if weighted else None
    settings = {"sample_weight": weights, "bootstrap": 150}
    by_cells = dt.best_threshold(scores, targets, "f1", **settings)
    monkeypatch.setattr(resampling, "ROW_LIMIT", 10**9)
    by_rows = dt.best_threshold(scores, targets, "f1", **settings)
    assert by_cells.threshold == by_rows.threshold
    assert by_cells.cross_fitted == pytest.approx(by_rows.cross_fitted, abs=6e-3)
    for name in ("threshold", "score"):
        cells, rows = (np.array(getattr(found.interval, name)) for found in (by_cells, by_rows))
        assert np.ptp(cells) == pytest.approx(np.ptp(rows), rel=0.4), name
        assert abs(cells.mean() - rows.mean()) < 0.4 * np.ptp(rows), name


@pytest.mark.parametrize("weighted", [False, True])
def test_cells_hold_all_rows_and_the_chosen_cut(weighted, monkeypatch):
    monkeypatch.setattr(resampling, "ROW_LIMIT", 100)
    monkeypatch.setattr(resampling, "CELLS", 20)
    scores, targets = drawn(2_000, positive=0.02)
    weights = np.random.default_rng(1).integers(0, 4, len(scores)) if weighted else None
    inputs = binary_inputs(scores.round(3), targets, weights)
    rows = sort_rows(inputs)
    cuts = cuts_of(rows, inputs.precision)
    items = resampling.items_of(rows, cuts, 0.503)
    assert len(items.edges) <= 43
    assert items.rows.sum() == 2_000
    coarse = items.cuts(items.rows * items.mean)
    for threshold in (0.503, *np.nextafter(items.edges, 1)):
        mine, whole = coarse.counts(coarse.index(threshold)), cuts.counts(cuts.index(threshold))
        assert np.allclose(mine, whole, rtol=1e-12, atol=1e-9)
    if weighted:  # the deviation of a cell is that of its rows' weights
        cell = (scores.round(3) <= items.edges[0]) & ~targets
        assert items.deviation[~items.positive][0] == pytest.approx(np.std(weights[cell]))


def test_one_row_and_one_class_have_figures_too():
    one = dt.best_threshold([0.4], [1])
    assert (one.score, one.cross_fitted, one.rows) == (1.0, None, 1)
    assert one.interval.score == (1.0, 1.0)
    negative = dt.best_threshold([0.1, 0.2, 0.3], [0, 0, 0], "accuracy")
    assert negative.score == 1.0
    assert negative.threshold == 0.65  # the middle between the last score and 1


def test_cost_shows_the_calibrated_optimum_beside_the_empirical():
    generator = np.random.default_rng(0)
    probabilities = generator.random(50_000)
    targets = generator.random(50_000) < probabilities
    found = dt.best_threshold(probabilities, targets, dt.expected_cost(c_fp=1, c_fn=4), bootstrap=50)
    assert found.calibrated == 0.2
    assert found.threshold == pytest.approx(0.2, abs=0.05)
    assert found.score <= found.calibrated_score <= found.score * 1.02
    assert found.interval.threshold[0] <= 0.2 <= found.interval.threshold[1]
    assert found.mode == "min"
    assert (
        dt.best_threshold(probabilities * 9 - 4, targets, dt.expected_cost(1, 4), bootstrap=0).calibrated
        is None
    )


def test_precision_at_a_recall_reports_precision_on_other_rows():
    scores, targets = drawn(800)
    found = dt.best_threshold(scores, targets, dt.precision_at_recall(0.9))
    tp, fp, _, fn = found.counts
    assert tp / (tp + fn) >= 0.9
    assert found.score == tp / (tp + fp)
    assert 0 < found.cross_fitted < found.score + 0.05
    assert math.isfinite(found.interval.score[1])


def test_columns_for_labels_and_for_classes():
    generator = np.random.default_rng(0)
    scores, labels = generator.random((200, 3)), generator.random((200, 3)) < 0.4
    weights = generator.random(200)
    found = dt.best_thresholds(scores, labels, "f1", weights, bootstrap=0)
    each = [dt.best_threshold(scores[:, i], labels[:, i], "f1", weights, bootstrap=0) for i in range(3)]
    assert list(found.each) == each
    assert found.score == np.mean([one.score for one in each])
    assert found.cross_fitted == np.mean([one.cross_fitted for one in each])
    assert (found.predict(scores) == (scores >= found.threshold)).all()
    classes = torch.from_numpy(generator.integers(0, 3, 200))
    against = dt.best_thresholds(torch.from_numpy(scores), classes, "tpr_tnr", bootstrap=0)
    assert against.each[2] == dt.best_threshold(scores[:, 2], classes == 2, "tpr_tnr", bootstrap=0)
    assert dt.Thresholds.from_state_dict(against.state_dict()) == against


def longest_run(predictions, targets):
    """Right calls in a row: no metric of counts, and one that needs the rows' order."""
    assert isinstance(predictions, torch.Tensor)
    runs = "".join("x" if right else " " for right in predictions == targets).split()
    return max(map(len, runs), default=0)


def test_a_metric_of_predictions_over_a_grid():
    scores, targets = drawn(80)
    found = dt.best_threshold(
        torch.from_numpy(scores), torch.from_numpy(targets), longest_run, grid=1000, bootstrap=5
    )
    cuts = [*np.unique(scores), 2.0]
    assert found.score == max(
        longest_run(torch.from_numpy(scores >= cut), torch.from_numpy(targets)) for cut in cuts
    )
    assert found.score == longest_run(found.predict(torch.from_numpy(scores)), torch.from_numpy(targets))
    assert found.cross_fitted is not None
    assert found.interval.threshold[0] <= found.interval.threshold[1]
    assert found.counts is None
    calls = []

    def counted(predictions, targets, sample_weight=None):
        calls.append(predictions.sum())
        return -abs(predictions.sum() - 40) + 0 * sample_weight.sum()

    at = dt.best_threshold(scores, targets, counted, np.ones(80), grid=9, bootstrap=0, folds=0)
    assert len(calls) == 9
    assert at.predict(scores).sum() == 40


def test_every_cut_of_a_grid_equals_the_exact_search():
    scores, targets = drawn(60, seed=4)

    def accuracy(predictions, targets):
        return (predictions == targets).mean()

    opaque = dt.best_threshold(scores, targets, accuracy, bounds=(0.2, 0.7), bootstrap=0)
    exact = dt.best_threshold(scores, targets, "accuracy", bounds=(0.2, 0.7), bootstrap=0)
    assert (opaque.threshold, opaque.plateau) == (exact.threshold, exact.plateau)


def test_one_s_own_function_may_be_made_small():
    scores, targets = drawn(100)
    worst = dt.best_threshold(scores, targets, lambda tp, fp, tn, fn: fp + fn, mode="min", bootstrap=0)
    assert worst.score == 100 - 100 * dt.best_threshold(scores, targets, "accuracy", bootstrap=0).score
    assert worst.threshold == dt.best_threshold(scores, targets, "accuracy", bootstrap=0).threshold


@pytest.mark.parametrize("metric", ["f1", dt.expected_cost(1, 2), longest_run])
def test_state_is_plain_and_comes_back_equal(metric):
    scores, targets = drawn(50)
    found = dt.best_threshold(torch.from_numpy(scores), targets, metric, bootstrap=3)
    state = json.loads(json.dumps(found.state_dict()))
    assert dt.Threshold.from_state_dict(state) == found
    with pytest.raises(ValueError, match="version 9"):
        dt.Threshold.from_state_dict(state | {"version": 9})


def test_matches_scikit_learn():
    from sklearn import metrics

    scores, targets = drawn(400)
    weights = np.random.default_rng(0).random(400)
    theirs = {
        "accuracy": metrics.accuracy_score,
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "f1": metrics.f1_score,
        "matthews": metrics.matthews_corrcoef,
        "precision": metrics.precision_score,
        "tpr": metrics.recall_score,
    }
    for name, function in theirs.items():
        found = dt.best_threshold(scores, targets, name, weights, bounds=(0.1, 0.9), bootstrap=0)
        assert found.score == pytest.approx(
            function(targets, scores >= found.threshold, sample_weight=weights)
        ), name


@pytest.mark.parametrize(
    ("scores", "targets", "settings", "message"),
    [
        ([], [], {}, r"scores: found none \(shape \(0,\)\).*is the pass empty"),
        ([0.1, math.nan, 0.3], [0, 1, 0], {}, "scores: found NaN in row 1, expected a number"),
        ([math.nan] * 9, [0] * 9, {}, "row 0, 1, 2, 3, 4 and 4 more"),
        ([0.1, 0.2], [0], {}, "targets: found 1 rows, expected 2"),
        ([0.1, 0.2], [0, 2], {}, "found the labels 0, 2, expected two classes, 0 and 1"),
        ([0.1, 0.2, 0.3], [-1, 0, 1], {}, "found the labels -1, 0, 1, expected two classes"),
        ([0.1, 0.2], [0, math.nan], {}, "found the labels 0, nan"),
        ([0.1, 0.2], ["a", "b"], {}, "labels of type <U1"),
        (["a", "b"], [0, 1], {}, "values of type <U1"),
        ([2**60, 1], [0, 1], {}, r"beyond 2\*\*53"),
        ([[0.1, 0.2]], [0], {}, r"found shape \(1, 2\), expected \(rows,\).*best_thresholds"),
        (
            [0.1, 0.2],
            [0, 1],
            {"sample_weight": [1, -1]},
            "sample_weight: found a negative or infinite weight or NaN in row 1",
        ),
        ([0.1, 0.2], [0, 1], {"sample_weight": [0, 0]}, "found 0 for every row"),
        ([0.1, 0.2], [0, 1], {"sample_weight": [1]}, "sample_weight: found 1 rows, expected 2"),
        (
            [0.1, 0.2],
            [0, 0],
            {"metric": dt.precision_at_recall(0.5)},
            "precision_at_recall_0.5 has no finite value",
        ),
        (
            [0.1, 0.2],
            [0, 1],
            {"metric": lambda tp, fp, tn, fn: 1 / (tp - tp)},
            "<lambda> has no finite value",
        ),
        ([0.1, 0.2], [0, 1], {"metric": lambda tp, fp, tn, fn: {}[1]}, "<lambda> raised KeyError"),
        (
            [0.1, 0.2],
            [0, 1],
            {"metric": lambda tp, fp, tn, fn: 1.0},
            r"values of shape \(\), expected \(3,\)",
        ),
        ([0.1, 0.2], [0, 1], {"metric": lambda predictions, targets: {}[1]}, "<lambda> raised KeyError"),
        (np.array([0.1, 0.2], np.float16), [0, 1], {"bounds": (0.30000001, 0.30000002)}, "within the bounds"),
    ],
)
def test_what_is_refused_is_named(scores, targets, settings, message):
    with pytest.raises(dt.EvaluationError, match=message):
        dt.best_threshold(scores, targets, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "f_1"}, "did you mean 'f1'"),
        ({"metric": "zzz"}, "did you mean 'accuracy' or"),
        ({"metric": lambda tp: tp}, "expected a name"),
        ({"metric": 3}, "expected a name"),
        ({"metric": "f1", "mode": "min"}, "mode='min': expected 'max'"),
        ({"mode": "low"}, "mode='low'"),
        ({"bounds": (1, 0)}, "expected .lowest, highest."),
        ({"bounds": (math.nan, 1)}, "expected .lowest, highest."),
        ({"preferred": math.inf}, "preferred=inf"),
        ({"folds": 1}, "not one fold alone"),
        ({"bootstrap": -1}, "bootstrap=-1"),
        ({"level": 95}, "level=95"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        dt.best_threshold([0.1, 0.2], [0, 1], **settings)


@pytest.mark.parametrize(
    "make", [lambda: dt.f_beta(0), lambda: dt.precision_at_recall(2), lambda: dt.expected_cost(0, 0)]
)
def test_metrics_check_their_settings(make):
    with pytest.raises(ValueError, match="expected"):
        make()


def test_columns_are_checked():
    with pytest.raises(dt.EvaluationError, match=r"targets: found the labels 0, 1, 3"):
        dt.best_thresholds(np.ones((2, 2)), np.array([[0, 0], [1, 3]]))
    with pytest.raises(
        dt.EvaluationError, match="a class without a column in row 1, expected whole numbers of 0 to 1"
    ):
        dt.best_thresholds(np.ones((2, 2)), [0, 2])
    with pytest.raises(dt.EvaluationError, match="for one column there is best_threshold"):
        dt.best_thresholds(np.ones(2), [0, 1])
    with pytest.raises(dt.EvaluationError, match="a column for each threshold"):
        dt.best_thresholds(np.eye(2), [0, 1], bootstrap=0).predict(np.ones((2, 3)))
