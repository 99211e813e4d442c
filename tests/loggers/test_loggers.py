"""Loggers are sinks: each thing comes once, also where the process is killed and the run goes on, and one that fails harms nothing."""

import contextlib
import copy
import csv
import json
import random
import shutil

import numpy as np
import pytest
import torch

import deeptrain as dt
from deeptrain.control import journal
from deeptrain.loggers import feeding
from deeptrain.loggers.base import Row
from deeptrain.loggers.sources import rows_of
from deeptrain.state.history import Series
from tests.core.test_steering import DECAY, Dies, again_and_again
from tests.support import fresh, recipes

EVERY = dt.Checkpoints(every=dt.Every(batches=5), keep=9)
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 8 + b"\0\0\0\2\0\0\0\3" + b"rest"


class Store(dt.Logger):
    """Something outside: what was told is in a file there, a line for each thing. As W&B, it does not tell what it has."""

    def __init__(self, path):
        self.path, self.place = path, None

    def _add(self, *thing):
        with self.path.open("a") as file:
            file.write(json.dumps([self.place.own["id"], *thing]) + "\n")

    def open(self, place):
        is_new = place.goes_back or "id" not in place.own
        if is_new:
            place.own["id"] = place.own.get("id", -1) + 1
        self.place = place
        return {} if is_new else None

    def metrics(self, rows):
        for row in rows:
            self._add("row", *row)

    def picture(self, picture):
        self._add("picture", picture.name, picture.at)

    def interventions(self, entries):
        self._add("interventions", len(entries))

    def told(self, branch=0, kind="row"):
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        return [line[2:] for line in lines if line[:2] == [branch, kind]]


class Counting(Store):
    """One that can be asked what it has, as MLflow."""

    def open(self, place):
        super().open(place)
        counts = {}
        for _, figures in self.told(place.own["id"]) if self.path.exists() else ():
            for name in figures:
                counts[name] = counts.get(name, 0) + 1
        return counts


class Draws(dt.Callback):
    """Makes a picture in its handlers."""

    def on_train_batch_end(self, trainer, event):
        if event.iteration in {4, 9, 13}:
            trainer.log_picture("norms", PNG + str(event.iteration).encode())


def make(runs=None, loggers=(), callbacks=(), **more):
    made = [*recipes.callbacks(), *callbacks]
    more = {"checkpoints": EVERY, "name": None if runs is None else "r"} | more
    return recipes.trainer(
        "multistep", runs=runs, loggers=loggers, callbacks=made, config={"lr": 0.01, "sizes": [6, 6]}, **more
    )


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def history_rows(trainer, prefix):
    """What a file of figures should hold."""
    series = {name: trainer.history[name] for name in trainer.history if name.startswith(prefix)}
    names = list(series)
    found = rows_of(series)
    head = ["iteration", *(name.partition(".")[2] for name in names)]
    return [head, *([str(at), *(repr(figures[name]) for name in names)] for at, figures in found)]


def flat(store_rows):
    """Figures of a store by name, as [iteration, value]."""
    found = {}
    for at, figures in store_rows:
        for name, value in figures.items():
            found.setdefault(name, []).append([at, value])
    return found


def history(trainer):
    return {
        name: [list(pair) for pair in zip(*(x.tolist() for x in trainer.history[name]), strict=True)]
        for name in trainer.history
    }


# ------------------------------------------------------------------ what comes


def test_csv_files_hold_the_history_bit_for_bit(tmp_path):
    t = make(tmp_path, [dt.CSVLogger()])
    t.fit()
    t.close()
    folder = t.run.path / "csv"
    assert rows(folder / "train.csv") == history_rows(t, "train.")
    assert rows(folder / "val.csv") == history_rows(t, "val.")
    assert len(rows(folder / "train.csv")) == 17
    values = dict(rows(folder / "hyperparameters.csv")[1:])
    assert values["lr"] == "0.01"
    assert values["sizes"] == "[6, 6]"
    assert values["epochs"] == "2"
    assert values["data.train.batch_size"] == "8"
    assert values["step.optimizer.param_groups.0.weight_decay"] == "0.01"
    assert not any(name.startswith("step.model") for name in values)


def test_a_figure_that_comes_later_widens_the_file(tmp_path):
    logger = dt.CSVLogger(tmp_path)
    logger.open(feeding.Place())
    logger.metrics([Row(1, {"train.loss": 0.5}), Row(2, {"train.loss": float("nan"), "train.a.b": 2.0})])
    logger.metrics([Row(3, {"train.acc": 1.0, "plain": 7.0})])
    assert rows(tmp_path / "train.csv") == [
        ["iteration", "loss", "a.b", "acc"], ["1", "0.5", "", ""], ["2", "nan", "2.0", ""], ["3", "", "", "1.0"]
    ]  # fmt: skip
    assert rows(tmp_path / "figures.csv") == [["iteration", "plain"], ["3", "7.0"]]


def test_two_values_of_one_iteration_are_two_rows():
    twice = Series(np.array([1, 2, 2]), np.array([0.1, 0.2, 0.3]))
    once = Series(np.array([2]), np.array([9.0]))
    assert rows_of({"a": twice, "b": once}) == [
        Row(1, {"a": 0.1}),
        Row(2, {"a": 0.2, "b": 9.0}),
        Row(2, {"a": 0.3}),
    ]


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_everything_is_told_once_in_a_run_without_a_directory(tmp_path, monkeypatch, every):
    monkeypatch.setattr(feeding, "SECONDS", every)
    store = Store(tmp_path / "store")
    t = make(loggers=[store, dt.CSVLogger(tmp_path / "csv")], callbacks=[Draws()])
    for batch in (3, 7, 8):
        t.fit(until=dt.At(batch=batch))
        assert flat(store.told()) == history(t)
    t.fit()
    t.close()
    assert flat(store.told()) == history(t)
    assert [picture[1] for picture in store.told(kind="picture")] == [4, 9, 13]
    assert rows(tmp_path / "csv" / "train.csv") == history_rows(t, "train.")
    assert (tmp_path / "csv" / "00000009-norms.png").read_bytes() == PNG + b"9"


def test_going_back_without_a_directory(tmp_path):
    store = Store(tmp_path / "store")
    t = make(loggers=[dt.CSVLogger(tmp_path / "csv"), store])
    t.fit(until=dt.At(batch=4))
    kept = copy.deepcopy(t.state_dict())
    t.fit(until=dt.At(batch=9))
    t.load_state_dict(kept)
    t.fit(until=dt.At(batch=6))
    t.close()
    assert rows(tmp_path / "csv" / "train.csv") == history_rows(t, "train.")
    assert len(rows(tmp_path / "csv" / "train.csv")) == 7


# ------------------------------------------------------------------ kills


def script(runs, mark=None, iteration=None, every=1e9):
    """A run that is steered and draws, with three kinds of sinks; dies where it is told to."""
    feeding.SECONDS = every
    place = runs.parent
    sinks = [dt.CSVLogger(), Store(place / f"{runs.name}.store"), Counting(place / f"{runs.name}.counts")]
    t = make(runs, sinks, [Draws(), recipes.Steerer(), Dies(mark, iteration)])
    t.fit(until=dt.At(batch=6))
    t.set(DECAY, 0.5)
    t.fit()
    t.close()
    files = {path.name: path.read_text() for path in (t.run.path / "csv").iterdir()}
    pictures = {path.name: path.read_bytes() for path in (t.run.path / "pictures").iterdir()}
    told = [[flat(sink.told()), sink.told(kind="picture")] for sink in sinks[1:]]
    last = [sink.told(kind="interventions")[-1] for sink in sinks[1:]]
    return dt.digest(t.state_dict()), history(t), files, pictures, told, last


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_nothing_comes_twice_and_nothing_is_missing_wherever_the_process_is_killed(tmp_path, every):
    expected = fresh.run(script, tmp_path / "untouched", None, None, every)
    figures = expected[1]
    for told, pictures in expected[4]:
        assert told == figures
        assert pictures == [["norms", 4], ["norms", 9], ["norms", 13]]
    assert len(expected[2]["interventions.csv"].splitlines()) == 7
    for iteration in range(1, 17, 1 if every else 3):
        found = again_and_again(
            script, tmp_path / str(iteration), tmp_path / f"{iteration}.died", iteration, every
        )
        assert found == expected, iteration


def test_the_state_and_the_bits_are_the_same_with_and_without_loggers(tmp_path):
    class Random(dt.Logger):
        def metrics(self, rows):
            torch.rand(3), np.random.rand(3), random.random()

    plain = make()
    plain.fit()
    t = make(tmp_path, [Random()])
    t.fit(until=dt.At(batch=3))
    t.close()
    t = make(tmp_path, [dt.CSVLogger(), Random(), Random()])  # not refused
    t.fit(until=dt.At(batch=9))
    t.close()
    assert rows(t.run.path / "csv" / "train.csv") == history_rows(t, "train.")
    t = make(tmp_path)
    t.fit()
    t.close()
    assert recipes.summary(t) == recipes.summary(plain)


def test_what_is_noted_is_removed_and_all_comes_again(tmp_path):
    store = Store(tmp_path / "store")
    t = make(tmp_path / "runs", [store])
    t.fit(until=dt.At(batch=6))
    t.close()
    shutil.rmtree(t.run.path / "loggers")
    t = make(tmp_path / "runs", [Store(tmp_path / "other")])
    t.fit()
    t.close()
    assert flat(Store(tmp_path / "other").told()) == history(t)


# ------------------------------------------------------------------ going back


def test_a_rewind_leaves_files_of_the_present_line_and_begins_anew_elsewhere(tmp_path):
    store = Store(tmp_path / "store")
    t = make(tmp_path / "runs", [dt.CSVLogger(), store], [Draws()])
    t.fit(until=dt.At(batch=9))
    old = history(t)
    t.rewind(batches=4)
    t.set(DECAY, 0.5)
    t.fit(until=dt.At(batch=12))
    t.close()
    t = make(tmp_path / "runs", [dt.CSVLogger(), store], [Draws()])
    t.rewind(batches=4)  # made before
    t.set(DECAY, 0.5)
    t.fit()
    t.close()
    assert flat(store.told(0)) == old
    assert flat(store.told(1)) == history(t)
    assert store.told(1, "picture") == [["norms", 4], ["norms", 9], ["norms", 13]]
    folder = t.run.path / "csv"
    assert rows(folder / "train.csv") == history_rows(t, "train.")
    verbs = [row[3:5] for row in rows(folder / "interventions.csv")[1:]]
    assert verbs == [["rewind", "batches=4"], ["set", DECAY]]
    assert sorted(path.name for path in (t.run.path / "pictures").iterdir()) == [
        "00000004-b0-norms.png", "00000009-b0-norms.png", "00000009-b1-norms.png", "00000013-b1-norms.png"
    ]  # fmt: skip


def rewinds(runs, mark=None, iteration=None):
    sinks = [dt.CSVLogger(), Counting(runs.parent / f"{runs.name}.counts")]
    feeding.SECONDS = 0.0
    t = make(runs, sinks, [recipes.Rewinder(), Dies(mark, iteration)])
    t.fit()
    t.close()
    files = {
        path.name: path.read_text()
        for path in (t.run.path / "csv").iterdir()
        if path.stem in {"train", "val"}
    }
    return dt.digest(t.state_dict()), history(t), files, flat(sinks[1].told(sinks[1].place.own["id"]))


def test_a_handler_that_goes_back_in_a_run_that_is_killed(tmp_path):
    expected = fresh.run(rewinds, tmp_path / "untouched")
    assert expected[3] == expected[1]
    for iteration in (2, 5, 8, 12, 15):
        found = again_and_again(rewinds, tmp_path / str(iteration), tmp_path / f"{iteration}.died", iteration)
        assert found[:3] == expected[:3]
        assert found[3] == expected[3]


def differs(runs, mark, iteration, again=None, journal_every=0.0):
    """Another dropout from the second process on, so that its replay comes out otherwise; that one may die just there."""
    feeding.SECONDS, journal.SECONDS = 0.0, journal_every
    sinks = [dt.CSVLogger(), Store(runs.parent / "store"), Counting(runs.parent / "counts")]
    late = mark.with_suffix(".again")
    if (
        journal_every
    ):  # a line of a checkpoint takes along what waits: here it is as if the checkpoint were a moment later
        journal.Journal.write = journal.Journal.add
    if mark.exists() and again is not None and not late.exists():
        feeding.SECONDS = 1e9  # it dies before they are told
    t = make(runs, sinks, [Dies(mark, iteration), Dies(late, again if mark.exists() else None)])
    if mark.exists():
        t.learner.model.drop.p = 0.9
    t.fit()
    t.close()
    told = [[json.loads(line) for line in sink.path.read_text().splitlines()] for sink in sinks[1:]]
    return history(t), history_rows(t, "train."), rows(t.run.path / "csv" / "train.csv"), told


@pytest.mark.parametrize("journal_every", [0.0, 1e9])
@pytest.mark.parametrize("again", [None, 6, 7])
def test_a_replay_that_comes_out_otherwise_is_what_the_files_have(tmp_path, again, journal_every):
    figures, expected, found, told = again_and_again(
        differs, tmp_path / "runs", tmp_path / "died", 9, again, journal_every
    )
    assert found == expected
    for lines in told:
        kept = [line[2:] for line in lines if line[1] == "row"]
        newest = max(place for place, (at, _) in enumerate(kept) if at == 1)  # where it began anew
        assert flat(kept[newest:]) == figures
        assert flat(kept[:newest]) != figures
    assert len(told[0]) > 20


def test_what_is_tried_out_is_told_to_nobody(tmp_path):
    store = Store(tmp_path / "store")
    t = make(tmp_path / "runs", [store], [Draws()])
    t.fit(until=dt.At(batch=3))
    before = store.path.read_text()
    t.try_({"a": lambda trainer: None}, batches=4)
    t.dry_run()
    dt.find_lr(t, iterations=10)
    t.validate()
    assert store.path.read_text() == before
    assert not (t.run.path / "pictures").exists()
    t.fit()
    assert flat(store.told()) == history(t)


# ------------------------------------------------------------------ sinks that fail


@pytest.mark.parametrize("method", ["open", "metrics", "interventions", "picture", "flush", "close"])
def test_a_sink_that_fails_is_left_out_and_said_once(tmp_path, method):
    class Fails(Store):
        pass

    def fails(self, *_):
        torch.rand(1)
        raise OSError("the service is away")

    setattr(Fails, method, fails)
    plain = make(callbacks=[Draws(), recipes.Steerer()])
    plain.fit()
    store = Store(tmp_path / "store")
    t = make(tmp_path / "runs", [Fails(tmp_path / "fails"), store], [Draws(), recipes.Steerer()])
    said = pytest.warns(UserWarning, match="the logger Fails failed.*the service is away")
    with contextlib.nullcontext([]) if method == "close" else said as caught:
        t.fit()
        t.close()
    assert len([w for w in caught if "Fails" in str(w.message)]) == (method != "close")
    assert recipes.summary(t) == recipes.summary(plain)
    assert flat(store.told()) == history(t)


@pytest.mark.parametrize(
    ("given", "message"),
    [(dt.CSVLogger(), "write loggers="), ([dt.CSVLogger], "expected instances"), ([3], "a int")],
)
def test_what_is_no_logger_is_refused(given, message):
    with pytest.raises(TypeError, match=message):
        make(loggers=given)


def test_a_logger_without_a_place_is_left_out():
    t = make(loggers=[dt.CSVLogger()])
    with pytest.warns(UserWarning, match="runs=None: there is no directory"):
        t.fit()
    assert t.progress.phase is dt.Phase.DONE


def test_pictures_of_figures_and_names_that_cannot_be(tmp_path):
    from matplotlib.figure import Figure

    t = make(tmp_path)
    t.log_picture("rates of a test", Figure())
    path = t.run.path / "pictures" / "00000000-b0-rates of a test.png"
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="letters"):
        t.log_picture("a/b", PNG)
    with pytest.raises(TypeError, match="found a int"):
        t.log_picture("a", 3)
