"""What every test runs under: one thread, and the random streams put back afterwards."""

import os
import random
import signal

import numpy as np
import pytest
import torch
from hypothesis import settings

# The same examples each time, so that a change is judged by what it changes; `make torture` draws others.
settings.register_profile("same", derandomize=True, deadline=None)
if os.environ.get("DEEPTRAIN_EXAMPLES") != "others":
    settings.load_profile("same")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in the background of a shell, and then in every process from here on
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)
# Nor under the defaults of whoever runs them, also in the processes that they start.
os.environ["DEEPTRAIN_DEFAULTS"] = ""
for name in ("DEEPTRAIN_VERBOSITY", "DEEPTRAIN_DIGITS", "DEEPTRAIN_RUNS"):
    os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _streams_put_back():
    """Seed the global streams, so that a test's result depends on nothing that ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_directory(tmp_path, monkeypatch):
    """Run in an empty directory: a trainer's default is to write under `runs/` where it stands."""
    monkeypatch.chdir(tmp_path)
