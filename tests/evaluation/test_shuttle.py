"""Real imbalanced data, river's Shuttle (7 % positive): the exact threshold against scikit-learn's candidates."""

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score, matthews_corrcoef
from sklearn.model_selection import TunedThresholdClassifierCV, train_test_split

import deeptrain as dt


@pytest.fixture(scope="module")
def scored():
    """Held-out scores of a plain classifier that was given two of the features, and their targets."""
    found = importlib.util.find_spec("river")
    path = None if found is None else Path(found.origin).parent / "datasets" / "shuttle.csv.gz"
    if path is None or not path.exists():
        pytest.skip("river's data is not installed")
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    x, y = table[:, [3, 5]], table[:, -1].astype(int)
    assert 0.06 < y.mean() < 0.08
    parts = train_test_split(x, y, test_size=0.5, random_state=0, stratify=y)
    model = LogisticRegression(class_weight={0: 1, 1: 3}).fit(parts[0], parts[2])
    return model, *parts


@pytest.mark.parametrize(
    ("name", "theirs", "scoring"),
    [
        ("f1", f1_score, "f1"),
        ("balanced_accuracy", balanced_accuracy_score, "balanced_accuracy"),
        ("matthews", matthews_corrcoef, "matthews_corrcoef"),
    ],
)
def test_no_candidate_of_scikit_learns_is_better(scored, name, theirs, scoring):
    model, _, x, _, y = scored
    scores = model.predict_proba(x)[:, 1]
    found = dt.best_threshold(scores, y, name)
    candidates = np.linspace(scores.min(), scores.max(), 100)
    best = max(theirs(y, (scores >= cut).astype(int)) for cut in candidates)
    assert found.score == pytest.approx(theirs(y, found.predict(scores).astype(int)))
    assert found.score >= best
    tuned = TunedThresholdClassifierCV(model, scoring=scoring, cv="prefit", refit=False).fit(x, y)
    assert found.score >= theirs(y, tuned.predict(x)) - 1e-12
    assert found.cross_fitted <= found.score
    assert found.interval.score[0] <= found.score <= found.interval.score[1]


def test_what_was_found_holds_on_other_rows(scored):
    model, x_train, x, y_train, y = scored
    found = dt.best_threshold(model.predict_proba(x_train)[:, 1], y_train, "f1")
    elsewhere = f1_score(y, found.predict(model.predict_proba(x)[:, 1]))
    assert elsewhere == pytest.approx(found.cross_fitted, abs=0.02)
    assert elsewhere > f1_score(y, model.predict(x))
