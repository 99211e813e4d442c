"""A loss of weighted rows, whatever weighs them: their classes, the user's function, or what a loader gives a batch."""

from __future__ import annotations

import copy
import functools
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

# Torch's losses whose mean leaves out what is ignored, and divides by the classes' weights.
OVER_CLASSES = (
    functional.cross_entropy,
    functional.nll_loss,
    nn.CrossEntropyLoss.forward,
    nn.NLLLoss.forward,
)

REDUCTIONS = {"mean", "sum", "batchmean"}


def weighted_loss(
    loss: Callable[..., Any], predictions: Any, targets: Any, weights: torch.Tensor
) -> torch.Tensor:
    """Take a loss with each row's share in it multiplied by the row's weight; weights of 1 leave it as it is.

    Args:
        loss: One of torch's losses, as a module or as a function (it must have a `reduction` of "mean" or "sum"); or any
            function that takes `sample_weight` as a third argument of that name.
        predictions: What the loss takes first.
        targets: What it takes second.
        weights: Of shape `(size,)`.

    Returns:
        A tensor of shape (). A mean is taken over the same number of elements as without weights.

    Raises:
        TypeError: The loss cannot be weighted; the message says how it could.
    """
    if "sample_weight" in _parameters(loss):
        return loss(predictions, targets, sample_weight=weights)  # type: ignore[no-any-return]
    each, reduction = _each(loss, predictions, targets)
    if not isinstance(each, torch.Tensor) or each.dim() == 0 or len(each) != len(weights):
        raise ValueError(
            f"the loss gives values of shape {tuple(getattr(each, 'shape', ()))} before they are reduced, expected one row for each of the "
            f"{len(weights)} weights along its first axis"
        )
    divisor = 1 if reduction == "sum" else _counted(loss, targets, each, reduction)
    if not _is_known(loss):
        with torch.no_grad():
            _check(loss, predictions, targets, each.sum() / divisor, each)
    return (each * weights.to(each.dtype).reshape(-1, *[1] * (each.dim() - 1))).sum() / divisor


def row_losses(loss: Any, predictions: Any, targets: Any) -> NDArray[Any]:
    """Each row's loss: the mean of its elements' where it has several.

    Args:
        loss: One of torch's losses, or a function that has their `reduction`.
        predictions: What the loss takes first, `(rows, ...)`.
        targets: What it takes second.

    Returns:
        float32 of shape `(rows,)`.

    Raises:
        TypeError: The loss has no value for each row.
    """
    if loss is None or _setting(loss, "reduction") not in REDUCTIONS:
        raise TypeError(
            f"the loss {_name(loss)} has no value for each row: give one of torch's losses, or a function (predictions, targets, reduction='mean')"
        )
    with torch.no_grad():
        each = _each(loss, predictions, targets)[0]
        found: NDArray[Any] = each.reshape(len(each), -1).mean(1).float().cpu().numpy()
    return found


def refuse_unweighable(loss: Any) -> None:
    """See that a loss can be weighted, as far as it tells before it is called.

    Raises:
        TypeError: It cannot.
    """
    if loss is None:
        raise TypeError(
            "the rows have weights, and the model gives its own loss, which cannot be weighted: give a loss, or leave the weights out"
        )
    if _setting(loss, "reduction") not in REDUCTIONS and "sample_weight" not in _parameters(loss):
        raise TypeError(
            f"the rows have weights, and the loss {_name(loss)} has no way to take them: give one of torch's losses with "
            f"a reduction of 'mean' or 'sum', or a function (predictions, targets, sample_weight=None)"
        )


def ignored_class(loss: Any) -> int | None:
    """Give the label that a loss over classes leaves out; None of another loss."""
    return _setting(loss, "ignore_index") if _is_over_classes(loss) else None


def _is_known(loss: Any) -> bool:
    """Whether it is one of torch's own, which need no looking at."""
    made = (
        loss.func
        if isinstance(loss, functools.partial)
        else type(loss)
        if isinstance(loss, nn.Module)
        else loss
    )
    return str(getattr(made, "__module__", "")) in {"torch.nn.functional", "torch.nn.modules.loss"}


def _each(loss: Any, predictions: Any, targets: Any) -> tuple[torch.Tensor, str]:
    """Give every element's loss, and how they are put together."""
    refuse_unweighable(loss)
    reduction = _setting(loss, "reduction")
    if not isinstance(loss, nn.Module):
        return loss(predictions, targets, reduction="none"), reduction
    unreduced: Any = copy.copy(loss)  # shares parameters and buffers
    unreduced.reduction = "none"
    return unreduced(predictions, targets), reduction


def _counted(loss: Any, targets: Any, each: torch.Tensor, reduction: str) -> torch.Tensor | int:
    """What a mean is divided by: the elements; of torch's losses over classes those that count, by their classes' weights."""
    if reduction == "batchmean":
        return len(each)
    if not _is_over_classes(loss) or not isinstance(targets, torch.Tensor) or targets.is_floating_point():
        return each.numel()
    counts, of_classes = targets != _setting(loss, "ignore_index"), _setting(loss, "weight")
    counted: torch.Tensor = counts if of_classes is None else of_classes[targets[counts]]
    return counted.sum()


def counted_rows(loss: Any, targets: Any, rows: int) -> float:
    """What a loss over some rows is the mean of: the rows; of torch's losses over classes what counts, by its weight."""
    if not _is_over_classes(loss) or not isinstance(targets, torch.Tensor) or targets.is_floating_point():
        return rows
    return float(_counted(loss, targets, targets, "mean"))


def _is_over_classes(loss: Any) -> bool:
    made = (
        loss.func
        if isinstance(loss, functools.partial)
        else type(loss).forward
        if isinstance(loss, nn.Module)
        else loss
    )
    return made in OVER_CLASSES


def _setting(loss: Any, name: str) -> Any:
    """Give a setting of a loss: a module's attribute, or an argument of a function, as bound or by default."""
    if isinstance(loss, nn.Module):
        return getattr(loss, name, None)
    found = _parameters(loss).get(name)
    return None if found is None or found.default is inspect.Parameter.empty else found.default


def _check(loss: Any, predictions: Any, targets: Any, reduced: torch.Tensor, each: torch.Tensor) -> None:
    """See that weights of one would give the loss as it is, which a loss that reduces in a way of its own does not."""
    plain = loss(predictions, targets)
    if not torch.allclose(plain, reduced, rtol=1e-3, atol=1e-6):
        raise TypeError(
            f"the loss {_name(loss)} gives {float(plain):.6g}, and {float(reduced):.6g} where its {len(each)} rows are put "
            f"together with weights of one: it reduces in a way of its own. Give a function (predictions, targets, "
            f"sample_weight) that weighs its rows"
        )


def _name(loss: Any) -> str:
    made = loss.func if isinstance(loss, functools.partial) else loss
    return str(getattr(made, "__qualname__", type(made).__qualname__))


def _parameters(loss: Any) -> Any:
    function = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return {}
