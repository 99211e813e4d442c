"""Named metrics: equal to scikit-learn's on random data, and named errors for what cannot be judged."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.evaluation.metrics.catalogue import NAMED
from deeptrain.evaluation.metrics.named import metric_names, resolve_metric, sklearn_metric
from deeptrain.evaluation.metrics.names import ALIASES
from deeptrain.evaluation.metrics.reading import MetricError

SEED = st.integers(0, 2**32 - 1)
ROWS = st.integers(1, 40)
SAME = {"rel": 1e-9, "abs": 1e-9}


def sk():
    return pytest.importorskip("sklearn.metrics")


def quietly(function, *args, **more):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is undefined: what it gives then is compared
        return function(*args, **more)


def two_classes(seed, rows):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 9, rows) / 8 if seed % 2 else rng.random(rows)  # with ties, and without
    return scores, rng.integers(0, 2, rows), rng.random(rows) + 0.1


def more_classes(seed, rows, classes=4):
    rng = np.random.default_rng(seed)
    scores = rng.random((rows, classes))
    return scores / scores.sum(1, keepdims=True), rng.integers(0, classes, rows), rng.random(rows) + 0.1


def of_decisions(metrics):
    return {
        "accuracy": metrics.accuracy_score,
        "balanced_accuracy": metrics.balanced_accuracy_score,
        "precision": lambda t, p, **more: metrics.precision_score(t, p, zero_division=0, **more),
        "recall": lambda t, p, **more: metrics.recall_score(t, p, zero_division=0, **more),
        "tnr": lambda t, p, **more: metrics.recall_score(t, p, pos_label=0, zero_division=0, **more),
        "f1": lambda t, p, **more: metrics.f1_score(t, p, zero_division=0, **more),
        "f0.5": lambda t, p, **more: metrics.fbeta_score(t, p, beta=0.5, zero_division=0, **more),
        "f2": lambda t, p, **more: metrics.fbeta_score(t, p, beta=2, zero_division=0, **more),
        "f1_macro": lambda t, p, **more: metrics.f1_score(t, p, average="macro", zero_division=0, **more),
        "f1_weighted": lambda t, p, **more: metrics.f1_score(
            t, p, average="weighted", zero_division=0, **more
        ),
        "mcc": metrics.matthews_corrcoef,
    }


@settings(max_examples=150, deadline=None)
@given(SEED, ROWS, st.sampled_from([None, 0.25, 0.8]), st.booleans())
def test_decisions_between_two_classes(seed, rows, threshold, weighted):
    scores, targets, weights = two_classes(seed, rows)
    more = {"sample_weight": weights} if weighted else {}
    decided = (scores >= (0.5 if threshold is None else threshold)).astype(int)
    for name, theirs in of_decisions(sk()).items():
        expected = quietly(theirs, targets, decided, **more)
        found = resolve_metric(name)(scores, targets, threshold=threshold, **more)
        # A correlation of next to nothing is a difference of nearly equal sums, by the root of others.
        same = SAME | {"abs": 1e-6} if name == "mcc" else SAME
        assert found == pytest.approx(expected, **same), name
        assert resolve_metric(name)(decided, targets, **more) == found, name
    rates = [resolve_metric(name)(scores, targets, threshold=threshold, **more) for name in ("tpr", "tnr")]
    for name, expected in (("informedness", sum(rates) - 1), ("tpr*tnr", rates[0] * rates[1])):
        assert resolve_metric(name)(scores, targets, threshold=threshold, **more) == expected


@settings(max_examples=100, deadline=None)
@given(SEED, ROWS, st.booleans())
def test_decisions_between_more_classes(seed, rows, weighted):
    scores, targets, weights = more_classes(seed, rows)
    more = {"sample_weight": weights} if weighted else {}
    theirs = of_decisions(sk())
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "f1_weighted", "mcc"):
        expected = quietly(theirs[name], targets, scores.argmax(1), **more)
        assert resolve_metric(name)(scores, targets, **more) == pytest.approx(expected, **SAME), name
        assert resolve_metric(name)(scores.argmax(1), targets, **more) == pytest.approx(expected, **SAME)


@settings(max_examples=150, deadline=None)
@given(SEED, ROWS, st.booleans())
def test_ranks_and_probabilities_of_two_classes(seed, rows, weighted):
    metrics = sk()
    scores, targets, weights = two_classes(seed, rows)
    more = {"sample_weight": weights} if weighted else {}
    found = {
        name: resolve_metric(name)(scores, targets, **more) for name in ("auroc", "ap", "log_loss", "brier")
    }
    expected = {
        "auroc": quietly(metrics.roc_auc_score, targets, scores, **more),
        "ap": quietly(metrics.average_precision_score, targets, scores, **more),
        "log_loss": quietly(metrics.log_loss, targets, scores, labels=[0, 1], **more),
        "brier": metrics.brier_score_loss(targets, scores, labels=[0, 1], pos_label=1, **more),
    }
    assert found == pytest.approx(expected, nan_ok=True, **SAME)


@settings(max_examples=80, deadline=None)
@given(SEED, st.integers(4, 40), st.booleans())
def test_ranks_and_probabilities_of_more_classes(seed, rows, weighted):
    metrics = sk()
    scores, targets, weights = more_classes(seed, rows)
    targets[:4] = range(4)
    more = {"sample_weight": weights} if weighted else {}
    expected = {
        "auroc": metrics.roc_auc_score(targets, scores, multi_class="ovr", **more),
        "average_precision": metrics.average_precision_score(targets, scores, **more),
        "log_loss": metrics.log_loss(targets, scores, **more),
        "brier": metrics.brier_score_loss(targets, scores, labels=range(4), **more),
    }
    for name, value in expected.items():
        assert resolve_metric(name)(scores, targets, **more) == pytest.approx(value, **SAME), name
        logits = np.log(scores) + 3
        found = resolve_metric(name, form="logits")(logits, targets, **more)
        assert found == pytest.approx(value, **SAME), name


@settings(max_examples=100, deadline=None)
@given(SEED, ROWS, st.integers(0, 3), st.booleans())
def test_errors_of_numbers(seed, rows, outputs, weighted):
    metrics = sk()
    rng = np.random.default_rng(seed)
    shape = (rows, outputs) if outputs else (rows,)
    predictions, targets = rng.normal(size=(2, *shape))
    if seed % 5 == 0:
        targets[:] = 1.5  # R2 over no variance
    more = {"sample_weight": rng.random(rows) + 0.1} if weighted else {}
    theirs = {
        "mae": metrics.mean_absolute_error,
        "mse": metrics.mean_squared_error,
        "rmse": metrics.root_mean_squared_error,
        "mape": metrics.mean_absolute_percentage_error,
        "r2": metrics.r2_score,
    }
    for name, function in theirs.items():
        expected = quietly(function, targets, predictions, **more)
        found = resolve_metric(name)(predictions, targets, **more)
        assert found == pytest.approx(expected, rel=1e-7, abs=1e-9, nan_ok=True), name


def test_what_goes_through_torchmetrics():
    metrics = sk()
    pytest.importorskip("torchmetrics")
    scores, targets, weights = more_classes(3, 60)
    decided = scores.argmax(1)
    assert resolve_metric("cohen_kappa")(scores, targets) == pytest.approx(
        metrics.cohen_kappa_score(targets, decided), abs=1e-6
    )
    assert resolve_metric("jaccard")(scores, targets) == pytest.approx(
        metrics.jaccard_score(targets, decided, average="macro"), abs=1e-6
    )
    x, y = np.random.default_rng(0).normal(size=(2, 50))
    assert resolve_metric("pearson")(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
    ranks = np.corrcoef(x.argsort().argsort(), y.argsort().argsort())[0, 1]
    assert resolve_metric("spearman")(x, y) == pytest.approx(ranks, abs=1e-6)
    with pytest.raises(MetricError, match="'jaccard': found sample_weight"):
        resolve_metric("jaccard")(scores, targets, weights)


def test_torchmetrics_is_named_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "torchmetrics.functional", None)
    with pytest.raises(ImportError, match=r"'cohen_kappa' needs torchmetrics.*pip install torchmetrics"):
        resolve_metric("cohen_kappa")([0, 1], [0, 1])


@pytest.mark.parametrize("name", sorted(set(NAMED) - {"cohen_kappa", "jaccard", "pearson", "spearman"}))
@pytest.mark.parametrize("weighted", [False, True])
def test_a_row_of_weight_0_is_as_if_it_were_not_there_and_tensors_are_as_arrays(name, weighted):
    scores, targets, weights = two_classes(2, 30)
    weights = (weights if weighted else np.ones(30)) * (np.arange(30) % 3 > 0)
    metric, kept = resolve_metric(name), weights > 0
    expected = metric(scores[kept], targets[kept], weights[kept])
    assert metric(scores, targets, weights) == pytest.approx(expected, rel=1e-12)
    tensors = [torch.from_numpy(each) for each in (scores, targets, weights)]
    assert metric(*tensors) == pytest.approx(expected, rel=1e-12)
    assert metric(tensors[0][:, None].requires_grad_(), tensors[1][:, None].float(), tensors[2]) == metric(
        *tensors
    )


@pytest.mark.parametrize("name", [name for name in NAMED if NAMED[name].tally])
def test_tallies_of_groups_add_up_to_the_whole(name):
    scores, targets, weights = two_classes(4, 60)
    groups = np.random.default_rng(1).permutation(60) % 7
    metric = resolve_metric(name)
    tallies = metric.tallies(scores, targets, groups, weights, None)
    whole = float(metric.of_tallies(tallies.sum(axis=0)))
    assert whole == pytest.approx(metric(scores, targets, weights), rel=1e-12)
    each = metric.of_tallies(tallies)
    for group in range(7):
        rows = groups == group
        assert each[group] == pytest.approx(metric(scores[rows], targets[rows], weights[rows]), rel=1e-12)


def test_further_axes_one_hot_targets_and_half_precision():
    logits = torch.randn(6, 3, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(30).reshape(6, 5) % 3
    weights = torch.arange(1.0, 7.0)
    right = (logits.argmax(1) == targets).double().mean(1)
    accuracy = resolve_metric("accuracy")
    assert accuracy(logits, targets, weights) == pytest.approx(float((right * weights).sum() / 21))
    loss = torch.nn.functional.cross_entropy(logits.double(), targets)
    assert resolve_metric("log_loss", form="logits")(logits, targets) == pytest.approx(float(loss))
    hot = torch.nn.functional.one_hot(targets, 3).movedim(-1, 1)
    assert accuracy(logits, hot) == accuracy(logits, targets)
    half = torch.randn(50, 7).softmax(1).bfloat16()
    assert resolve_metric("brier")(half, torch.arange(50) % 7) > 0
    assert resolve_metric("mae")(torch.ones(3).bfloat16(), torch.zeros(3)) == 1


def test_logits_are_exact_where_probabilities_round():
    loss = resolve_metric("log_loss", form="logits")
    assert loss([800.0, -800.0], [0, 0]) == pytest.approx(400)
    assert loss([[0.0, 800.0]], [0]) == pytest.approx(800)
    assert resolve_metric("auroc", form="logits")([[0.0, 50.0], [0.0, 51.0]], [0, 1]) == 1
    assert resolve_metric("accuracy", form="logits")([-0.1, 0.1], [0, 1]) == 1
    assert resolve_metric("f1", form="scores")([30.0, 70.0], [0, 1], threshold=50) == 1
    assert resolve_metric("f1")([[0.7, 0.3], [0.9, 0.1]], [1, 0], threshold=0.25) == 1


@pytest.mark.parametrize(
    ("name", "predictions", "targets", "rows", "says"),
    [
        ("accuracy", [0.1, np.nan, np.nan], [0, 1, 1], [1, 2], "predictions are NaN in 2 of 3 rows"),
        ("mae", [0.1, 1.0], [0, np.nan], [1], "targets are NaN in 1 of 2 rows"),
        ("f1", [0.1, 1.5], [0, 1], [1], "found 1.5 among probabilities, outside"),
        ("brier", [[0.2, 0.9], [0.5, 0.5]], [0, 1], [0], "sum to 1.1, expected 1"),
        ("auroc", [[2.0, 1.0]], [1], [0], "form='logits'"),
        ("log_loss", [0.1, 0.2, 0.3], [0, 2, -1], [1, 2], "the target 2, outside the classes 0 to 1"),
        ("accuracy", [[0.1, 0.9]], [2], [0], "the target 2, outside"),
        ("f1_macro", [1, -100], [1, 1], [1], "the prediction -100, expected classes from 0 on"),
        ("precision", [0, 3], [0, 1], [1], "the prediction 3, outside"),
        ("f1", [[0.1, 0.9, 0.0]], [0], [], "found 3 classes, expected 2; for more there are 'accuracy'"),
        ("accuracy", [0.5], [0.5], [0], "the target 0.5, expected classes"),
        ("accuracy", [[0.5, 0.5], [0.1, 0.9]], [[1, 0], [1, 1]], [1], "not one-hot"),
        ("accuracy", [], [], [], "there is nothing to judge"),
        ("r2", [1.0, 2.0], [1.0], [], "shape (2,) and targets of shape (1,)"),
        ("accuracy", [[0.5, 0.5]], [0, 1], [], "expected targets (1,)"),
        ("mse", ["a"], [1.0], [], "expected one tensor or array of real numbers"),
    ],
)
def test_what_cannot_be_judged_is_named_with_the_metric_and_the_rows(name, predictions, targets, rows, says):
    with pytest.raises(MetricError) as caught:
        resolve_metric(name)(predictions, targets)
    assert caught.value.name == name
    assert caught.value.rows == rows
    assert says in str(caught.value)
    assert f"the metric {name!r}" in str(caught.value)


def test_many_rows_are_counted_not_listed():
    with pytest.raises(MetricError, match=r"row 0, 1, 2, 3 and 996 more"):
        resolve_metric("mae")(np.full(1000, np.nan), np.zeros(1000))


@pytest.mark.parametrize("weights", [[1, 1], [[1, 1, 1]], [0, 0, 0], [1, -1, 1], [1, np.nan, 1]])
def test_weights_that_are_none(weights):
    with pytest.raises(MetricError, match="weight"):
        resolve_metric("mae")([1.0, 2, 3], [1.0, 2, 3], weights)


def test_a_threshold_goes_with_two_classes():
    with pytest.raises(MetricError, match=r"threshold=0\.5 for 3 classes"):
        resolve_metric("accuracy")(np.ones((2, 3)), [0, 1], threshold=0.5)


def test_names():
    assert {"accuracy", "f1", "auroc", "mae", "informedness"} <= set(metric_names())
    assert set(ALIASES.values()) <= set(NAMED)
    assert not set(ALIASES) & set(NAMED)
    for name, of in {"tpr": "recall", "F1-score": "f1", "tnr_tpr_avg": "balanced_accuracy"}.items():
        assert resolve_metric(name).name == of
    assert resolve_metric("mae").mode == "min"
    assert resolve_metric("brier").mean
    with pytest.raises(ValueError, match="'acuracy', which is none; near are 'accuracy'"):
        resolve_metric("acuracy")
    with pytest.raises(ValueError, match="'tnr_tpr', which is two figures"):
        resolve_metric("tnr_tpr")
    with pytest.raises(ValueError, match="the best 'mae' is the 'min'imum"):
        resolve_metric("mae", mode="max")
    with pytest.raises(TypeError, match="found 3, expected a name"):
        resolve_metric(3)
    with pytest.raises(ValueError, match="form='logit'"):
        resolve_metric("f1", form="logit")
    assert resolve_metric(resolve_metric("f1"), form="logits").form == "logits"


def test_functions_of_ones_own():
    def hits(predictions, targets, threshold=0.5):
        return ((predictions >= threshold) == targets).sum()

    own = resolve_metric(hits, mode="max")
    assert (own.name, own.mode, own.needs, own.mean) == ("hits", "max", "threshold", False)
    found, wanted = np.array([0.2, 0.6]), np.array([1, 1])
    assert (own(found, wanted), own(found, wanted, threshold=0.1)) == (1, 2)
    assert resolve_metric(own).mode == "max"
    with pytest.raises(MetricError, match="'hits': found sample_weight, which the function does not take"):
        own(found, wanted, np.ones(2))
    with pytest.raises(MetricError, match="gave a ndarray, expected one number"):
        resolve_metric(lambda p, t: np.array([1, 2]))(found, wanted)


def test_one_of_scikit_learns_is_turned_around():
    metrics = sk()
    turned = sklearn_metric(metrics.precision_score, average="macro")
    predicted, targets = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2])
    assert turned(predicted, targets) == metrics.precision_score(targets, predicted, average="macro")
    weights = torch.tensor([1.0, 2, 3, 4])
    expected = metrics.precision_score(targets, predicted, average="macro", sample_weight=weights)
    assert resolve_metric(turned)(predicted, targets, weights) == expected
    assert resolve_metric(sklearn_metric(metrics.max_error))([1.0, 2], [1.0, 4]) == 2
