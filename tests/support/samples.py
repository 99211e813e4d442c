"""Data sets that draw from the global streams, and what a feed over them gives, as plain values."""

import random

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate


def drawn():
    return [random.random(), np.random.rand(), torch.rand(()).item()]


class Augmented(Dataset):
    """Samples that draw from all three global streams."""

    def __init__(self, rows):
        self.rows = rows
        self.fail_at = None
        self.error = OSError("unreadable")

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        if index == self.fail_at:
            raise self.error
        return torch.tensor([index, *drawn()], dtype=torch.float64), index


class Bulk(Augmented):
    """The same, asked for many at a time."""

    def __getitems__(self, indices):
        return [(torch.rand(2, dtype=torch.float64) + index, index) for index in indices]


def noisy_collate(samples):
    inputs, targets = default_collate(samples)
    return inputs + torch.rand(()).item() + random.random() + np.random.rand(), targets


def plain(batch):
    return batch.epoch, batch.index, batch.rows.tolist(), batch.inputs.tolist(), batch.targets.tolist()


def seen(feed, until=2):
    """What is left of the epochs before one, as plain values; the feed is closed."""
    out = []
    while feed.position.epoch < until:
        out.append(plain(feed.fetch()))
        feed.advance()
    feed.close()
    return out


def streams():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
