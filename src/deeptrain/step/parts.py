"""Saving and loading the parts that steps are made of: modules, optimizers, schedulers.

torch's own `state_dict` leaves out three things that change in training: buffers that are not persistent,
training flags, and which parameters are frozen. And `Optimizer.load_state_dict` casts what it loads to the
parameter's dtype. Here nothing is left out and nothing is cast.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.checkpoint.weights import misfits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import nn
    from torch.optim import Optimizer


LISTED = 20


def module_extra(module: nn.Module) -> dict[str, Any]:
    """What training may change in a module beyond its `state_dict`.

    Returns:
        `buffers`: non-persistent ones by path. `eval`: paths of the submodules in evaluation mode.
        `frozen`: paths of the parameters that want no gradient.
    """
    persistent = module.state_dict(keep_vars=True)
    return {
        "buffers": {name: b for name, b in module.named_buffers() if name not in persistent},
        "eval": [name for name, m in module.named_modules() if not m.training],
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
    }


def load_module(module: nn.Module, saved: dict[str, Any], path: str) -> None:
    """Load a module's `state_dict`; nothing is changed where it does not fit.

    Args:
        module: Where to.
        saved: What `state_dict` gave.
        path: The module's path in the state tree, for the message.

    Raises:
        ValueError: It is of another module; the message names what is missing, unexpected, or of another shape.
    """
    if problems := misfits(saved, module.state_dict(), f"{path}."):
        lines = "\n  ".join(problems[:LISTED])
        raise ValueError(
            f"the saved state is of another {type(module).__name__}:\n  {lines}\ngive the one that was saved"
        )
    module.load_state_dict(saved)


def load_module_extra(module: nn.Module, extra: dict[str, Any]) -> None:
    """Take over what `module_extra` gave."""
    buffers = dict(module.named_buffers())
    for name, saved in extra["buffers"].items():
        _set_buffer(module, name, buffers.get(name), saved)
    in_eval, frozen = set(extra["eval"]), set(extra["frozen"])
    for name, m in module.named_modules():
        m.training = name not in in_eval
    for name, p in module.named_parameters():
        p.requires_grad_(name not in frozen)


def _set_buffer(module: nn.Module, path: str, present: torch.Tensor | None, saved: torch.Tensor) -> None:
    if present is not None and present.shape == saved.shape and present.dtype == saved.dtype:
        with torch.no_grad():
            present.copy_(saved)
        return
    # A cache that grew in training: the fresh module has a smaller one, or none yet.
    parent, _, name = path.rpartition(".")
    device = present.device if present is not None else _device_of(module)
    module.get_submodule(parent)._buffers[name] = saved.to(device, copy=True)  # noqa: SLF001


def _device_of(module: nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state in the dtypes in which it was saved.

    Raises:
        ValueError: It belongs to another optimizer: groups or their numbers of parameters differ.
    """
    optimizer.load_state_dict(state)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [n for group in state["param_groups"] for n in group["params"]]
    for parameter, number in zip(parameters, numbers, strict=True):
        for key, saved in state["state"].get(number, {}).items():
            loaded = optimizer.state[parameter][key]
            if isinstance(saved, torch.Tensor) and loaded.dtype != saved.dtype:
                optimizer.state[parameter][key] = saved.to(loaded.device, copy=True)


def training_flags(modules: Iterable[nn.Module]) -> list[tuple[nn.Module, bool]]:
    """Every submodule with its training flag, for `put_back`."""
    return [(m, m.training) for root in modules for m in root.modules()]


def put_back(flags: list[tuple[nn.Module, bool]]) -> None:
    """Set training flags as they were."""
    for m, training in flags:
        m.training = training


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules in evaluation mode for a block, without gradients, and each flag back as it was."""
    flags = training_flags(modules)
    try:
        for m, _ in flags:
            m.training = False
        with torch.no_grad():
            yield
    finally:
        put_back(flags)


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator
