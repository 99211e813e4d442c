"""Small runs with everything in them that a resume could get wrong."""

import hashlib
import os
import random
import signal
import time

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR, ReduceLROnPlateau

import deeptrain as dt
from tests.support import series

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


class Plain(Net):
    """The same without random numbers of Python's, for each of which `torch.compile` would make other kernels."""

    def forward(self, x):
        if self.training:
            self.calls += 1
        return self.head(self.drop(torch.tanh(self.second(self.norm(self.first(x)))))) + self.calls * 1e-3


class Chain(dt.Callback):
    """A callback with state: a hash over everything that it is told, in order."""

    def __init__(self):
        self.hash, self.events = "", 0

    def _add(self, event):
        rows = b"" if event.batch is None else event.batch.rows.tobytes()
        outputs = b"" if event.outputs is None else event.outputs.float().numpy().tobytes()
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


# By iteration.
EDITS = {
    2: lambda loader: loader.exclude(sets=["3"], rows=[0, 17]),
    4: lambda loader: loader.set_batch_size(5),
    6: lambda loader: loader.repeat(batches=2),
    9: lambda loader: loader.skip(batches=1),
    11: lambda loader: loader.repeat(rows=[45, 2, 45]),
    13: lambda loader: loader.skip(sets=["5"]),
}


class Editor(dt.Callback):
    """Edits the order of the train loader as the run goes on; ends the process right after an edit where a file says so."""

    def __init__(self, mark=None):
        self.mark = mark

    def on_train_batch_end(self, trainer, event):
        edit = EDITS.get(event.iteration)
        if edit is None:
            return
        edit(trainer.train)
        if self.mark is not None and self.mark.with_suffix(f".{event.iteration}").exists():
            self.mark.with_suffix(f".{event.iteration}").unlink()
            os.kill(os.getpid(), signal.SIGKILL)


class Steerer(dt.Callback):
    """Steers the run from its handlers: sets values, asks for validations and checkpoints."""

    def on_train_batch_end(self, trainer, event):
        if event.iteration == 3:
            trainer.set("optimizer.param_groups.*.weight_decay", 0.25)
        if event.iteration in {4, 10}:
            trainer.request_validation()
        if event.iteration == 8:
            trainer.set("model.head*", 0.01)
            trainer.request_checkpoint()
        if event.iteration == 12:
            trainer.set("callbacks.Jitter.drawn", [])


class Rewinder(dt.Callback):
    """Goes back twice from its handlers, and passes the batch over: within an epoch, and across its beginning."""

    def on_train_batch_end(self, trainer, event):
        edits = len(trainer.train.edits)
        if (event.iteration, edits) in {(6, 0), (11, 1)}:
            trainer.rewind(batches=4, skip=event.batch)


def jolt(trainer):
    """A scheduled intervention: draws numbers, sets values, asks for a validation."""
    trainer.set("model.head*", torch.rand(()).item() * random.random())
    trainer.set("optimizer.param_groups.*.weight_decay", 0.25)
    trainer.request_validation()


def cut(trainer):
    """A scheduled intervention: edits the order, and asks for a checkpoint."""
    trainer.train.set_batch_size(5)
    trainer.set("callbacks.Jitter.drawn", [np.random.rand()])
    trainer.request_checkpoint()


def soften(trainer):
    """A scheduled intervention that changes the rates itself."""
    for group in trainer.learner.optimizer.param_groups:
        group["eps"] *= 2


# Two at one point, at a validation's point, in the middle of an epoch, at an epoch's end, at the very end.
SCHEDULE = [
    (dt.At(batch=7), jolt),
    (dt.At(iteration=4), soften),
    (dt.At(iteration=4), jolt),
    (dt.At(epoch=1), cut),
    (dt.At(update=11), soften),
    (dt.At(epoch=EPOCHS), jolt),
]


def schedule(t):
    """Register them."""
    for point, fn in SCHEDULE:
        assert t.at(point, fn)


def write_files(place, sizes=(7, 12, 9, 14, 8, 10)):
    """Numbered sets of the rows that the other recipes have in memory."""
    place.mkdir(parents=True)
    x, y = data()
    for number, start in enumerate(np.cumsum([0, *sizes[:-1]])):
        np.save(place / f"set{number}.npy", x[start : start + sizes[number]].numpy())
    np.save(place / "labels.npy", y.numpy())
    return place


SCHEDULERS = {
    "none": (None, None),
    "onecycle": (lambda o, totals: OneCycleLR(o, 1e-2, total_steps=totals.updates), None),
    "multistep": (lambda o, totals: MultiStepLR(o, [3, 9], gamma=0.5), "updates"),
    "epochs": (lambda o, totals: MultiStepLR(o, [1], gamma=0.5), "epochs"),
    "plateau": (lambda o, totals: ReduceLROnPlateau(o, factor=0.5, patience=0), None),
}


OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2),
    "lbfgs": lambda p: torch.optim.LBFGS(p, 0.1, max_iter=3, history_size=4),
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


class Drawing:
    """An iterable over batches that shuffles and augments by a generator of its own, and has a state."""

    def __init__(self, x, y):
        self.x, self.y = x, y
        self.generator = torch.Generator().manual_seed(11)
        self.order, self.done = [], 0

    def __iter__(self):
        if not self.order:
            self.order = torch.randperm(len(self.x), generator=self.generator).tolist()
        while self.done < len(self.order):
            rows = self.order[self.done : self.done + BATCH]
            self.done += len(rows)
            yield self.x[rows] + 0.1 * torch.randn(6, generator=self.generator), self.y[rows]
        self.order, self.done = [], 0

    def state_dict(self):
        return {"order": list(self.order), "done": self.done, "generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.order, self.done = list(state["order"]), state["done"]
        self.generator.set_state(state["generator"])


def drawing(x, y):
    """A function that gives an iterator over batches, of the global stream."""

    def batches():
        for rows in torch.randperm(len(x)).split(BATCH):
            yield x[rows] + 0.1 * torch.randn(6), y[rows]

    return batches


FEEDS = {
    "torch": lambda x, y, workers: torch.utils.data.DataLoader(
        Sampled(x, y), batch_size=BATCH, shuffle=True, num_workers=workers
    ),
    "dataset": lambda x, y, workers: dt.BatchLoader(
        dt.FromDataset(Sampled(x, y), workers=workers), batch_size=BATCH, shuffle=True, seed=5
    ),
    "stateful": lambda x, y, workers: Drawing(x, y),
    "iterable": lambda x, y, workers: drawing(x, y),
}


NETS = {"noisy": Net, "plain": Plain}


def loaders(shuffle, feed, workers, files, net="noisy"):
    """Model, train loader, validation loader."""
    model, (x, y) = NETS[net](), data()
    val = dt.BatchLoader(dt.Arrays(*data(20, seed=2)), batch_size=7)
    if feed is not None:
        return model, FEEDS[feed](x, y, workers), val
    source = dt.Arrays(x, y) if files is None else dt.Files(files)
    # Batch norm takes no batch of one row, which edits may leave at an epoch's end.
    last = "keep" if files is None else "drop"
    return model, dt.BatchLoader(source, batch_size=BATCH, shuffle=shuffle, seed=5, last=last), val


def draw(trainer, event):
    """A function by event: draws numbers and records them."""
    trainer.record({f"drawn.{event.name}": torch.rand(()).item() + random.random()})


def decay(trainer):
    """A function by event and cadence: sets a value."""
    trainer.set("optimizer.param_groups.0.weight_decay", 0.01 * trainer.progress.train.batches)


def keep_time(trainer, event):
    """A function of a save: what it leaves beside the state is another value each time."""
    event.extra["time"] = time.time()


def shipped(stops):
    """The callbacks that come with it, and functions; with one that ends the run early."""
    return [
        dt.Unfreeze({"first": dt.At(batch=3), "head.*": dt.At(epoch=1), "norm": dt.At(iteration=0)}),
        {("train:batch", dt.Every(batches=3)): decay, "val:end": [draw, draw], "train:begin": draw},
        {("train:iter", dt.At(epoch=1)): draw, "save": keep_time},
        dt.LearningRateLog(dt.Every(batches=2)),
        dt.EarlyStopping("accuracy", patience=2 if stops else 9, mode="max", min_delta=1.0 if stops else 0.0),
        dt.Throughput(dt.Every(batches=1)),
        dt.TimeLimit(3600),
        dt.SeedSetter(dt.Every(batches=5)),
    ]


def _callbacks(edits, steered, rewound, stops):
    more = (
        [Editor(edits)] if edits is not None else [Steerer()] if steered else [Rewinder()] if rewound else []
    )
    return [*callbacks(), *more, *(shipped(stops) if stops is not None else ())]


def trainer(
    scheduler="onecycle", *, shuffle="global", runs=None, name=None, epochs=EPOCHS, every=7, callbacks=None,
    validate=True, feed=None, workers=0, checkpoints=None, verbosity=0, preprocess=None, files=None, edits=None,
    steered=False, rewound=False, scheduled=False, stops=None, learning=None, optimizer="adamw",
    net="noisy", **more,
):  # fmt: skip
    """Make a trainer as a script would: streams seeded, then model, data, trainer."""
    dt.reproducible(seed=3)
    make, by = SCHEDULERS[scheduler]
    model, train, val = (
        loaders(shuffle, feed, workers, files, net) if preprocess is None else series.parts(preprocess)
    )
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=OPTIMIZERS[optimizer](model.parameters()),
        scheduler=make,
        scheduler_by=by,
        metrics={"accuracy": accuracy},
        device="cpu",
        **(learning or {}),
    )
    unit = "batches" if preprocess is None else "iterations"  # in the middle of a batch, too
    cadence = dt.Every(**{unit: every}) if every else None
    made = dt.Trainer(
        step,
        train,
        validation=_validation(val, cadence, validate),
        epochs=epochs,
        name=name,
        runs=runs,
        callbacks=_callbacks(edits, steered, rewound, stops) if callbacks is None else callbacks,
        checkpoints=checkpoints or dt.Checkpoints(every=dt.Every(batches=5)),
        verbosity=verbosity,
        **more,
    )
    if scheduled:
        schedule(made)
    return made


def _validation(val, cadence, validate):
    """None, the plain one, or one with more settings."""
    if not validate:
        return None
    more = {} if validate is True else dict(validate)
    return dt.Validation(
        val, metrics={"accuracy": accuracy, **more.pop("metrics", {})}, every=cadence, **more
    )


def judged():
    """Settings of a validation with much in it: files past a bound of memory, names, a subset, a ledger."""
    return {"memory": 64, "metrics": {"macro": "f1_macro"}, "subset": 2, "ledger": True, "limit": 2}


def advance(t, safe_points):
    """Go that many safe points further; True where the run is done."""
    with t.interrupts:
        t._start()
        for _ in range(safe_points):
            if t.progress.phase is dt.Phase.DONE:
                return True
            t._advance()
    return t.progress.phase is dt.Phase.DONE


def summary(t):
    """The state's digest and every figure."""
    history = {name: [v.tolist() for v in t.history[name]] for name in t.history}
    return dt.digest(t.state_dict()), history
