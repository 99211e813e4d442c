"""Which appliance draws this current? Series of 100 to 1,344 time steps, with augmentation before they are cut.

    pip install --no-deps sktime
    python examples/windows_plaid.py

The data is PLAID, from the text files in sktime's wheel. A batch's series are scaled at random, each as a whole, and then
cut into overlapping windows; short series are padded. A small convolution looks at each window by itself.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

import deeptrain as dt

INSIDE = Path("datasets", "data", "PLAID")  # within sktime
REMEDY = "pip install --no-deps sktime (only its data files are read, nothing of it is imported)"
APPLIANCES = 11
EPOCHS = 6


def find_plaid() -> Path | None:
    """Find the data's directory in the installed sktime, which is not imported; None where there is none."""
    found = importlib.util.find_spec("sktime")
    places = [] if found is None else list(found.submodule_search_locations or [])
    return next((Path(place) / INSIDE for place in places if (Path(place) / INSIDE).is_dir()), None)


def read_ts(path: Path) -> tuple[list[npt.NDArray[np.float32]], list[int]]:
    """Read series of one variable and their classes: after the line `@data`, `0.1,0.2,...:7` in each.

    Raises:
        ValueError: A line is something else; the message names it.
    """
    series, classes = [], []
    with path.open(encoding="utf-8") as file:
        lines = enumerate(file, 1)
        for _, line in lines:
            if line.strip().lower() == "@data":
                break
        for number, line in lines:
            values, _, label = line.strip().rpartition(":")
            try:
                series.append(np.array(values.split(","), np.float32)[:, None])
                classes.append(int(label))
            except ValueError as error:
                raise ValueError(
                    f"{path}, line {number}: expected numbers, a colon and a class: {error}"
                ) from error
    return series, classes


def scale(inputs: dt.WithMask) -> dt.WithMask:
    """Scale each series by a random factor, the same in all of its windows."""
    factors = torch.empty(len(inputs.values), 1, 1).uniform_(0.8, 1.25)
    return inputs._replace(values=inputs.values * factors)


class Recogniser(nn.Module):
    """Convolutions along the time axis, and the mean and the largest of what they find in its real part."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 32, 9, stride=2, padding=4)
        self.second = nn.Conv1d(32, 32, 9, stride=2, padding=4)
        self.head = nn.Linear(64, APPLIANCES)

    def forward(self, inputs: dt.WithMask) -> torch.Tensor:
        """Give scores of shape (batch, 11) for values of shape (batch, time, 1) and a mask of shape (batch, time)."""
        values, mask = inputs
        real = mask.float()[:, None, ::4]  # as far apart as what the convolutions give
        current = values.transpose(1, 2)
        # Currents differ by five orders of magnitude, so that the model sees their logarithms too.
        both = torch.cat([current / 5, current.sign() * torch.log1p(current.abs() * 1e3)], dim=1)
        found = self.second(self.first(both).relu()).relu() * real
        mean = found.sum(dim=2) / real.sum(dim=2).clamp(min=1)
        return self.head(torch.cat([mean, found.amax(dim=2)], dim=1))


def accuracy(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Give the share of windows whose appliance was recognised."""
    return (predictions.argmax(1) == targets).float().mean()


def loader(path: Path, *, train: bool) -> dt.BatchLoader:
    """Load a file's series, 16 at a time, in training out of eight sets of like length."""
    source = dt.Series(*read_ts(path), bucket=16)
    windows = dt.Windows(256, stride=128, short="pad", tail="overlap")
    preprocess = [dt.Augment(scale), windows] if train else windows
    return dt.BatchLoader(
        source, batch_size=16, shuffle="samples" if train else None, group=8, preprocess=preprocess
    )


def main() -> None:
    """Train, and print what came of each."""
    data = find_plaid()
    if data is None:
        print(f"skipped: the series come with the package sktime, which is not installed: {REMEDY}")
        return
    torch.set_num_threads(1)  # the products are small: more threads would wait for each other
    dt.reproducible(seed=0)
    model = Recogniser()
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-3),
        device="cpu",
    )
    judged = dt.Validation(loader(data / "PLAID_TEST.ts", train=False), metrics={"accuracy": accuracy})
    with dt.Trainer(
        step,
        loader(data / "PLAID_TRAIN.ts", train=True),
        validation=judged,
        epochs=EPOCHS,
        runs=None,
        verbosity=0,
    ) as trainer:
        for epoch in range(1, EPOCHS + 1):
            trainer.fit(until=dt.At(epoch=epoch))
            print(
                f"epoch {epoch}: {trainer.progress.train.iterations} windows of {trainer.progress.train.batches} "
                f"batches; test file: accuracy {trainer.history.last('val.accuracy'):.3f}"
            )


if __name__ == "__main__":
    main()
