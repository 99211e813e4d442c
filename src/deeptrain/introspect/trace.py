"""What each iteration saw and found, so that two runs can be laid side by side and the first difference named."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.data.batch import describe, map_tensors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer


def entry(trainer: Trainer, event: Event) -> dict[str, Any]:
    """One iteration: its batch's rows and values as checksums, the learning rates after it, its figures."""
    batch = event.batch
    assert batch is not None
    optimizer = getattr(trainer.learner, "optimizer", None)
    return {
        "at": event.iteration,
        "sources": describe(batch.sources),
        "rows": zlib.crc32(batch.rows.tobytes()),
        "data": _checksum((batch.inputs, batch.targets)),
        "lr": [] if optimizer is None else [float(group["lr"]) for group in optimizer.param_groups],
        "figures": event.metrics,
    }


def _checksum(tensors: Any) -> int:
    found = 0

    def add(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal found
        plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = zlib.crc32(plain.numpy().tobytes(), found)
        return tensor

    map_tensors(tensors, add)
    return found


@dataclass(frozen=True, slots=True)
class FirstDifference:
    """Where two runs part.

    Attributes:
        at: The first iteration that differs.
        what: What differs there, in words.
        cause: What that points to, in words.
    """

    at: int
    what: str
    cause: str

    def __str__(self) -> str:
        return f"iteration {self.at}: {self.what}. {self.cause}"


CAUSES = {
    "rows": "Other rows were fed: the order of samples is not part of the state (a sampler of one's own, perhaps).",
    "data": "The same rows held other values: the data changed, or something random or dependent on time is in it.",
    "lr": "The learning rate took another value: the schedule depends on the clock or on something outside the state.",
    "figures": (
        "The same data gave other figures: weights or random numbers differ (a generator that is not registered, "
        "a callback or module that keeps something outside its state, or kernels that are not deterministic)."
    ),
}


def first_difference(one: Iterable[dict[str, Any]], two: Iterable[dict[str, Any]]) -> FirstDifference | None:
    """The first iteration in which two traces differ, or None.

    A rate is written down after its iteration, so one that differs shows there before the figures do.
    """
    other = {e["at"]: e for e in two}
    for mine in sorted({e["at"]: e for e in one}.values(), key=lambda e: e["at"]):
        yours = other.get(mine["at"])
        if yours is None:
            return FirstDifference(
                mine["at"], "one of the runs has no such iteration", "The runs differ in length."
            )
        for key, cause in CAUSES.items():
            if repr(mine[key]) != repr(yours[key]):
                return FirstDifference(mine["at"], _in_words(key, mine, yours), cause)
    return None


def _in_words(key: str, mine: dict[str, Any], yours: dict[str, Any]) -> str:
    if key == "data":
        return f"the values of {mine['sources']} differ"
    if key == "rows":
        return f"{mine['sources']} was fed in one, {yours['sources']} in the other"
    return f"{key} {mine[key]} in one, {yours[key]} in the other"
