"""Weights of classes and of single rows, in training and in validation."""

import numpy as np
import pytest
import torch
from tests.support import fresh, recipes
from torch import nn
from torch.nn import functional

import deeptrain as dt
from deeptrain.step.labels import classes_of
from deeptrain.step.row_weights import RowWeights

WEIGHTS = {0: 3.0, 1: 1.0, 2: 0.7}
X, Y = recipes.data()


def loader(x=X, y=Y, size=8, **more):
    return dt.BatchLoader(dt.Arrays(x, y, **more), batch_size=size, shuffle="global", seed=1)


def trainer(train, net=None, *, loss=None, validation=None, runs=None, name=None, epochs=2, **weights):
    dt.reproducible(seed=7)
    model = net() if net else nn.Linear(6, 3)
    step = dt.SupervisedStep(
        model,
        loss=loss or nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-2),
        device="cpu",
        **weights,
    )
    return dt.Trainer(step, train, validation=validation, epochs=epochs, runs=runs, name=name, verbosity=0)


def trained(train, net=None, **more):
    t = trainer(train, net, **more)
    t.fit()
    return dt.digest(t.learner.model.state_dict()), t.history["train.loss"].values.tolist()


def bare(train, weigh, net=None, each=None, epochs=2):
    """A loop written by hand, with one weight for each row."""
    dt.reproducible(seed=7)
    model = net() if net else nn.Linear(6, 3)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    each = each or nn.CrossEntropyLoss(reduction="none")
    losses = []
    for _ in range(epochs):
        for batch in train:
            loss = (each(model(batch.inputs), batch.targets) * weigh(batch)).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return dt.digest(model.state_dict()), losses


def of_class(labels):
    return torch.tensor(list(WEIGHTS.values()))[labels]


def test_class_weights_give_the_bits_of_a_loop_written_by_hand():
    found = trained(loader(), class_weights=WEIGHTS)
    assert found == bare(loader(), lambda batch: of_class(batch.targets))
    assert found != trained(loader())


def test_one_hot_labels():
    hot = functional.one_hot(Y, 3).float()
    found = trained(loader(y=hot), class_weights=WEIGHTS)
    assert found == bare(loader(y=hot), lambda batch: of_class(batch.targets.argmax(1)))


def column(rows):
    return (rows == 0).float()[:, None]


def test_binary_labels():
    weights = torch.tensor([3.0, 1.0])
    found = trained(
        loader(y=column(Y)),
        lambda: nn.Linear(6, 1),
        loss=nn.BCEWithLogitsLoss(),
        class_weights={0: 3, 1: 1},
    )
    assert found == bare(
        loader(y=column(Y)),
        lambda batch: weights[batch.targets.long()],
        lambda: nn.Linear(6, 1),
        nn.BCEWithLogitsLoss(reduction="none"),
    )


def test_class_labels_of_an_autoencoder():
    def train():
        return loader(y=X, class_labels=Y)

    found = trained(train(), lambda: nn.Linear(6, 6), loss=nn.MSELoss(), class_weights=WEIGHTS)
    each = nn.MSELoss(reduction="none")
    expected = bare(
        train(), lambda batch: of_class(batch.class_labels)[:, None], lambda: nn.Linear(6, 6), each
    )
    assert found == expected


@pytest.mark.parametrize("as_what", [lambda w: w, lambda w: w.numpy(), lambda w: w.tolist()])
def test_a_function_gives_sample_weights_on_top(as_what):
    rows = torch.linspace(0, 2, len(Y))
    found = trained(loader(), class_weights=WEIGHTS, sample_weight=lambda batch: as_what(rows[batch.rows]))
    assert found == bare(loader(), lambda batch: of_class(batch.targets) * rows[batch.rows])


def test_sample_weights_from_the_loader():
    rows = torch.linspace(0, 2, len(Y))
    found = trained(loader(weights=rows), class_weights=WEIGHTS)
    assert found == bare(loader(), lambda batch: rows[batch.rows] * of_class(batch.targets))


def test_a_loss_of_ones_own_is_given_the_weights():
    def my_loss(predictions, targets, sample_weight=None):
        return (functional.cross_entropy(predictions, targets, reduction="none") * sample_weight).mean()

    found = trained(loader(), loss=my_loss, class_weights=WEIGHTS)
    assert found == bare(loader(), lambda batch: of_class(batch.targets))


def test_weights_of_windows_count_too():
    windows = dt.Windows(4, stride=2, weights=(0.5, 1.5))
    series = torch.randn(30, 8, 6, generator=torch.Generator().manual_seed(0))

    def train(preprocess):
        return dt.BatchLoader(dt.Arrays(series, Y[:30]), batch_size=10, preprocess=preprocess)

    class Last(nn.Linear):
        def forward(self, x):
            return super().forward(x[:, -1])

    found = trained(train(windows), lambda: Last(6, 3), class_weights=WEIGHTS)
    expected = bare(train(windows), lambda batch: batch.weights * of_class(batch.targets), lambda: Last(6, 3))
    assert found == expected
    assert found != trained(train(windows), lambda: Last(6, 3))


# ---------------------------------------------------------------------- balanced


def balanced(labels):
    counts = np.bincount(labels)
    return {str(k): len(labels) / (len(counts) * int(n)) for k, n in enumerate(counts)}


def test_balanced_weights_are_counted_from_the_labels():
    t = trainer(loader(), class_weights="balanced")
    assert t.learner.settings()["class_weights"] == balanced(Y)
    assert t.train.position == (0, 0, 0)
    weights = torch.tensor(list(balanced(Y).values()))
    assert trained(loader(), class_weights="balanced") == bare(loader(), lambda batch: weights[batch.targets])


class Readings(dt.Files):
    """Files that count how often the inputs are read."""

    times = 0

    def read_stored(self, *args, **more):
        self.times += 1
        return super().read_stored(*args, **more)


def test_labels_in_files_are_counted_without_reading_the_inputs(tmp_path):
    source = Readings(recipes.write_files(tmp_path / "data"))
    found = RowWeights("balanced").counted(dt.BatchLoader(source, batch_size=8))
    assert found.settings() == {"class_weights": balanced(Y)}
    assert source.times == 0


class Plain:
    """A source that gives what it must."""

    n_rows, set_names, set_sizes = len(Y), ("0",), (len(Y),)

    def describe(self):
        return {}

    def read(self, rows):
        return X[rows], X[rows], Y[rows]


@pytest.mark.parametrize(
    "feed",
    [
        lambda: dt.BatchLoader(dt.Arrays(X, X, class_labels=Y), batch_size=7),
        lambda: dt.BatchLoader(Plain(), batch_size=7),
        lambda: dt.BatchLoader(dt.FromDataset(torch.utils.data.TensorDataset(X, Y)), batch_size=7),
        lambda: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=7, shuffle=True),
    ],
)
def test_labels_are_counted_wherever_they_are(feed):
    t = trainer(feed(), lambda: nn.Linear(6, 6), loss=nn.MSELoss(), class_weights="balanced")
    assert t.learner.row_weights.settings()["class_weights"] == balanced(Y)
    after = torch.random.get_rng_state()
    dt.reproducible(seed=7)
    nn.Linear(6, 6)
    assert torch.equal(after, torch.random.get_rng_state())  # counting draws from no stream


def test_labels_that_the_loss_leaves_out_need_no_weight_and_are_not_counted():
    y = Y.clone()
    y[::7] = -100
    t = trainer(loader(y=y), class_weights="balanced")
    assert t.learner.settings()["class_weights"] == balanced(y[y >= 0])
    t.fit()
    assert np.isfinite(t.history["train.loss"].values).all()


def test_other_labels_are_seen_when_a_run_is_continued(tmp_path):
    t = trainer(loader(), runs=tmp_path, name="r", class_weights="balanced")
    t.fit(until=dt.At(epoch=1))
    t.close()
    other = Y.clone()
    other[X[:, 3] > 1.5] = 2
    with pytest.raises(dt.FingerprintMismatch, match=r"step\.class_weights\.2"):
        trainer(loader(y=other), runs=tmp_path, name="r", class_weights="balanced")
    t = trainer(loader(), runs=tmp_path, name="r", class_weights="balanced")
    t.fit()
    assert dt.digest(t.learner.model.state_dict()) == trained(loader(), class_weights="balanced")[0]
    t.close()


def test_a_replaced_loader_is_counted_anew(tmp_path):
    few = dt.Arrays(X[:40], Y[:40])
    t = trainer(loader(), runs=tmp_path, name="r", class_weights="balanced")
    t.fit(until=dt.At(epoch=1))
    t.replace(train=dt.BatchLoader(few, batch_size=8))
    assert t.settings["step"]["class_weights"] == balanced(Y[:40])
    t.close()
    t = trainer(dt.BatchLoader(few, batch_size=8), runs=tmp_path, name="r", class_weights="balanced")
    assert t.progress.train.epochs == 1
    t.close()


# ---------------------------------------------------------------------- validation


def test_the_validation_loss_is_weighted_over_the_whole_pass():
    x, y = recipes.data(20, seed=2)

    def val(**more):
        return dt.Validation(dt.BatchLoader(dt.Arrays(x, y), batch_size=7), **more)

    plain = trainer(loader(), validation=val())
    weighted = trainer(loader(), validation=val(class_weights=WEIGHTS, sample_weight=lambda b: b.rows + 1))
    for t in (plain, weighted):
        t.fit()
    each = functional.cross_entropy(weighted.learner.model(x), y, reduction="none")
    expected = (each * of_class(y) * torch.arange(1, 21)).mean().item()
    assert weighted.history["val.loss"].values[-1] == pytest.approx(expected, rel=1e-6)
    assert plain.history["val.loss"].values[-1] == pytest.approx(each.mean().item(), rel=1e-6)
    assert dt.digest(plain.learner.state_dict()) == dt.digest(weighted.learner.state_dict())


class Told(dt.Callback):
    def __init__(self):
        self.losses = []

    def on_val_batch_end(self, trainer, event):
        self.losses.append(event.metrics["loss"])


def test_each_batch_of_a_weighted_validation_tells_its_weighted_loss():
    x, y = recipes.data(20, seed=2)
    val = dt.BatchLoader(dt.Arrays(x, y), batch_size=10)
    t, told = trainer(loader(), epochs=1, validation=dt.Validation(val, class_weights="balanced")), Told()
    t.handlers = type(t.handlers)([told])
    t.fit()
    assert t.judging.settings()["class_weights"] == balanced(y)
    assert np.mean(told.losses) == pytest.approx(t.history["val.loss"].values[-1], rel=1e-6)


def test_a_step_that_cannot_weigh_a_pass_is_refused():
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(batch):
        optimizer.step()
        return model(batch.inputs).sum()

    val = dt.Validation(loader(), class_weights=WEIGHTS)
    with pytest.raises(TypeError, match="FunctionStep has no method weighted_loss_over"):
        dt.Trainer(step, loader(), validation=val, runs=None)


# ---------------------------------------------------------------------- same bits


def small(runs=None):
    x, y = recipes.data(24)
    weights = {"class_weights": "balanced", "sample_weight": lambda batch: torch.rand(batch.size)}
    val = dt.BatchLoader(dt.Arrays(*recipes.data(20, seed=2)), batch_size=7)
    validation = dt.Validation(val, every=dt.Every(batches=2), **weights)
    return trainer(loader(x, y), recipes.Net, validation=validation, runs=runs, name=runs and "r", **weights)


def one_transition(runs):
    t = small(runs)
    done = recipes.advance(t, 1)
    t.run.save(t)
    t.close()
    return done, recipes.summary(t)


def whole():
    t = small()
    count = 1
    while not recipes.advance(t, 1):
        count += 1
    return count, recipes.summary(t)


def test_stopped_at_every_safe_point_gives_the_same_bits(tmp_path):
    """Each transition is made in a process of its own; a validation under way is computed again there."""
    count, expected = fresh.run(whole)
    assert count > 12
    for k in range(count):
        done, found = fresh.run(one_transition, tmp_path)
        assert done is (k == count - 1)
    assert found == expected


# ---------------------------------------------------------------------- what is refused


def test_a_class_without_a_weight_is_named():
    t = trainer(loader(), class_weights={0: 3, 2: 1})
    with pytest.raises(ValueError, match=r"class 1 has no weight: row \d of batch 0 of epoch 0 \(0\["):
        t.fit()
    assert t.progress.torn is None


def test_a_loss_that_cannot_be_weighted_is_refused_when_the_step_is_made():
    def my_loss(predictions, targets):
        return functional.cross_entropy(predictions, targets)

    with pytest.raises(TypeError, match=r"the loss .*my_loss has no way to take them"):
        trainer(loader(), loss=my_loss, class_weights=WEIGHTS)
    validation = dt.Validation(loader(), class_weights=WEIGHTS)
    with pytest.raises(TypeError, match=r"the loss .*my_loss has no way to take them"):
        trainer(loader(), loss=my_loss, validation=validation)


class OwnLoss(nn.Linear):
    def forward(self, x, y):
        return functional.cross_entropy(super().forward(x), y), super().forward(x)


def test_a_model_that_gives_its_own_loss_cannot_be_weighted():
    model = OwnLoss(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(TypeError, match="the model gives its own loss, which cannot be weighted"):
        dt.SupervisedStep(model, loss=None, optimizer=optimizer, class_weights=WEIGHTS)


def test_accumulated_pieces_weigh_as_one_batch_does():
    def train(size):
        return dt.BatchLoader(dt.Arrays(X, Y), batch_size=size)

    parted = trainer(train(6), class_weights=WEIGHTS, accumulate=2)
    whole = trainer(train(12), class_weights=WEIGHTS)
    for t in (parted, whole):
        t.fit()
    assert parted.progress.train.updates == whole.progress.train.updates
    for one, other in zip(parted.learner.model.parameters(), whole.learner.model.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([3, 1], "expected weights by class"),
        ({}, "expected a weight for each class"),
        ({"a": 1}, "has the class 'a'"),
        ({0: -1}, "has -1 for class 0"),
        ({0: float("nan")}, "has nan for class 0"),
        ("balance", "expected 'balanced'"),
    ],
)
def test_odd_class_weights_are_refused(weights, message):
    with pytest.raises((ValueError, TypeError), match=message):
        RowWeights(weights)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "found no labels"),
        ([torch.zeros(3)], "found labels in a list"),
        (torch.tensor([0.0, 0.5]), "found the label 0.5"),
        (torch.tensor([[1, 1], [0, 1]]), r"found the label \[1, 1\], expected one-hot rows"),
        (torch.zeros(2, 3, 4), r"labels of shape \(2, 3, 4\)"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels, message):
    with pytest.raises((ValueError, TypeError), match=message):
        classes_of(labels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda batch: torch.ones(3), r"gave the shape \(3,\) for batch 0 of epoch 0"),
        (lambda batch: torch.full((batch.size,), float("nan")), "expected finite numbers from 0 up"),
        (lambda batch: -torch.ones(batch.size), "gave -1 to -1"),
    ],
)
def test_odd_sample_weights_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        trainer(loader(), sample_weight=given).fit()
    with pytest.raises(TypeError, match="expected a function of a batch"):
        RowWeights(sample_weight=torch.ones(3))


def test_a_loader_that_can_only_be_gone_through_is_not_counted():
    with pytest.raises(TypeError, match="found a IterableFeed, whose labels cannot be counted"):
        trainer(recipes.drawing(X, Y), class_weights="balanced")


def test_weights_in_a_source_have_one_axis():
    with pytest.raises(ValueError, match=r"weights: found the shape \(60, 3\)"):
        dt.Arrays(X, Y, weights=torch.ones(60, 3))
