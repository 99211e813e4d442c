"""Which shoulder exercise is it? Long recordings, window by window, by an LSTM that remembers from window to window.

    pip install --no-deps seglearn
    python examples/windows_watch.py

Subjects 1 to 8 are trained on, 9 and 10 are held out. Each recording is a row; a batch holds recordings of like
length, padded to the longest, with a mask. `Windows` feeds two seconds at a time, and `Stateful` keeps the LSTM's state
until the batch is through. The label is the whole recording's, and the later a window, the more it counts.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from watch_data import REMEDY, Watch, load_watch

import deeptrain as dt

EVERY = 4  # time steps of which one is kept: 12.5 Hz
WINDOW = 25  # time steps, two seconds
EPOCHS = 4
HELD_OUT = (9, 10)


class Recogniser(nn.Module):
    """An LSTM over the present window, and a class for each recording from its last real time step."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.lstm = dt.Stateful(nn.LSTM(6, 32, batch_first=True))
        self.head = nn.Linear(32, 7)

    def forward(self, inputs: dt.WithMask) -> torch.Tensor:
        """Give scores of shape (batch, 7) for values of shape (batch, time, 6) and a mask of shape (batch, time)."""
        values, mask = inputs
        outputs = self.lstm(self.norm(values))
        last = (mask.sum(dim=1) - 1).clamp(min=0)
        return self.head(outputs[torch.arange(len(outputs)), last])


def accuracy(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Give the share of windows whose exercise was recognised."""
    return (predictions.argmax(1) == targets).float().mean()


def loader(watch: Watch, chosen: np.ndarray, *, shuffle: bool) -> dt.BatchLoader:
    """Load the chosen recordings, 14 of like length at a time, in windows."""
    places = np.flatnonzero(chosen)
    source = dt.Series([watch.series[i][::EVERY] for i in places], watch.exercises[places], bucket=14)
    # In training the windows begin elsewhere in every other epoch.
    windows = dt.Windows(WINDOW, starts=(0, WINDOW // 2), weights=(0.2, 1.0))
    return dt.BatchLoader(
        source, batch_size=14, shuffle="samples" if shuffle else None, group=1, preprocess=windows
    )


def main() -> None:
    """Train, and print what came of each."""
    watch = load_watch(Path("data", "watch.npz"))
    if watch is None:
        print(f"skipped: the recordings come with the package seglearn, which is not installed: {REMEDY}")
        return
    torch.set_num_threads(1)  # the products are small: more threads would wait for each other
    dt.reproducible(seed=0)
    held_out = np.isin(watch.subjects, HELD_OUT)
    model = Recogniser()
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-2),
        metrics={"accuracy": accuracy},
        device="cpu",
    )
    judged = dt.Validation(
        loader(watch, held_out, shuffle=False), metrics={"accuracy": accuracy}, key_metric="accuracy"
    )
    with dt.Trainer(
        step, loader(watch, ~held_out, shuffle=True), validation=judged, epochs=EPOCHS, runs=None, verbosity=0
    ) as trainer:
        for epoch in range(1, EPOCHS + 1):
            trainer.fit(until=dt.At(epoch=epoch))
            print(
                f"epoch {epoch}: {trainer.progress.train.iterations} windows of {trainer.progress.train.batches} "
                f"batches; held-out subjects: accuracy {trainer.history.last('val.accuracy'):.3f}"
            )


if __name__ == "__main__":
    main()
