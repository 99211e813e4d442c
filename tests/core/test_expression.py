"""Conditions: what they say, and that nothing but the grammar is ever taken for one."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeptrain.control.expression import DEEPEST, LONGEST, ExpressionError, parse

VALUES = {
    "train.loss": [2.5],
    "val.accuracy": [0.25],
    "a": [3.0],
    "model.*.grad": [0.1, 7.0, 0.2],
    "bad": [math.nan],
    "nothing": [],
}


def holds(text):
    return parse(text).holds(VALUES.__getitem__)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.loss > 2", True),
        ("train.loss>=2.5", True),
        ("train.loss < 2.5", False),
        ("train.loss == 2.5 and val.accuracy != .25", False),
        ("train.loss == 2.5 or val.accuracy != .25", True),
        ("not train.loss > 10", True),
        ("not (train.loss > 1 and a > 1)", False),
        ("1 + 2 * 3 == 7", True),
        ("(1 + 2) * 3 == 9", True),
        ("8 / 2 / 2 == 2", True),
        ("1 - 2 - 3 == -4", True),
        ("-a < -2.9", True),
        ("train.loss * 2 > a + 1.9e0", True),
        ("1 / 0 > 1e300", True),
        ("model.*.grad > 5", True),
        ("model.*.grad > 8", False),
        ("abs(-3) == a", True),
        ("isnan(bad)", True),
        ("bad > 0 or bad < 0 or bad == bad", False),
        ("bad != bad", True),
        ("not isfinite(train.loss)", False),
        ("train.loss < inf", True),
        ("nothing > 0", False),
        ("not nothing > 0", True),
        ("a or bad", True),
        ("0 or not 1", False),
        ("1 or 0 and 0", True),
    ],
)
def test_what_conditions_say(text, expected):
    assert holds(text) is expected


def test_the_names_in_a_condition():
    condition = parse(
        r" train.loss > 10 and (model.*.grad > 1 or train.loss < a\.b) ".replace(r"a\.b", r"x.a\.b")
    )
    assert condition.names == ("train.loss", "model.*.grad", r"x.a\.b")
    assert str(condition) == r"train.loss > 10 and (model.*.grad > 1 or train.loss < x.a\.b)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found its end at character 1"),
        ("train.loss >", "found its end at character 13, expected a number"),
        ("> 3", "found '> 3' at character 1"),
        ("a > 3 b", "found 'b' at character 7, expected an operator"),
        ("a > 1 > 2", "expected an operator"),
        ("(a > 1", "expected a closing bracket"),
        ("a > 1)", "expected an operator"),
        ("a = 1", "at character 3"),
        ("__import__('os')", "at character 12"),
        ("a and", "expected a number"),
        ("abs", None),
        ("a[0]", "at character 2"),
        ("a; b", "at character 2"),
        ("lambda: 1", "at character 7"),
        ("(" * (DEEPEST + 1) + "1" + ")" * (DEEPEST + 1), "more than"),
        ("not " * 200 + "1", "more than"),
        ("1" * (LONGEST + 1), "characters"),
    ],
)
def test_what_is_no_condition(text, message):
    if message is None:
        assert parse(text).names == (text,)  # a name like any other where no bracket follows
        return
    with pytest.raises(ExpressionError) as error:
        parse(text)
    assert message in str(error.value)


def test_only_text_is_read():
    with pytest.raises(TypeError, match="expected a condition as text"):
        parse(3)


@given(st.text(max_size=60) | st.text("ab.*()<>=!+-/ 019eandortn\\", max_size=60))
def test_any_text_is_a_condition_or_a_clear_error(text):
    try:
        condition = parse(text)
    except ExpressionError:
        return
    assert condition.holds(lambda _: [1.0, math.nan]) in {True, False}
