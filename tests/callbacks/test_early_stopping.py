"""`EarlyStopping`: what counts as better, when a run ends, and that it says why."""

import io
from math import inf, nan

import pytest

import deeptrain as dt
from deeptrain.control.journal import read_journal
from tests.support import recipes


def figures(values):
    """A metric that gives these values, one each pass."""
    given = iter(values)
    return lambda predictions, targets: next(given)


def run(values, *, runs=None, verbosity=0, key_metric="loss", validation_mode=None, epochs=9, **settings):
    """Train a step for epochs, with a validation that gives these values after each."""
    import torch
    from torch import nn

    model = nn.Linear(2, 1)
    step = dt.SupervisedStep(
        model, loss=nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu"
    )
    train, val = (
        dt.BatchLoader(dt.Arrays(torch.rand(8, 2), torch.rand(8, 1)), batch_size=8) for _ in range(2)
    )
    stopping = dt.EarlyStopping(**({"monitor": "score"} | settings))
    t = dt.Trainer(
        step, train, epochs=epochs, runs=runs, verbosity=verbosity, callbacks=[stopping], name=runs and "r",
        validation=dt.Validation(val, metrics={"score": figures(values)}, key_metric=key_metric, mode=validation_mode),
    )  # fmt: skip
    t.fit()
    return t, stopping


@pytest.mark.parametrize(
    ("settings", "values", "epochs", "best"),
    [
        ({"mode": "min", "patience": 2}, [3, 2, 2.5, 1, 1, 1], 6, 1),
        ({"mode": "max", "patience": 1}, [0, 1, 2, 2], 4, 2),
        ({"mode": "max", "patience": 2}, [0, -1, -2], 3, 0),  # 0 is a value like any other
        (
            {"mode": "max", "patience": 2},
            [-5, -6, -7],
            3,
            -5,
        ),  # and the first one is the best, whatever it is
        ({"mode": "min", "patience": 2}, [inf, 5, nan, nan], 4, 5),
        ({"mode": "max", "patience": 2}, [nan, 1, nan, nan], 4, 1),
        ({"mode": "min", "patience": 3}, [nan, nan, nan], 3, None),
        ({"mode": "min", "patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.3, 2.2], 5, 2.4),
        ({"mode": "max", "patience": 2, "baseline": 10}, [1, 2], 2, 2),
        ({"mode": "max", "patience": 2, "baseline": 10}, [1, 11, 10, 10.5], 4, 11),
    ],
)
def test_when_a_run_ends(settings, values, epochs, best):
    t, stopping = run(values, **settings)
    assert (t.progress.train.epochs, stopping.best, stopping.stopped_at) == (epochs, best, epochs)
    assert t.progress.phase is dt.Phase.DONE


def test_a_run_that_gets_better_comes_to_its_end():
    t, stopping = run([5, 4, 3, 2], mode="min", patience=1, epochs=4)
    assert (t.progress.train.epochs, stopping.stopped_at) == (4, None)


def test_it_says_why_where_the_run_prints_and_in_the_journal(tmp_path):
    out = io.StringIO()
    t, _ = run([3, 3, 3], mode="min", patience=2, runs=tmp_path, verbosity=dt.Display(1, stream=out))
    reason = "EarlyStopping: 2 validations brought no better score (best: 3 at iteration 1)"
    assert reason in out.getvalue()
    entries = list(read_journal(t.run.path / "journal.jsonl"))
    assert [e["value"] for e in entries if e["kind"] == "intervention" and e["verb"] == "stop"] == [reason]
    t.close()


def test_a_run_that_is_continued_is_given_its_whole_patience():
    recipe = {"scheduler": "plateau", "stops": True, "every": 3}
    t = recipes.trainer(**recipe)
    t.fit()
    assert t.progress.train.iterations == 9
    more = recipes.trainer(**recipe, epochs=4)
    more.load_state_dict(t.state_dict())
    more.fit()
    assert more.get("callbacks.EarlyStopping.stopped_at") == 15


def test_the_mode_is_that_of_the_key_metric_where_it_is_known():
    _, stopping = run([1, 0, 0], patience=2, key_metric="score", validation_mode="max")
    assert stopping.best == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"patience": 2}, "which values are better is not known"),
        (
            {"patience": 2, "monitor": "scor", "mode": "max"},
            r"none of the validation's figures \['loss', 'score'\]",
        ),
        ({"patience": 0}, "from 1 up"),
        ({"patience": 2, "mode": "best"}, 'expected "min" or "max"'),
        ({"patience": 2, "min_delta": -1}, "expected 0 or more"),
        ({"patience": 2, "min_delta": nan}, "expected 0 or more"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_trained(settings, says):
    with pytest.raises(ValueError, match=says):
        run([], **settings)


def test_without_a_validation_it_is_refused():
    t = recipes.trainer(validate=False, callbacks=[dt.EarlyStopping(patience=1)])
    with pytest.raises(ValueError, match="has no validation"):
        t.fit()
    assert t.progress.train.iterations == 0
