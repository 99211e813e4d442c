"""`best_threshold` against plain counting at every cut point, for random cases of all kinds."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import deeptrain as dt

INF = math.inf


def over(part, whole):
    return Fraction(part) / Fraction(whole) if whole else Fraction(0)


def tpr(tp, fp, tn, fn):
    return over(tp, tp + fn)


def tnr(tp, fp, tn, fn):
    return over(tn, tn + fp)


def matthews(tp, fp, tn, fn):
    whole = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(whole) if whole else 0.0


def precision_from_half(tp, fp, tn, fn):
    # With the room that sums of weights need.
    enough = 2 * Fraction(tp) >= Fraction(tp + fn) * (1 - Fraction(1, 10**12))
    return over(tp, tp + fp) if tp + fn > 0 and enough else None


# Written apart from the product's, in exact fractions of the weights wherever there is no root.
PLAIN = {
    "accuracy": ("accuracy", lambda tp, fp, tn, fn: over(tp + tn, tp + fp + tn + fn)),
    "f1": ("f1", lambda tp, fp, tn, fn: over(2 * tp, 2 * tp + fp + fn)),
    "f3": (dt.f_beta(3), lambda tp, fp, tn, fn: over(10 * tp, 10 * tp + 9 * fn + fp)),
    "balanced_accuracy": (
        "balanced_accuracy",
        lambda *c: over(tpr(*c) + tnr(*c), (c[0] + c[3] > 0) + (c[1] + c[2] > 0)),
    ),
    "informedness": ("informedness", lambda *c: tpr(*c) + tnr(*c) - 1),
    "tpr_tnr": ("tpr_tnr", lambda *c: tpr(*c) * tnr(*c)),
    "matthews": ("matthews", matthews),
    "precision at recall": (dt.precision_at_recall(0.5), precision_from_half),
    "cost": (dt.expected_cost(1, 4), lambda tp, fp, tn, fn: -over(fp + 4 * fn, tp + fp + tn + fn)),
    "own": (lambda tp, fp, tn, fn: tp - 2 * fp, lambda tp, fp, tn, fn: Fraction(tp) - 2 * Fraction(fp)),
}


def counts_at(threshold, scores, targets, weights):
    tp = fp = tn = fn = Fraction(0)
    for score, target, weight in zip(scores, targets, weights, strict=True):
        called = score >= threshold
        tp += weight * (called and target)
        fp += weight * (called and not target)
        fn += weight * (not called and target)
        tn += weight * (not called and not target)
    return tp, fp, tn, fn


def after(value):
    with np.errstate(over="ignore"):
        return np.nextafter(value, type(value)(INF))


def brute_cuts(scores, dtype, bounds):
    """Of each cut that some number of the type makes, the lowest and the highest such number within the bounds."""
    edges = sorted(set(scores))
    low, high = (-INF, INF) if bounds is None else bounds
    lowest = dtype(low) if float(dtype(low)) >= low else after(dtype(low))
    highest = dtype(high) if float(dtype(high)) <= high else np.nextafter(dtype(high), dtype(-INF))
    below = -INF
    for number, edge in enumerate([*edges, None]):
        first = -INF if number == 0 else float(after(dtype(below)))
        last = INF if edge is None else float(edge)
        first, last = max(first, float(lowest)), min(last, float(highest))
        if first <= last and not (edge is None and below == INF):
            yield first, last
        below = edge


def plateaus(scored, best):
    runs, before = [], False
    for (first, last), value in scored:
        tied = value is not None and float(best) - float(value) <= 1e-11 * max(1.0, abs(float(best)))
        if tied and before:
            runs[-1] = (runs[-1][0], last)
        elif tied:
            runs.append((first, last))
        before = tied
    return runs


def natural(scores, bounds):
    finite = [score for score in scores if math.isfinite(score)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    return (low, high) if bounds is None else bounds


@st.composite
def cases(draw):
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    width = np.dtype(dtype).itemsize * 8
    near = [
        dtype(0.3),
        np.nextafter(dtype(0.3), dtype(1)),
        np.nextafter(np.nextafter(dtype(0.3), dtype(1)), dtype(1)),
    ]
    several = st.one_of(
        st.sampled_from([0.0, -0.0, 0.25, 0.5, 1.0, *map(float, near)]),
        st.floats(0, 1, width=width),
        st.floats(allow_nan=False, width=width),
    )
    rows = draw(st.lists(st.tuples(several, st.booleans(), st.integers(0, 4)), min_size=1, max_size=14))
    weighted = draw(st.booleans())
    scores, targets, weights = (list(column) for column in zip(*rows, strict=True))
    assume(not weighted or any(weights))
    scale = draw(st.sampled_from([1, 1, 0.1, 3.7])) if weighted else 1
    ends = draw(st.none() | st.tuples(st.floats(-2, 2), st.floats(-2, 2)).map(sorted).map(tuple))
    return np.array(scores, dtype), targets, [w * scale for w in weights] if weighted else None, ends


NONE_ALLOWED = "no finite value at any threshold"


@settings(max_examples=3000, deadline=None)
@given(cases(), st.sampled_from(sorted(PLAIN)))
@example((np.array([INF, -INF]), [True, False], None, None), "f1")
@example((np.array([-INF, -INF, 1.0]), [True, True, False], None, None), "f1")
@example((np.array([3.0, 3.0], np.float32), [False, False], None, None), "accuracy")
@example((np.array([np.finfo(np.float32).max], np.float32), [False], None, None), "accuracy")
@example((np.array([-1.7e308, 1.7e308]), [False, True], None, None), "f1")
def test_equals_counting_at_every_cut(case, name):
    scores, targets, weights, bounds = case
    metric, plain = PLAIN[name]
    exact = [Fraction(weight) for weight in weights or [1] * len(targets)]
    values = [float(score) for score in scores]
    cuts = list(brute_cuts(values, scores.dtype.type, bounds))
    scored = [(cut, plain(*counts_at(cut[1], values, targets, exact))) for cut in cuts]
    known = [value for _, value in scored if value is not None]

    def found():
        return dt.best_threshold(scores, targets, metric, weights, bounds=bounds, bootstrap=0, folds=0)

    if not known:
        with pytest.raises(dt.EvaluationError, match=NONE_ALLOWED):
            found()
        return
    best, got = max(known), found()
    sign = -1 if name == "cost" else 1
    assert math.isclose(sign * got.score, float(best), rel_tol=1e-11, abs_tol=1e-11)
    # The one threshold is as good in the scores' type and in float64, as a number and as an array of either.
    for called in (scores >= got.threshold, scores.astype(np.float64) >= got.threshold, got.predict(scores)):
        assert called.tolist() == [value >= got.threshold for value in values]
    at = plain(*counts_at(got.threshold, values, targets, exact))
    assert math.isclose(float(at), float(best), rel_tol=1e-11, abs_tol=1e-11)
    assert bounds is None or bounds[0] <= got.threshold <= bounds[1]
    assert_chosen_plateau(got, plateaus(scored, best), natural(values, bounds))


def assert_chosen_plateau(got, runs, ends):
    """It is one of the plateaus, none is wider, none as wide is nearer to 0.5, and the threshold is its middle."""
    clipped = [(min(max(a, ends[0]), ends[1]), min(max(b, ends[0]), ends[1])) for a, b in runs]
    mine = [number for number, (a, b) in enumerate(runs) if a <= got.threshold <= b]
    assert len(mine) == 1
    first, last = runs[mine[0]]
    assert first <= got.plateau[0] <= got.threshold <= got.plateau[1] <= last
    if any(map(math.isfinite, (first, last))):
        assert math.isfinite(got.threshold) or first == last
    low, high = clipped[mine[0]]
    if low < high:
        assert got.plateau == (max(first, ends[0]), min(last, ends[1]))
    widths = [b - a for a, b in clipped]
    assert high - low >= max(widths) * (1 - 2e-9) - 1e-15
    # As far from the middle as the type has numbers; the halves of the very smallest numbers are rounded too.
    if math.isfinite(middle := got.plateau[0] / 2 + got.plateau[1] / 2):
        assert abs(got.threshold - middle) <= (got.plateau[1] - got.plateau[0]) * 0.51 + 1e-323
    as_wide = [(a, b) for a, b in clipped if b - a >= max(widths) * (1 - 1e-10)]
    # Of plateaus of a single number each, the one is wider before which there is the larger gap, which is not seen here.
    if high - low >= max(widths) * (1 - 1e-10) and max(widths) > 1e-15:
        assert abs(low / 2 + high / 2 - 0.5) <= min(abs(a / 2 + b / 2 - 0.5) for a, b in as_wide) + 1e-3


@pytest.mark.parametrize("metric", sorted(PLAIN))
def test_many_blocks_of_cuts(metric, monkeypatch):
    """The search goes over the cuts block by block; a plateau that lies across two blocks is one."""
    from deeptrain.evaluation.thresholds import search

    generator = np.random.default_rng(5)
    scores, targets = generator.random(900).round(3), generator.random(900) < 0.3
    whole = dt.best_threshold(scores, targets, PLAIN[metric][0], bootstrap=0)
    monkeypatch.setattr(search, "_BLOCK", 7)
    assert dt.best_threshold(scores, targets, PLAIN[metric][0], bootstrap=0) == whole


def test_one_plateau_over_several_blocks(monkeypatch):
    from deeptrain.evaluation.thresholds import search

    monkeypatch.setattr(search, "_BLOCK", 4)
    scores, zeros = np.linspace(0, 1, 41), np.zeros(41)
    found = dt.best_threshold(scores, zeros, lambda tp, fp, tn, fn: 0 * fp, bounds=(0.1, 0.9), bootstrap=0)
    assert found.plateau == (0.1, 0.9)
    assert found.threshold == 0.5


def test_middle_of_the_widest_plateau_then_the_nearest():
    scores, targets = [0.1, 0.2, 0.6, 0.8], [0, 1, 0, 1]

    def own(tp, fp, tn, fn):  # (0.1, 0.2] and (0.6, 0.8] are as good; the second is wider
        return np.where((tp == 2) & (fp == 1) | (tp == 1) & (fp == 0), 1.0, 0.0)

    assert dt.best_threshold(scores, targets, own, bootstrap=0).threshold == pytest.approx(0.7)
    even = [0.125, 0.25, 0.75, 0.875]
    near = [dt.best_threshold(even, targets, own, preferred=p, bootstrap=0).threshold for p in (0.4, 0.6)]
    assert near == [0.1875, 0.8125]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_neighbouring_numbers_of_a_type_are_told_apart(dtype):
    """Between two neighbours of float32 there is a float64, which float32 rounds to one of them."""
    low = torch.tensor(0.3, dtype=dtype)
    scores = torch.stack([low, torch.nextafter(low, torch.tensor(1.0, dtype=dtype))])
    found = dt.best_threshold(scores, torch.tensor([0, 1]), bootstrap=0)
    assert found.score == 1
    assert (scores >= found.threshold).tolist() == [False, True]
    assert (scores.double() >= found.threshold).tolist() == [False, True]
    assert isinstance(found.predict(scores), torch.Tensor)


def test_ends_that_reach_to_infinity_are_finite():
    all_called = dt.best_threshold([-3.0, 4.0], [1, 1], "accuracy", bootstrap=0)
    assert (all_called.threshold, all_called.plateau) == (-3.0, (-3.0, -3.0))
    none_called = dt.best_threshold([-3.0, 4.0], [0, 0], "accuracy", bootstrap=0)
    assert none_called.threshold == math.nextafter(4.0, INF)
    assert dt.best_threshold([0.25, 0.5], [1, 1], "accuracy", bootstrap=0).plateau == (0.0, 0.25)
    assert dt.best_threshold([0.25, 0.5], [0, 0], "accuracy", bootstrap=0).threshold == 0.75
    assert dt.best_threshold([-INF, 0.5], [1, 1], "accuracy", bootstrap=0).threshold == -INF
    assert dt.best_threshold([INF, 0.5], [1, 0], "accuracy", bootstrap=0).plateau == (
        math.nextafter(0.5, 1),
        1.0,
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=12))
def test_a_weight_is_a_row_so_often(rows):
    """Whole weights give what rows that stand so often give; and the order of the rows is nothing."""
    scores = [score / 9 for score, _ in rows]
    targets = [target for _, target in rows]
    weights = [1 + number % 3 for number in range(len(rows))]
    weighted = dt.best_threshold(scores, targets, "f1", weights, bootstrap=0, folds=0)
    often = dt.best_threshold(
        np.repeat(scores, weights), np.repeat(targets, weights), "f1", bootstrap=0, folds=0
    )
    assert (weighted.threshold, weighted.plateau, weighted.score) == (
        often.threshold,
        often.plateau,
        often.score,
    )
    turned = dt.best_threshold(scores[::-1], targets[::-1], "f1", weights[::-1], bootstrap=0, folds=0)
    assert turned == weighted
