"""Metrics by name, thresholds, calibrations and subsets in a run: honest beside optimistic, the same wherever it was stopped."""

import io
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


def make(runs=None, callbacks=(), checkpoints=None, **more):
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
        checkpoints=checkpoints,
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


def test_a_run_on_disk_gives_what_goes_with_its_weights(tmp_path):
    t = make(
        tmp_path, key_metric="loss", checkpoints=dt.Checkpoints(every=dt.Every(epochs=1), best=1), mode="max"
    )
    t.fit()
    t.close()
    thresholds, losses = t.history["val.threshold"].values, t.history["val.loss"].values
    run = dt.open_run(t.run.path)
    assert run.findings() == t.findings
    assert run.findings()["threshold"]["threshold"] == thresholds[-1]
    best = int(losses.argmax())  # the worst, here: the newest is another one
    assert best != len(losses) - 1
    assert run.findings("best")["threshold"]["threshold"] == thresholds[best]
    with pytest.raises(ValueError, match=r'which=.last.: expected "newest" or "best"'):
        run.findings("last")


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


def test_the_subset_is_chosen_at_the_threshold_that_holds():
    found = make(subset=2).validate(keep_predictions=True)
    judged = found.judged
    scores = scores_of(judged.predictions, "logits")
    targets = judged.targets.reshape(-1).numpy()
    batches = np.concatenate([np.full(b.stop - b.start, b.index) for b in judged.batches])
    theirs_ = dt.best_subset(scores, targets, batches, "f1", 2, threshold=found["threshold"])
    assert found["subset_optimistic"] == theirs_.score
    assert found["subset_rest"] == theirs_.rest
    given = make(subset=2, threshold=0.31).validate()
    expected = dt.best_subset(scores, targets, batches, "f1", 2, threshold=0.31)
    assert (given["subset_optimistic"], given["subset_rest"]) == (expected.score, expected.rest)
    assert expected.score != dt.best_subset(scores, targets, batches, "f1", 2).score


def test_each_subset_may_have_a_threshold_of_its_own():
    how = dt.FindThreshold(metric="f1", in_subsets=True)
    found = make(subset=2, threshold=how).validate(keep_predictions=True)
    scores = scores_of(found.judged.predictions, "logits")
    targets = found.judged.targets.reshape(-1).numpy()
    batches = np.concatenate([np.full(b.stop - b.start, b.index) for b in found.judged.batches])

    def search(scores, targets):
        return dt.best_threshold(scores, targets, "f1", bootstrap=0, folds=0)

    expected = dt.best_subset(scores, targets, batches, "f1", 2, threshold=search)
    assert (found["subset_optimistic"], found["subset_rest"]) == (expected.score, expected.rest)
    assert found["subset_optimistic"] >= make(subset=2).validate()["subset_optimistic"]


def test_a_subset_that_cannot_be_chosen_is_refused_before_the_first_pass():
    data = dt.BatchLoader(dt.Arrays(*binary(20)), batch_size=5)
    with pytest.raises(ValueError, match="at least 1"):
        dt.Validation(data, subset=0)
    with pytest.raises(ValueError, match=r"key_metric='mine' with mode=None"):
        dt.Validation(data, metrics={"mine": lambda p, t: 0.0}, key_metric="mine", subset=1)
    with pytest.raises(ValueError, match="threshold for each class"):
        dt.Validation(
            data, metrics=["f1"], key_metric="f1", threshold=dt.FindThreshold(each="class"), subset=1
        )


# ------------------------------------------------------------------ more than two classes


def many(each, runs=None, verbosity=0, **more):
    """Three labels, of which several may hold; or three classes."""
    dt.reproducible(seed=3)
    model = nn.Linear(6, 3)
    x = recipes.data(60, seed=2)[0]
    columns = torch.stack([x[:, 0] > 0.4, x[:, 1] + x[:, 2] > 0.9, x[:, 3] < 0], 1)
    targets = columns.float() if each == "label" else columns.float().argmax(1)
    loss = nn.BCEWithLogitsLoss() if each == "label" else nn.CrossEntropyLoss()
    step = dt.SupervisedStep(
        model, loss=loss, optimizer=torch.optim.AdamW(model.parameters(), 1e-2), device="cpu"
    )
    validation = dt.Validation(
        dt.BatchLoader(dt.Arrays(x, targets), batch_size=7),
        every=dt.Every(batches=4),
        **{
            "metrics": ["f1"],
            "key_metric": "f1",
            "threshold": dt.FindThreshold(metric="f1", each=each),
            **more,
        },
    )
    train = dt.BatchLoader(dt.Arrays(x[:40], targets[:40]), batch_size=5, shuffle=True, seed=5)
    name = None if runs is None else "r"
    return dt.Trainer(
        step,
        train,
        validation=validation,
        epochs=1,
        runs=runs,
        name=name,
        callbacks=recipes.callbacks(),
        verbosity=verbosity,
    )


@pytest.mark.parametrize("each", ["label", "class"])
def test_each_label_or_class_has_a_threshold_of_its_own(each):
    t = many(each)
    t.fit()
    assert [n for n in t.history if n.startswith("val.")] == ["val.loss", "val.threshold.0", "val.threshold.1", "val.threshold.2", "val.f1", "val.f1_optimistic"]  # fmt: skip
    found = t.validate(keep_predictions=True)
    logits, targets = found.judged.predictions.double(), found.judged.targets
    scores = torch.sigmoid(logits) if each == "label" else torch.softmax(logits, 1)
    expected = dt.best_thresholds(scores.numpy(), targets.numpy(), "f1", bootstrap=0, folds=0)
    kept = dt.Thresholds.from_state_dict(t.findings["threshold"])
    np.testing.assert_allclose(kept.threshold, expected.threshold, rtol=1e-12)
    assert [found[f"threshold.{at}"] for at in range(3)] == kept.threshold.tolist()
    assert found["f1_optimistic"] == pytest.approx(expected.score)
    assert found["f1"] <= found["f1_optimistic"]
    called = kept.predict(scores.numpy())
    wanted = targets.numpy() if each == "label" else np.eye(3)[targets.numpy()]
    assert found["f1_optimistic"] == pytest.approx(theirs.f1_score(wanted, called, average="macro"))


def test_metrics_of_several_classes_go_by_the_largest_column():
    t = many("class", metrics=["f1", "accuracy", "mcc"], key_metric="accuracy", subset=2)
    assert not {"accuracy_optimistic", "mcc_optimistic"} & {*t.judging.validation.names()}
    found = t.validate(keep_predictions=True)
    called, targets = found.judged.predictions.argmax(1), found.judged.targets
    assert found["accuracy"] == pytest.approx(theirs.accuracy_score(targets, called))
    assert found["mcc"] == pytest.approx(theirs.matthews_corrcoef(targets, called))
    assert {"f1_optimistic", "subset_rest"} < {*found}
    assert not {"accuracy_optimistic", "mcc_optimistic"} & {*found}
    labels = many("label", metrics=["accuracy"], key_metric="accuracy")
    assert "accuracy_optimistic" in labels.validate()


def test_the_display_leaves_the_columns_thresholds_out():
    screen = io.StringIO()
    t = many("class", verbosity=dt.Display(1, stream=screen))
    t.fit()
    assert "f1_optimistic" in screen.getvalue()
    assert "threshold." not in screen.getvalue()


def test_a_recorded_pass_gives_every_threshold():
    t = many("class")
    t.step(2)
    found = t.validate(record=True)
    assert [name for name in found if "threshold" in name] == ["threshold.0", "threshold.1", "threshold.2"]


def test_what_has_no_columns_is_refused_by_name():
    with pytest.raises(ValueError, match=r'FindThreshold\(each=.columns.\): expected "label", "class"'):
        dt.FindThreshold(each="columns")
    t = make(threshold=dt.FindThreshold(each="class"))
    with pytest.raises(ValueError, match=r"found predictions of shape \(40, 1\), expected \(rows, columns\)"):
        t.validate()
    t = many("class")
    t.judging.validation.threshold = dt.FindThreshold(each="label")
    with pytest.raises(ValueError, match=r"targets of shape \(60,\), expected \(60, 3\), 0 and 1"):
        t.validate()


@pytest.mark.parametrize("each", ["label", "class"])
def test_thresholds_of_columns_stopped_anywhere(each, tmp_path):
    t = many(each)
    points = 1
    while not recipes.advance(t, 1):
        points += 1
    expected = recipes.summary(t)
    for stop in range(0, points, 9):
        t = many(each, tmp_path / str(stop))
        recipes.advance(t, stop)
        t.run.save(t)
        t.close()
        t = many(each, tmp_path / str(stop))
        t.fit()
        t.close()
        assert recipes.summary(t)[0] == expected[0], f"stopped after {stop} of {points}"


def test_the_calibration_of_several_classes():
    t = many("class", calibration=dt.TemperatureCalibration)
    found = t.validate(keep_predictions=True)
    probabilities = torch.softmax(found.judged.predictions.double(), 1)
    assert found["calibration_error"] == pytest.approx(
        dt.calibration_error(probabilities, found.judged.targets)
    )
    assert found["calibration_error_calibrated"] >= 0


def test_batches_are_judged_by_any_metric():
    judged = make().validate(keep_predictions=True).judged
    found = judged.by_batch("accuracy", form="logits")
    assert len(found) == len(judged.batches) == 6
    for batch, value in zip(judged.batches, found, strict=True):
        logits, targets = judged.cut(slice(batch.start, batch.stop))
        assert value == pytest.approx(((logits >= 0) == (targets > 0)).float().mean().item())
    worst = judged.worst_batches(2, "accuracy", form="logits")
    assert [found[batch.index] for batch in worst] == sorted(found)[:2]
    assert judged.by_batch("accuracy", form="logits", threshold=0.0) != found

    def errors(predictions, targets):
        return ((predictions > 0) != (targets > 0)).sum()

    assert judged.worst_batches(1, errors, mode="min")[0].index == worst[0].index
    with pytest.raises(ValueError, match="not known what is best"):
        judged.worst_batches(1, errors)


CASES = {
    "threshold": {},
    "all": {"calibration": dt.SigmoidCalibration, "subset": 2, "memory": 64},
    "subsets": {"subset": 2, "threshold": dt.FindThreshold(metric="f1", in_subsets=True)},
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
        ({"metrics": ["f1"], "threshold": "f1"}, dt.EvaluationError, "found NaN in row 3, 11, expected numbers", r"rows are 1\[3\], 2\[3\]"),
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


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"every": 5}, r"Validation\(every=5\): expected a cadence"),
        ({"limit": "5"}, "limit: found '5', expected a whole number"),
        ({"limit": 0}, "limit: found 0, expected a whole number of at least 1"),
        ({"memory": -1}, "memory: found -1"),
        ({"calibration": "temperature"}, "calibration='temperature'.*expected a class"),
        ({"calibration": dt.TemperatureCalibration()}, "expected a class, which is fitted anew in each pass"),
    ],
)
def test_what_a_validation_is_given_by_mistake(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        dt.Validation(dt.BatchLoader(dt.Arrays(*binary(20)), batch_size=5), **given)


def test_what_has_no_targets_is_judged_by_ones_own_functions_alone():
    blind = dt.BatchLoader(dt.Arrays(binary(20)[0]), batch_size=6)
    t = make(threshold=None)
    with pytest.raises(dt.EvaluationError, match="f1, auroc, accuracy: the data has no targets"):
        t.evaluate(blind)
    found = t.evaluate(blind, metrics={"spread": lambda predictions, _: predictions.std()})
    assert found["spread"] == pytest.approx(t.predict(blind).predictions.std().item())
