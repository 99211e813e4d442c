"""Setting a value of a live train state by its path: checked whole first, then made."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.data.edits import from_plain
from deeptrain.state import tree
from deeptrain.state.leaves import CONTAINERS, MAPPINGS, short

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.trainer import Trainer

MOST_VALUES = 1 << 16  # of a tensor that is written to the journal
_LIMITS = {  # of an optimizer's groups
    **dict.fromkeys(
        ("lr", "lr_scale", "weight_decay", "eps", "momentum"), (math.inf, "a finite number from 0 up")
    ),
    "betas": (1.0, "numbers from 0 to below 1"),
}
_ELSEWHERE = {
    "progress": "counters say what was completed: trainer.load goes to another point",
    "data": "trainer.train.seek, skip, exclude, repeat and set_batch_size change the order",
    "random": "torch.manual_seed and its like move the streams, and they are saved where they then stand",
    "history": "it is a record",
    "steering": "it is a record",
    "replaced": "it is a record",
    "seed": "it was given when the run began",
    "version": "it says how the state is written",
}


def prepare_edit(trainer: Trainer, value: dict[str, Any], epoch: int | None = None) -> Callable[[], None]:
    """See that an edit of the train loader's order can be made, and give what makes it.

    Args:
        trainer: Whose loader.
        value: What the edit's `as_plain` gave.
        epoch: From which later epoch's beginning on; by default from the cursor on.

    Raises:
        ValueError: It cannot be made, or the loader's order is not one that can be edited.
    """
    prepared = getattr(trainer.train, "prepared", None)
    if prepared is None:
        raise ValueError(
            f"the order of a {type(trainer.train).__name__} cannot be edited; that of a dt.BatchLoader can"
        )
    make: Callable[[], None] = prepared(from_plain(value), epoch)
    return make


def prepare(trainer: Trainer, path: str, value: Any) -> Callable[[], None]:
    """See that a change can be made.

    Args:
        trainer: Whose state it is.
        path: A path of the state tree; with `*` in it, every value that matches.
        value: The new value, of the old one's type: a number for a number, numbers for a tensor or a tuple.

    Returns:
        A function that makes the change.

    Raises:
        KeyError: There is nothing at the path; the message names similar ones.
        ValueError, TypeError: The value is not of the right kind, or another part owns what is there.
    """
    root = tree.split(path)[0] if path else ""
    if root in _ELSEWHERE:
        raise ValueError(f"{path} cannot be set: {_ELSEWHERE[root]}")
    state = _state(trainer)
    present = tree.matching(state, path)
    if not present:
        raise tree.UnknownPathError(f"there is nothing at {path!r} in the state{_meant(state, path)}")
    new: dict[str, Any] = {}
    for place, old in present.items():
        _refuse_owned(trainer, place)
        made = _of_the_kind(place, old, value)
        _refuse_impossible(place, made)
        new |= dict.fromkeys(_aliases(state, place, old), made)
    return lambda: _put(trainer, state, new)


def _meant(state: dict[str, Any], path: str) -> str:
    """What to say where there is nothing at a path: where a rate's or the like lies, or which paths are near."""
    last = tree.split(path)[-1] if path else ""
    groups = {
        name: part["param_groups"]
        for name, part in state.items()
        if isinstance(part, dict) and "param_groups" in part
    }
    found = [f"{name}.param_groups.*.{last}" for name, kept in groups.items() if kept and last in kept[0]]
    return f"; it lies at {' and '.join(found)}" if found else tree.similar(state, path)


def _state(trainer: Trainer) -> dict[str, Any]:
    return {**trainer.learner.state_dict(), "callbacks": trainer.handlers.state_dict()}


def _refuse_owned(trainer: Trainer, path: str) -> None:
    scheduler = getattr(trainer.learner, "scheduler", None)
    owned = {"lr"} | ({"momentum", "betas"} if getattr(scheduler, "cycle_momentum", False) else set())
    parts = tree.split(path)
    if scheduler is not None and parts[:2] == ["optimizer", "param_groups"] and parts[-1] in owned:
        raise ValueError(
            f"{path} is set by the scheduler {type(scheduler).__name__} at each of its steps: the value would not stay. Multiply "
            "whatever it says, trainer.set('optimizer.param_groups.*.lr_scale', 0.5), or set "
            "what the scheduler works with, such as scheduler.base_lrs.0 (trainer.get('scheduler.*') shows its values)"
        )


def _refuse_impossible(path: str, value: Any) -> None:
    """What torch's optimizers refuse when they are made, they would take without a word later on."""
    parts = tree.split(path)
    name = parts[-2] if parts[-1].isdigit() else parts[-1]
    if "param_groups" not in parts or name not in _LIMITS:
        return
    most, expected = _LIMITS[name]
    values = value if isinstance(value, tuple | list) else [value]
    if any(isinstance(each, int | float) and not 0 <= each < most for each in values):
        raise ValueError(f"{path}: found {value!r}, expected {expected}")


def _aliases(state: dict[str, Any], path: str, old: Any) -> list[str]:
    """The path, and those of the same tensor under other names (tied weights)."""
    if not isinstance(old, torch.Tensor) or not old.numel():
        return [path]
    return [
        other
        for other, leaf in tree.walk(state)
        if isinstance(leaf, torch.Tensor) and leaf.data_ptr() == old.data_ptr() and leaf.shape == old.shape
    ]


def _of_the_kind(path: str, old: Any, value: Any) -> Any:
    """The value as the old one's type has it."""
    if type(old) in CONTAINERS and (type(old) in MAPPINGS or not isinstance(value, list | tuple)):
        raise ValueError(
            f"{path} is a part of the state and no single value: name one of {_below(path, old)}"
        )
    if isinstance(old, torch.Tensor):
        return _tensor(path, old, value)
    if type(old) is list and len(old) != len(
        value
    ):  # a list that grows and shrinks says nothing of its values
        return list(value)
    if isinstance(old, tuple | list):
        if len(old) != len(value):
            raise ValueError(f"{path}: found {len(value)} values, expected {len(old)}, as in {old!r}")
        pairs = enumerate(zip(old, value, strict=True))
        return type(old)(_of_the_kind(tree.join(path, n), x, y) for n, (x, y) in pairs)
    if (
        isinstance(value, float)
        and not math.isfinite(value)
        and tree.split(path)[:2] == ["optimizer", "param_groups"]
    ):
        raise ValueError(f"{path}: found {value!r}, expected a finite number")
    if old is None or type(old) is type(value):
        return value
    if type(old) is float and type(value) is int:
        return float(value)
    if type(old) is int and type(value) is float and tree.split(path)[:2] == ["optimizer", "param_groups"]:
        return (
            value  # torch's own defaults, such as a weight_decay of 0, are whole numbers of what may be any
        )
    raise TypeError(
        f"{path}: found {value!r}, a {type(value).__name__}; expected a {type(old).__name__}, as {old!r} is"
    )


def _below(path: str, node: Any) -> str:
    return ", ".join(tree.join(path, key) for key, _ in list(tree.children(node))[:6])


def _tensor(path: str, old: torch.Tensor, value: Any) -> torch.Tensor:
    try:
        new = torch.as_tensor(value, dtype=None if isinstance(value, torch.Tensor) else old.dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{path}: found {value!r:.80}, expected one number or a tensor of shape {list(old.shape)} and {old.dtype}"
        ) from error
    if new.dim() and new.shape != old.shape:
        raise ValueError(
            f"{path}: found a tensor of shape {list(new.shape)}, expected {list(old.shape)}, or one number"
        )
    if new.dtype != old.dtype:
        raise TypeError(f"{path}: found a tensor of {new.dtype}, expected {old.dtype}")
    return old.detach().clone().copy_(new)


def _put(trainer: Trainer, state: dict[str, Any], new: dict[str, Any]) -> None:
    """Load the parts with the new values in them.

    Raises:
        ValueError: A part did not take over what it was given; it has its old values again.
    """
    kept = copy.deepcopy(state)
    _load(trainer, _replaced("", state, new))
    present = _state(trainer)
    refused = [path for path, value in new.items() if tree.diff(tree.get(present, path), value)]
    if refused:
        _load(trainer, kept)
        assert tree.digest(_state(trainer)) == tree.digest(kept)
        raise ValueError(
            f"{refused[0]} was set and is not what was given: the part that owns it works it out itself"
        )


def _load(trainer: Trainer, state: dict[str, Any]) -> None:
    trainer.learner.load_state_dict({key: part for key, part in state.items() if key != "callbacks"})
    trainer.handlers.load_state_dict(state["callbacks"])


def _replaced(path: str, node: Any, new: dict[str, Any]) -> Any:
    """The tree with other values at some paths; what lies beside them is the same object."""
    if path in new:
        return new[path]
    kind = type(node)
    if kind not in CONTAINERS:
        return node
    made = [(key, _replaced(tree.join(path, key), child, new)) for key, child in tree.children(node)]
    if kind not in MAPPINGS:
        return kind(child for _, child in made)
    rebuilt = node.copy()
    for key, child in made:  # `update` of a Counter would count them
        rebuilt[key] = child
    return rebuilt


def as_plain(value: Any) -> Any:
    """A value as JSON holds it and `prepare` takes it back, bit for bit.

    Raises:
        ValueError: It is too large to be written to the journal.
    """
    if isinstance(value, torch.Tensor | np.ndarray):
        count = value.numel() if isinstance(value, torch.Tensor) else value.size
        if count > MOST_VALUES:
            raise ValueError(
                f"found {short(value)}, {count} values; expected {MOST_VALUES} at most, as they are written to the journal: "
                "save a checkpoint with the new values in it and load that"
            )
        return value.tolist()
    if isinstance(value, tuple | list):
        return [as_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value
