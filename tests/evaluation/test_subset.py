"""The best subset of batches: brute force where that can be done, plain greedy growth elsewhere, both written anew here."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.evaluation.choosing.subset import FEW, best_subset
from deeptrain.evaluation.metrics.named import resolve_metric
from deeptrain.evaluation.metrics.reading import MetricError

SEED = st.integers(0, 2**32 - 1)
NAMES = [
    "f1",
    "accuracy",
    "balanced_accuracy",
    "mcc",
    "auroc",
    "average_precision",
    "log_loss",
    "rmse",
    "mse",
    "tpr*tnr",
]
NEAR = 1e-9


def drawn(seed, batches, largest=5):
    """Rows of batches of unequal sizes in mixed order, whose batches differ in how well they are met."""
    rng = np.random.default_rng(seed)
    of = rng.permutation(np.repeat(np.arange(batches) * 3 + 1, rng.integers(1, largest + 1, batches)))
    targets = rng.integers(0, 2, len(of))
    noise = rng.random(batches * 3 + 1)[of]
    scores = np.clip((1 - noise) * targets + noise * rng.random(len(of)), 0, 1).round(rng.integers(1, 4))
    return scores, targets, of, rng.random(len(of)) + 0.1


def search(scores, targets, sample_weight=None):
    """All cuts, tried one by one, for F1."""
    f1 = resolve_metric("f1")
    tried = [(f1(scores, targets, sample_weight, cut), float(cut)) for cut in np.unique(scores)]
    score, cut = max(tried)
    return cut, score


def judge(name, scores, targets, weights, threshold=None):
    """The oriented figure; NaN is less than any."""
    metric = resolve_metric(name)
    if threshold is not None:
        figure = threshold(scores, targets, **({} if weights is None else {"sample_weight": weights}))[1]
    else:
        figure = metric(scores, targets, weights)
    figure = figure if metric.mode == "max" else -figure
    return -np.inf if np.isnan(figure) else figure


def over(chosen, name, scores, targets, of, weights, threshold=None):  # noqa: PLR0917
    rows = np.isin(of, list(chosen))
    return judge(name, scores[rows], targets[rows], None if weights is None else weights[rows], threshold)


def brute(size, of, *more):
    return max(over(chosen, *more) for chosen in combinations(np.unique(of).tolist(), size))


def plain_greedy(size, of, *more):
    chosen = []
    while len(chosen) < size:
        rest = [name for name in np.unique(of).tolist() if name not in chosen]
        figures = [over([*chosen, name], *more) for name in rest]
        chosen.append(rest[int(np.argmax(figures))])
    return over(chosen, *more)


def check_told(found, name, scores, targets, of, weights):  # noqa: PLR0917
    """What is told of the rest and the whole is the metric over them."""
    inside = np.isin(of, found.batches)
    metric = resolve_metric(name)
    for value, rows in ((found.score, inside), (found.rest, ~inside), (found.whole, inside | True)):
        if rows.any():
            more = None if weights is None else weights[rows]
            assert value == pytest.approx(metric(scores[rows], targets[rows], more), nan_ok=True, rel=NEAR)
        else:
            assert value is None


@settings(max_examples=120, deadline=None)
@given(SEED, st.integers(1, 8), st.data(), st.sampled_from(NAMES), st.booleans())
def test_equals_brute_force(seed, batches, data, name, weighted):
    size = data.draw(st.integers(1, batches))
    scores, targets, of, weights = drawn(seed, batches)
    weights = weights if weighted else None
    arguments = (name, scores, targets, of, weights)
    expected = brute(size, of, *arguments)
    if np.isinf(expected):
        with pytest.raises(MetricError, match="NaN for every subset"):
            best_subset(scores, targets, of, name, size, sample_weight=weights)
        return
    found = best_subset(scores, targets, of, name, size, sample_weight=weights)
    assert found.method == ("exact" if resolve_metric(name).mean else "every subset")
    assert len(set(found.batches)) == size
    assert over(found.batches, *arguments) == pytest.approx(expected, rel=NEAR, abs=NEAR)
    check_told(found, *arguments)


@pytest.mark.parametrize("name", ["f1", "accuracy", "auroc", "mcc"])
@pytest.mark.parametrize("size", [1, 5, 6, 11, 12])
def test_equals_brute_force_for_12_batches(name, size):
    scores, targets, of, _ = drawn(7, 12, largest=9)
    found = best_subset(scores, targets, of, name, size)
    assert found.score == pytest.approx(brute(size, of, name, scores, targets, of, None), rel=NEAR)


@settings(max_examples=25, deadline=None)
@given(SEED, st.integers(2, 5), st.booleans())
def test_with_a_threshold_search_inside_equals_brute_force(seed, size, weighted):
    scores, targets, of, weights = drawn(seed, 6)
    weights = weights if weighted else None
    found = best_subset(scores, targets, of, "f1", size, sample_weight=weights, threshold=search)
    expected = brute(size, of, "f1", scores, targets, of, weights, search)
    assert found.score == pytest.approx(expected, rel=NEAR)
    inside = np.isin(of, found.batches)
    more = [None if weights is None else weights[rows] for rows in (inside, ~inside)]
    assert found.score == resolve_metric("f1")(scores[inside], targets[inside], more[0], found.threshold)
    assert found.rest == resolve_metric("f1")(scores[~inside], targets[~inside], more[1], found.threshold)
    assert found.whole == search(scores, targets, weights)[1]


@settings(max_examples=40, deadline=None)
@given(SEED, st.integers(14, 20), st.sampled_from(["f1", "mcc", "auroc", "rmse"]), st.booleans())
def test_never_below_plain_greedy(seed, batches, name, weighted):
    scores, targets, of, weights = drawn(seed, batches)
    arguments = (name, scores, targets, of, weights if weighted else None)
    size = batches // 2
    plain = plain_greedy(size, of, *arguments)
    for rounds in (0, 10):
        found = best_subset(scores, targets, of, name, size, sample_weight=arguments[-1], rounds=rounds)
        assert found.method == "greedy"
        assert over(found.batches, *arguments) >= plain - NEAR
        if rounds == 0 and not weighted and name == "f1":
            assert over(found.batches, *arguments) == pytest.approx(plain)
    check_told(found, *arguments)


def test_exchanges_find_what_growth_misses():
    """Somewhere they help; and what they end at no single exchange improves."""
    helped = 0
    for seed in range(6):
        _, targets, of, scores = drawn(seed, 14, largest=4)
        scores = scores.clip(0, 1)  # of no model: no batch is met by all of its rows
        grown, better = (best_subset(scores, targets, of, "mcc", 6, rounds=rounds) for rounds in (0, 50))
        helped += better.score > grown.score + NEAR
        for out in better.batches:
            for other in set(of.tolist()) - set(better.batches):
                chosen = {*better.batches, other} - {out}
                assert over(chosen, "mcc", scores, targets, of, None) <= better.score + NEAR
    assert helped


@settings(max_examples=20, deadline=None)
@given(SEED, st.booleans())
def test_a_mean_over_rows_is_exact_beyond_what_can_be_tried(seed, weighted):
    """16 batches of 1 and 2 rows; the best by brute force over 8008 and more subsets, from each batch's sums."""
    scores, targets, of, weights = drawn(seed, 16, largest=4)
    weights = weights if weighted else np.ones(len(of))
    right = weights * ((scores >= 0.5) == targets)
    names = np.unique(of)
    parts, sums = (np.array([values[of == name].sum() for name in names]) for values in (right, weights))
    chosen = np.array(list(combinations(range(16), 6)))
    assert len(chosen) > FEW
    expected = (parts[chosen].sum(1) / sums[chosen].sum(1)).max()
    found = best_subset(scores, targets, of, "accuracy", 6, sample_weight=weights)
    assert found.method == "exact"
    assert found.score == pytest.approx(expected, rel=NEAR)


def test_a_mean_over_batches_of_ones_own_is_exact():
    scores, targets, of, _ = drawn(5, 20, largest=6)

    def error(predictions, wanted):
        return abs(predictions - wanted).max()

    found = best_subset(scores, targets, of, error, 4, mode="min", mean="batches")
    each = {int(name): error(scores[of == name], targets[of == name]) for name in np.unique(of)}
    assert found.score == pytest.approx(np.mean(sorted(each.values())[:4]))
    assert found.rest == pytest.approx(np.mean(sorted(each.values())[4:]))
    assert found.method == "exact"
    accuracy = best_subset(
        scores, targets, of, lambda p, t: ((p >= 0.5) == t).mean(), 4, mode="max", mean="rows"
    )
    assert accuracy.score == pytest.approx(best_subset(scores, targets, of, "accuracy", 4).score)


def test_nan_never_wins_a_mean():
    def figure(predictions, targets):
        return predictions[0]

    scores = np.array([np.nan, 1.0, 3.0, 2.0])
    found = best_subset(scores, np.zeros(4), list("abcd"), figure, 2, mode="max", mean="batches")
    assert (found.batches, found.score) == (("c", "d"), 2.5)
    with pytest.raises(MetricError, match="'figure': is NaN for every subset of 4 batches"):
        best_subset(scores, np.zeros(4), list("abcd"), figure, 4, mode="max", mean="batches")


def test_tensors_logits_classes_and_names():
    logits = torch.randn(40, 3)
    targets = torch.arange(40) % 3
    of = [f"set {row // 5}" for row in range(40)]
    found = best_subset(logits, targets, of, "f1_macro", 3)
    assert found == best_subset(logits.numpy(), targets.numpy(), np.array(of), "f1_macro", 3)
    assert all(name.startswith("set ") for name in found.batches)
    assert "optimistic" in str(found)
    assert f"{found.rest:.6g} on the rest" in str(found)
    numbered = best_subset(
        logits[:, 0], targets > 0, torch.arange(40) // 5, "f1", 2, form="logits", threshold=search
    )
    assert 0 <= numbered.threshold <= 1  # of probabilities
    assert all(type(name) is int for name in numbered.batches)
    fixed = best_subset(
        torch.sigmoid(logits[:, 0]), targets > 0, torch.arange(40) // 5, "f1", 2, threshold=0.25
    )
    assert fixed.threshold == 0.25
    assert fixed.whole == resolve_metric("f1")(torch.sigmoid(logits[:, 0]), targets > 0, threshold=0.25)


def test_a_search_may_give_an_object():
    class Found:
        threshold = 0.3

    found = best_subset([0.2, 0.4, 0.6], [0, 1, 0], [0, 1, 2], "f1", 1, threshold=lambda s, t: Found())
    assert (found.batches, found.threshold) == ((1,), 0.3)


@pytest.mark.parametrize(
    ("error", "says", "given"),
    [
        (ValueError, "size=4, expected at most 3", {"size": 4}),
        (ValueError, "size: found 0", {"size": 0}),
        (ValueError, "scores of shape (2,), expected 3 rows", {"scores": [0.1, 0.2]}),
        (ValueError, "batches of shape (1,), expected 3 rows", {"batches": [0]}),
        (ValueError, "weight 0: leave it out", {"sample_weight": [1, 0, 1]}),
        (ValueError, "give mode='max' or mode='min'", {"metric": lambda p, t: 0}),
        (ValueError, "the metric 'auroc' has none", {"metric": "auroc", "threshold": 0.5}),
        (ValueError, "mean='rows' with a threshold", {"mean": "rows", "threshold": search}),
        (ValueError, "mean: found 'row'", {"mean": "row"}),
        (MetricError, "'f1': found 1.5 among probabilities", {"scores": [0.1, 1.5, 0.2]}),
    ],
)
def test_what_is_refused(error, says, given):
    default = {
        "scores": [0.1, 0.2, 0.9],
        "targets": [0, 1, 1],
        "batches": [0, 1, 2],
        "metric": "f1",
        "size": 2,
    }
    with pytest.raises(error) as caught:
        best_subset(**(default | given))
    assert says in str(caught.value)


def test_a_metric_that_raises_says_over_which_batches():
    def raising(predictions, targets):
        raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        best_subset([0.1, 0.2], [0, 1], [0, 1], raising, 1, mode="max")
    assert "over the batches [0] of 2" in caught.value.__notes__[0]
