"""Finding what a function or an object trains: the modules, optimizers and the like among what it refers to.

Followed are globals and closures, also those of nested code (generator expressions, closures given to LBFGS)
and of the helpers that a function calls; `self` of methods, arguments of partials, attributes of plain objects;
lists, tuples and dicts. Whatever has `state_dict` and `load_state_dict` is a part and is not looked into, save
for a module's own attributes, where an optimizer may be kept.
"""

from __future__ import annotations

import builtins
import dis
import functools
import types
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH = 6
PLACES = ("torch", "numpy", "builtins", "deeptrain")


def parts_of(*roots: Any, leave: Any = None) -> dict[str, Any]:
    """Whatever has a state among what functions refer to, by the name under which it was found first.

    Args:
        roots: Functions, or dictionaries of names and values.
        leave: What is not looked at wherever it is found.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> nets = {"g": nn.Linear(1, 1)}
        >>> def train(batch):
        ...     return sum(nets["g"](x) for x in model(batch))
        >>> sorted(parts_of(train))
        ['model', 'nets.g']
    """
    found: dict[str, Any] = {}
    seen = {id(leave)}
    queue = [("", root) for root in roots]
    for _ in range(DEPTH):
        following: list[tuple[str, Any]] = []
        for name, value in queue:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if name and has_state(value):
                found[name] = value
            elif not name and isinstance(value, nn.Module):
                found["self"] = value  # a module that is called itself
            following += _below(name, value)
        queue = following
    return found


def has_state(value: Any) -> bool:
    """Whether a value is a part: not a class, no loader, whose place the trainer keeps, and not the trainer itself."""
    if isinstance(value, type) or hasattr(value, "fetch") or _is_trainer(value):
        return False
    return all(callable(getattr(value, method, None)) for method in ("state_dict", "load_state_dict"))


def _is_trainer(value: Any) -> bool:
    return any(made.__module__ == "deeptrain.trainer" for made in type(value).__mro__)


def _below(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What a value refers to, with names."""

    def named(key: Any) -> str:
        return f"{name}.{key}" if name else str(key)

    if isinstance(value, types.FunctionType):
        # A helper's variables keep their own names.
        yield from _variables(value).items()
    elif isinstance(value, types.MethodType):
        yield from (("self", value.__self__), ("", value.__func__))
    elif isinstance(value, functools.partial):
        yield "", value.func
        yield from ((named(f"arg{i}"), item) for i, item in enumerate(value.args))
        yield from ((named(key), item) for key, item in value.keywords.items())
    elif isinstance(value, dict):
        yield from ((named(key), item) for key, item in value.items() if isinstance(key, str | int))
    elif isinstance(value, list | tuple):
        yield from ((named(i), item) for i, item in enumerate(value))
    elif isinstance(value, nn.Module):
        yield from (
            (named(key), item)
            for key, item in vars(value).items()
            if not key.startswith("_") and has_state(item)
        )
    elif _is_plain_object(value):
        yield from ((named(key), item) for key, item in vars(value).items())
        call = getattr(type(value), "__call__", None)  # noqa: B004 - its code is what is wanted
        if isinstance(call, types.FunctionType):
            yield "", call


def _is_plain_object(value: Any) -> bool:
    if isinstance(value, type | types.ModuleType) or has_state(value) or hasattr(value, "fetch"):
        return False
    return hasattr(value, "__dict__") and type(value).__module__.partition(".")[0] not in PLACES


def _variables(function: types.FunctionType) -> dict[str, Any]:
    """The globals and closure variables that a function and the code within it refer to."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    found = {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    for name in _names(function.__code__):
        if name in function.__globals__ and not hasattr(builtins, name):
            found.setdefault(name, function.__globals__[name])
    defaults = function.__kwdefaults__ or {}
    return {
        **found,
        **defaults,
        **{f"default{i}": value for i, value in enumerate(function.__defaults__ or ())},
    }


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - to see whether it is there yet
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> list[str]:
    """The names that a code looks up among the globals; those of attributes are not."""
    names = [
        str(instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"}
    ]
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names += _names(constant)
    return names
