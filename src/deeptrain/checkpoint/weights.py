"""`load_weights`: a saved model's weights into a module, from a run, a checkpoint, a file or a state dict."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.format import read_whole
from deeptrain.checkpoint.manifest import MANIFEST
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.checkpoint.weight_files import SUFFIXES, checked, read_weights
from deeptrain.state.leaves import CONTAINERS, short
from deeptrain.state.tree import children

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    from torch import nn

_LISTED = 20


def load_weights(
    source: str | PathLike[str] | Mapping[str, Any],
    model: nn.Module,
    *,
    strict: bool = True,
    rename: Mapping[str, str] | Callable[[str], str | None] | None = None,
    which: Literal["newest", "best"] = "newest",
) -> list[str]:
    """Load a model's saved parameters and buffers. Nothing is changed where they do not fit.

    Values are converted to the dtype and the device that the model's own have. A name that is missing and tied to one
    that is there counts as loaded.

    Args:
        source: A run's directory (its newest whole checkpoint is taken), or a checkpoint's; a file of weights as
            `.safetensors`, or as `torch.save` writes a state dict, of which nothing is executed; or a state dict.
        model: A module of the same structure.
        strict: Whether every name must be on both sides. Shapes must match always.
        rename: The model's names for the saved ones: beginnings that are replaced, up to a dot, such as
            `{"module": ""}` or `{"backbone": "encoder"}`, of which the longest counts; or a function from the saved
            name to the model's, None for what is left out.
        which: Of a run's directory the "newest" whole checkpoint, or the "best" by the validation's key metric; of equal ones
            the earliest. The run keeps it under `Checkpoints(best=1)`.

    Returns:
        The names of the model's parameters and buffers that were not loaded; none if `strict`.

    Raises:
        ValueError: They do not fit; the message lists by path what is missing, unexpected, or of another shape. Or a
            file holds something else than tensors by name; the message names it.
        CheckpointError: There is no whole checkpoint, or no best one.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> load_weights({"old.weight": torch.ones(1, 2)}, model, strict=False, rename={"old": ""})
        ['bias']
    """
    expected = model.state_dict()
    place, found = _found(source, expected, which)
    if rename is not None:
        found = renamed(found, rename, place)
    _add_tied(found, expected)
    missing = [name for name in expected if name not in found]
    problems = misfits(found, expected) if strict else _shapes(found, expected)
    if problems:
        raise ValueError(_message(place, model, problems))
    model.load_state_dict({name: x for name, x in found.items() if name in expected}, strict=False)
    return missing


def _found(source: Any, expected: dict[str, Any], which: str) -> tuple[str, dict[str, Any]]:
    """The saved values by name, and what the source is called in messages."""
    if hasattr(source, "items"):
        return "the given state dict", checked(source, "the given state dict")
    path = Path(source)
    if path.is_file() or (path.suffix in SUFFIXES and not path.is_dir()):
        if path.suffix not in SUFFIXES:
            raise ValueError(
                f"{path}: found a file, expected one of weights ({', '.join(SUFFIXES)}) or a directory"
            )
        return str(path), read_weights(path)
    place, tree = _read(path, which)
    if type(tree) not in CONTAINERS or "model" not in tree:
        raise ValueError(f"{place}: the state has no part named 'model', so there are no weights to load")
    return str(place), _by_name(tree["model"], expected)


def _read(source: Path, which: str) -> tuple[Path, Any]:
    if which not in {"newest", "best"}:
        raise ValueError(f'which={which!r}: expected "newest" or "best"')
    if (source / "checkpoints").is_dir():
        store = CheckpointStore(source / "checkpoints")
        found = store.newest(history=False) if which == "newest" else store.best(history=False)
        return found.path, found.tree
    if not (source / MANIFEST).exists():
        raise CheckpointError(
            f"{source}: found neither a run's directory (with checkpoints/ in it) nor a checkpoint's "
            f"(with {MANIFEST} in it); give for instance runs/M1__name or runs/M1__name/checkpoints/000012"
        )
    return source, read_whole(source, history=False).tree


def renamed(
    found: dict[str, Any], rename: Mapping[str, str] | Callable[[str], str | None], place: str
) -> dict[str, Any]:
    """Saved values by the model's names. See `load_weights`.

    Raises:
        ValueError: Two have one name, or a beginning that was given is that of none.
    """
    change = rename if callable(rename) else _beginnings(found, rename, place)
    names: dict[str, str] = {}
    for name in found:
        new = change(name)
        if new in names:
            raise ValueError(f"{place}: rename makes one name, {new}, of {names[new]} and {name}")
        if new is not None:
            names[new] = name
    return {new: found[name] for new, name in names.items()}


def _beginnings(found: dict[str, Any], rename: Mapping[str, str], place: str) -> Callable[[str], str]:
    for old in rename:
        if not any(_begins(name, old) for name in found):
            near = difflib.get_close_matches(old, found, n=3, cutoff=0.3)
            raise ValueError(
                f"{place}: rename={{{old!r}: ...}}: no saved name begins so; near it there are {near or list(found)[:3]}"
            )

    def change(name: str) -> str:
        old = max((old for old in rename if _begins(name, old)), key=len, default=None)
        return name if old is None else ".".join(filter(None, (rename[old], name[len(old) :].lstrip("."))))

    return change


def _begins(name: str, old: str) -> bool:
    return not old or name == old or name.startswith(f"{old}.")


def _add_tied(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Give a tensor that is missing the value of one that is the same in the model: some files hold it once."""
    there = {_memory(x): name for name, x in expected.items() if name in found and _memory(x) is not None}
    for name, x in expected.items():
        if name not in found and (twin := there.get(_memory(x))) is not None:
            found[name] = found[twin]


def _memory(value: Any) -> object:
    if not isinstance(value, torch.Tensor) or not value.numel():
        return None
    return value.data_ptr(), value.shape, value.stride(), value.dtype


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


def _message(place: str, model: nn.Module, problems: list[str]) -> str:
    lines = "".join(f"\n  {problem}" for problem in problems[:_LISTED])
    more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return (
        f"{place}: the weights do not fit the model {type(model).__name__}:{lines}{more}\n"
        "give the model that was saved, or load with strict=False what has the same names and shapes"
    )
