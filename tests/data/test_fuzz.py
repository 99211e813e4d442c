"""Damaged files of every format: read rightly or refused by name, without a crash, a hang or memory without bound.

They are read in a process of their own (`tests/support/fuzz.py`), under a limit on memory, so that a crash in some
library is an error in one test here.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.support import fuzz

ROOT = Path(__file__).parents[2]
LIBRARIES = ("h5py", "pyarrow.parquet", "zarr", "blosc2", "lz4.frame", "zstandard")
SAMPLE, MANY = 60, 400
SECONDS = 1200


def run(kinds, first, count, place):
    """Give what the process said: a line for each file it came to, and those that went wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzz", ";".join(kinds), str(first), str(count)],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if not done.stdout.endswith("done\n"):
        last = re.findall(r"^at .*", done.stdout, re.MULTILINE)[-1:]
        pytest.fail(f"the process ended with {done.returncode} {last}: {done.stderr[-2000:]}")
    return done.stdout


def wrong(text, kind):
    return re.findall(rf"^wrong {re.escape(kind)}: .*(?:\n    .*)*", text, re.MULTILINE)


def needs_libraries():
    for library in LIBRARIES:
        pytest.importorskip(library)


def test_damaged_files(tmp_path):
    needs_libraries()
    said = run(list(fuzz.ALL), 0, SAMPLE, tmp_path)
    assert {kind: said.count(f"at {kind}: ") for kind in fuzz.ALL} == dict.fromkeys(fuzz.ALL, SAMPLE)
    assert {kind: found for kind in fuzz.ALL if (found := wrong(said, kind))} == {}


@pytest.mark.torture
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("kind", fuzz.ALL)
def test_many_damaged_files(tmp_path, kind):
    needs_libraries()
    assert not wrong(run([kind], SAMPLE, MANY, tmp_path), kind)


def test_the_damage_is_real(tmp_path):
    """Most files that are meant to be damaged are; else the tests above would prove nothing."""
    path = tmp_path / "x.npy"
    fuzz.original("npy", path)
    before = path.read_bytes()
    changed = sum(fuzz.mutate(before, np.random.default_rng(seed)) != before for seed in range(200))
    assert changed > 170


def test_a_wrong_value_would_be_told(tmp_path, monkeypatch):
    """A reader that gives wrong values, or fails in its own way, is reported."""
    monkeypatch.setattr(fuzz, "damage", lambda path, rng: 0)
    assert fuzz.attempt("npy", 0, tmp_path) is None
    monkeypatch.setattr(fuzz, "head_of", lambda path: None)
    monkeypatch.setattr(fuzz.np, "array_equal", lambda one, other: False)
    assert "wrong values" in fuzz.attempt("npy", 0, tmp_path)
    monkeypatch.setattr(fuzz, "Files", lambda *_, **__: 1 / 0)
    assert "ZeroDivisionError" in fuzz.attempt("npy", 0, tmp_path)
