"""The script that `deeptrain demo` runs, and an example of one's own: a small network learns handwritten digits.

    python demo_script.py demo/data

Nothing in it is about being interrupted. Stop it however you like and give the same command again.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import deeptrain as dt

if TYPE_CHECKING:
    from torch.optim import Optimizer

RATE = 3e-3


def make_model() -> nn.Module:
    """A convolutional network for images of shape (rows, 1, 28, 28), giving scores of shape (rows, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(32 * 7 * 7, 64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )


def accuracy(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The share of rows whose highest score is at their label."""
    return (predictions.argmax(1) == targets).float().mean()


def one_cycle(optimizer: Optimizer, totals: dt.Totals) -> OneCycleLR:
    """A learning rate that rises and falls once over the whole run."""
    return OneCycleLR(optimizer, RATE, total_steps=totals.updates)


def main() -> None:
    """Train, or go on training where an earlier start of this script was stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a directory with train/ and val/, as `deeptrain demo` writes it")
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()

    torch.set_num_threads(1)  # another number gives other bits; one is not slowed down by busy neighbours
    dt.reproducible(seed=0)

    train = dt.BatchLoader(dt.Files(f"{options.data}/train"), batch_size=64, shuffle="samples", seed=0)
    val = dt.BatchLoader(dt.Files(f"{options.data}/val"), batch_size=128)
    model = make_model()
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), RATE),
        scheduler=one_cycle,
        metrics={"accuracy": accuracy},
        device="cpu",
    )
    trainer = dt.Trainer(
        step,
        train,
        validation=dt.Validation(val, metrics={"accuracy": accuracy}, key_metric="accuracy"),
        epochs=options.epochs,
        name="digits",
        checkpoints=dt.Checkpoints(every=dt.Every(epochs=1)),
        verbosity=dt.Display(1, metrics={"loss": "loss", "accuracy": "acc"}, digits=3),
    )
    trainer.fit()


if __name__ == "__main__":
    main()
