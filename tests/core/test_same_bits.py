"""Interrupted after every transition, saved, continued in a new process: always the same final bits."""

import warnings

import pytest

import deeptrain as dt
from tests.support import fresh, recipes


def finish(runs, **recipe):
    """Continue, or start, and train to the end: digest, history, order of samples."""
    t = recipes.trainer(runs=runs, name="r", **recipe)
    t.fit()
    t.close()
    return recipes.summary(t)


def go(runs, safe_points, **recipe):
    """Continue for so many safe points, save, and end the process."""
    t = recipes.trainer(runs=runs, name="r", **recipe)
    done = recipes.advance(t, safe_points)
    t.run.save(t)
    t.close()
    return done


def stopped_twice(runs, first, second, **recipe):
    """The final state of a run that was stopped twice."""
    if not fresh.run(go, runs, first, **recipe):
        fresh.run(go, runs, second, **recipe)
    return fresh.run(finish, runs, **recipe)


RECIPES = {
    "onecycle": {"scheduler": "onecycle"},
    "multistep": {"scheduler": "multistep", "shuffle": "samples"},
    "plateau": {"scheduler": "plateau"},
    "epochs": {"scheduler": "epochs", "shuffle": "sets"},
    "torch_loader": {"scheduler": "onecycle", "feed": "torch"},
    "dataset": {"scheduler": "onecycle", "feed": "dataset"},
    "dataset_workers": {"scheduler": "onecycle", "feed": "dataset", "workers": 2},
    "stateful": {"scheduler": "multistep", "feed": "stateful"},
    "iterable": {"scheduler": "plateau", "feed": "iterable"},
    "windows": {"scheduler": "onecycle", "preprocess": "windows"},
    "dropped": {"scheduler": "epochs", "preprocess": "dropped"},
    "repeat": {"scheduler": "onecycle", "preprocess": "repeat"},
    "until": {"scheduler": "multistep", "preprocess": "until"},
    "steered": {"scheduler": "multistep", "steered": True},
    "scheduled": {"scheduler": "multistep", "scheduled": True},
    "shipped": {"scheduler": "multistep", "stops": False},
    "shipped_accumulated": {"scheduler": "multistep", "stops": False, "learning": {"accumulate": 3}},
    "stopping": {"scheduler": "plateau", "stops": True, "every": 3},
    "workers": {"scheduler": "onecycle", "feed": "torch", "workers": 2},
}


def all_safe_points(recipe, runs=None):
    t = recipes.trainer(**recipe, runs=runs)
    count = 0
    while not recipes.advance(t, 1):
        count += 1
    return count + 1, recipes.summary(t)


# Every safe point of the first recipe, in pieces for the workers; some of each other one.
CASES = [("onecycle", start, 4) for start in range(4)]
CASES += [(name, 0, 6) for name in ("multistep", "plateau", "epochs", "torch_loader")]
CASES += [("dataset", 0, 9), ("stateful", 0, 6), ("iterable", 0, 9), ("dataset_workers", 20, 40)]
CASES += [("steered", 0, 6), ("scheduled", 0, 2), ("scheduled", 1, 2)]
CASES += [("shipped", 0, 17), ("shipped_accumulated", 6, 17), ("stopping", 0, 14)]
CASES += [("windows", 0, 3), ("dropped", 0, 4), ("repeat", 0, 6), ("until", 0, 6), ("workers", 20, 40)]


@pytest.mark.parametrize(("name", "start", "stride"), CASES)
def test_stopped_anywhere_gives_the_same_bits(name, start, stride, tmp_path):
    recipe = RECIPES[name]
    count, expected = fresh.run(all_safe_points, recipe)
    assert count > 60
    if "workers" in name:
        alone = RECIPES["torch_loader" if name == "workers" else "dataset"]
        assert expected == fresh.run(all_safe_points, alone)[1]
    assert fresh.run(finish, tmp_path / "untouched", **recipe) == expected
    for k in range(start, count, stride):
        assert stopped_twice(tmp_path / str(k), k, 1 + k % 5, **recipe) == expected, (
            f"stopped after {k} transitions"
        )


REWOUND = {
    "scheduler": "multistep",
    "rewound": True,
    "checkpoints": dt.Checkpoints(every=dt.Every(batches=5), keep=9),
}


def test_stopped_anywhere_in_a_run_that_goes_back(tmp_path):
    count, expected = fresh.run(all_safe_points, REWOUND, tmp_path / "all")
    assert count > 60
    for k in range(0, count, 6):
        found = stopped_twice(tmp_path / str(k), k, 1 + k % 5, **REWOUND)
        assert found == expected, f"stopped after {k} transitions"


class PauseInside(dt.Callback):
    """Asks for a pause from inside a handler, before the other callbacks are told."""

    def __init__(self, event, iteration):
        self._event, self._iteration = event, iteration

    def _ask(self, trainer, event):
        if (event.name, event.iteration) == (self._event, self._iteration):
            trainer.pause()

    on_train_iter_end = on_train_epoch_end = on_val_batch_end = on_val_end = _ask


def pause_inside(runs, event, iteration):
    t = recipes.trainer(runs=runs, name="r", callbacks=[PauseInside(event, iteration), *recipes.callbacks()])
    try:
        t.fit()
    except dt.Interrupted:
        t.run.save(t)
        t.close()
        return recipes.summary(t)
    t.close()
    return recipes.summary(t)


@pytest.mark.parametrize(
    ("event", "iteration"),
    [("train_iter_end", 3), ("train_epoch_end", 8), ("val_batch_end", 7), ("val_end", 14)],
)
def test_paused_from_inside_a_handler(event, iteration, tmp_path):
    expected = fresh.run(pause_inside, tmp_path / "untouched", "never", 0)
    assert fresh.run(pause_inside, tmp_path / "paused", event, iteration) != expected
    assert fresh.run(pause_inside, tmp_path / "paused", "never", 0) == expected


EDITED = {"scheduler": "multistep", "shuffle": "samples"}


def test_edits_of_the_order_while_batches_are_read_ahead(tmp_path):
    """Stopped anywhere, a run whose callback edits the order goes on as one that was not stopped."""
    recipe = EDITED | {"files": recipes.write_files(tmp_path / "data"), "edits": tmp_path / "mark"}
    count, expected = fresh.run(all_safe_points, recipe)
    for k in range(0, count, 7):
        assert stopped_twice(tmp_path / str(k), k, 1 + k % 5, **recipe) == expected, (
            f"stopped after {k} transitions"
        )


@pytest.mark.parametrize("after", sorted(recipes.EDITS))
def test_killed_right_after_an_edit(tmp_path, after):
    recipe = EDITED | {"files": recipes.write_files(tmp_path / "data"), "edits": tmp_path / "mark"}
    expected = fresh.run(finish, tmp_path / "untouched", **recipe)
    (tmp_path / f"mark.{after}").touch()
    with pytest.raises(EOFError):
        fresh.run(finish, tmp_path / "killed", **recipe)
    assert fresh.run(finish, tmp_path / "killed", **recipe) == expected


class MovesBack(dt.Callback):
    """Moves the cursor back in one of its handlers, and edits the order there, so that the batch just fed is no more."""

    def __init__(self, edit):
        self.edit = edit

    def on_train_batch_end(self, trainer, event):
        if event.iteration == 6:
            trainer.train.seek(epoch=0, batch=1)
            self.edit(trainer.train)


MOVED_BACK = {
    "fewer batches": lambda train: train.set_batch_size(30),
    "other batches": lambda train: train.exclude(rows=range(10, 30)),
    "twice": lambda train: (train.set_batch_size(9), train.seek(epoch=0), train.skip(batches=1)),
}


def moved_back(runs, edit, safe_points):
    """Go so many safe points further, or to the end, with callbacks that are told after one that moves back."""
    callbacks = [MovesBack(MOVED_BACK[edit]), *recipes.callbacks()]
    t = recipes.trainer("multistep", runs=runs, name="r", callbacks=callbacks)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the edits that were made behind batch")
        if safe_points is None:
            t.fit()
        elif not recipes.advance(t, safe_points):
            t.run.save(t)
    t.close()
    return recipes.summary(t)


@pytest.mark.parametrize("edit", MOVED_BACK)
def test_handlers_are_told_of_the_batch_that_was_fed_whatever_became_of_its_place(edit, tmp_path):
    expected = fresh.run(moved_back, tmp_path / "untouched", edit, None)
    for stop in range(20, 31):
        fresh.run(moved_back, tmp_path / str(stop), edit, stop)
        assert fresh.run(moved_back, tmp_path / str(stop), edit, None) == expected, f"stopped after {stop}"
