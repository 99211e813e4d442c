"""What holds of "the same bits": in an environment, and from one environment to another, each reason in words.

Pure functions of plain values. An environment is what `run.environment.surroundings` gives. Where the bits are lost the
order of samples mostly stays, because it is a function of seed and epoch; where the order is lost, so are the bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from deeptrain.run.fingerprint import ABSENT, Mismatch, compare
from deeptrain.state.tree import split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Cost = Literal["nothing", "bits", "order"]


class Reason(NamedTuple):
    """Why something of the promise is lost, or on what condition it holds.

    Attributes:
        text: What it is, what follows from it, and what to do.
        costs: "bits"; "order", and with it the bits too; "nothing" of a condition.
    """

    text: str
    costs: Cost = "bits"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What holds of a run now, and why. Its text is meant to be printed.

    Attributes:
        bits: Whether the run, however often it is interrupted, ends with the bits of an untouched one.
        order: Whether it is fed the samples that the untouched one is fed, in the same order.
        reasons: Why, each in words.

    Example:
        >>> print(Guarantee.of([Reason("threads: 1 -> 2")]))
        same order of samples, other bits
          threads: 1 -> 2
    """

    bits: bool
    order: bool
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, reasons: Iterable[Reason]) -> Guarantee:
        """What is left when all of the reasons count; what is lost comes first among them."""
        known = list(reasons)
        costs = {reason.costs for reason in known}
        first = sorted(known, key=lambda reason: reason.costs == "nothing")
        return cls(costs <= {"nothing"}, "order" not in costs, tuple(str(reason) for reason in first))

    @property
    def what(self) -> str:
        """What holds, in three words or six."""
        if self.bits:
            return "same bits"
        return (
            "same order of samples, other bits" if self.order else "neither the bits nor the order of samples"
        )

    def __str__(self) -> str:
        return "\n  ".join([self.what, *self.reasons])


# ---------------------------------------------------------------------- one environment


def alone(environment: Mapping[str, Any]) -> list[Reason]:
    """What an environment promises by itself, to runs that are interrupted and go on in the very same one.

    Args:
        environment: What `surroundings` gave; what it lacks is taken for harmless.

    Example:
        >>> [reason.costs for reason in alone({"device": "cpu", "threads": 4, "deterministic": False})]
        ['bits']
    """
    return [*_of_kernels(environment), *_of_processes(environment), *_of_loader(environment)]


def _of_kernels(environment: Mapping[str, Any]) -> list[Reason]:
    device = str(environment.get("device", "cpu")).partition(":")[0]
    on, threads = environment.get("deterministic", True), environment.get("threads", 1)
    found = []
    if device == "cpu":
        if not on and threads > 1:
            found.append(
                f"deterministic algorithms are off and {threads} threads compute: sums such as the gradient of x[index] come "
                "in the order in which the threads do; call dt.reproducible() before the model is made, or "
                "torch.set_num_threads(1)"
            )
    elif not on or environment.get("deterministic_warn_only"):
        found.append(
            f"deterministic algorithms are off on {device}: its kernels add up in whatever order they come; call "
            "dt.reproducible() before the model is made"
        )
    elif device == "cuda" and not environment.get("cublas_workspace"):
        found.append(
            "CUBLAS_WORKSPACE_CONFIG is not set: matrix products may vary; call dt.reproducible() before CUDA is used"
        )
    if device == "mps":
        found.append("not all of the kernels on MPS are deterministic: compute on the CPU for the same bits")
    if device == "cuda" and environment.get("cudnn_benchmark"):
        found.append(
            "cuDNN chooses its kernels by measuring them, which comes out otherwise each time: "
            "torch.backends.cudnn.benchmark = False"
        )
    return [Reason(text) for text in found]


def _of_processes(environment: Mapping[str, Any]) -> list[Reason]:
    found = []
    if environment.get("world_size", 1) > 1:
        found.append(
            Reason(
                f"{environment['world_size']} processes train together, which no test certifies: a process that has just "
                "started may add up its first gradients in another order"
            )
        )
    if parts := environment.get("compiled"):
        found.append(_of_compiling(f"torch.compile is at work in {', '.join(parts)}", environment))
    return found


def _of_compiling(what: str, environment: Mapping[str, Any]) -> Reason:
    if environment.get("compiled_adapts"):
        return Reason(
            f"{what}, and adapts its kernels to the shapes that come, which in a run that goes on come in another order: "
            "SupervisedStep(compile=True) compiles each shape for itself"
        )
    return Reason(
        f"{what}: as long as its forward takes no Python numbers that change, and batches have at most 8 shapes",
        "nothing",
    )


def _of_loader(environment: Mapping[str, Any]) -> list[Reason]:
    loader, workers = environment.get("loader"), environment.get("workers")
    if loader == "StatefulFeed" and workers:
        return [
            Reason(
                f"the loader's {workers} worker processes are seeded when they start: what they draw at random is other after a "
                "resume; a plain DataLoader or dt.FromDataset has no such gap, workers that draw nothing neither"
            )
        ]
    if loader == "StatefulFeed":
        return [Reason("as far as the loader's state_dict() holds all that its order comes from", "nothing")]
    if loader == "IterableFeed":
        return [
            Reason(
                "as far as an epoch of the iterable depends on its number and on the global random streams alone",
                "nothing",
            )
        ]
    return []


# ---------------------------------------------------------------------- two environments


class _Effect(NamedTuple):
    """What another value does, and how to have the one of before; `{}` stands for that one."""

    why: str
    remedy: str


_VERSION = _Effect("its code may compute or round otherwise", "install {}")
_KERNELS = "other kernels are chosen"
EFFECTS = {
    "threads": _Effect("sums are added up in other parts", "torch.set_num_threads({})"),
    "interop_threads": _Effect(
        "work is shared out otherwise", "torch.set_num_interop_threads({}) before anything"
    ),
    "deterministic": _Effect(_KERNELS, "torch.use_deterministic_algorithms({})"),
    "deterministic_warn_only": _Effect(_KERNELS, "torch.use_deterministic_algorithms(True, warn_only={})"),
    "cudnn_deterministic": _Effect(_KERNELS, "torch.backends.cudnn.deterministic = {}"),
    "cudnn_benchmark": _Effect(_KERNELS, "torch.backends.cudnn.benchmark = {}"),
    "mkldnn": _Effect(_KERNELS, "torch.backends.mkldnn.set_flags({})"),
    "attention": _Effect(_KERNELS, "allow the kernels {}, torch.backends.cuda.enable_..._sdp"),
    "matmul_precision": _Effect("products are rounded otherwise", "torch.set_float32_matmul_precision({})"),
    "precisions": _Effect("products are rounded otherwise", "set the part's fp32_precision to {}"),
    "autocast": _Effect("other operations run in fewer bits", "train under autocast of {}"),
    "default_dtype": _Effect("new tensors have other types", "torch.set_default_dtype({})"),
    "cublas_workspace": _Effect(_KERNELS, "set CUBLAS_WORKSPACE_CONFIG to {}"),
    "variables": _Effect("the libraries under torch compute otherwise", "set the variable to {}"),
    "optimizers": _Effect(
        "its kernels round otherwise", "have {}, by foreach= and fused= of the optimizer"
    ),
    "compiled": _Effect("compiled code rounds otherwise and draws other random numbers", "compile {}"),
    "compiled_adapts": _Effect(
        "compiled code may depend on which shapes came first", "compile with dynamic=None: {}"
    ),
    "batch_size": _Effect("a row's bits depend on how many are computed together", "have batches of {}"),
    "pieces": _Effect("a row's bits depend on what is computed together", "have {}"),
    "world_size": _Effect("gradients are added up over other parts", "start {} processes"),
    "shuffle": _Effect("the order is another", "have shuffle={}"),
    "loader": _Effect("the order is another", "have a {}"),
    "workers": _Effect("the workers share the order among them", "have {} workers"),
    "platform": _Effect("the system's libraries may round otherwise", "go on on {}"),
    "device": _Effect("its kernels add up in another order", "compute on {}"),
    "device_name": _Effect("its kernels add up in another order", "compute on {}"),
    "cpu_capability": _Effect("other instructions compute", "have ATEN_CPU_CAPABILITY of {}"),
    **dict.fromkeys(("python", "numpy", "torch", "deeptrain", "cuda", "cudnn"), _VERSION),
}  # fmt: skip
_UNKNOWN = _Effect("it may decide over the bits", "have {}")
_OF_ORDER = {"loader", "shuffle", "workers"}


def between(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Reason]:
    """What it costs that a run began in one environment and goes on in another, difference by difference.

    Args:
        before: The environment that is recorded.
        now: The present one. What only one of the two tells of is not compared.

    Example:
        >>> print(between({"threads": 1}, {"threads": 2})[0])
        threads: 1 -> 2 (costs the bits: sums are added up in other parts; as before: torch.set_num_threads(1))
    """
    if before == now:  # as mostly, and quickly seen
        return []
    return [
        Reason(_in_words(change, cost), cost)
        for change in compare(dict(before), dict(now))
        if ABSENT not in (change.recorded, change.present) or len(split(change.path)) > 1
        for cost in (_cost(split(change.path)[0], before, now),)
    ]


def _in_words(change: Mismatch, cost: Cost) -> str:
    effect = EFFECTS.get(split(change.path)[0], _UNKNOWN)
    shown = "what was set before" if change.recorded is ABSENT else repr(change.recorded)
    return f"{change} (costs {PRICES[cost]}: {effect.why}; as before: {effect.remedy.format(shown)})"


PRICES = {"nothing": "nothing", "bits": "the bits", "order": "the bits and the order of samples"}


def _cost(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Cost:
    loader = now.get("loader", before.get("loader", "BatchLoader"))
    if name in _OF_ORDER:
        return "order"
    if name in {"torch", "python"}:  # the order of a BatchLoader is its own, and pinned; others draw theirs
        return "bits" if loader == "BatchLoader" else "order"
    if name == "batch_size":
        whole = loader in {"BatchLoader", "TorchFeed"} and "batches" not in (
            now.get("shuffle"),
            before.get("shuffle"),
        )
        return "bits" if whole else "order"
    return "bits"


# ---------------------------------------------------------------------- a script's values in place of the run's


def taken(mismatches: Sequence[Mismatch]) -> list[Reason]:
    """What it costs that a run goes on with the script's values (`resume="take"`); the loader's are in `between`."""
    return [
        Reason(f"{mismatch} (costs {PRICES[cost]}: the script's value was taken)", cost)
        for mismatch in mismatches
        if not mismatch.path.startswith(_TOLD_OF_BY_BETWEEN)
        for cost in (_cost_of_setting(mismatch.path),)
    ]


_TOLD_OF_BY_BETWEEN = tuple(
    f"data.train.{name}" for name in ("batch_size", "shuffle", "workers", "preprocess")
)


def _cost_of_setting(path: str) -> Cost:
    return "order" if path.startswith("data.train.") else "bits"
