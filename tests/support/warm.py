"""Imported once by the server that fresh processes are forked from: what torch loads at first use is loaded then.

One thread only: a process that has started OpenMP's threads cannot be forked and go on computing.
"""

import sys

import torch

torch.set_num_threads(1)

from tests.support import recipes  # noqa: E402

if not sys.flags.interactive:
    recipes.trainer(callbacks=[]).fit()
