"""The edits themselves: what they refuse, and that plain values bring them back."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.data.edits import BatchSize, Exclude, Repeat, Skip, from_plain

NUMBERS = st.lists(st.integers(0, 2**40), min_size=1, max_size=5)
EDITS = st.one_of(
    st.builds(Skip, rows=NUMBERS),
    st.builds(Skip, sets=NUMBERS, rows=NUMBERS),
    st.builds(Skip, batches=st.integers(1, 9)),
    st.builds(Exclude, sets=NUMBERS),
    st.builds(Repeat, rows=NUMBERS),
    st.builds(Repeat, batches=st.integers(1, 9)),
    st.builds(BatchSize, st.integers(1, 9)),
)


@settings(max_examples=100, deadline=None)
@given(edit=EDITS)
def test_plain_values_bring_an_edit_back(edit):
    plain = edit.as_plain()
    assert from_plain(json.loads(json.dumps(plain))) == edit
    assert from_plain({key: np.array(v) if isinstance(v, list) else v for key, v in plain.items()}) == edit


def test_kinds_are_not_equal():
    assert Skip(rows=[1]) != Exclude(rows=[1])
    assert Skip(rows=[1]) != Repeat(rows=[1])
    assert hash(Skip(rows=[1])) == hash(Skip(rows=np.array([1])))


def test_an_edit_is_constant():
    with pytest.raises(AttributeError):
        BatchSize(3).n = 4
    rows = [1, 2]
    edit = Skip(rows=rows)
    rows.append(3)
    assert edit.rows == (1, 2)


def test_numbers_of_numpy_become_plain():
    for rows in (np.array([3, 4], np.uint8), [np.int64(3), np.int32(4)], range(3, 5)):
        assert Skip(rows=rows).as_plain() == {"kind": "skip", "rows": [3, 4]}
        assert all(type(row) is int for row in Skip(rows=rows).rows)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (Skip, ValueError, "Skip: found nothing in it, expected sets, rows or batches"),
        (Exclude, ValueError, "Exclude: found nothing in it, expected sets or rows"),
        (lambda: Repeat(rows=[]), ValueError, "Repeat: found nothing"),
        (lambda: Exclude(rows=np.arange(0)), ValueError, "Exclude: found nothing"),
        (lambda: Skip(rows=[1], batches=2), ValueError, "Skip: found batches together with sets or rows"),
        (
            lambda: Skip(batches=0),
            ValueError,
            r"Skip\(batches=\): found 0, expected a whole number of at least 1",
        ),
        (lambda: Repeat(batches=1.5), TypeError, r"Repeat\(batches=\): found 1\.5"),
        (
            lambda: Skip(rows=[-1]),
            ValueError,
            r"Skip\(rows=\): found -1, expected a whole number of at least 0",
        ),
        (lambda: Skip(rows=np.array([3, -1])), ValueError, r"Skip\(rows=\): found .*-1"),
        (lambda: Skip(rows=np.array([1.0])), TypeError, r"Skip\(rows=\): found .*1\.0.*whole number"),
        (lambda: Skip(rows=np.array([[1]])), TypeError, "whole number"),
        (lambda: Skip(rows=5), TypeError, r"Skip\(rows=\): found 5, expected a list of whole numbers"),
        (lambda: Exclude(sets="12"), TypeError, r"Exclude\(sets=\): found '12', expected a list"),
        (lambda: Exclude(sets=[True]), ValueError, "found True"),
        (lambda: BatchSize(0), ValueError, r"BatchSize\(n\): found 0"),
        (lambda: BatchSize("8"), TypeError, r"BatchSize\(n\): found '8'"),
        (
            lambda: from_plain({"kind": "skp"}),
            ValueError,
            "found kind 'skp', expected one of 'skip', 'exclude'",
        ),
        (lambda: from_plain({"rows": [1]}), ValueError, "found kind None"),
        (lambda: from_plain({"kind": ["skip"]}), ValueError, "found kind"),
        (
            lambda: from_plain({"kind": "exclude", "batches": 2}),
            ValueError,
            r"'exclude': found \['batches'\]",
        ),
        (lambda: from_plain({"kind": "batch_size"}), ValueError, "found no 'n' in it"),
    ],
)
def test_what_is_wrong_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
