"""The next character of Python's own reference: long texts, window by window, by an LSTM that remembers.

    python examples/text.py

The text is `pydoc_data.topics` of the standard library, which differs between versions of Python. Each row is a stretch of
1,024 characters, and its targets are the characters that follow. `Windows` cuts inputs and targets alike, and `Stateful`
hands the state on, so that gradients go back over 64 characters and the memory over all of them.
"""

from __future__ import annotations

import math
from pydoc_data.topics import topics

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as torch's own documentation calls it

import deeptrain as dt

ROW, WINDOW = 1024, 64
TRAINED, HELD_OUT = 192, 8  # rows


def read_text() -> tuple[npt.NDArray[np.int64], list[str]]:
    """Give the text as numbers of characters, and the characters."""
    text = "\n".join(topics[name] for name in sorted(topics))
    characters, numbers = np.unique(np.array(list(text)), return_inverse=True)
    return numbers.astype(np.int64), characters.tolist()


class Reader(nn.Module):
    """Scores of the next character at each place."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(characters, 32)
        self.lstm = dt.Stateful(nn.LSTM(32, 64, batch_first=True))
        self.head = nn.Linear(64, characters)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        """Give scores of shape (batch, time, characters) for numbers of shape (batch, time)."""
        return self.head(self.lstm(self.embed(text)))


def bits(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Give the mean bits that a character costs; a text of random characters costs the logarithm of their number."""
    return F.cross_entropy(predictions.flatten(0, 1), targets.flatten()) / math.log(2)


def loader(text: npt.NDArray[np.int64], *, train: bool) -> dt.BatchLoader:
    """Load rows of a text with the characters that follow theirs."""
    rows = (len(text) - 1) // ROW
    inputs, targets = (text[k : k + rows * ROW].reshape(rows, ROW) for k in (0, 1))
    return dt.BatchLoader(
        dt.Arrays(inputs, targets),
        batch_size=32,
        shuffle=train,
        preprocess=dt.Windows(WINDOW, label="windows"),
    )


def main() -> None:
    """Train for two epochs, and print what came of it after every second batch."""
    text, characters = read_text()
    print(f"{len(text):,} characters, {len(characters)} different ones")
    torch.set_num_threads(1)  # the products are small: more threads would wait for each other
    dt.reproducible(seed=0)
    model = Reader(len(characters))
    step = dt.SupervisedStep(
        model, loss=bits, optimizer=torch.optim.AdamW(model.parameters(), 5e-3), device="cpu"
    )
    end = TRAINED * ROW
    train = loader(text[: end + 1], train=True)
    judged = dt.Validation(
        loader(text[end : end + HELD_OUT * ROW + 1], train=False), every=dt.Every(batches=2)
    )
    with dt.Trainer(step, train, validation=judged, epochs=2, runs=None, verbosity=0) as trainer:
        trainer.fit()
        for at, value in zip(*trainer.history["val.loss"], strict=True):
            print(f"after {at} windows: {value:.3f} bits for a held-out character")


if __name__ == "__main__":
    main()
