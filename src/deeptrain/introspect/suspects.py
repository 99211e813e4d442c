"""What could make a resumed run differ: values that training changes and that no state holds.

Looked for in the places where they usually are: plain attributes of modules, callbacks and data sets, and
random generators among them that were not registered.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from deeptrain.callbacks.base import Callback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeptrain.trainer import Trainer

PLAIN = (bool, int, float, str, list, tuple, dict, set, type(None), np.ndarray, torch.Tensor)
GENERATORS = (torch.Generator, np.random.Generator, random.Random)
WRAPPED = 4  # data sets within data sets that are looked into, as those of `Subset` and `FromDataset`
# What nn.Module keeps in plain attributes of its own, all of it covered by the state.
OWN = {"training", "_parameters", "_buffers", "_modules"}


def attributes(trainer: Trainer) -> dict[str, str]:
    """Plain values that no state holds, by where they are, as text to compare."""
    return {
        f"{where}.{name}": repr(value)
        for where, thing in _things(trainer)
        for name, value in vars(thing).items()
        if isinstance(value, PLAIN) and not _is_covered(thing, name)
    }


def generators(trainer: Trainer) -> list[str]:
    """Where random generators are kept that are no registered streams."""
    known = {id(stream) for stream in trainer.streams.generators}
    return [
        f"{where}.{name} is a {type(value).__module__}.{type(value).__qualname__} that is not registered: "
        f"call trainer.register_generator({name!r}, ...)"
        for where, thing in _things(trainer)
        for name, value in vars(thing).items()
        if isinstance(value, GENERATORS) and id(value) not in known and not _saves_itself(thing)
    ]


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Attributes that training changed and no state holds, in words."""
    return [
        f"{path} went from {before[path][:40]} to {value[:40]} in training, and no state holds it"
        for path, value in after.items()
        if path in before and before[path] != value
    ]


def _things(trainer: Trainer) -> Iterator[tuple[str, Any]]:
    for module in trainer.learner.modules():
        for name, part in module.named_modules():
            yield f"model.{name}".rstrip("."), part
    for name, callback in trainer.handlers.by_name.items():
        yield f"callbacks.{name}", callback
    for name, feed in (("train", trainer.train), *(("validation", feed) for feed in trainer.judging.feeds())):
        if type(feed).__name__ == "StatefulFeed":
            continue  # it has a state of its own, which is saved
        dataset, where = getattr(feed, "dataset", getattr(feed, "source", None)), f"data.{name}"
        for _ in range(WRAPPED):
            if hasattr(dataset, "__dict__"):
                yield where, dataset
            dataset, where = getattr(dataset, "dataset", None), f"{where}.dataset"


def _saves_itself(thing: Any) -> bool:
    """Whether a part gives a state of its own making, in which its generators may be."""
    if isinstance(thing, nn.Module):
        return type(thing).get_extra_state is not nn.Module.get_extra_state
    return isinstance(thing, Callback) and type(thing).state_dict is not Callback.state_dict


def _is_covered(thing: Any, name: str) -> bool:
    if isinstance(thing, nn.Module):
        return name in OWN or name.startswith("_")
    if isinstance(thing, Callback):
        return type(thing).state_dict is not Callback.state_dict
    return False
