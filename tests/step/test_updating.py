"""What makes an update of gradients equals the hand-written loop that does the same, bit for bit."""

import copy
import math

import pytest
import torch
from tests.support import recipes
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import deeptrain as dt
from deeptrain.run.environment import compiled as compiled_parts

ROWS, BATCH = 60, 8  # eight batches an epoch, the last one of four rows


def parts(make=lambda p: torch.optim.AdamW(p, 1e-2)):
    dt.reproducible(seed=7)
    model = recipes.Net()
    train = dt.BatchLoader(dt.Arrays(*recipes.data(ROWS)), batch_size=BATCH, shuffle="global", seed=1)
    return model, train, make(model.parameters()), nn.CrossEntropyLoss()


def trained(epochs=2, make=lambda p: torch.optim.AdamW(p, 1e-2), data=None, loss=None, **step):
    model, train, optimizer, loss_fn = parts(make)
    made = dt.SupervisedStep(model, loss=loss or loss_fn, optimizer=optimizer, device="cpu", **step)
    trainer = dt.Trainer(made, data or train, epochs=epochs, runs=None, verbosity=0)
    trainer.fit()
    return trainer


def weights(trainer):
    return dt.digest(trainer.learner.model.state_dict())


def groups_of(batches, size):
    batches = list(batches)
    return [batches[i : i + size] for i in range(0, len(batches), size)]


@pytest.mark.parametrize("accumulate", [2, 3, 5, 8, 9])
def test_accumulating_is_one_loss_over_all_rows(accumulate):
    """Sums of the pieces' gradients, each by its rows over those of the first, then divided once."""
    model, train, optimizer, loss_fn = parts()
    scheduler = OneCycleLR(optimizer, 1e-2, total_steps=2 * math.ceil(8 / accumulate))
    updates = 0
    for _ in range(2):
        for group in groups_of(train, accumulate):
            sums, total = [None for _ in model.parameters()], 0.0
            for batch in group:
                optimizer.zero_grad()
                loss_fn(model(batch.inputs), batch.targets).backward()
                share = batch.size / group[0].size
                total += share
                for i, p in enumerate(model.parameters()):
                    sums[i] = p.grad * share if sums[i] is None else sums[i] + share * p.grad
            for p, gradient in zip(model.parameters(), sums, strict=True):
                p.grad = gradient / total if total != 1 else gradient
            optimizer.step()
            scheduler.step()
            updates += 1
    found = trained(
        accumulate=accumulate, scheduler=lambda o, totals: OneCycleLR(o, 1e-2, total_steps=totals.updates)
    )
    assert weights(found) == dt.digest(model.state_dict())
    assert found.progress.train.updates == updates
    assert found.progress.train.iterations == 16


def test_accumulating_even_pieces_is_what_everybody_writes():
    """`(loss / n).backward()` over pieces of one size: the same bits where n is a power of 2, else within rounding."""

    def make(p):
        return torch.optim.SGD(p, 0.1)

    for n, same in ((2, True), (4, True), (3, False)):
        model, _, optimizer, loss_fn = parts(make)
        data = dt.BatchLoader(
            dt.Arrays(*recipes.data(BATCH * 12)), batch_size=BATCH, shuffle="global", seed=1
        )
        for group in groups_of(data, n):
            optimizer.zero_grad()
            for batch in group:
                (loss_fn(model(batch.inputs), batch.targets) / n).backward()
            optimizer.step()
        data.seek(epoch=0)
        found = trained(1, make, accumulate=n, data=data)
        if same:
            assert weights(found) == dt.digest(model.state_dict())
        else:
            for name, value in model.state_dict().items():
                assert torch.allclose(value, found.learner.model.state_dict()[name], atol=1e-6)


def test_accumulating_makes_the_gradient_of_one_large_batch():
    torch.manual_seed(0)
    x, y = torch.randn(10, 4, dtype=torch.float64), torch.tensor([0, 1, 2, -100, 1, 0, -100, -100, 2, 1])
    for loss in (
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5, 2]).double()),
        nn.CrossEntropyLoss(reduction="sum"),
    ):
        models = []
        for size, n in ((10, 1), (4, 3)):
            torch.manual_seed(1)
            model = nn.Linear(4, 3).double()
            step = dt.SupervisedStep(
                model,
                loss=loss,
                optimizer=torch.optim.SGD(model.parameters(), 0.1),
                accumulate=n,
                device="cpu",
            )
            dt.Trainer(step, dt.BatchLoader(dt.Arrays(x, y), batch_size=size), runs=None, verbosity=0).fit()
            models.append(model.weight.detach())
        assert torch.allclose(*models, rtol=1e-12)


def test_clipping_by_norm_and_by_value():
    model, train, optimizer, loss_fn = parts()
    norms = []
    for batch in train:
        optimizer.zero_grad()
        loss_fn(model(batch.inputs), batch.targets).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.5).item())
        nn.utils.clip_grad_value_(model.parameters(), 0.05)
        optimizer.step()
    found = trained(1, clip_norm=0.5, clip_value=0.05)
    assert weights(found) == dt.digest(model.state_dict())
    assert found.history["train.grad_norm"].values.tolist() == norms


def test_clipping_and_accumulating_clip_the_update():
    found = trained(1, clip_norm=0.5, accumulate=3)
    history = found.history["train.grad_norm"]
    assert history.iterations.tolist() == [3, 6, 8]


def test_an_average_of_the_weights():
    model, train, optimizer, loss_fn = parts()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    for _ in range(2):
        for batch in train:
            optimizer.zero_grad()
            loss_fn(model(batch.inputs), batch.targets).backward()
            optimizer.step()
            average.update_parameters(model)
    found = trained(ema=0.8)
    assert weights(found) == dt.digest(model.state_dict())
    assert dt.digest(found.learner.average.module.state_dict()) == dt.digest(average.module.state_dict())


def test_a_given_average_is_used_as_it_is():
    model, train, optimizer, loss_fn = parts()
    average = AveragedModel(model)
    step = dt.SupervisedStep(model, loss=loss_fn, optimizer=optimizer, ema=average, device="cpu")
    dt.Trainer(step, train, runs=None, verbosity=0).fit()
    assert int(average.n_averaged) == 8
    assert step.state_dict()["ema"]["updates"] == 8


def test_validation_by_the_averaged_weights_and_training_unchanged():
    figures = []
    for evaluate_ema in (False, True):
        model, train, optimizer, loss_fn = parts()
        step = dt.SupervisedStep(
            model, loss=loss_fn, optimizer=optimizer, ema=0.9, evaluate_ema=evaluate_ema, device="cpu"
        )
        val = dt.Validation(dt.BatchLoader(dt.Arrays(*recipes.data(20, seed=2)), batch_size=7))
        trainer = dt.Trainer(step, train, validation=val, runs=None, verbosity=0)
        trainer.fit()
        x, y = recipes.data(20, seed=2)
        judged = copy.deepcopy(step.average.module if evaluate_ema else model).eval()
        expected = loss_fn(judged(x), y).item()
        assert trainer.history["val.loss"].values.tolist() == pytest.approx([expected], rel=1e-5)
        figures.append((weights(trainer), expected))
    assert figures[0][0] == figures[1][0]
    assert figures[0][1] != figures[1][1]


def test_bf16():
    model, train, optimizer, loss_fn = parts()
    for batch in train:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_fn(model(batch.inputs), batch.targets)
        loss.backward()
        optimizer.step()
    assert weights(trained(1, precision="bf16")) == dt.digest(model.state_dict())


def test_fp16_with_its_scaler():
    model, train, optimizer, loss_fn = parts()
    scaler = torch.amp.GradScaler("cpu")
    for batch in train:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = loss_fn(model(batch.inputs), batch.targets)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
    found = trained(1, precision="fp16", clip_norm=0.5)
    assert weights(found) == dt.digest(model.state_dict())
    assert found.state_dict()["scaler"] == scaler.state_dict()


def test_a_scale_that_is_too_large_leaves_updates_out():
    found = trained(1, precision="fp16", make=lambda p: torch.optim.SGD(p, 1e-2))
    scaler = found.learner.precision._scaler
    before = found.learner.model.head.weight.clone()
    scaler.load_state_dict({**scaler.state_dict(), "scale": 3e38})
    found.epochs = 2
    found.progress.phase = dt.Phase.TRAIN
    found.step(1)
    assert torch.equal(found.learner.model.head.weight, before)
    assert found.progress.train.updates == 8
    assert found.progress.train.iterations == 9
    assert scaler.get_scale() < 3e38


def test_a_rate_is_multiplied_whatever_the_scheduler_says():
    def make(p):
        p = list(p)
        return torch.optim.SGD([{"params": p[:2], "lr_scale": 0.5}, {"params": p[2:]}], 0.1)

    model, train, optimizer, loss_fn = parts(make)
    scheduler = LambdaLR(optimizer, lambda n: 1 / (n + 1))
    for batch in train:
        optimizer.zero_grad()
        loss_fn(model(batch.inputs), batch.targets).backward()
        rates = [group["lr"] for group in optimizer.param_groups]
        optimizer.param_groups[0]["lr"] *= 0.5
        optimizer.step()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler.step()
    found = trained(1, make=make, scheduler=lambda o, _: LambdaLR(o, lambda n: 1 / (n + 1)))
    assert weights(found) == dt.digest(model.state_dict())
    found.set("optimizer.param_groups.*.lr_scale", 0.1)
    assert [group["lr_scale"] for group in found.learner.optimizer.param_groups] == [0.1, 0.1]


def test_lbfgs():
    model, train, optimizer, loss_fn = parts(lambda p: torch.optim.LBFGS(p, 0.1, max_iter=4))
    losses = []
    for batch in train:

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = loss_fn(model(batch.inputs), batch.targets)
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    found = trained(1, make=lambda p: torch.optim.LBFGS(p, 0.1, max_iter=4))
    assert weights(found) == dt.digest(model.state_dict())
    assert found.history["train.loss"].values.tolist() == losses
    with pytest.raises(ValueError, match=r"LBFGS evaluates the model by itself.*accumulate"):
        trained(1, make=torch.optim.LBFGS, accumulate=2)


def test_a_plateau_by_a_named_figure():
    model, train, optimizer, loss_fn = parts()
    step = dt.SupervisedStep(
        model,
        loss=loss_fn,
        optimizer=optimizer,
        scheduler=ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5),
        scheduler_on="accuracy",
        device="cpu",
    )
    x, y = recipes.data(20, seed=2)
    val = dt.Validation(dt.BatchLoader(dt.Arrays(x, y), batch_size=7), metrics={"accuracy": recipes.accuracy})
    trainer = dt.Trainer(step, train, validation=val, epochs=2, runs=None, verbosity=0)
    trainer.fit()
    assert step.scheduler.best == max(trainer.history["val.accuracy"].values.tolist())


def test_a_plateau_by_a_figure_that_there_is_not_is_refused_at_once():
    model, train, optimizer, loss_fn = parts()
    step = dt.SupervisedStep(
        model,
        loss=loss_fn,
        optimizer=optimizer,
        scheduler=ReduceLROnPlateau(optimizer),
        scheduler_on="acuracy",
        device="cpu",
    )
    val = dt.Validation(
        dt.BatchLoader(dt.Arrays(*recipes.data(20)), batch_size=7), metrics={"accuracy": recipes.accuracy}
    )
    with pytest.raises(ValueError, match=r"scheduler_on='acuracy'..*loss.*accuracy"):
        dt.Trainer(step, train, validation=val, runs=None, verbosity=0)


class OwnLoss(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.net, self.form = recipes.Net(), form

    def forward(self, x, labels=None):
        logits = self.net(x)
        loss = nn.functional.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if self.form == "dict" else (loss, logits)


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_a_model_that_gives_its_own_loss(form):
    expected = weights(trained(2))
    dt.reproducible(seed=7)
    model = OwnLoss(form)
    x, y = recipes.data(ROWS)
    inputs = {"x": x} if form == "dict" else x
    train = dt.BatchLoader(dt.Arrays(inputs, y), batch_size=BATCH, shuffle="global", seed=1)
    step = dt.SupervisedStep(
        model,
        loss=None,
        optimizer=torch.optim.AdamW(model.parameters(), 1e-2),
        metrics={"accuracy": recipes.accuracy},
        device="cpu",
    )
    x, y = recipes.data(20, seed=2)
    val = dt.BatchLoader(dt.Arrays({"x": x} if form == "dict" else x, y), batch_size=7)
    trainer = dt.Trainer(
        step,
        train,
        validation=dt.Validation(val, metrics={"accuracy": recipes.accuracy}),
        epochs=2,
        runs=None,
        verbosity=0,
    )
    trainer.fit()
    assert dt.digest(model.net.state_dict()) == expected
    model.eval()
    expected = nn.functional.cross_entropy(model.net(x), y).item()
    assert trainer.history["val.loss"].values[-1] == pytest.approx(expected, rel=1e-5)


class Adding:
    """As torchmetrics' objects are: adds up, and has a state."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.right, self.rows = torch.tensor(0), torch.tensor(0)

    def update(self, predictions, targets):
        self.right = self.right + (predictions.argmax(1) == targets).sum()
        self.rows = self.rows + len(targets)

    def compute(self):
        return self.right / self.rows

    @property
    def metric_state(self):
        return {"right": self.right, "rows": self.rows}


def test_metrics_that_add_up_give_the_iterations_figure_and_the_epochs():
    found = trained(2, metrics={"adding": Adding(), "accuracy": recipes.accuracy})
    each = found.history["train.adding"].values.tolist()
    assert each == found.history["train.accuracy"].values.tolist()
    epochs = found.history["train.epoch_adding"]
    assert epochs.iterations.tolist() == [8, 16]
    sizes = torch.tensor([8.0] * 7 + [4.0])
    expected = (torch.tensor(each).reshape(2, 8) * sizes).sum(1) / 60
    assert epochs.values.tolist() == pytest.approx(expected.tolist())


@pytest.mark.filterwarnings("ignore:No (positive|negative) samples")
def test_torchmetrics_own(tmp_path):
    classification = pytest.importorskip("torchmetrics.classification")

    def make():
        model, train, optimizer, loss_fn = parts()
        metrics = {
            "adding": classification.MulticlassAccuracy(3, average="micro"),
            "auroc": classification.MulticlassAUROC(3, thresholds=None),  # keeps all predictions in lists
        }
        step = dt.SupervisedStep(model, loss=loss_fn, optimizer=optimizer, metrics=metrics, device="cpu")
        return dt.Trainer(step, train, epochs=2, runs=tmp_path, name="r", verbosity=0)

    found = trained(2, metrics={"adding": Adding(), "accuracy": recipes.accuracy})
    for stop in (3, 8, 13):
        with make() as trainer:
            trainer.fit(until=dt.At(iteration=stop))
            trainer.run.save(trainer)
    with make() as trainer:
        trainer.fit()
        for name in ("train.adding", "train.epoch_adding"):
            assert trainer.history[name].values.tolist() == found.history[name].values.tolist()
        assert len(trainer.history["train.epoch_auroc"].values) == 2


@pytest.mark.parametrize("inside", [True, False])
def test_a_compiled_model_has_the_paths_of_the_plain_one(inside):
    digests = []
    for compiled in (False, True):
        dt.reproducible(seed=1)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        train = dt.BatchLoader(dt.Arrays(*recipes.data(16)), batch_size=8)
        step = dt.SupervisedStep(
            torch.compile(model, backend="eager") if compiled and not inside else model,
            loss=nn.CrossEntropyLoss(),
            optimizer=torch.optim.AdamW(model.parameters(), 1e-2),
            compile={"backend": "eager"} if compiled and inside else False,
            ema=0.5,
            device="cpu",
        )
        trainer = dt.Trainer(step, train, runs=None, verbosity=0)
        trainer.fit()
        assert compiled_parts(step) == (["model"] if compiled else [])
        digests.append(dt.digest({key: trainer.state_dict()[key] for key in ("model", "ema", "optimizer")}))
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate": 0}, "accumulate=0"),
        ({"accumulate": True}, "accumulate=True"),
        ({"clip_norm": 0}, "clip_norm=0"),
        ({"clip_value": -1.0}, "clip_value=-1.0"),
        ({"precision": "fp8"}, "precision='fp8': expected 'fp32', 'bf16' or 'fp16'"),
        ({"ema": 1.0}, "ema=1.0"),
        ({"evaluate_ema": True}, "evaluate_ema=True"),
        ({"on_nonfinite": "raise"}, "on_nonfinite='raise': expected one of 'stop'"),
    ],
)
def test_settings_out_of_range(settings, message):
    model, _, optimizer, loss_fn = parts()
    with pytest.raises(ValueError, match=message):
        dt.SupervisedStep(model, loss=loss_fn, optimizer=optimizer, **settings)
