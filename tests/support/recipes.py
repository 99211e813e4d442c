"""Small runs with everything in them that a resume could get wrong."""

import hashlib
import random

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR, ReduceLROnPlateau

import deeptrain as dt

ROWS, BATCH, EPOCHS = 60, 8, 2


class Net(nn.Module):
    """Dropout, batch norm, tied weights, a buffer that is not persistent, noise from three streams."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.drop = nn.Dropout(0.3)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.head = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.calls += 1
            x = x + 0.01 * random.random() + 0.01 * np.random.rand()
        return self.head(self.drop(torch.tanh(self.second(self.norm(self.first(x)))))) + self.calls * 1e-3


class Chain(dt.Callback):
    """A callback with state: a hash over everything that it is told, in order."""

    def __init__(self):
        self.hash, self.events = "", 0

    def _add(self, event):
        rows = b"" if event.batch is None else event.batch.rows.tobytes()
        outputs = b"" if event.outputs is None else event.outputs.numpy().tobytes()
        text = f"{self.hash} {event.name} {event.iteration} {sorted(event.metrics.items())} {event.coincides}"
        self.hash = hashlib.blake2b(text.encode() + rows + outputs, digest_size=8).hexdigest()
        self.events += 1

    def on_train_iter_end(self, trainer, event):
        self._add(event)

    def on_train_batch_end(self, trainer, event):
        self._add(event)

    def on_train_epoch_end(self, trainer, event):
        self._add(event)

    def on_val_iter_end(self, trainer, event):
        self._add(event)

    def on_val_end(self, trainer, event):
        self._add(event)

    def state_dict(self):
        return {"hash": self.hash, "events": self.events}

    def load_state_dict(self, state):
        self.hash, self.events = state["hash"], state["events"]


class Jitter(dt.Callback):
    """A callback that draws from the global streams, in training and in validation."""

    def __init__(self):
        self.drawn = []

    def on_train_batch_end(self, trainer, event):
        self.drawn = [*self.drawn[-3:], torch.rand(()).item(), np.random.randn(), random.gauss(0, 1)]

    def on_val_batch_end(self, trainer, event):
        self.drawn = [*self.drawn[-3:], torch.rand(()).item()]

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = list(state["drawn"])


SCHEDULERS = {
    "none": (None, None),
    "onecycle": (lambda o, totals: OneCycleLR(o, 1e-2, total_steps=totals.updates), None),
    "multistep": (lambda o, totals: MultiStepLR(o, [3, 9], gamma=0.5), "updates"),
    "epochs": (lambda o, totals: MultiStepLR(o, [1], gamma=0.5), "epochs"),
    "plateau": (lambda o, totals: ReduceLROnPlateau(o, factor=0.5, patience=0), None),
}


def accuracy(predictions, targets):
    return (predictions.argmax(1) == targets).float().mean()


def data(rows=ROWS, seed=1):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 6, generator=g)
    return x, (x[:, 0] + x[:, 1] > 0).long() + (x[:, 2] > 1).long()


class Sampled(torch.utils.data.Dataset):
    """A map-style dataset with random augmentation."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i] + 0.1 * torch.randn(6) + 0.1 * random.random(), self.y[i]


def callbacks():
    """One with state that is told everything, and one that draws random numbers."""
    return [Chain(), Jitter()]


def trainer(
    scheduler="onecycle", *, shuffle="global", runs=None, name=None, epochs=EPOCHS, every=7, callbacks=None,
    validate=True, torch_loader=False, workers=0, checkpoints=None, verbosity=0, **more,
):  # fmt: skip
    """Make a trainer as a script would: streams seeded, then model, data, trainer."""
    dt.reproducible(seed=3)
    model = Net()
    make, by = SCHEDULERS[scheduler]
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-2),
        scheduler=make,
        scheduler_by=by,
        metrics={"accuracy": accuracy},
        device="cpu",
    )
    x, y = data()
    if torch_loader:
        train = torch.utils.data.DataLoader(
            Sampled(x, y), batch_size=BATCH, shuffle=True, num_workers=workers
        )
    else:
        train = dt.BatchLoader(dt.Arrays(x, y), batch_size=BATCH, shuffle=shuffle, seed=5)
    val = dt.BatchLoader(dt.Arrays(*data(20, seed=2)), batch_size=7)
    cadence = dt.Every(batches=every) if every else None
    return dt.Trainer(
        step,
        train,
        validation=dt.Validation(val, metrics={"accuracy": accuracy}, every=cadence) if validate else None,
        epochs=epochs,
        name=name,
        runs=runs,
        callbacks=[Chain(), Jitter()] if callbacks is None else callbacks,
        checkpoints=checkpoints or dt.Checkpoints(every=dt.Every(batches=5)),
        verbosity=verbosity,
        **more,
    )


def advance(t, safe_points):
    """Go that many safe points further; True where the run is done."""
    with t.interrupts:
        t._start()
        for _ in range(safe_points):
            if t.progress.phase is dt.Phase.DONE:
                return True
            t._advance()
    return t.progress.phase is dt.Phase.DONE
