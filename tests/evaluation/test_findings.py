"""Metrics by name, thresholds, calibrations and subsets in a run: honest beside optimistic, the same wherever it was stopped."""

import json

import numpy as np
import pytest
import torch
from sklearn import metrics as theirs
from torch import nn

import deeptrain as dt
from deeptrain.evaluation.deciding import scores_of
from tests.support import recipes

ROWS = 90
torchmetrics = pytest.importorskip("torchmetrics")


def binary(rows=ROWS, seed=1):
    x, _ = recipes.data(rows, seed=seed)
    return x, (x[:, :1] + x[:, 1:2] > 0.8).float()


class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 1)

    def forward(self, x):
        return self.layer(x)


def make(runs=None, callbacks=(), **more):
    dt.reproducible(seed=3)
    model = One()
    step = dt.SupervisedStep(
        model,
        loss=nn.BCEWithLogitsLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-2),
        metrics=["accuracy"],
        device="cpu",
    )
    data = dt.BatchLoader(dt.Arrays(*binary(40, seed=2)), batch_size=7)
    settings = {"metrics": ["f1", "auroc", "accuracy"], "threshold": "f1", "key_metric": "f1"} | more
    return dt.Trainer(
        step,
        dt.BatchLoader(dt.Arrays(*binary()), batch_size=8, shuffle=True, seed=5),
        validation=dt.Validation(data, every=dt.Every(batches=4), **settings),
        epochs=1,
        runs=runs,
        name=None if runs is None else "r",
        callbacks=[*recipes.callbacks(), *callbacks],
        verbosity=0,
    )


def test_names_are_read_as_the_loss_takes_predictions():
    t = make(threshold=None)
    found = t.validate(keep_predictions=True)
    logits, targets = found.judged.predictions.reshape(-1).numpy(), found.judged.targets.reshape(-1).numpy()
    assert found["auroc"] == pytest.approx(theirs.roc_auc_score(targets, logits))
    assert found["f1"] == pytest.approx(theirs.f1_score(targets, logits >= 0))
    assert t.judging.validation.mode == "max"
    t.fit()
    assert len(t.history["train.accuracy"].values) == 12


def test_what_was_tuned_on_the_same_rows_is_called_optimistic():
    t = make()
    t.fit()
    names = [name for name in t.history if name.startswith("val.")]
    assert names == ["val.loss", "val.threshold", "val.f1", "val.f1_optimistic", "val.auroc", "val.accuracy", "val.accuracy_optimistic"]  # fmt: skip
    assert t.judging.validation.names() == ["loss", "f1", "auroc", "accuracy", "threshold", "f1_optimistic", "accuracy_optimistic"]  # fmt: skip
    found = t.validate(keep_predictions=True)
    scores = scores_of(found.judged.predictions, "logits")
    targets = found.judged.targets.reshape(-1).numpy()
    best = dt.best_threshold(scores, targets, "f1", bootstrap=0, folds=0)
    assert found["threshold"] == best.threshold
    assert found["f1_optimistic"] == pytest.approx(best.score)
    assert found["f1"] <= found["f1_optimistic"]
    assert found["accuracy_optimistic"] == pytest.approx(((scores >= best.threshold) == targets).mean())
    assert dt.Threshold.from_state_dict(found.found[""]["threshold"]) == best


def test_the_threshold_is_part_of_the_state():
    t = make()
    t.fit(until=dt.At(batch=5))
    kept = t.get("evaluation.*.threshold.threshold")
    assert list(kept.values()) == [t.history.last("val.threshold")]
    other = make()
    other.load_state_dict(t.state_dict())
    assert other.judging.found == t.judging.found


def test_functions_that_take_a_threshold_are_given_it():
    seen = []

    def sure(predictions, targets, threshold=0.5):
        seen.append(threshold)
        return ((predictions >= threshold) == (targets.reshape(predictions.shape) > 0)).double().mean()

    t = make(metrics={"sure": sure, "acc": "accuracy"}, key_metric="acc")
    found = t.validate()
    assert found["sure"] == pytest.approx(found["acc"])
    assert found["sure_optimistic"] == pytest.approx(found["acc_optimistic"])
    assert seen == [0.5, found["threshold"]]
    seen.clear()
    make(metrics={"sure": sure}, key_metric="loss", threshold=0.3).validate()
    assert seen == [0.3]


def test_a_threshold_that_is_given_holds_for_names():
    found = make(threshold=0.35).validate(keep_predictions=True)
    scores = torch.sigmoid(found.judged.predictions).reshape(-1).numpy()
    targets = found.judged.targets.reshape(-1).numpy()
    assert found["f1"] == pytest.approx(theirs.f1_score(targets, scores >= 0.35))
    assert "threshold" not in found


def test_objects_of_torchmetrics_begin_anew_with_each_pass():
    metric = torchmetrics.classification.BinaryF1Score()
    t = make(metrics={"tm": metric, "f1": "f1"}, threshold=None)
    for _ in range(2):
        found = t.validate(keep_predictions=True)
    assert found["tm"] == pytest.approx(found["f1"], abs=1e-6)
    assert metric.update_count == 0


def test_weights_go_to_functions_that_take_them_and_to_no_name():
    def weighed(predictions, targets, sample_weight):
        return sample_weight.sum()

    t = make(metrics={"weighed": weighed, "f1": "f1"}, threshold=None, class_weights={0: 1, 1: 3})
    found = t.validate(keep_predictions=True)
    assert found["weighed"] == float(found.judged.weights.sum())
    assert found["f1"] == make(threshold=None).validate()["f1"]


def test_a_calibration_is_kept_and_said_honestly():
    t = make(calibration=dt.TemperatureCalibration)
    t.fit()
    made = dt.TemperatureCalibration()
    made.load_state_dict(t.judging.found[""]["calibration"])
    found = t.validate(keep_predictions=True)
    scores = torch.sigmoid(found.judged.predictions.double()).reshape(-1)
    assert found["calibration_error"] == pytest.approx(
        dt.calibration_error(scores, found.judged.targets.reshape(-1))
    )
    assert set(found) >= {"calibration_error", "calibration_error_calibrated"}
    assert made.temperature > 0


@pytest.mark.parametrize("key", ["loss", "accuracy", "f1"])
def test_the_best_subset_names_its_sets(key):
    t = make(threshold=None, key_metric=key, subset=2)
    found = t.validate(keep_predictions=True)
    chosen = found.found[""]["subset"]
    judged = found.judged
    assert len(chosen["batches"]) == 2
    assert chosen["sets"] == [[str(s) for s in judged.batches[index].sources] for index in chosen["batches"]]
    if key == "loss":
        losses = sorted(batch.loss for batch in judged.batches)
        assert found["subset_optimistic"] == pytest.approx(np.mean(losses[:2]))
        assert found["subset_rest"] == pytest.approx(np.mean(losses[2:]))
    else:
        assert found["subset_optimistic"] >= found[key] >= found["subset_rest"]


def test_the_journal_has_the_sets_of_each_pass(tmp_path):
    t = make(tmp_path, threshold=None, subset=2)
    t.fit()
    t.close()
    lines = [json.loads(line) for line in (t.run.path / "journal.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "subset"]
    assert [line["pass"] for line in found] == list(range(1, t.progress.validation.passes + 1))
    assert found[-1]["sets"] == t.findings["subset"]["sets"]


CASES = {
    "threshold": {},
    "all": {"calibration": dt.SigmoidCalibration, "subset": 2, "memory": 64},
}


@pytest.mark.parametrize("case", CASES)
def test_stopped_anywhere_it_is_the_same(case, tmp_path):
    t = make(**CASES[case])
    points = 1
    while not recipes.advance(t, 1):
        points += 1
    expected = recipes.summary(t)
    for stop in range(0, points, 3):
        for _ in range(2):
            t = make(tmp_path / str(stop), **CASES[case])
            recipes.advance(t, stop)
            t.run.save(t)
            t.close()
        t = make(tmp_path / str(stop), **CASES[case])
        t.fit()
        t.close()
        found = recipes.summary(t)
        assert found[0] == expected[0], f"stopped after {stop} of {points}"
        assert repr(found[1]) == repr(expected[1])


def test_how_it_is_validated_changes_no_training():
    plain, judged = (
        make(metrics=None, key_metric="loss", threshold=None),
        make(calibration=dt.IsotonicCalibration, subset=1),
    )
    plain.fit()
    judged.fit()
    assert plain.history["train.loss"].values.tolist() == judged.history["train.loss"].values.tolist()
    for mine, other in zip(plain.learner.model.parameters(), judged.learner.model.parameters(), strict=True):
        assert torch.equal(mine, other)


# ------------------------------------------------------------------ what cannot be judged


class Breaks(nn.Module):
    """Gives NaN in the rows whose first number is 99."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 1)

    def forward(self, x):
        return torch.where(x[:, :1] == 99, torch.nan, self.layer(x))


def broken(tmp_path, rows=(3, 11), targets=None, **more):
    dt.reproducible(seed=3)
    model = Breaks()
    x, y = binary(20, seed=2)
    x[list(rows)] = 99
    y = y if targets is None else targets
    np.save(tmp_path / "val1.npy", x[:8].numpy())
    np.save(tmp_path / "val2.npy", x[8:].numpy())
    np.save(tmp_path / "labels.npy", y.numpy())
    step = dt.SupervisedStep(
        model, loss=nn.BCEWithLogitsLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu"
    )
    data = dt.BatchLoader(dt.Files(tmp_path), batch_size=7)
    return dt.Trainer(
        step,
        dt.BatchLoader(dt.Arrays(*binary()), batch_size=30),
        validation=dt.Validation(data, **more),
        runs=None,
        verbosity=0,
    )


@pytest.mark.parametrize(
    ("more", "error", "message", "note"),
    [
        ({"metrics": ["f1"]}, dt.MetricError, r"the metric 'f1': predictions are NaN in 2 of 20 rows", r"rows are 1\[3\], 2\[3\]"),
        ({"metrics": ["auroc"]}, dt.MetricError, "'auroc'", r"1\[3\]"),
        ({"metrics": ["f1"], "threshold": "f1"}, dt.EvaluationError, "NaN in 2 of 20 rows", ""),
        ({"metrics": {"own": lambda p, t: {}[0]}}, KeyError, "0", "raised by the metric 'own'"),
        ({"metrics": {"own": lambda p, t: "x"}}, ValueError, "the metric 'own' gave a str", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_judged_is_named_and_training_is_unharmed(tmp_path, more, error, message, note):
    plain = broken(tmp_path)
    plain.fit()
    t = broken(tmp_path, **more)
    with pytest.raises(error, match=message) as caught:
        t.fit()
    assert not note or any(__import__("re").search(note, line) for line in caught.value.__notes__)
    assert t.progress.train.batches == 3
    assert t.progress.torn is None
    assert plain.history["train.loss"].values.tolist() == t.history["train.loss"].values.tolist()
    for mine, other in zip(plain.learner.model.parameters(), t.learner.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_labels_that_are_no_classes_and_probabilities_that_are_none(tmp_path):
    odd = torch.full((20, 1), 3.0)
    t = broken(tmp_path, rows=(), targets=odd, metrics=["f1"])
    with pytest.raises(dt.MetricError, match="'f1'"):
        t.validate()
    t = broken(tmp_path, rows=(), metrics=["f1"], form="probabilities")
    with pytest.raises(dt.MetricError, match=r"'f1'.*(outside|probabilit)"):
        t.validate()
    with pytest.raises(ValueError, match="near are"):
        dt.Validation(None, metrics=["acuracy"])
    with pytest.raises(ValueError, match="none of the metrics of confusion counts"):
        dt.Validation(None, threshold="auroc")


def test_a_metric_that_diverges_in_training_is_for_nonfinite_to_deal_with():
    model = Breaks()
    x, y = binary()
    x[5] = 99
    step = dt.SupervisedStep(
        model,
        loss=nn.BCEWithLogitsLoss(),
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        metrics={"acc": "accuracy"},
        on_nonfinite="skip",
        device="cpu",
    )
    t = dt.Trainer(step, dt.BatchLoader(dt.Arrays(x, y), batch_size=30), runs=None, verbosity=0)
    t.fit()
    assert np.isnan(t.history["train.acc"].values[0])
    assert not np.isnan(t.history["train.acc"].values[1:]).any()
