"""`trainer.record`: figures come into the history when a handler has returned, each once."""

import contextlib
import os
import signal

import pytest
import torch

import deeptrain as dt
from tests.core.test_history_on_disk import damage, segments
from tests.support import fresh, recipes


def test_they_are_there_once_also_where_the_handler_is_called_again():
    fails = [True]

    def record(trainer, event):
        trainer.record({"norm": trainer.learner.model.head.weight.norm().detach(), "one": 1})
        if fails:
            fails.pop()
            raise RuntimeError("planted")

    t = recipes.trainer(callbacks=[{("train:iter", dt.Every(iterations=2)): record}])
    with pytest.raises(RuntimeError, match="planted"):
        t.fit()
    assert "norm" not in t.history
    t.fit(until=dt.At(iteration=5))
    assert t.history["one"].iterations.tolist() == [2, 4]
    assert t.history["norm"].values[1] == t.history["norm"].values[1]


def test_a_scheduled_function_records_too():
    t = recipes.trainer(callbacks=[])
    t.at(dt.At(iteration=3), lambda trainer: trainer.record({"x": 2.5}))
    t.fit(until=dt.At(iteration=4))
    assert (t.history["x"].iterations.tolist(), t.history["x"].values.tolist()) == ([3], [2.5])


def test_outside_of_a_handler_it_is_refused():
    t = recipes.trainer()
    with pytest.raises(RuntimeError, match="outside of a handler"):
        t.record({"x": 1.0})


@pytest.mark.parametrize(
    ("figures", "error", "says"),
    [
        ({"train.loss": 1.0}, ValueError, "none of the trainer's own"),
        ({3: 1.0}, ValueError, "expected a name"),
        ({"x": "high"}, TypeError, "expected a number"),
        ({"x": torch.zeros(2)}, ValueError, r"shape \[2\], expected one element"),
    ],
)
def test_what_is_no_figure_is_refused(figures, error, says):
    t = recipes.trainer(callbacks=[{"train:iter": lambda trainer: trainer.record(figures)}])
    with pytest.raises(error, match=says):
        t.fit()


def train(runs, iterations, kill):
    t = recipes.trainer(
        stops=False, runs=runs, name="r", checkpoints=dt.Checkpoints(every=dt.Every(batches=3))
    )
    if iterations:
        t.step(iterations)
    else:
        t.fit()
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    t.close()
    return recipes.summary(t)


def test_a_damaged_history_is_rebuilt_with_them_from_the_journal(tmp_path):
    """Also where a process was killed behind a checkpoint, so that they stand in the journal twice."""
    with contextlib.suppress(EOFError):
        fresh.run(train, tmp_path, 8, kill=True)
    _, expected = fresh.run(train, tmp_path, 0, kill=False)
    run = tmp_path / "M1__r"
    for segment in segments(run):
        damage(segment)
    with pytest.warns(UserWarning, match="rebuilt from the journal, every bit the same"):
        history = dt.open_run(run).history
    assert {name: [v.tolist() for v in history[name]] for name in history} == expected
    assert {"lr", "drawn.val_end"} <= set(expected)


def test_going_back_takes_them_back(tmp_path):
    t = recipes.trainer(stops=False, runs=tmp_path, name="r")
    t.step(9)
    expected = t.history["lr"]
    t.rewind(to=dt.At(iteration=4))
    assert t.history["lr"].iterations.tolist() == [0, 2, 4]
    t.step(5)
    assert t.history["lr"].values.tolist() == expected.values.tolist()
    t.close()
