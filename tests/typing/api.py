"""The public face as a type checker sees it; checked by `make types`, never run."""

from __future__ import annotations

from typing import assert_type

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import deeptrain as dt
from deeptrain.checkpoint.partial import Report
from deeptrain.evaluation.judgement import Judged, Judgement
from deeptrain.introspect.info import Info


def accuracy(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A metric."""
    return (predictions.argmax(1) == targets).float().mean()


def one_scheduler(optimizer: torch.optim.Optimizer, totals: dt.Totals) -> OneCycleLR:
    """A scheduler factory."""
    return OneCycleLR(optimizer, 1e-2, total_steps=totals.updates)


class Count(dt.Callback):
    """A callback."""

    def on_train_batch_end(self, trainer: dt.Trainer, event: dt.Event) -> None:
        """Ask for a pause."""
        assert_type(event.metrics, dict[str, float])
        trainer.pause()


class Own(dt.OwnStep):
    """A step of one's own."""

    def __init__(self) -> None:
        self.model = nn.Linear(4, 2)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)

    def compute(self, batch: dt.Batch) -> torch.Tensor:
        """One iteration."""
        loss: torch.Tensor = self.model(batch.inputs).square().mean()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss

    def evaluate(self, batch: dt.Batch) -> dt.Outcome:
        """For a validation."""
        return dt.Outcome(None, self.model(batch.inputs))


def told(trainer: dt.Trainer, event: dt.Event) -> None:
    """A function by event."""
    trainer.record({"loss": event.figures["loss"], "one": 1})


def script() -> None:
    """What users write."""
    dt.reproducible(seed=0)
    model = nn.Linear(4, 2)
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-3),
        scheduler=one_scheduler,
        metrics={"accuracy": accuracy},
        class_weights={0: 3, 1: 1},
        sample_weight=lambda batch: torch.ones(batch.size),
    )
    x, y = torch.rand(8, 4), torch.zeros(8, dtype=torch.long)
    train = dt.BatchLoader(dt.Arrays(x, y), batch_size=4, shuffle="samples", seed=0)
    val = dt.BatchLoader(dt.Files("data/val", labels="data/val/labels.npy"), batch_size=256)
    trainer = dt.Trainer(
        step,
        train,
        validation=dt.Validation(val, metrics={"accuracy": accuracy}, key_metric="accuracy"),
        epochs=10,
        name="mnist",
        config={"lr": 1e-3},
        checkpoints=dt.Checkpoints(every=dt.Every(seconds=60)),
        callbacks=[
            Count(),
            {"train:epoch": told, ("val:end", dt.Every(epochs=2)): [told, lambda trainer: trainer.pause()]},
            dt.EarlyStopping("accuracy", patience=3, mode="max"),
            dt.SeedSetter(dt.Every(epochs=1)),
        ],
    )
    trainer.fit()
    dt.Trainer(Own(), train, validation=dt.Validation(val, class_weights="balanced"))
    assert_type(trainer.load("here", only=["model.*"]), Report | None)
    assert_type(trainer.set("optimizer.param_groups.*.weight_decay", 0.1), str)
    assert_type(trainer.at(dt.At(epoch=5), lambda trainer: trainer.request_validation()), str)
    assert_type(trainer.schedule.remove(0), str)
    sgd = torch.optim.SGD(model.parameters(), 0.1)
    assert_type(trainer.replace(optimizer=sgd, scheduler=one_scheduler, callbacks=[Count()]), str)
    trainer.replace(loss=nn.CrossEntropyLoss(), train=train, validation=None, scheduler=None)
    step.load_skip = ("optimizer.param_groups.*.lr",)
    trainer.checkpoint(tag="before surgery")
    dt.save_weights(trainer, "weights.safetensors")
    trainer.fit(until=dt.At(epoch=2))
    trainer.step(1)
    for event in trainer:
        assert_type(event, dt.Event)
    assert_type(trainer.validate(keep_predictions=True), Judgement)
    assert_type(trainer.predict(val), Judged)
    assert_type(trainer.info(), Info)
    assert_type(dt.digest(trainer.state_dict()), str)
    trainer.history["val.accuracy"].values.max()
    dt.load_weights("runs/M1__mnist", model)
    for batch in train:
        assert_type(batch, dt.Batch)
    with dt.Trainer(step, DataLoader(TensorDataset(x, y), batch_size=4), runs=None) as second:
        second.fit()
