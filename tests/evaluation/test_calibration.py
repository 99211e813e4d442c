"""Calibrations: no ranking changes, what was fitted comes back from its state, and the figures are scikit-learn's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

import deeptrain as dt
from deeptrain.checkpoint.codec import decode, encode

KINDS = [dt.TemperatureCalibration, dt.SigmoidCalibration, dt.IsotonicCalibration]


def oversure(rows=4000, seed=0, factor=3.0):
    """Logits that are three times too large."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=rows) * 2
    targets = generator.random(rows) < 1 / (1 + np.exp(-logits))
    return logits * factor, targets.astype(np.int64)


@given(st.lists(st.floats(-50, 50, allow_subnormal=False), min_size=2, max_size=30), st.integers(0, 10))
def test_temperature_changes_no_ranking_and_no_class(scores, seed):
    targets = np.random.default_rng(seed).integers(0, 2, len(scores))
    made = dt.TemperatureCalibration().fit(scores, targets)
    cooled = made.logits(np.array(scores))
    order = np.argsort(scores, kind="stable")
    assert (np.diff(cooled[order]) >= 0).all()
    assert ((cooled > 0) == (np.array(scores) > 0)).all() or made.temperature >= 999


def test_temperature_finds_the_factor():
    logits, targets = oversure()
    made = dt.TemperatureCalibration().fit(logits, targets)
    assert made.temperature == pytest.approx(3.0, rel=0.1)
    grid = [log_loss(targets, 1 / (1 + np.exp(-logits / t))) for t in np.linspace(2, 4, 401)]
    assert log_loss(targets, made(logits)) <= min(grid) + 1e-9


def test_temperature_of_several_classes_keeps_every_ranking():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(500, 4)) * 6
    targets = generator.integers(0, 4, 500)
    made = dt.TemperatureCalibration().fit(logits, targets)
    probabilities = made(torch.from_numpy(logits))
    assert isinstance(probabilities, torch.Tensor)
    assert torch.allclose(probabilities.sum(1), torch.ones(500, dtype=torch.float64))
    assert (np.argsort(probabilities.numpy(), axis=1) == np.argsort(logits, axis=1)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weighted", [False, True])
def test_probabilities_become_better_on_other_rows(kind, weighted):
    logits, targets = oversure()
    other, truth = oversure(seed=1)
    weights = np.random.default_rng(2).random(len(logits)) if weighted else None
    made = kind().fit(logits, targets, weights)
    before = 1 / (1 + np.exp(-other))
    assert dt.calibration_error(made(other), truth) < 0.5 * dt.calibration_error(before, truth)
    assert dt.brier_score(made(other), truth) < dt.brier_score(before, truth)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_fitted_comes_back_from_bytes(kind):
    logits, targets = oversure(500)
    made = kind().fit(logits, targets)
    other = kind()
    saved = encode(made.state_dict())
    other.load_state_dict(decode(saved.json, saved.tensors))
    assert (other(logits) == made(logits)).all()
    with pytest.raises(ValueError, match="load it into the kind"):
        next(each for each in KINDS if each is not kind)().load_state_dict(made.state_dict())
    with pytest.raises(RuntimeError, match="was not fitted"):
        kind()(logits)


def test_isotonic_is_scikit_learns():
    logits, targets = oversure(700)
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(logits, targets)
    assert np.allclose(dt.IsotonicCalibration().fit(logits, targets)(logits), theirs.predict(logits))


def test_sigmoid_is_platts():
    logits, targets = oversure(700)
    made = dt.SigmoidCalibration().fit(logits, targets)

    class Scores(LogisticRegression):
        def decision_function(self, x):
            return x[:, 0]

    classifier = Scores().fit(logits[:, None], targets)
    theirs = CalibratedClassifierCV(_frozen(classifier), method="sigmoid").fit(logits[:, None], targets)
    assert np.allclose(made(logits), theirs.predict_proba(logits[:, None])[:, 1], atol=1e-4)


def _frozen(classifier):
    from sklearn.frozen import FrozenEstimator

    return FrozenEstimator(classifier)


def test_brier_is_scikit_learns_and_the_bins_add_up():
    logits, targets = oversure(900)
    probabilities = 1 / (1 + np.exp(-logits))
    weights = np.random.default_rng(0).random(900)
    assert dt.brier_score(probabilities, targets, weights) == pytest.approx(
        brier_score_loss(targets, probabilities, sample_weight=weights)
    )
    found = dt.reliability(probabilities, targets, weights, bins=10)
    assert found.weight.sum() == pytest.approx(weights.sum())
    by_hand = sum(
        abs(
            np.average(probabilities[rows], weights=weights[rows])
            - np.average(targets[rows], weights=weights[rows])
        )
        * weights[rows].sum()
        for low in np.arange(10) / 10
        if (rows := (probabilities >= low) & ((probabilities < low + 0.1) | (low == 0.9))).any()
    )
    assert dt.calibration_error(probabilities, targets, weights, bins=10) == pytest.approx(
        by_hand / weights.sum()
    )


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([], [], "at least one row"),
        ([np.inf, 0.0], [0, 1], "infinite score in row 0"),
        ([np.nan, 0.0], [0, 1], "NaN"),
        ([0.1, 0.2], [0, 2], "two classes"),
        ([0.1], [0, 1], "1"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_fitted_is_said(kind, scores, targets, message):
    with pytest.raises(dt.EvaluationError, match=message):
        kind().fit(scores, targets)
