"""The examples train on real data for a while, print what came of it, and skip cleanly where a wheel is not there."""

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, place):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], cwd=place, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout.strip())
    return done.stdout


def test_windows_of_the_watch_data(tmp_path):
    found = [float(value) for value in re.findall(r"accuracy ([\d.]+)", run("windows_watch.py", tmp_path))]
    assert len(found) == 4
    assert found[-1] > 2 / 7  # seven exercises


def test_windows_of_plaid(tmp_path):
    assert run("windows_plaid.py", tmp_path)


def test_an_imbalanced_table(tmp_path):
    told = run("imbalanced_shuttle.py", tmp_path)
    honest, optimistic = (
        [float(value) for value in re.search(rf"val.{name}: (.*)", told)[1].split(", ")]
        for name in ("f1", "f1_optimistic")
    )
    assert all(mine <= other for mine, other in zip(honest, optimistic, strict=True))
    tuned, plain = map(
        float, re.search(r"elsewhere: f1 ([\d.]+) at the threshold, ([\d.]+) at 0.5", told).groups()
    )
    assert tuned >= plain - 0.02
    assert tuned > 0.5


def test_characters(tmp_path):
    found = [float(value) for value in re.findall(r"([\d.]+) bits", run("text.py", tmp_path))]
    assert found[-1] < found[0] - 0.3


def test_a_pickle_that_would_run_something_is_refused(tmp_path, monkeypatch):
    class Bad:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "watch.npy"
    np.save(path, np.array([Bad()], dtype=object))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from watch_data import read_watch

    with pytest.raises(pickle.UnpicklingError):
        read_watch(path)
    assert not (tmp_path / "ran").exists()
