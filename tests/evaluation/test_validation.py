"""A pass over the validation data: several loaders, bounds, windows joined; interrupted anywhere, the same figures."""

import json
import os

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.evaluation.gathered import Gathered
from deeptrain.evaluation.validation import Validation
from tests.support import fresh, recipes

TINY = 64  # bytes: everything goes to files


def loader(seed, rows=20, size=7, **more):
    return dt.BatchLoader(dt.Arrays(*recipes.data(rows, seed=seed)), batch_size=size, **more)


def error_rate(predictions, targets):
    return (predictions.argmax(1) != targets).float().mean()


def make(loaders, runs=None, callbacks=(), epochs=1, **more):
    dt.reproducible(seed=3)
    model = recipes.Net()
    step = dt.SupervisedStep(
        model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.AdamW(model.parameters(), 1e-2), device="cpu"
    )
    return dt.Trainer(
        step,
        loader(1, 60, 8, shuffle=True),
        validation=Validation(
            loaders,
            metrics={"accuracy": recipes.accuracy},
            **({"every": dt.Every(batches=4)} | more),
        ),
        epochs=epochs,
        runs=runs,
        name=None if runs is None else "r",
        callbacks=[*recipes.callbacks(), *callbacks],
        verbosity=0,
    )


# ------------------------------------------------------------------ several loaders, limits


def test_each_of_several_loaders_has_the_figures_that_it_has_alone():
    both = make({"clean": loader(2), "noisy": loader(3, rows=33, size=5)})
    found = both.validate()
    assert list(found) == ["clean.loss", "clean.accuracy", "noisy.loss", "noisy.accuracy"]
    for name, one in {"clean": loader(2), "noisy": loader(3, rows=33, size=5)}.items():
        alone = make(one).validate()
        assert {f"{name}.{key}": value for key, value in alone.items()} == {
            key: value for key, value in found.items() if key.startswith(name)
        }


def test_the_key_is_of_the_first_loader_and_the_history_has_all():
    t = make({"clean": loader(2), "noisy": loader(3)})
    assert t.judging.validation.key_metric == "clean.loss"
    assert t.judging.validation.mode == "min"
    t.fit()
    assert [name for name in t.history if name.startswith("val.")] == [
        "val.clean.loss", "val.clean.accuracy", "val.noisy.loss", "val.noisy.accuracy"
    ]  # fmt: skip
    named = make({"clean": loader(2), "noisy": loader(3)}, key_metric="noisy.accuracy", mode="max")
    assert named.judging.validation.key_metric == "noisy.accuracy"


def test_a_limit_is_of_batches_of_each():
    t = make({"clean": loader(2), "noisy": loader(3)}, limit=2)
    assert t.judging.feed.batches == 4
    parts = t.validate(keep_predictions=True).parts
    assert {name: len(part) for name, part in parts.items()} == {"clean": 14, "noisy": 14}
    assert len(make(loader(2), limit=2).validate(keep_predictions=True).judged) == 14
    assert len(make(loader(2), limit=99).validate(keep_predictions=True).judged) == 20


def test_a_loader_without_a_length_may_be_one_of_several_with_a_limit():
    def batches():
        yield from (tuple(batch) for batch in loader(2))

    with pytest.raises(ValueError, match="'stream' does not tell how many batches"):
        make({"clean": loader(2), "stream": batches})
    t = make({"stream": batches, "clean": loader(2)}, limit=2)
    assert {name: len(part) for name, part in t.validate(keep_predictions=True).parts.items()} == {
        "stream": 14, "clean": 14
    }  # fmt: skip


@pytest.mark.parametrize(
    ("loaders", "more", "message"),
    [
        ({}, {}, "expected words without a dot"),
        ({"a.b": loader(2)}, {}, "expected words without a dot"),
        ({"a": loader(2)}, {"key_metric": "recall"}, r"none of this validation's figures \['a.accuracy'"),
        (loader(2), {"limit": 0}, "limit: found 0, expected a whole number of at least 1"),
        (loader(2), {"join": "max"}, "join='max': expected one of 'mean'"),
    ],
)
def test_odd_settings_are_refused(loaders, more, message):
    with pytest.raises(ValueError, match=message):
        make(loaders, **more)


# ------------------------------------------------------------------ interrupted anywhere


CASES = {
    "several": {"loaders": lambda: {"clean": loader(2), "noisy": loader(3, size=9)}},
    "limited": {"loaders": lambda: {"clean": loader(2), "noisy": loader(3, size=3)}, "limit": 2},
    "in files": {"loaders": lambda: loader(2), "memory": TINY},
    "joined": {},
}


def of(case, runs=None):
    made = dict(CASES[case])
    if case == "joined":
        t = recipes.trainer(preprocess="windows", runs=runs, name="r" if runs else None, epochs=1)
        t.judging.validation.join = "later"
        return t
    return make(made.pop("loaders")(), runs, **made)


def go(case, runs, stop):
    t = of(case, runs)
    recipes.advance(t, stop)
    t.run.checkpoints.settle()
    os.kill(os.getpid(), recipes.signal.SIGKILL)


def finish(case, runs):
    t = of(case, runs)
    t.fit()
    t.close()
    return recipes.summary(t)


@pytest.mark.parametrize("case", CASES)
def test_stopped_and_killed_anywhere(case, tmp_path):
    t = of(case)
    points = 1
    while not recipes.advance(t, 1):
        points += 1
    expected = recipes.summary(t)
    for stop in range(0, points, 1 + points // 60):
        runs = tmp_path / str(stop)
        t = of(case, runs)
        recipes.advance(t, stop)
        t.run.save(t)
        t.close()
        assert finish(case, runs) == expected, f"stopped after {stop} of {points}"
    for stop in range(3, points, 17):
        with pytest.raises(EOFError):
            fresh.run(go, case, tmp_path / f"k{stop}", stop)
        assert finish(case, tmp_path / f"k{stop}") == expected, f"killed after {stop} of {points}"
    assert not [p for p in tmp_path.rglob("*") if "deeptrain-validation" in p.name]


# ------------------------------------------------------------------ the bound of memory


def test_what_lies_in_files_is_what_lies_in_memory():
    inside, outside = (
        make(loader(2), memory=memory).validate(keep_predictions=True) for memory in (1 << 20, TINY)
    )
    assert not inside.judged.spilled
    assert outside.judged.spilled
    assert torch.equal(inside.judged.predictions, outside.judged.predictions)
    assert torch.equal(inside.judged.targets, outside.judged.targets)
    assert inside["accuracy"] == outside["accuracy"]
    assert inside["loss"] == pytest.approx(outside["loss"], rel=1e-6)
    assert np.array_equal(inside.judged.rows, outside.judged.rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
@pytest.mark.parametrize("most", [TINY, 1 << 20])
def test_trees_of_any_type_come_back(dtype, most):
    rows = [torch.randint(0, 2, (n, 3)).to(dtype) for n in (4, 0, 5, 1)]
    found = Gathered(most)
    for tensor in rows:
        piece = {"a": (tensor, {"b": tensor[:, 0]}), "none": None}
        found.stage([piece], len(tensor))
        found.stage([piece], len(tensor))  # as after an abort
        found.commit()
    assert found.spilled == (most == TINY)
    whole = found.whole()
    assert torch.equal(whole["a"][0], torch.cat(rows))
    assert torch.equal(whole["a"][1]["b"], torch.cat(rows)[:, 0])
    assert whole["none"] is None
    assert found.ends == [4, 4, 9, 10]


def test_rows_that_cannot_be_joined_are_named():
    found = Gathered(1 << 20)
    found.stage([{"a": torch.zeros(2, 3)}], 2)
    found.commit()
    for other in (torch.zeros(2, 4), torch.zeros(2, 3, dtype=torch.float64)):
        with pytest.raises(ValueError, match="cannot be joined into one pass"):
            found.stage([{"a": other}], 2)
    with pytest.raises(ValueError, match="1 and 2 tensors"):
        found.stage([{"a": torch.zeros(2, 3), "b": torch.zeros(2)}], 2)


def anonymous():
    lines = open("/proc/self/status").read().splitlines()  # noqa: SIM115 - closed with the process
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) << 10


class Peak(dt.Callback):
    def __init__(self):
        self.before, self.peak = 0, 0

    def on_val_batch_end(self, trainer, event):
        self.before = self.before or anonymous()
        self.peak = max(self.peak, anonymous())

    def on_val_end(self, trainer, event):
        self.peak = max(self.peak, anonymous())


class Wide(nn.Module):
    """32 floats a row of nothing but one number."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))

    def forward(self, x):
        return x * self.weight


def million(memory):
    """A pass over a million rows, 128 MB of predictions; how far memory rose."""
    dt.reproducible(seed=0)
    model, peak = Wide(), Peak()
    rows = torch.arange(1_000_000, dtype=torch.float32)[:, None] / 1e6
    step = dt.SupervisedStep(
        model,
        loss=lambda p, t: (p[:, 0] - t).square().mean(),
        optimizer=torch.optim.SGD(model.parameters(), 0.0),
        device="cpu",
    )
    data = dt.BatchLoader(dt.Arrays(rows, rows[:, 0].contiguous()), batch_size=5000)
    t = dt.Trainer(
        step,
        dt.BatchLoader(dt.Arrays(rows[:8], rows[:8, 0]), batch_size=8),
        validation=Validation(data, metrics={"top": lambda p, t: p[-1, 0]}, memory=memory),
        callbacks=[peak],
        runs=None,
        verbosity=0,
    )
    t.fit()
    return peak.peak - peak.before, t.history.last("val.top"), t.history.last("val.loss")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_the_memory_of_a_pass_of_a_million_rows_stays_within_its_bound():
    risen, top, loss = fresh.run(million, 32 << 20)
    unbound, top_unbound, loss_unbound = fresh.run(million, 1 << 30)
    assert unbound > 128e6
    assert risen < 32 << 20
    assert top == top_unbound
    assert loss == pytest.approx(loss_unbound, abs=1e-9)


# ------------------------------------------------------------------ windows of one series


def test_windows_are_put_together_before_they_are_scored():
    made = {}
    for join in (None, "mean", "last", "later"):
        t = recipes.trainer(preprocess="windows", validate=True)
        t.judging.validation.join = join
        made[join] = t.validate(keep_predictions=True).judged
    each = made[None]
    rows = sorted(set(each.rows.tolist()))
    assert len(each) > len(rows)
    for join, weights in (
        ("mean", lambda n: np.ones(n)),
        ("last", lambda n: np.eye(n)[-1]),
        ("later", lambda n: np.arange(1, n + 1)),
    ):
        found = made[join]
        assert sorted(found.rows.tolist()) == rows
        for place, row in enumerate(found.rows):
            own = torch.from_numpy(np.flatnonzero(each.rows == row))
            share = torch.from_numpy(weights(len(own)) / weights(len(own)).sum()).float()
            by_hand = (each.predictions[own] * share[:, None]).sum(0)
            torch.testing.assert_close(found.predictions[place], by_hand)
            assert found.targets[place] == each.targets[own[0]]


def test_targets_that_differ_from_window_to_window_are_refused():
    x = torch.zeros(4, 6, 1)
    data = dt.BatchLoader(
        dt.Arrays(x, torch.arange(24.0).reshape(4, 6)),
        batch_size=2,
        preprocess=dt.Windows(3, label="windows"),
    )
    model = nn.Linear(1, 1)
    step = dt.SupervisedStep(
        model,
        loss=lambda p, t: (p[..., 0] - t).square().mean(),
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device="cpu",
    )
    t = dt.Trainer(step, loader(1), validation=Validation(data, join="mean"), runs=None, verbosity=0)
    with pytest.raises(ValueError, match="differ from window to window"):
        t.validate()


# ------------------------------------------------------------------ what a pass has found


def test_each_row_of_a_pass_can_be_named(tmp_path):
    recipes.write_files(tmp_path / "sets")
    data = dt.BatchLoader(dt.Files(tmp_path / "sets"), batch_size=8, shuffle="global", seed=4)
    t = make(data)
    judged = t.validate(keep_predictions=True).judged
    x, y = recipes.data()
    assert sorted(judged.rows.tolist()) == list(range(60))
    assert torch.equal(judged.targets, y[judged.rows])
    with torch.no_grad():
        t.learner.model.eval()
        torch.testing.assert_close(judged.predictions, t.learner.model(x[judged.rows]))
    sizes = np.cumsum([0, 7, 12, 9, 14, 8])
    assert judged.sets == [str(np.searchsorted(sizes, row, side="right") - 1) for row in judged.rows]
    assert [batch.stop - batch.start for batch in judged.batches] == [8] * 7 + [4]
    worst = judged.worst_batches(2)
    losses = [float(nn.functional.cross_entropy(judged.predictions[b.start : b.stop], judged.targets[b.start : b.stop])) for b in judged.batches]  # fmt: skip
    assert [b.index for b in worst] == np.argsort(losses)[::-1][:2].tolist()
    assert worst[0].loss == pytest.approx(max(losses))
    assert sum(len(part.rows) for part in worst[0].sources) == worst[0].stop - worst[0].start


def test_validating_predicting_and_evaluating_leave_nothing_behind(tmp_path):
    plain = make(loader(2))
    plain.fit()
    t = make(loader(2), tmp_path)
    test = loader(5, rows=11)
    for batch in (2, 4, 7):
        t.fit(until=dt.At(batch=batch))
        digest, lines = dt.digest(t.state_dict()), len(t.history["train.loss"].values)
        t.validate(callbacks=True, keep_predictions=True)
        t.validate(keep_predictions=True)
        found = t.evaluate(test)
        predicted = t.predict(test)
        assert torch.equal(found.judged.predictions, predicted.predictions)
        assert found["accuracy"] == float(
            recipes.accuracy(predicted.predictions, recipes.data(11, seed=5)[1])
        )
        assert set(t.evaluate(test, metrics={"wrong": error_rate})) == {"loss", "wrong"}
        assert dt.digest(t.state_dict()) == digest
        assert len(t.history["train.loss"].values) == lines
    t.fit()
    assert recipes.summary(t) == recipes.summary(plain)


@pytest.mark.parametrize("case", ["several", "in files", "joined"])
def test_judging_at_every_safe_point_changes_nothing(case):
    """Also in the middle of a pass of the run, whose loaders stand where they stood."""
    plain = of(case)
    plain.fit()
    t = of(case)
    test = loader(5, rows=11) if case != "joined" else None
    digests = set()
    while not recipes.advance(t, 1):
        before = dt.digest(t.state_dict())
        t.validate(keep_predictions=True)
        if test is not None:
            t.evaluate(test)
            t.predict(test)
        if len(digests) % 5 == 0:
            t.validate(callbacks=True)
        assert dt.digest(t.state_dict()) == before
        digests.add(before)
    assert recipes.summary(t) == recipes.summary(plain)


@pytest.mark.parametrize("ema", [{}, {"ema": 0.9, "evaluate_ema": True}])
def test_a_frozen_batch_norm_stays_frozen_and_training_is_what_it_is_without(ema):
    def run(judged):
        dt.reproducible(seed=3)
        model = recipes.Net()
        model.norm.eval()
        step = dt.SupervisedStep(
            model,
            loss=nn.CrossEntropyLoss(),
            optimizer=torch.optim.SGD(model.parameters(), 0.1),
            device="cpu",
            **ema,
        )
        validation = Validation(
            {"a": loader(2), "b": loader(3)},
            metrics=["accuracy"],
            every=dt.Every(batches=1),
            subset=1,
            ledger=True,
        )
        t = dt.Trainer(
            step,
            loader(1, 60, 8, shuffle=True),
            validation=validation if judged else None,
            runs=None,
            verbosity=0,
        )
        t.fit()
        assert not model.norm.training
        assert model.drop.training
        return {k: v.clone() for k, v in model.state_dict().items()}, t.history["train.loss"].values.tolist()

    without, judged = run(judged=False), run(judged=True)
    assert without[1] == judged[1]
    for name, value in without[0].items():
        assert torch.equal(value, judged[0][name]), name


def test_a_metric_that_changes_predictions_is_refused():
    def squash(predictions, targets):
        return predictions.sigmoid_().mean()

    model = nn.Linear(6, 3)
    step = dt.SupervisedStep(
        model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu"
    )
    t = dt.Trainer(
        step, loader(1), validation=Validation(loader(2), metrics={"squash": squash}), runs=None, verbosity=0
    )
    with pytest.raises(ValueError, match="'squash' changed predictions or targets in place"):
        t.validate()


def test_a_pass_with_callbacks_calls_them_and_forgets():
    heard = []

    class Hears(dt.Callback):
        def __init__(self):
            self.passes = 0

        def on_val_batch_end(self, trainer, event):
            heard.append(event.batch.index)

        def on_val_end(self, trainer, event):
            self.passes += 1
            heard.append(dict(event.metrics))

        def state_dict(self):
            return {"passes": self.passes}

        def load_state_dict(self, state):
            self.passes = state["passes"]

    hears = Hears()
    t = make(loader(2), callbacks=[hears])
    found = t.validate(callbacks=True, keep_predictions=True)
    assert heard == [0, 1, 2, dict(found)]
    assert len(found.judged) == 20
    assert hears.passes == 0
    assert "val.loss" not in t.history


def test_a_recorded_pass_is_made_once_by_a_script_that_is_run_again(tmp_path):
    def script(runs):
        t = make(loader(2), runs)
        t.fit(until=dt.At(batch=3))
        found = t.validate(record=True)
        t.fit(until=dt.At(batch=6))
        t.close()
        return found, t.history["val.loss"].iterations.tolist(), dt.digest(t.state_dict())

    first = script(tmp_path / "a")
    again = script(tmp_path / "a")
    assert first[1] == again[1] == [3, 4]
    assert first[2] == again[2]
    lines = (next((tmp_path / "a").iterdir()) / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["at"] for line in lines if '"kind": "validation"' in line] == [3, 4]


def test_data_without_targets_can_be_predicted():
    x, _ = recipes.data(11, seed=5)
    found = make(loader(2)).predict(dt.BatchLoader(dt.Arrays(x), batch_size=4))
    assert found.targets is None
    assert found.predictions.shape == (11, 3)


def test_nothing_was_kept_and_several_are_said():
    t = make({"a": loader(2), "b": loader(3)})
    with pytest.raises(ValueError, match="keep_predictions=True"):
        _ = t.validate().judged
    with pytest.raises(ValueError, match=r"several validation loaders: take parts\[name\]"):
        _ = t.validate(keep_predictions=True).judged
    with pytest.raises(ValueError, match="leave keep_predictions and callbacks out"):
        t.validate(record=True, keep_predictions=True)
