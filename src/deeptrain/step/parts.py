"""Saving and loading the parts that steps are made of: modules, optimizers, schedulers.

torch's own `state_dict` leaves out three things that change in training: buffers that are not persistent,
training flags, and which parameters are frozen. And `Optimizer.load_state_dict` casts what it loads to the
parameter's dtype. Here nothing is left out and nothing is cast.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.checkpoint.weights import misfits
from deeptrain.data.batch import map_tensors
from deeptrain.step.stateful import reset_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import nn
    from torch.optim import Optimizer


LISTED = 20


def module_extra(module: nn.Module) -> dict[str, Any]:
    """What training may change in a module beyond its `state_dict`.

    Returns:
        `buffers`: non-persistent ones by path. `empty`: paths of those that are None. `eval`: paths of the submodules
        in evaluation mode. `frozen`: paths of the parameters that want no gradient.
    """
    persistent = module.state_dict(keep_vars=True)
    return {
        "buffers": {name: b for name, b in module.named_buffers() if name not in persistent},
        "empty": _empty_buffers(module),
        "eval": [name for name, m in module.named_modules() if not m.training],
        "frozen": [name for name, p in module.named_parameters() if not p.requires_grad],
    }


def _empty_buffers(module: nn.Module) -> list[str]:
    return [
        f"{path}.{name}" if path else name
        for path, m in module.named_modules()
        for name in sorted(m._non_persistent_buffers_set)  # noqa: SLF001
        if m._buffers.get(name, m) is None  # noqa: SLF001
    ]


def load_module(module: nn.Module, saved: dict[str, Any], path: str) -> None:
    """Load a module's `state_dict`; nothing is changed where it does not fit.

    Args:
        module: Where to.
        saved: What `state_dict` gave.
        path: The module's path in the state tree, for the message.

    Raises:
        ValueError: It is of another module; the message names what is missing, unexpected, or of another shape.
    """
    present = module.state_dict(keep_vars=True)
    for name, value in saved.items():
        _make_room(module, name, present.get(name), value)
    if problems := misfits(saved, module.state_dict(), f"{path}."):
        lines = "\n  ".join(problems[:LISTED])
        raise ValueError(
            f"the saved state is of another {type(module).__name__}:\n  {lines}\ngive the one that was saved"
        )
    module.load_state_dict(saved)


def load_module_extra(module: nn.Module, extra: dict[str, Any]) -> None:
    """Take over what `module_extra` gave."""
    reset_states([module])  # what a hidden state consists of is known from the saved one alone
    for path in extra.get("empty", ()):
        parent, _, name = path.rpartition(".")
        module.get_submodule(parent).register_buffer(name, None, persistent=False)
    buffers = dict(module.named_buffers())
    for name, saved in extra["buffers"].items():
        _set_buffer(module, name, buffers.get(name), saved)
    in_eval, frozen = set(extra["eval"]), set(extra["frozen"])
    for name, m in module.named_modules():
        m.training = name not in in_eval
    for name, p in module.named_parameters():
        p.requires_grad_(name not in frozen)


def _make_room(module: nn.Module, path: str, present: Any, saved: Any) -> None:
    """Where a buffer grew in training, or was None at first, give the module one of the saved shape."""
    parent, _, name = path.rpartition(".")
    try:
        owner = module.get_submodule(parent)
    except AttributeError:
        return
    if name in owner._buffers and isinstance(saved, torch.Tensor):  # noqa: SLF001
        _set_buffer(module, path, present, saved)


def is_expanded(tensor: torch.Tensor) -> bool:
    """Whether several elements share one place in memory; such a tensor cannot be written to."""
    return tensor.layout is torch.strided and any(
        stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True)
    )


def _set_buffer(module: nn.Module, path: str, present: torch.Tensor | None, saved: torch.Tensor) -> None:
    fits = present is not None and present.shape == saved.shape and present.dtype == saved.dtype
    if present is not None and fits and not is_expanded(present):
        with torch.no_grad():
            present.copy_(saved)
        return
    # A cache that grew in training: the fresh module has a smaller one, or none yet.
    parent, _, name = path.rpartition(".")
    device = present.device if present is not None else _device_of(module)
    owner, copied = module.get_submodule(parent), saved.to(device, copy=True)
    if name in owner._buffers:  # noqa: SLF001
        owner._buffers[name] = copied  # noqa: SLF001
    else:  # one that its module makes in training; a persistent one never comes here
        owner.register_buffer(name, copied, persistent=False)


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
            optimizer.state[parameter][key] = _uncast(saved, optimizer.state[parameter][key], parameter)


def _uncast(saved: Any, loaded: Any, parameter: torch.Tensor) -> Any:
    """Give a value of an optimizer's state as it was saved, on the device where torch put it.

    A copy also where nothing was cast: training must not write into the state that was given. LBFGS has lists of tensors.
    """
    if isinstance(saved, torch.Tensor):
        is_own = loaded is not saved and loaded.dtype == saved.dtype
        return loaded if is_own else saved.to(loaded.device, copy=True)
    if isinstance(saved, dict | list | tuple):
        return map_tensors(saved, lambda tensor: tensor.to(parameter.device, copy=True))
    return loaded


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


class Parameters:
    """The parameters that a step may leave gradients in: of its modules, and whatever its optimizers hold.

    Args:
        modules: The modules.
        optimizers: The optimizers; groups that are added later count too.
    """

    def __init__(self, modules: Iterable[nn.Module], optimizers: Sequence[Optimizer]) -> None:
        self._modules = list(modules)
        self._optimizers = list(optimizers)
        self._groups = -1
        self._all: list[torch.nn.Parameter] = []
        self._held: list[torch.Tensor] = []

    def all(self) -> list[torch.nn.Parameter]:
        """Every parameter, once."""
        groups = 0
        for optimizer in self._optimizers:  # in every iteration, where sum() would cost twice as much
            groups += len(optimizer.param_groups)
        if groups != self._groups:
            held = [p for o in self._optimizers for group in o.param_groups for p in group["params"]]
            owned = [p for module in self._modules for p in module.parameters()]
            self._all = list({id(p): p for p in (*owned, *held)}.values())
            self._groups = groups
        return self._all

    def gradients(self) -> list[torch.Tensor]:
        """Those that there are; held until they are dropped, so that an optimizer need not make objects of them again."""
        self._held = [grad for parameter in self.all() if (grad := parameter.grad) is not None]
        return self._held

    def drop_gradients(self) -> None:
        """Leave no gradient."""
        self._held = []
        for parameter in self.all():
            parameter.grad = None


def without_params(optimizer: Optimizer) -> list[dict[str, Any]]:
    """What the groups of an optimizer hold beside parameters; the dictionaries are new, the values are not."""
    return [{key: value for key, value in g.items() if key != "params"} for g in optimizer.param_groups]


def group_values(optimizers: Sequence[Optimizer]) -> list[dict[str, Any]]:
    """Learning rates and whatever else the groups of some optimizers hold beside parameters, for `put_back_groups`."""
    return [
        {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
        for optimizer in optimizers
        for group in optimizer.param_groups
    ]


def put_back_groups(optimizers: Sequence[Optimizer], values: list[dict[str, Any]]) -> None:
    """Set the values of groups as they were."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group, saved in zip(groups, values, strict=False):
        group.update(saved)


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator
