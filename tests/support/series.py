"""Time series for the recipes: fed in windows to a module that carries its state, several times over, or augmented."""

import torch
from torch import nn

import deeptrain as dt
from deeptrain.data.augment import Augment
from deeptrain.data.repeat import Repeat
from deeptrain.data.windows import Windows
from deeptrain.step.stateful import Stateful

SERIES, STEPS, FEATURES, BATCH = 21, 17, 3, 6


class Recurrent(nn.Module):
    """An LSTM that carries its state from window to window, with dropout and batch norm behind it."""

    def __init__(self):
        super().__init__()
        self.carrying = Stateful(nn.LSTM(FEATURES, 5, batch_first=True))
        self.norm = nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.carrying(x)[:, -1])))


def series(seed, count=SERIES):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(count, STEPS, FEATURES, generator=g)
    return x, (x.mean((1, 2)) > 0).long()


def noise(x):
    return x + 0.1 * torch.randn_like(x)


# From lists, so that each trainer has its own objects.
PREPROCESS = {
    "windows": lambda: [Windows(5, stride=4, starts=(0, 2), weights=(0.5, 1.5)), Augment(noise)],
    "repeat": lambda: [Repeat(3), Augment(noise)],
    "until": lambda: Repeat(until=lambda outcome: float(outcome.loss) < 0.68, most=4),
}


class OfValues(nn.Module):
    """A model of the values of padded series."""

    def __init__(self):
        super().__init__()
        self.inner = Recurrent()

    def forward(self, x):
        return self.inner(x.values)


# Two to a batch: some batches have no window, among them the first and the last one.
LENGTHS = (3, 2, 17, 13, 9, 14, 4, 1, 3, 3, 12, 12, 8, 6, 2, 4, 16, 17, 2, 3, 4, 4)


def uneven(lengths, seed):
    """A source of series of these lengths."""
    g = torch.Generator().manual_seed(seed)
    made = [torch.randn(n, FEATURES, generator=g) for n in lengths]
    return dt.Series(made, targets=[int(one.mean() > 0) for one in made])


def dropping():
    """Model and loaders in which some batches are passed over."""
    train = dt.BatchLoader(
        uneven(LENGTHS, 1),
        batch_size=2,
        preprocess=[Windows(5, stride=3, short="drop"), Augment(masked_noise)],
    )
    val = dt.BatchLoader(uneven((3, 4, 7, 9, 2, 1), 2), batch_size=2, preprocess=Windows(5, short="drop"))
    return OfValues(), train, val


def masked_noise(x):
    return x._replace(values=noise(x.values))


def parts(kind):
    """Model, train loader, validation loader."""
    if kind == "dropped":
        return dropping()
    train = dt.BatchLoader(
        dt.Arrays(*series(1)), batch_size=BATCH, shuffle=True, seed=4, preprocess=PREPROCESS[kind]()
    )
    windows = Windows(5, stride=4) if kind == "windows" else None
    val = dt.BatchLoader(dt.Arrays(*series(2, 9)), batch_size=4, preprocess=windows)
    return Recurrent(), train, val
