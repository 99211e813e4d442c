"""Scores are sorted as NumPy sorts them, whatever their bits."""

import numpy as np
import pytest

from deeptrain.evaluation.thresholds import sorting
from deeptrain.evaluation.thresholds.sorting import ascending, sorted_with_order

RANDOM = np.random.default_rng(0)
ROWS = 40_000
KINDS = {
    "even": RANDOM.random(ROWS),
    "all sizes and signs": RANDOM.normal(size=ROWS) * 10.0 ** RANDOM.integers(-300, 300, ROWS),
    "few": RANDOM.integers(-3, 3, ROWS) / 2,
    "hardly different": 1 + RANDOM.integers(0, 500, ROWS) * np.finfo(float).eps,
    "in pairs that hardly differ": np.repeat(RANDOM.random(ROWS // 2), 2)
    * (1 + np.tile([0, 4e-16], ROWS // 2)),
    "the same": np.full(ROWS, 0.5),
    "sorted": np.sort(RANDOM.random(ROWS)),
    "the other way": -np.sort(RANDOM.random(ROWS)),
    "infinite and zero": RANDOM.choice([np.inf, -np.inf, 0.0, -0.0, 1e-320, -1e-320, 1.0], ROWS),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [ROWS, 7])
def test_sorted_as_numpy_sorts(kind, dtype, rows):
    with np.errstate(over="ignore", under="ignore"):
        scores = KINDS[kind][:rows].astype(dtype)
    before = scores.copy()
    found, order = sorted_with_order(scores)
    truth = np.sort(scores.astype(np.float64)).astype(dtype)
    assert (found == truth).all()
    assert (ascending(scores) == truth).all()
    assert (scores[order] == found).all()
    assert (np.sort(order) == np.arange(rows)).all()
    assert (scores == before).all()


def test_what_the_leading_bits_leave_is_put_right(monkeypatch):
    scores = KINDS["in pairs that hardly differ"][RANDOM.permutation(ROWS)]
    monkeypatch.setattr(sorting, "_exchange", lambda *_: True)
    assert (np.diff(sorted_with_order(scores)[0]) < 0).any()
