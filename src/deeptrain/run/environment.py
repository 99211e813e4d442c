"""What decides over a run's bits besides script and data: the machine, torch's modes, and how the parts really run."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.optim import optimizer as optimizers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from torch import nn

    from deeptrain.trainer import Trainer

# Read by the libraries under torch when they start: with which instructions and in which precision they compute.
VARIABLES = ("MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "ONEDNN_DEFAULT_FPMATH_MODE", "NVIDIA_TF32_OVERRIDE")


def environment(device: torch.device | str | None = None) -> dict[str, Any]:
    """The machine, the libraries' versions, and torch's modes, as plain values.

    Python's seed for the hashes of texts is left out: nothing here goes by their order, and one that is not set
    says nothing.

    Args:
        device: Where is computed, so that it can be named; the CPU where it is not given.

    Example:
        >>> environment()["world_size"]
        1
    """
    where = torch.device(device or "cpu")
    return {**_versions(), **_machine(where), **_modes(where.type)}


def surroundings(trainer: Trainer) -> dict[str, Any]:
    """What `environment` gives, and how a trainer's parts really run: compiled or not, by which kernels, on how much.

    Returns:
        Besides: `compiled`, the paths of compiled modules; `compiled_adapts`, whether their kernels may depend on which
        shapes came first; `optimizers`, the implementation of each; `loader`, its
        kind; `batch_size`, `pieces`, `shuffle` and `workers` as the loader tells of them, or None.
    """
    learner, made = trainer.learner, trainer.train.settings()
    parts = compiled(learner)
    by_shape = parts == ["model"] and getattr(learner, "compiles_by_shape", False)
    return {
        **environment(learner.device),
        "compiled": parts,
        "compiled_adapts": bool(parts) and not by_shape,
        "optimizers": [_of_optimizer(each) for each in learner.optimizers()],
        "loader": type(trainer.train).__name__,
        **{name: made.get(name) for name in ("batch_size", "shuffle", "workers")},
        "pieces": made.get("preprocess"),
    }


@cache
def _versions() -> dict[str, Any]:
    from deeptrain import __version__  # noqa: PLC0415 - it imports this module

    cudnn: Any = torch.backends.cudnn  # half of it has no types
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "deeptrain": __version__,
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version() if torch.version.cuda else None,
    }


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": str(device),
        "device_name": _device_name(device),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "world_size": world_size(),
    }


def world_size() -> int:
    """How many processes train together: 1 where `torch.distributed` is not set up."""
    distributed: Any = torch.distributed  # half of it has no types
    if distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_world_size())
    return 1


@cache
def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):  # Linux alone has it
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _modes(device: str) -> dict[str, Any]:
    """What the script may have set, and may set at any moment."""
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "deterministic_warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn_deterministic": cudnn.deterministic,
        "cudnn_benchmark": cudnn.benchmark,
        "matmul_precision": _matmul_precision(),
        "precisions": _precisions(),
        "mkldnn": bool(mkldnn.is_available() and mkldnn.enabled),
        "attention": _attention(),
        "autocast": _autocast(device),
        "default_dtype": str(torch.get_default_dtype()),
        "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def _autocast(device: str) -> str | None:
    try:
        return str(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else None
    except RuntimeError:  # a device that has none
        return None


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch refuses where the same was set in its newer way; then `_precisions` has it
        return "mixed"


def _precisions() -> dict[str, str]:
    """With how many bits float32 is multiplied (TF32, BF16), where torch tells of it for each library by itself."""
    found: dict[str, str] = {}
    for path in ("mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn", "cuda.matmul", "cudnn.conv", "cudnn.rnn"):
        part: Any = torch.backends
        for name in path.split("."):
            part = getattr(part, name, None)
        found[path.replace(".", "_")] = str(getattr(part, "fp32_precision", "unknown"))
    return found


def _attention() -> list[str]:
    """Which kernels `scaled_dot_product_attention` may choose from."""
    cuda: Any = torch.backends.cuda
    return [
        name
        for name in ("flash", "mem_efficient", "math", "cudnn")
        if getattr(cuda, f"{name}_sdp_enabled", bool)()
    ]


# ---------------------------------------------------------------------- the parts


def compiled(learner: Any) -> list[str]:
    """Where `torch.compile` is at work in a step: paths of modules ("model"), and "step" for a compiled function."""
    found = ["step"] if hasattr(getattr(learner, "function", None), "_torchdynamo_orig_callable") else []
    if _is_compiled(
        getattr(learner, "called", None)
    ):  # one that was given compiled, whose plain model is a part
        found.append("model")
    for number, root in enumerate(learner.modules()):
        top = type(root).__name__ if number else "model"
        found += [
            f"{top}.{path}".rstrip(".") for path, module in root.named_modules() if _is_compiled(module)
        ]
    return list(dict.fromkeys(found))


def _is_compiled(module: nn.Module | None) -> bool:
    if module is None:
        return False
    if module.__dict__.get("_compiled_call_impl") is not None:  # module.compile()
        return True
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # not imported for this: it takes a second
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def _of_optimizer(optimizer: torch.optim.Optimizer) -> str:
    ways = dict.fromkeys(implementation(optimizer, group) for group in optimizer.param_groups)
    return f"{type(optimizer).__name__}: {', '.join(ways)}"


def implementation(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> str:
    """By which of its implementations torch will step a group: "fused", "foreach", "for-loop"; "its own" for others.

    Where neither was asked for, torch takes `foreach` if all of the group's parameters lie on a device that has such
    kernels, else the loop; never `fused`. A group that has a `fused` counts as asked where either is not None.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1, fused=True)
        >>> implementation(optimizer, optimizer.param_groups[0])
        'fused'
    """
    name = type(optimizer).__name__
    if not type(optimizer).__module__.startswith("torch.optim"):
        return "its own"
    if group.get("fused"):
        return "fused"
    foreach, asked = group.get("foreach"), group.get("fused") is not None
    if foreach is None and not asked and "foreach" in group and name not in _LOOP_BY_DEFAULT:
        foreach = _foreach_by_default(group, adam=name in {"Adam", "AdamW"})
    return "foreach" if foreach else "for-loop"


_LOOP_BY_DEFAULT = {"Adafactor", "Muon"}


def _foreach_by_default(group: Mapping[str, Any], *, adam: bool) -> bool:
    if adam and isinstance(group["lr"], torch.Tensor) and not group.get("capturable"):
        return False
    decide = getattr(optimizers, "_default_to_fused_or_foreach", None)
    if decide is None:  # torch's own name for it, and it may go
        return all(p.device.type == "cuda" for p in group["params"])
    return bool(
        decide(list(_stepped(group["params"])), bool(group.get("differentiable")), use_fused=False)[1]
    )


def _stepped(parameters: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    return (p for p in parameters if p.requires_grad)
