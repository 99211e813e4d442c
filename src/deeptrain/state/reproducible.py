"""`reproducible`: the process put into a state in which the same script gives the same bits."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import torch

from deeptrain.state.randomness import seed_all


@dataclass(frozen=True, slots=True)
class Reproducible:
    """What `reproducible` did.

    Attributes:
        seed: The seed of all streams.
        threads: The number of threads that torch computes with; another number gives other bits.
        not_promised: What it could not promise, in words.
    """

    seed: int
    threads: int
    not_promised: tuple[str, ...]

    def __repr__(self) -> str:
        text = f"seed {self.seed}, {self.threads} threads"
        return "; ".join([text, *(f"not promised: {line}" for line in self.not_promised)])


def reproducible(seed: int = 0) -> Reproducible:
    """Seed all random streams, ask for deterministic kernels, and switch autotuning off.

    Call it before the model is made. Bits still depend on the number of threads, the device and the versions
    of the libraries; these are in each run's record.

    Args:
        seed: Any whole number.

    Returns:
        What was done, and what could not be promised; the latter is also warned of.

    Example:
        >>> reproducible(seed=0).seed
        0
    """
    lost = []
    if torch.cuda.is_available():
        if torch.cuda.is_initialized() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ:  # type: ignore[no-untyped-call]
            lost.append("CUDA was in use before, without CUBLAS_WORKSPACE_CONFIG: matrix products may vary")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(mode=True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    seed_all(seed)
    if getattr(torch.backends, "mps", None) is not None and torch.backends.mps.is_available():
        lost.append("the bits on MPS, whose kernels are not all deterministic; the order of samples is kept")
    for line in lost:
        warnings.warn(f"reproducible: {line}", stacklevel=2)
    return Reproducible(seed, torch.get_num_threads(), tuple(lost))
