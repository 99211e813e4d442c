"""`TimeLimit`: pauses in time, counts over restarts, and changes nothing of the bits."""

from datetime import timedelta

import pytest

import deeptrain as dt
from deeptrain.callbacks import time_limit
from tests.support import recipes


@pytest.fixture
def clock(monkeypatch):
    """Seconds as the callback sees them; a test moves them."""
    now = [100.0]
    monkeypatch.setattr(time_limit, "monotonic", lambda: now[0])
    return now


def make(clock, limit, runs=None, per="run", seconds=1.0):
    """A trainer whose every iteration takes a second."""

    def work(trainer):
        clock[0] += seconds

    callbacks = [{"train:iter": work}, dt.TimeLimit(limit, per=per)]
    return recipes.trainer(callbacks=callbacks, runs=runs, name=runs and "r")


@pytest.mark.parametrize(
    ("limit", "seconds"), [("01:30:05", 5405), ("100:00:00", 360000), (timedelta(minutes=2), 120), (2.5, 2.5)]
)
def test_limits_are_read(limit, seconds):
    assert dt.TimeLimit(limit).seconds == seconds


@pytest.mark.parametrize("limit", ["1:30", "01:99:00", "soon", 0, -1, float("nan"), None, True, "00:00:00"])
def test_what_is_no_limit_is_refused(limit):
    with pytest.raises((TypeError, ValueError), match=r"TimeLimit\("):
        dt.TimeLimit(limit)


def test_it_pauses_the_run_can_be_continued_and_ends_with_the_same_bits(clock):
    whole = make(clock, 1000)
    whole.fit()
    t = make(clock, 5)
    with pytest.raises(dt.Interrupted, match=r"trained for 00:00:05 over all starts, the limit is 00:00:05"):
        t.fit()
    assert t.progress.train.iterations == 5
    with pytest.raises(dt.Interrupted, match="TimeLimit"):
        t.fit()
    assert t.progress.train.iterations == 5
    t.handlers.by_name["TimeLimit"].seconds = 1000
    t.fit()
    assert recipes.summary(t) == recipes.summary(whole)


def test_it_counts_over_restarts(clock, tmp_path):
    t = make(clock, 8, tmp_path)
    t.step(3)
    clock[0] += 1000  # at rest
    t.step(2)
    t.close()
    t = make(clock, 8, tmp_path)
    assert t.handlers.by_name["TimeLimit"].used == 5
    with pytest.raises(dt.Interrupted, match="TimeLimit"):
        t.fit()
    assert t.progress.train.iterations == 8
    t.close()


def test_each_start_may_have_the_whole_of_it(clock, tmp_path):
    for end in (5, 10, 15):
        t = make(clock, 5, tmp_path, per="start")
        with pytest.raises(dt.Interrupted, match="in this process"):
            t.fit()
        assert t.progress.train.iterations == end
        t.close()


def test_time_that_was_used_is_not_given_back_by_going_back(clock, tmp_path):
    t = make(clock, 100, tmp_path)
    t.step(6)
    t.rewind(to=dt.At(iteration=2))
    assert t.handlers.by_name["TimeLimit"].used >= 6
    t.close()


def test_a_run_that_came_to_its_end_is_not_paused(clock):
    t = make(clock, 16)
    t.fit()
    assert t.progress.phase is dt.Phase.DONE


def test_it_looks_within_a_long_validation_too(clock):
    def work(trainer):
        clock[0] += 10

    t = recipes.trainer(callbacks=[{"val:batch": work}, dt.TimeLimit(15)])
    with pytest.raises(dt.Interrupted, match="TimeLimit"):
        t.fit()
    assert (t.progress.phase, t.progress.validation.batches) == (dt.Phase.VALIDATE, 2)
