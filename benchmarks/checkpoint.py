"""How long training stands still for a checkpoint, and how long until it is durable.

    python benchmarks/checkpoint.py [--megabytes 600] [--rounds 8] [--place DIRECTORY]

A stack of linear layers and its Adam state. In each round every arm has one turn, in another order each time; a ratio is
the median over rounds of the arm's time in that round over the baseline's. The first two rounds are not counted: standing
memory is made in them. Still: a bare copy into standing buffers is the baseline of staging and handing over to the
background writer, of `torch.save`, and of DCP's `async_save` (where it can be had). Durable: a plain write and fsync of as
many bytes, from memory, and one reading back with the page cache dropped, is the baseline of a checkpoint that is
committed and verified. What is written in the background is waited for outside the timing.

Then what a checkpoint costs the training that goes on beside it: a run trains so many iterations, by turns with a save in
the background that is begun with them and without one. The difference, over a minute, is what one checkpoint a minute
costs. It holds all: the standing still, the writer's share of the cores and of the memory's speed, and the reading back.

Then two runs of a small model, of which one has a history of a thousand iterations and one of a million, with three figures
each: what a checkpoint takes on the disk, how long a save stands still, and how long making the trainer again takes, which
reads the newest checkpoint and the whole history. Rounds alternate.
"""

import argparse
import contextlib
import logging
import os
import random
import shutil
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

import deeptrain as dt
from deeptrain.checkpoint.background import Writer
from deeptrain.checkpoint.codec import encode
from deeptrain.checkpoint.format import write_staged
from deeptrain.checkpoint.staging import Staging

WIDTH, WARM = 1024, 2
LENGTHS, FIGURES = (1_000, 1_000_000), ("loss", "mean", "target")


def make_state(megabytes):
    """Model, gradients' first and second moments: three times four bytes for each parameter."""
    count = max(1, round(megabytes * 1e6 / (12 * WIDTH * (WIDTH + 1))))
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(count)])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}


class Turn:
    """Times one turn. What is needed before and after it is outside the timing."""

    def __init__(self, place, state):
        self.place, self.state = place, state
        self.number = 0

    def fresh(self):
        self.number += 1
        return self.place / f"{type(self).__name__}-{self.number}"

    def remove(self, path):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        os.sync()  # or the next arm pays for this one's dirty pages


class Copy(Turn):
    def __init__(self, place, state):
        super().__init__(place, state)
        self.tensors = list(encode(state).tensors.values())
        self.buffers = [torch.zeros_like(tensor) for tensor in self.tensors]

    def __call__(self):
        start = time.perf_counter()
        torch._foreach_copy_(self.buffers, self.tensors)
        return {"copy": time.perf_counter() - start}


class DeepTrain(Turn):
    def __init__(self, place, state):
        super().__init__(place, state)
        self.staging, self.writer = Staging(), Writer()

    def __call__(self):
        path = self.fresh()
        start = time.perf_counter()
        staged = self.staging.stage(self.state, {"iterations": self.number})
        self.writer.submit(lambda: write_staged(path, staged))
        still = time.perf_counter() - start
        self.writer.wait()
        durable = time.perf_counter() - start
        self.writer.take()
        self.remove(path)
        return {"deeptrain": still, "deeptrain durable": durable}


class TorchSave(Turn):
    def __call__(self):
        path = self.fresh()
        start = time.perf_counter()
        torch.save(self.state, path)
        still = time.perf_counter() - start
        self.remove(path)
        return {"torch.save": still}


class AsyncSave(Turn):
    """DCP's, which needs a process group, of one process here."""

    def __init__(self, place, state):
        super().__init__(place, state)
        import torch.distributed as dist
        import torch.distributed.checkpoint as dcp

        if not dist.is_initialized():
            dist.init_process_group("gloo", init_method=f"file://{place}/group", rank=0, world_size=1)
        self.dcp = dcp

    def __call__(self):
        path = self.fresh()
        start = time.perf_counter()
        future = self.dcp.async_save(self.state, checkpoint_id=str(path))
        still = time.perf_counter() - start
        getattr(future, "upload_completion", future).result()
        self.remove(path)
        return {"DCP async_save": still}


class Plain(Turn):
    """One file from memory: written, fsynced, dropped from the page cache, and read back."""

    def __init__(self, place, state):
        super().__init__(place, state)
        size = sum(tensor.nbytes for tensor in encode(state).tensors.values())
        self.bytes = torch.ones(size, dtype=torch.uint8).numpy().data
        self.back = torch.ones(1 << 22, dtype=torch.uint8).numpy().data

    def __call__(self):
        path = self.fresh()
        start = time.perf_counter()
        with path.open("xb", buffering=0) as file:
            done = 0
            while done < len(self.bytes):
                done += file.write(
                    self.bytes[done : done + (1 << 20)]
                )  # calls of more may take thrice as long
            os.fsync(file.fileno())
        with path.open("rb", buffering=0) as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.readinto(self.back):
                pass
        seconds = time.perf_counter() - start
        self.remove(path)
        return {"plain durable": seconds}


def arms(place, state):
    made = [arm(place, state) for arm in (Copy, DeepTrain, TorchSave, Plain)]
    try:
        made.append(AsyncSave(place, state))
    except (ImportError, RuntimeError) as error:
        print(f"without DCP: {error}")
    return made


def measure(turns, rounds):
    times = {}
    for number in range(rounds + WARM):
        for turn in random.sample(turns, len(turns)):
            for name, seconds in turn().items():
                times.setdefault(name, []).append(seconds)
        print(f"\rround {number + 1} of {rounds + WARM}", end="", flush=True)
    print()
    return {name: values[WARM:] for name, values in times.items()}


class Run:
    """A run whose history has so many iterations already."""

    def __init__(self, place, length):
        self.runs, self.length = place / str(length), length
        self.trainer = self.make()
        self.trainer.step(8)
        state, numbers = self.trainer.state_dict(), np.random.default_rng(0)
        series = {f"train.{name}": numbers.random(length) for name in FIGURES}
        state["history"]["series"] = {
            name: {"iterations": np.arange(length), "values": values} for name, values in series.items()
        }
        self.trainer.load_state_dict(state)
        self.trainer.checkpoint()
        self.still, self.resumed = [], []

    def make(self):
        dt.reproducible(seed=0)
        model = nn.Linear(8, 1)
        step = dt.SupervisedStep(
            model,
            loss=nn.MSELoss(),
            optimizer=torch.optim.SGD(model.parameters(), 0.01),
            metrics={"mean": lambda p, _: p.mean(), "target": lambda _, t: t.mean()},
        )
        train = dt.BatchLoader(dt.Arrays(torch.randn(64, 8), torch.randn(64, 1)), batch_size=8, seed=0)
        # No checkpoint but those that are asked for here.
        checkpoints = dt.Checkpoints(every=dt.Every(epochs=10**6))
        return dt.Trainer(
            step, train, epochs=10**6, runs=self.runs, name="r", verbosity=0, checkpoints=checkpoints
        )

    def turn(self):
        self.trainer.step(100)
        start = time.perf_counter()
        self.trainer.run.save(self.trainer, wait=False)
        self.still.append(time.perf_counter() - start)
        self.trainer.close()
        start = time.perf_counter()
        self.trainer = self.make()
        self.resumed.append(time.perf_counter() - start)
        self.trainer.step(1)
        self.trainer.checkpoint()  # a process's first checkpoint makes its segment

    def size(self):
        newest = max((self.trainer.run.path / "checkpoints").glob("[0-9]*"))
        return sum(file.stat().st_size for file in newest.iterdir())


def measure_history(place, rounds):
    runs = [Run(place, length) for length in LENGTHS]
    for _ in range(rounds + WARM):
        for run in random.sample(runs, len(runs)):
            run.turn()
    for run in runs:
        still, resumed = statistics.median(run.still[WARM:]), statistics.median(run.resumed[WARM:])
        print(
            f"{run.length:9,} iterations: a checkpoint has {run.size():,} bytes, a save stands still for "
            f"{still * 1e3:.2f} ms, resuming takes {resumed * 1e3:.0f} ms"
        )
        run.trainer.close()


def measure_minute(place, megabytes, rounds, seconds=6.0):
    """Give the seconds that so many iterations take, without and with a checkpoint written meanwhile, of each round."""
    dt.reproducible(seed=0)
    count = max(1, round(megabytes * 1e6 / (12 * WIDTH * (WIDTH + 1))))
    model = nn.Sequential(*[nn.Linear(WIDTH, WIDTH) for _ in range(count)])
    step = dt.SupervisedStep(model, loss=nn.MSELoss(), optimizer=torch.optim.AdamW(model.parameters(), 1e-5))
    data = dt.Arrays(torch.randn(4096, WIDTH), torch.randn(4096, WIDTH))
    trainer = dt.Trainer(
        step,
        dt.BatchLoader(data, batch_size=64, seed=0),
        epochs=10**6,
        runs=place / "minute",
        name="r",
        verbosity=0,
        checkpoints=dt.Checkpoints(every=dt.Every(epochs=10**6)),
    )
    trainer.step(2)
    start = time.perf_counter()
    trainer.step(4)
    iterations = max(4, round(4 * seconds / (time.perf_counter() - start)))

    def turn(saves):
        start = time.perf_counter()
        if saves:
            trainer.run.save(trainer, wait=False)
        trainer.step(iterations)
        seconds = time.perf_counter() - start
        os.sync()
        return seconds

    found = []
    for number in range(rounds + WARM):
        pair = {saves: turn(saves) for saves in ((False, True) if number % 2 else (True, False))}
        found.append((pair[False], pair[True]))
    trainer.close()
    return found[WARM:]


def show_minute(found):
    lost = [beside - alone for alone, beside in found]
    middle = statistics.median(lost)
    print(
        f"{statistics.median(alone for alone, _ in found):.1f} s of training lose {middle:.2f} s "
        f"({min(lost):.2f} to {max(lost):.2f}) to a checkpoint beside them: {middle / 0.6:.1f} % of a minute"
    )


def show(times, baseline, names):
    for name in names:
        if name in times:
            ratio = statistics.median(a / b for a, b in zip(times[name], times[baseline], strict=True))
            median, low, high = statistics.median(times[name]), min(times[name]), max(times[name])
            print(f"{name:18} {median * 1e3:8.0f} ms ({low * 1e3:.0f} to {high * 1e3:.0f})   {ratio:6.2f}x")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=600, help="of model and Adam state")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--place", type=Path, help="a directory on the disk to be measured")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # DCP's, of its own process group
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(dir=given.place, ignore_cleanup_errors=True) as place:
        state = make_state(given.megabytes)
        with contextlib.redirect_stderr(None):
            times = measure(arms(Path(place), state), given.rounds)
        print("\ntraining stands still (wanted: at most 1.5 times the copy)")
        show(times, "copy", ["copy", "deeptrain", "DCP async_save", "torch.save"])
        print("\nuntil it is durable and read back (wanted: at most 1.5 times the plain way)")
        show(times, "plain durable", ["plain durable", "deeptrain durable"])
        print("\na checkpoint each minute (wanted: less than 3 % of it)")
        show_minute(measure_minute(Path(place), given.megabytes, given.rounds))
        print("\na history behind it (wanted: the same size and stall for both)")
        measure_history(Path(place), given.rounds)


if __name__ == "__main__":
    main()
