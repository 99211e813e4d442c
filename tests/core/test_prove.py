"""`prove` finds planted faults, names them, and finds nothing where there is nothing."""

import re
import subprocess
import sys
import textwrap
import time
from functools import partial

import numpy as np
import pytest
import torch

import deeptrain as dt
from deeptrain.introspect.parting import parting
from deeptrain.testing import prove
from tests.support import recipes


def test_a_sound_run_is_proved():
    proof = prove(recipes.trainer, stops=4)
    assert proof.identical
    assert len(proof.stops) == 4
    proof.check()
    assert str(proof).startswith("identical: 4 interrupted runs")


STOP = 7


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Puts a faulty run to the proof, and sees that the journals alone name the first iteration that differs."""

    def find(make, parts_at, stops=(STOP,)):
        proof = prove(make, stops=3)
        assert not proof.identical
        with pytest.raises(AssertionError, match="NOT identical"):
            proof.check()
        parted, first = where_journals_part(make, tmp_path, monkeypatch, stops)
        assert parted.at == first
        assert parts_at in {None, first}
        return str(proof)

    return find


def where_journals_part(make, place, monkeypatch, stops=(STOP,)):
    """Run once untouched, and once stopped and made anew, without traces; where do the journals part?"""
    made, runs = recipes.trainer, []
    for name, moments in (("untouched", ()), ("stopped", stops)):
        where = place / name
        monkeypatch.setattr(recipes, "trainer", partial(made, runs=where, name="r"))
        for until in (*moments, None):
            with make() as t:
                t.fit(until=until and dt.At(iteration=until))
        runs.append(where / "M1__r")
    monkeypatch.setattr(recipes, "trainer", made)
    for run in runs:
        assert all(entry["kind"] != "trace" for entry in dt.open_run(run).journal())
    return parting(*runs), first_that_differs(*runs)


def first_that_differs(*runs):
    """The same, of runs that nobody killed: their lines of iterations side by side."""
    lines = [[e for e in dt.open_run(run).journal() if e["kind"] == "iteration"] for run in runs]
    return next(
        (
            a["at"]
            for a, b in zip(*lines, strict=True)
            if (a["batch"], a["figures"]) != (b["batch"], b["figures"])
        ),
        None,
    )


def test_sound_runs_part_nowhere(tmp_path, monkeypatch):
    assert where_journals_part(lambda: recipes.trainer(), tmp_path, monkeypatch) == (None, None)


def test_an_unregistered_generator_is_found(found):
    def make():
        t = recipes.trainer(callbacks=[])
        t.learner.model.noise = np.random.default_rng(0)
        t.learner.model.head.register_forward_pre_hook(
            lambda _, x: (x[0] + 0.1 * t.learner.model.noise.standard_normal(),)
        )
        return t

    text = found(make, parts_at=STOP + 1)
    assert "model.noise is a numpy.random" in text
    assert "register_generator" in text
    assert "first difference: iteration" in text


def test_a_callback_without_state_is_found(found):
    class Forgetful(dt.Callback):
        def __init__(self):
            self.count = 0

        def on_train_iter_end(self, trainer, event):
            self.count += 1
            if self.count % 5 == 0:
                trainer.learner.optimizer.param_groups[0]["weight_decay"] += 0.1

    # Untouched it acts after 5 and 10; the update of 11 is another then, which the figures of 12 show.
    text = found(lambda: recipes.trainer(callbacks=[Forgetful()]), parts_at=12)
    assert "callbacks.Forgetful.count went from 0 to" in text


def test_a_module_that_keeps_something_outside_its_state_is_found(found):
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return x * (1 + 0.01 * self.calls)

    def make():
        t = recipes.trainer(callbacks=[], validate=False)
        counting = t.learner.model.counting = Counting()
        t.learner.model.head.register_forward_pre_hook(lambda _, x: (counting(x[0]),))
        return t

    assert "model.counting.calls went from 0 to" in found(make, parts_at=STOP + 1)


def test_data_that_changes_is_found(found, monkeypatch):
    data = recipes.data

    def changing(rows=recipes.ROWS, seed=1):
        x, y = data(rows, seed)
        return x + time.perf_counter_ns() % 1000 * 1e-4, y

    monkeypatch.setattr(recipes, "data", changing)
    text = found(
        lambda: recipes.trainer(callbacks=[]), parts_at=None, stops=()
    )  # the shift all but cancels in the batch norm
    assert "even two untouched runs differ" in text
    assert "held other values: the data changed" in text


def test_a_schedule_that_depends_on_time_is_found(found):
    def make():
        t = recipes.trainer("none", callbacks=[])
        t.learner.scheduler = torch.optim.lr_scheduler.LambdaLR(
            t.learner.optimizer, lambda _: 1 + time.perf_counter() % 1
        )
        t.learner._scheduler_by = "updates"
        return t

    assert "schedule depends on the clock" in found(make, parts_at=2, stops=())


# ---------------------------------------------------------------- the command

SCRIPT = """
import time, torch
from torch import nn
import deeptrain as dt
torch.set_num_threads(1)
dt.reproducible(seed=0)
model = nn.Sequential(nn.Linear(6, 32), nn.Dropout(0.2), nn.ReLU(), nn.Linear(32, 3))
{setup}
step = dt.SupervisedStep(model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.AdamW(model.parameters(), 1e-2), device="cpu")
x = torch.randn(512, 6); y = (x[:, 0] > 0).long()
often = dt.Checkpoints(every=dt.Every(batches=20))  # so that every kill but a very early one is resumed in the middle
loader = dt.BatchLoader(dt.Arrays(x, y), batch_size=8, shuffle=True)
trainer = dt.Trainer(step, loader, epochs=40, checkpoints=often, verbosity=0)
trainer.fit()
"""
FAULT = """
noise = torch.Generator().manual_seed(1)
model.noise = noise
model.register_forward_pre_hook(lambda _, a: (a[0] + torch.randn(1, generator=noise),))
"""


def run(tmp_path, setup, *more):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT).format(setup=setup))
    command = [sys.executable, "-m", "deeptrain", "prove", "--kills", "3", "--seed", "1", *more, str(script)]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)


def test_the_command_proves_a_script(tmp_path):
    done = run(tmp_path, "", "--directory", str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.rstrip().endswith("identical")
    assert re.search(r"killed +[1-3] times", done.stdout)
    one, two = sorted((tmp_path / "both").glob("*/M1__prove"))
    diff = subprocess.run(
        [sys.executable, "-m", "deeptrain", "diff", str(one), str(two)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (diff.returncode, diff.stdout) == (0, "identical\n")
    info = subprocess.run(
        [sys.executable, "-m", "deeptrain", "info", str(one)], capture_output=True, text=True, timeout=60
    )
    assert "done, 40 epochs, 2560 iterations" in info.stdout
    assert dt.open_run(one).digest in info.stdout


def test_the_command_finds_a_fault_and_names_it(tmp_path):
    done = run(tmp_path, FAULT, "--directory", str(tmp_path / "both"))
    assert done.returncode == 1, done.stderr + done.stdout
    journals = re.search(
        r"the journals part at iteration (\d+): loss (\S+) in one, (\S+) in the other", done.stdout
    )
    traces = re.search(r"first difference: iteration (\d+):", done.stdout)
    assert journals[1] == traces[1]
    assert journals[2] != journals[3]
    one, two = sorted((tmp_path / "both").glob("*/M1__prove"))
    diff = subprocess.run(
        [sys.executable, "-m", "deeptrain", "diff", str(two), str(one)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert diff.returncode == 1
    assert diff.stdout.startswith(f"the journals part at iteration {journals[1]}: loss ")
    assert "NOT identical" in done.stdout
    assert "first difference: iteration" in done.stdout
    assert "model.noise is a torch._C.Generator that is not registered" in done.stdout


def test_the_command_says_what_is_wrong_with_a_script(tmp_path):
    done = run(tmp_path, "raise SystemExit(3)")
    assert done.returncode == 2
    assert "failed by itself, with exit status 3" in done.stderr
    done = run(tmp_path, "raise SystemExit(0)")
    assert done.returncode == 2
    assert "made no run" in done.stderr
