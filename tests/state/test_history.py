"""Figures with their iterations, those on a device fetched late."""

import math

import numpy as np
import pytest
import torch

from deeptrain.state.history import LATE, History, same_series


def test_series_with_their_iterations():
    history = History()
    for i in range(1, 5):
        history.add(i, {"loss": i / 2}, "train.")
    history.add(4, {"val.loss": float("nan")})
    assert history["train.loss"].iterations.tolist() == [1, 2, 3, 4]
    assert history["train.loss"].values.tolist() == [0.5, 1, 1.5, 2]
    assert math.isnan(history.last("val.loss"))
    assert history.last("none") is None
    assert history.mean_since("train.loss", 2) == 1.75
    assert math.isnan(history.mean_since("train.loss", 4))
    assert (sorted(history), len(history), "train.loss" in history) == (["train.loss", "val.loss"], 2, True)
    with pytest.raises(KeyError, match=r"train\.loss"):
        history["loss"]


def test_what_waits_on_a_device_is_settled_when_read_and_after_so_many():
    device = "cuda" if torch.cuda.is_available() else "meta"
    if device == "meta":

        class Waiting(torch.Tensor):
            """A tensor that says that it is elsewhere."""

            device = torch.device("meta")

        def late(value):
            return torch.tensor(value).as_subclass(Waiting)
    else:

        def late(value):
            return torch.tensor(value, device=device)

    history = History()
    for i in range(LATE - 1):
        history.add(i, {"loss": late(float(i))})
    assert len(history._waiting) == LATE - 1
    history.add(LATE, {"loss": late(1.5)})
    assert not history._waiting
    history.add(LATE + 1, {"loss": late(2.5)})
    assert history["loss"].values.tolist() == [*range(LATE - 1), 1.5, 2.5]


def test_state_and_back():
    history = History()
    history.add(1, {"a": 0.25, "b": math.inf})
    other = History()
    other.load_state_dict(history.state_dict())
    other.add(2, {"a": 0.5})
    np.testing.assert_array_equal(other["a"].values, [0.25, 0.5])
    with pytest.raises(ValueError, match="version 9"):
        other.load_state_dict({"version": 9})


@pytest.mark.parametrize("device", ["cpu", "late"])
def test_reading_changes_nothing_so_it_may_be_aborted_anywhere(device):
    """A handler that reads the history can be aborted in the middle of it, and is called again."""
    history = History()
    for at in range(1, 9):
        value = at / 2 if device == "cpu" else torch.tensor(at / 2)
        history.add(at, {"loss": value}, "train.")
    before = list(history._waiting), dict(history._series)
    history["train.loss"], history.last("train.loss"), history.mean_since("train.loss", 3), repr(history)
    history.state_dict(), list(history), len(history)
    assert (history._waiting, history._series) == before
    for at in range(9, 3 * LATE):
        history.add(at, {"loss": at / 2}, "train.")
    assert history["train.loss"].values.tolist() == [at / 2 for at in range(1, 3 * LATE)]
    assert history.mean_since("train.loss", LATE) == sum(range(LATE + 1, 3 * LATE)) / 2 / (2 * LATE - 1)


def test_what_is_new_since_some_counts():
    history = History()
    for at in range(1, 2 * LATE + 20):
        history.add(at, {"loss": at / 2}, "train.")
        if at % 40 == 0:
            history.add(at, {"loss": -at}, "val.")
    whole = history.state_dict()["series"]
    for count in (0, 3, LATE, 2 * LATE - 1, 2 * LATE + 10, 2 * LATE + 19):
        new = history.since({"train.loss": count, "val.loss": 1})
        assert list(new) == list(history) == ["train.loss", "val.loss"]
        assert new["train.loss"].iterations.tolist() == list(range(count + 1, 2 * LATE + 20))
        np.testing.assert_array_equal(new["train.loss"].values, whole["train.loss"]["values"][count:])
        assert new["val.loss"].values.tolist() == [-80]


def test_the_columns_are_the_same_until_a_state_is_loaded_and_then_whole():
    history = History()
    columns = history.columns
    for at in range(1, LATE + 9):
        history.add(at, {"loss": at / 2})
    assert history.columns is columns
    history.load_state_dict({"version": 1, "series": {}})
    assert history.columns is not columns
    assert columns["loss"][0].tolist() == list(range(1, LATE + 9))
    assert len(history) == 0


def test_the_same_series_are_told_from_others_by_every_bit():
    def state(values, name="a", dtype=np.float64):
        series = {"iterations": np.arange(len(values)), "values": np.array(values, dtype)}
        return {"version": 1, "series": {name: series}}

    nan = float("nan")
    assert same_series(state([nan, 1.0]), state([nan, 1.0]))
    others = [
        state([nan]),
        state([nan, 1.0], "b"),
        state([nan, np.nextafter(1.0, 2)]),
        state([-nan, 1.0]),
        state([nan, 1], dtype=np.float32),
    ]
    assert not any(same_series(state([nan, 1.0]), other) for other in others)
    assert not same_series(state([0.0]), state([-0.0]))
