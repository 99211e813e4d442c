"""What an iteration costs on top of a bare PyTorch loop, for DeepTrain and for what users would pick instead.

    python benchmarks/loop.py [--seconds 60] [--arms bare,deeptrain,...]

A 16-32-10 MLP, batch 32, AdamW, 64 ready batches, which DeepTrain is given eight times an epoch, one thread; and
the same with batch norm. The arms take turns of about 50 ms each and are compared in pairs with the bare loop's turns beside them, by their means: medians
would hide what displays and savings cost. Arms whose library is not installed are left out.
"""

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
import warnings

import torch
from torch import nn

import deeptrain as dt

BATCH, ROWS, TURN = 32, 32 * 64, 0.05
TIMES = 8  # how often an epoch of DeepTrain's serves the ready batches: 512 in all, as digits have them


def make_model(norm):
    torch.manual_seed(0)
    layers = [nn.Linear(16, 32), *([nn.BatchNorm1d(32)] if norm else []), nn.ReLU(), nn.Linear(32, 10)]
    return nn.Sequential(*layers)


def make_data():
    g = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 16, generator=g), torch.randint(0, 10, (ROWS,), generator=g)


def ready_batches():
    x, y = make_data()
    return [(x[i : i + BATCH].clone(), y[i : i + BATCH].clone()) for i in range(0, ROWS, BATCH)]


def bare(norm, *, copy=False):
    """A hand-written loop; a turn gives how many iterations it made.

    With `copy` it also copies the buffers once in each iteration, as going back after an abort needs.
    """
    model, loss = make_model(norm), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    batches = ready_batches()
    buffers = list(model.buffers()) if copy else []
    backups = [torch.empty_like(buffer) for buffer in buffers]

    def turn(seconds):
        done, end = 0, time.perf_counter() + seconds
        while True:
            for x, y in batches:
                if buffers:
                    torch._foreach_copy_(backups, buffers)
                optimizer.zero_grad()
                value = loss(model(x), y)
                value.backward()
                optimizer.step()
                done += 1
            if time.perf_counter() >= end:
                return done

    return turn


class ReadyFeed(dt.BatchLoader):
    """Batches that are there already, so that the loop is measured and not the reading."""

    def __init__(self):
        inputs, targets = make_data()
        super().__init__(dt.Arrays(inputs.repeat(TIMES, 1), targets.repeat(TIMES)), batch_size=BATCH)
        self.ready = [super(ReadyFeed, self)._read(0, i) for i in range(ROWS // BATCH)]

    def _read(self, epoch, batch):
        found = self.ready[batch % len(self.ready)]
        return dt.Batch(found.inputs, found.targets, epoch, batch, found.rows, found.table)


def deeptrain(norm, *, on_nonfinite="stop"):
    """Everything on: history, journal, display, sources, signals, checkpoints by the clock; gradients looked at before each update."""
    model = make_model(norm)
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-3),
        on_nonfinite=on_nonfinite,
        device="cpu",
    )
    place = tempfile.mkdtemp(prefix="deeptrain-bench-")
    trainer = dt.Trainer(
        step, ReadyFeed(), epochs=10**6, runs=place, name="bench", verbosity=dt.Display(1, stream=Terminal())
    )
    trainer.step()

    def turn(seconds):
        begin, end = trainer.progress.train.iterations, time.perf_counter() + seconds
        while time.perf_counter() < end:
            # Ten turns at once: a call installs signal handlers and looks at the environment, which fit() does once.
            trainer.step(20 * ROWS // BATCH)
        return trainer.progress.train.iterations - begin

    return turn


class Terminal(io.StringIO):
    """A terminal that forgets."""

    def isatty(self):
        return True

    def write(self, text):
        return len(text)


def lightning(norm, *, log=False):
    """Lightning with what it has by default switched off; `log` adds one logged value."""
    import lightning as L
    from torch.utils.data import DataLoader

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model, self.loss = make_model(norm), nn.CrossEntropyLoss()

        def training_step(self, batch, index):
            value = self.loss(self.model(batch[0]), batch[1])
            if log:
                self.log("loss", value)
            return value

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), 1e-3)

    return _callback_arm(
        lambda stop: _fit_lightning(L, Module(), DataLoader(ready_batches(), batch_size=None), stop, log)
    )


def _fit_lightning(L, module, loader, stop, log):
    class Turn(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            stop()

    with tempfile.TemporaryDirectory() as place:
        L.Trainer(
            accelerator="cpu", logger=L.pytorch.loggers.CSVLogger(place) if log else False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, max_epochs=-1, callbacks=[Turn()],
        ).fit(module, loader)  # fmt: skip


def ignite(norm):
    """An Ignite engine around a hand-written step."""
    from ignite.engine import Engine, Events

    model, loss = make_model(norm), nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

    def step(engine, batch):
        optimizer.zero_grad()
        value = loss(model(batch[0]), batch[1])
        value.backward()
        optimizer.step()
        return value.item()

    def fit(stop):
        engine = Engine(step)
        engine.add_event_handler(Events.ITERATION_COMPLETED, lambda _: stop())
        engine.run(ready_batches(), max_epochs=10**6)

    return _callback_arm(fit)


def hf_trainer(norm):
    """HF Trainer without reports, evaluation and saving."""
    import transformers

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.model, self.loss = make_model(norm), nn.CrossEntropyLoss()

        def forward(self, x, labels):
            value = self.model(x)
            return {"loss": self.loss(value, labels), "logits": value}

    class Rows(torch.utils.data.Dataset):
        def __init__(self):
            self.batches = ready_batches()

        def __len__(self):
            return 10**7

        def __getitem__(self, i):
            x, y = self.batches[i % len(self.batches)]
            return {"x": x, "labels": y}

    def fit(stop):
        class Turn(transformers.TrainerCallback):
            def on_step_end(self, *_, **__):
                stop()

        arguments = transformers.TrainingArguments(
            output_dir=tempfile.mkdtemp(prefix="bench-"), report_to=[], save_strategy="no", logging_strategy="no",
            disable_tqdm=True, use_cpu=True, per_device_train_batch_size=1, max_steps=10**7, dataloader_pin_memory=False,
        )  # fmt: skip
        # One item of the data set is one ready batch.
        transformers.Trainer(
            Model(), arguments, train_dataset=Rows(), data_collator=lambda items: items[0], callbacks=[Turn()]
        ).train()

    return _callback_arm(fit)


def keras(norm):
    """Keras 3 on torch, with `fit` over a Python generator of ready batches."""
    import os

    os.environ["KERAS_BACKEND"] = "torch"
    import keras as k

    layers = [
        k.layers.Dense(32),
        *([k.layers.BatchNormalization()] if norm else []),
        k.layers.ReLU(),
        k.layers.Dense(10),
    ]
    model = k.Sequential(layers)
    model.compile("adamw", k.losses.SparseCategoricalCrossentropy(from_logits=True))

    def fit(stop):
        class Turn(k.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                stop()

        batches = ready_batches()

        def endless():
            while True:
                yield from batches

        model.fit(endless(), steps_per_epoch=10**7, verbose=0, callbacks=[Turn()])

    return _callback_arm(fit)


def _callback_arm(fit):
    """Turn a `fit` that runs for ever into turns: a thread that waits inside its per-batch callback."""
    import threading

    go, stopped = threading.Semaphore(0), threading.Semaphore(0)
    state = {"end": 0.0, "done": 0}

    def stop():
        state["done"] += 1
        if state["done"] % 64 == 0 and time.perf_counter() >= state["end"]:
            stopped.release()
            go.acquire()

    def run():
        torch.set_num_threads(1)  # counts for each thread
        go.acquire()
        try:
            fit(stop)
        except BaseException as error:
            state["error"] = error
            stopped.release()

    threading.Thread(target=run, daemon=True).start()

    def turn(seconds):
        state["done"], state["end"] = 0, time.perf_counter() + seconds
        go.release()
        stopped.acquire()
        if "error" in state:
            raise RuntimeError("an arm failed") from state["error"]
        return state["done"]

    return turn


ARMS = {
    "one copy": lambda norm: bare(norm, copy=True),
    "deeptrain": deeptrain,
    "deeptrain without the watch": lambda norm: deeptrain(norm, on_nonfinite="ignore"),
    "ignite": ignite,
    "lightning": lightning,
    "lightning+log": lambda norm: lightning(norm, log=True),
    "hf": hf_trainer,
    "keras": keras,
}


def measure(norm, arms, seconds):
    turns = {"bare": bare(norm)}
    for name in arms:
        if name == "one copy" and not norm:
            continue
        with contextlib.suppress(ImportError):
            turns[name] = ARMS[name](norm)
    added = {name: [] for name in turns if name != "bare"}
    base = []
    for turn in turns.values():
        turn(0.3)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, found in added.items():
            pair = [_per_iteration(turns["bare"]), _per_iteration(turns[name])]
            base.append(pair[0])
            found.append(pair[1] - pair[0])
    print(
        f"{'with batch norm' if norm else 'plain MLP'}: a bare iteration takes {statistics.mean(base):.1f} us"
    )
    for name, found in added.items():
        error = statistics.stdev(found) / len(found) ** 0.5
        print(f"  {name:15s} adds {statistics.mean(found):8.1f} us  (+- {error:.1f}, {len(found)} pairs)")


def _per_iteration(turn):
    begin = time.perf_counter()
    done = turn(TURN)
    return (time.perf_counter() - begin) / done * 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="for each of the two models")
    parser.add_argument("--arms", default=",".join(ARMS))
    parsed = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, one thread")
    for norm in (False, True):
        measure(norm, parsed.arms.split(","), parsed.seconds)


if __name__ == "__main__":
    main()
