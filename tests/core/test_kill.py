"""SIGKILL at random moments, checkpoint writing included: the run that is started again ends with the same bits."""

import os
import random
import signal

import pytest
import torch

import deeptrain as dt
from tests.support import fresh, recipes


class Tick(dt.Callback):
    """Writes a byte for each iteration, so that the parent can choose its moment by progress and not by sleeping."""

    def __init__(self, pipe):
        self._pipe = pipe

    def on_train_iter_end(self, trainer, event):
        self._pipe.send_bytes(b".")


def make(runs, pipe=None):
    callbacks = [recipes.Chain(), recipes.Jitter(), Tick(pipe)]
    return recipes.trainer(
        runs=runs,
        name="r",
        epochs=6,
        callbacks=callbacks,
        checkpoints=dt.Checkpoints(every=dt.Every(batches=2)),
    )


class Nowhere:
    """A pipe that nobody reads."""

    def send_bytes(self, data):
        pass


def train(runs, pipe):
    t = make(runs, pipe)
    t.fit()
    t.close()
    return dt.digest(t.state_dict())


def train_quietly(runs):
    return train(runs, Nowhere())


def child(runs, pipe):
    torch.set_num_threads(1)
    pipe.send_bytes(b"=" + train(runs, pipe).encode())


def kill_for_ever(runs, kills, seed):
    """Start and kill until so many kills hit; then let it finish. Gives the digest and how often it was started."""
    chosen, hit, starts = random.Random(seed), 0, 0
    while True:
        ours, theirs = fresh.context.Pipe(duplex=False)
        process = fresh.context.Process(target=child, args=(runs, theirs))
        process.start()
        theirs.close()
        starts += 1
        # Wait for some iterations (a fraction of one is added by spinning), then kill; most lives are short.
        wanted = chosen.choice([0, 1, 1, 2, 3, 5]) if hit < kills else 10**9
        spin = chosen.randrange(20000) if hit < kills else 0
        last = b""
        try:
            for _ in range(wanted):
                last = ours.recv_bytes()
        except EOFError:
            assert last.startswith(b"="), f"a child failed by itself, after {hit} kills"
        if last.startswith(b"="):
            process.join()
            return last[1:].decode(), starts
        for _ in range(spin):
            pass
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        hit += 1


def test_thirty_kills(tmp_path):
    expected = fresh.run(train_quietly, tmp_path / "untouched")
    found, starts = kill_for_ever(tmp_path / "killed", 30, seed=1)
    assert found == expected
    assert starts > 30


@pytest.mark.torture
def test_a_thousand_kills(tmp_path):
    expected = fresh.run(train_quietly, tmp_path / "untouched")
    kills = runs = 0
    while kills < 1000:
        found, starts = kill_for_ever(tmp_path / f"killed{runs}", 50, seed=runs)
        assert found == expected
        kills, runs = kills + starts - 1, runs + 1
    print(f"\n{kills} SIGKILLs in {runs} runs: each run ended with the digest {expected}")
