"""Weights alone as one file, which every other library reads: `.safetensors`, or what `torch.save` writes."""

from __future__ import annotations

import re
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from deeptrain.checkpoint.files import CheckpointError, sync_directory, sync_file, temporary_beside
from deeptrain.checkpoint.forms import NATURAL
from deeptrain.state.leaves import short

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from deeptrain.trainer import Trainer

SAFE = ".safetensors"
SUFFIXES = (SAFE, ".pt", ".pth", ".bin")
EXTRA = "_extra_state"  # the last part of the name of what a module saves beside tensors
_LISTED = 5


def save_weights(model: nn.Module | Trainer, path: str | PathLike[str]) -> Path:
    """Write a model's parameters and persistent buffers to one file, in one step: a file that is there is replaced whole.

    Args:
        model: A module, or the trainer of one.
        path: The file. `.safetensors` holds plain tensors, each name's for itself, also where several are tied. `.pt`,
            `.pth` or `.bin` is what `torch.save(model.state_dict())` writes, on the CPU.

    Returns:
        The path.

    Raises:
        ValueError: The name has another ending, the file's format cannot hold what is to be saved, or the trainer has
            not one model; the message names it.
        CheckpointError: It could not be written. What was there is as it was.

    Example:
        `dt.save_weights(trainer, "mnist.safetensors")`
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: found the ending {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    weights = _plain(_module(model).state_dict())
    if path.suffix == SAFE:
        _require_tensors(path, weights)
    temporary = temporary_beside(path)
    try:
        _write(temporary, weights, safe=path.suffix == SAFE)
        sync_file(temporary)
        temporary.replace(path)
        sync_directory(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer, too, says a full disk by a RuntimeError
        raise CheckpointError(f"{path}: the weights could not be written: {error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path


def _module(model: nn.Module | Trainer) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    learner = getattr(model, "learner", None)
    if learner is None:
        raise TypeError(f"save_weights({short(model)}): expected a module or a trainer")
    if model.progress.torn is not None:
        raise ValueError(f"{model.progress.torn}. The weights are not whole: load a checkpoint first")
    named = getattr(learner, "model", None)
    modules = [named] if isinstance(named, nn.Module) else list(learner.modules())
    if len(modules) != 1:
        names = ", ".join(type(module).__name__ for module in modules) or "none"
        raise ValueError(
            f"the trainer's step has {len(modules)} modules ({names}): give the one that is meant"
        )
    return modules[0]


def _plain(state: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """A state dict with its tensors on the CPU and without more memory than they need; what is tied stays so."""
    made: dict[object, torch.Tensor] = {}
    found: OrderedDict[str, Any] = OrderedDict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            found[name] = value
            continue
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else name
        found[name] = made.setdefault(key, _alone(value))
    if hasattr(state, "_metadata"):
        found._metadata = state._metadata  # type: ignore[attr-defined]  # noqa: SLF001 - the versions of the modules
    return found


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    here = tensor.detach().cpu()
    return here if here.is_contiguous() and here.untyped_storage().nbytes() == here.nbytes else here.clone()


def _require_tensors(path: Path, weights: Mapping[str, Any]) -> None:
    """See that there is nothing that a `.safetensors` file cannot hold."""
    odd = [f"{name} ({short(x)})" for name, x in weights.items() if getattr(x, "dtype", None) not in NATURAL]
    if odd:
        raise ValueError(f"{path}: {SAFE} cannot hold {', '.join(odd[:_LISTED])}: save as .pt")


def _write(path: Path, weights: OrderedDict[str, Any], *, safe: bool) -> None:
    if not safe:
        torch.save(weights, path)
        return
    from safetensors import SafetensorError  # noqa: PLC0415 - for `import deeptrain` to cost little
    from safetensors.torch import save_file  # noqa: PLC0415

    seen: set[int] = set()
    apart = {}
    for name, x in weights.items():
        apart[name] = x.contiguous().clone() if id(x) in seen else x.contiguous()
        seen.add(id(x))
    try:
        save_file(apart, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error


# ---------------------------------------------------------------------- reading


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors of a file by name, on the CPU. Nothing in the file is executed.

    Raises:
        ValueError: It is no such file, or holds something else than tensors by name; the message says what.
    """
    return checked(_read_safe(path) if path.suffix == SAFE else _read_torch(path), str(path))


def _read_safe(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: is no whole {SAFE} file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever a damaged or hostile file makes torch raise
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            what = str(error).partition("\n")[0]
            raise ValueError(f"{path}: is no file of weights that torch reads: {what}") from error
        raise ValueError(
            f"{path}: found {found[1]} in it, expected tensors by name: to read it could execute code, and is refused. Save "
            "model.state_dict() instead of the model, or dt.save_weights(model, path)"
        ) from error


def checked(weights: Any, source: str) -> dict[str, Any]:
    """A state dict's tensors by name.

    Args:
        weights: What was read or given.
        source: Where it is from, for the message.

    Raises:
        ValueError: It holds something else; the message names it.
    """
    if not hasattr(weights, "items"):
        raise ValueError(f"{source}: found a {type(weights).__name__}, expected tensors by name")
    odd = {str(name): x for name, x in weights.items() if not _is_weight(name, x)}
    if not odd:
        return dict(weights)
    listed = ", ".join(f"{name} ({_kind(x)})" for name, x in list(odd.items())[:_LISTED])
    nested = [
        name
        for name, x in odd.items()
        if hasattr(x, "items") and x and all(_is_weight(*i) for i in x.items())
    ]
    hint = (
        f"give load_weights that part of it: torch.load(path, weights_only=True)[{nested[0]!r}]"
        if nested
        else ""
    )
    raise ValueError(
        f"{source}: found {listed} in it, expected nothing but tensors by name; {hint or 'save model.state_dict()'}"
    )


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and (isinstance(value, torch.Tensor) or name.rpartition(".")[2] == EXTRA)


def _kind(value: Any) -> str:
    return type(value).__name__
