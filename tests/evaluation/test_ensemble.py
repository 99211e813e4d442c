"""Greedy ensembles: the algorithm written anew here, what holds of it, and that its gain is told out of fold."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.evaluation.choosing.ensemble import select_ensemble
from deeptrain.evaluation.metrics.named import resolve_metric
from deeptrain.evaluation.metrics.reading import MetricError

SEED = st.integers(0, 2**32 - 1)


def library(seed, models=5, rows=40):
    """Models that err on their own, some more than others."""
    rng = np.random.default_rng(seed)
    targets = rng.permutation(np.arange(rows) % 2)
    noise = rng.uniform(0.3, 1.2, (models, 1)) * rng.normal(size=(models, rows))
    return {f"m{i}": 1 / (1 + np.exp(-each)) for i, each in enumerate(noise + targets - 0.5)}, targets


def best_cut(scores, targets, sample_weight=None):
    accuracy = resolve_metric("accuracy")
    score, cut = max((accuracy(scores, targets, sample_weight, cut), float(cut)) for cut in np.unique(scores))
    return cut, score


def plain(arrays, score, start, rounds):
    """Caruana's selection among all models: a list of models, one for each time that it is taken."""
    order = sorted(range(len(arrays)), key=lambda model: -score(arrays[model]))
    mean = lambda bag: sum(arrays[model] for model in bag) / len(bag)  # noqa: E731
    bag = max((order[: size + 1] for size in range(start)), key=lambda each: score(mean(each)))
    bags = [bag]
    for _ in range(rounds):
        bag = max(([*bag, model] for model in range(len(arrays))), key=lambda each: score(mean(each)))
        bags.append(bag)
    return max(score(mean(each)) for each in bags)


@settings(max_examples=30, deadline=None)
@given(SEED, st.sampled_from(["log_loss", "brier", "auroc", "f1"]), st.integers(1, 3), st.integers(0, 6))
def test_one_bag_is_the_greedy_selection_and_never_below_the_best_single_model(seed, name, start, rounds):
    predictions, targets = library(seed)
    metric = resolve_metric(name)
    sign = 1 if metric.mode == "max" else -1
    found = select_ensemble(predictions, targets, name, start=start, rounds=rounds, bags=1)
    expected = plain(
        list(predictions.values()), lambda each: sign * metric(np.minimum(each, 1), targets), start, rounds
    )
    assert sign * found.score == pytest.approx(expected, rel=1e-6)
    assert sign * found.score >= sign * found.best_score
    each = {key: metric(value, targets) for key, value in predictions.items()}
    assert found.best_score == (max if sign == 1 else min)(each.values())
    assert each[found.best] == found.best_score
    assert sum(found.weights.values()) == pytest.approx(1)
    assert metric(found.predict(predictions), targets) == pytest.approx(found.score)
    assert found.gain == pytest.approx(sign * (found.out_of_fold - found.best_out_of_fold))


def test_models_that_err_on_their_own_gain_out_of_fold():
    rng, targets = np.random.default_rng(1), np.arange(400) % 2
    predictions = {f"m{i}": 1 / (1 + np.exp(0.5 - targets - rng.normal(size=400))) for i in range(12)}
    found = select_ensemble(predictions, targets, "auroc")
    assert found.gain > 0.1
    assert found.out_of_fold > found.best_out_of_fold + 0.1
    assert "optimistic" in str(found)
    assert f"{found.out_of_fold:.6g} out of fold" in str(found)


def test_the_gain_of_noise_is_not_told_as_one():
    """Selected among models that know nothing, an ensemble looks good where it was selected, and not out of fold."""
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 2
    in_fold, out = [], []
    for _ in range(8):
        predictions = {f"m{i}": rng.random(60) for i in range(30)}
        found = select_ensemble(predictions, targets, "auroc", rounds=10, bags=1)
        in_fold.append(found.score)
        out.append(found.out_of_fold)
    assert np.mean(in_fold) > 0.75
    assert np.mean(out) < 0.6


def test_each_folds_rows_are_judged_by_what_never_saw_them():
    """A model that is right wherever rows are selected on, and wrong on a group held out, is caught."""
    targets = np.arange(60) % 2
    groups = np.arange(60) // 20
    seen = []

    def spy(predictions, wanted, sample_weight=None):
        seen.append(frozenset(sample_weight.astype(int).tolist()))
        return -np.square(predictions - wanted).mean()

    predictions = {f"m{i}": np.random.default_rng(i).random(60) for i in range(3)}
    ids = groups + 1.0  # as weights, so that the spy sees whose rows it is given
    select_ensemble(predictions, targets, spy, mode="max", sample_weight=ids, groups=groups, folds=3, bags=1)
    assert set(seen) == {frozenset({1, 2, 3}), frozenset({1, 2}), frozenset({1, 3}), frozenset({2, 3})}


def test_the_same_seed_gives_the_same_and_bags_differ():
    predictions, targets = library(3)
    one, again, other = (select_ensemble(predictions, targets, "brier", seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert one.weights != select_ensemble(predictions, targets, "brier", bags=1).weights


def test_logits_are_averaged_as_probabilities_and_tensors_taken():
    logits = {f"m{i}": torch.randn(30, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)}
    targets = torch.arange(30) % 3
    found = select_ensemble(logits, targets, "log_loss", form="logits", bags=1)
    same = select_ensemble(
        {name: each.double().softmax(1) for name, each in logits.items()}, targets, "log_loss", bags=1
    )
    assert found.score == pytest.approx(same.score, rel=1e-6)
    assert found.weights == pytest.approx(same.weights)
    assert np.allclose(found.predict(logits).sum(1), 1)
    used = [name for name, weight in found.weights.items() if weight]
    with pytest.raises(KeyError, match=used[0]):
        found.predict({name: each for name, each in logits.items() if name != used[0]})


@pytest.mark.parametrize("weighted", [False, True])
def test_with_a_threshold_search_inside(weighted):
    predictions, targets = library(5, rows=80)
    predictions = {name: each / 4 for name, each in predictions.items()}  # 0.5 would decide for class 0 alone
    weights = np.linspace(0.5, 1, 80) if weighted else None
    found = select_ensemble(
        predictions, targets, "accuracy", threshold=best_cut, sample_weight=weights, rounds=3, bags=1
    )
    mean = found.predict(predictions)
    assert found.score == best_cut(mean, targets, weights)[1]
    assert found.threshold < 0.25
    assert 0.6 < found.out_of_fold < found.score


def test_numbers_may_be_averaged_and_nan_never_wins():
    targets = torch.linspace(0, 1, 40)
    predictions = {"low": targets - 0.1, "high": targets + 0.1}
    found = select_ensemble(predictions, targets, "rmse", bags=1)
    assert found.weights == pytest.approx({"low": 0.5, "high": 0.5})
    assert found.score == pytest.approx(0, abs=1e-6)

    def odd(predictions, wanted):
        return float("nan") if predictions[0] < 0 else 1.0

    assert select_ensemble(predictions, targets, odd, mode="max", bags=1).best == "high"
    with pytest.raises(MetricError, match="'odd': is NaN for each of the 1 models"):
        select_ensemble({"low": targets - 0.1}, targets, odd, mode="max")


@pytest.mark.parametrize(
    ("error", "says", "given"),
    [
        (ValueError, "found no predictions", {"predictions": {}}),
        (TypeError, "'a' of type int64, of which there is no mean", {"predictions": {"a": [0, 1, 1, 0]}}),
        (ValueError, "'b' of shape (3,), expected (4,)", {"predictions": {"a": [0.1] * 4, "b": [0.1] * 3}}),
        (ValueError, "found 4 rows for folds=5", {"folds": 5}),
        (ValueError, "found 1 groups for folds=2", {"groups": [1, 1, 1, 1]}),
        (ValueError, "folds: found 1", {"folds": 1}),
        (ValueError, "share: found 0", {"share": 0}),
        (ValueError, "bags: found 0", {"bags": 0}),
        (MetricError, "'f1': found 1.1 among", {"predictions": {"a": [0.1, 0.2, 1.1, 0.1]}}),
        (
            ValueError,
            "shape (4, 2) with a threshold that is searched",
            {"predictions": {"a": [[0.5, 0.5]] * 4}, "threshold": best_cut},
        ),
    ],
)
def test_what_is_refused(error, says, given):
    default = {
        "predictions": {"a": [0.1, 0.2, 0.7, 0.6]},
        "targets": [0, 1, 1, 0],
        "metric": "f1",
        "folds": 2,
    }
    with pytest.raises(error) as caught:
        select_ensemble(**(default | given))
    assert says in str(caught.value)
