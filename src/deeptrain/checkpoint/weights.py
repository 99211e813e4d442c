"""`load_weights`: a saved model's weights into a module, without the rest of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.format import read_checkpoint
from deeptrain.checkpoint.manifest import MANIFEST
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.state.leaves import CONTAINERS, short
from deeptrain.state.tree import children

if TYPE_CHECKING:
    from os import PathLike

    from torch import nn

_LISTED = 20


def load_weights(source: str | PathLike[str], model: nn.Module, *, strict: bool = True) -> list[str]:
    """Load a model's saved parameters and buffers. Nothing is changed where they do not fit.

    Values are converted to the dtype and the device that the model's own have.

    Args:
        source: A run's directory (its newest whole checkpoint is taken), or a checkpoint's.
        model: A module of the same structure.
        strict: Whether every name must be on both sides. Shapes must match always.

    Returns:
        The names of the model's parameters and buffers that were not loaded; none if `strict`.

    Raises:
        ValueError: They do not fit; the message lists by path what is missing, unexpected, or of another shape.
        CheckpointError: There is no whole checkpoint.

    Example:
        `dt.load_weights("runs/M3__mnist", model)`
    """
    place, tree = _read(Path(source))
    if type(tree) not in CONTAINERS or "model" not in tree:
        raise ValueError(f"{place}: the state has no part named 'model', so there are no weights to load")
    expected = model.state_dict()
    found = _by_name(tree["model"], expected)
    missing = [name for name in expected if name not in found]
    problems = misfits(found, expected) if strict else _shapes(found, expected)
    if problems:
        raise ValueError(_message(place, model, problems))
    model.load_state_dict({name: x for name, x in found.items() if name in expected}, strict=False)
    return missing


def _read(source: Path) -> tuple[Path, Any]:
    if (source / "checkpoints").is_dir():
        newest = CheckpointStore(source / "checkpoints").newest()
        return newest.path, newest.tree
    if not (source / MANIFEST).exists():
        raise CheckpointError(
            f"{source}: found neither a run's directory (with checkpoints/ in it) nor a checkpoint's "
            f"(with {MANIFEST} in it); give for instance runs/M1__name or runs/M1__name/checkpoints/000012"
        )
    return source, read_checkpoint(source)[0]


def _by_name(subtree: Any, expected: dict[str, Any]) -> dict[str, Any]:
    """The saved values by the names that `Module.state_dict` gives, be the subtree flat or nested."""
    found: dict[str, Any] = {}
    stack = [("", subtree)]
    while stack:
        name, value = stack.pop()
        if type(value) not in CONTAINERS or (name and name in expected) or (name and not value):
            found[name] = value
            continue
        stack += [(f"{name}.{key}" if name else str(key), child) for key, child in children(value)][::-1]
    return found


def misfits(found: dict[str, Any], expected: dict[str, Any], prefix: str = "") -> list[str]:
    """In which names and shapes saved weights differ from a module's `state_dict`, in words.

    Args:
        found: The saved ones by name.
        expected: The module's.
        prefix: Put before each name, such as "model.".
    """
    missing = [
        f"{prefix}{name}: missing, expected {_shape(x)}" for name, x in expected.items() if name not in found
    ]
    unexpected = [
        f"{prefix}{name}: unexpected, {_shape(x)}" for name, x in found.items() if name not in expected
    ]
    return [*_shapes(found, expected, prefix), *missing, *unexpected]


def _shapes(found: dict[str, Any], expected: dict[str, Any], prefix: str = "") -> list[str]:
    return [
        f"{prefix}{name}: found shape {_shape(x)}, expected {_shape(expected[name])}"
        for name, x in found.items()
        if name in expected and _shape(x) != _shape(expected[name])
    ]


def _shape(value: Any) -> str:
    """A tensor's shape; of a module's extra state, which may be anything, only that it is there."""
    if isinstance(value, torch.Tensor):
        return str(list(value.shape))
    return "(extra state)" if type(value) in CONTAINERS else short(value)


def _message(place: Path, model: nn.Module, problems: list[str]) -> str:
    lines = "".join(f"\n  {problem}" for problem in problems[:_LISTED])
    more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return (
        f"{place}: the weights do not fit the model {type(model).__name__}:{lines}{more}\n"
        "give the model that was saved, or load with strict=False what has the same names and shapes"
    )
