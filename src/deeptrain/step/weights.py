"""Row weights in a loss: the windows' of a series today, and whatever else a loader or a preprocessor gives a batch."""

from __future__ import annotations

import copy
import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable


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
    if each.dim() == 0 or len(each) != len(weights):
        raise ValueError(
            f"the loss gives values of shape {tuple(each.shape)} before they are reduced, expected one row for each of the "
            f"{len(weights)} weights along its first axis"
        )
    total = (each * weights.to(each.dtype).reshape(-1, *[1] * (each.dim() - 1))).sum()
    return total if reduction == "sum" else total / _counted(loss, targets, each)


def _each(loss: Any, predictions: Any, targets: Any) -> tuple[torch.Tensor, str]:
    """Give every element's loss, and how they are put together."""
    if isinstance(loss, nn.Module) and getattr(loss, "reduction", None) in {"mean", "sum"}:
        unreduced: Any = copy.copy(loss)  # shares parameters and buffers
        unreduced.reduction = "none"
        return unreduced(predictions, targets), str(loss.reduction)
    if "reduction" in _parameters(loss):
        return loss(predictions, targets, reduction="none"), "mean"
    name = getattr(loss, "__qualname__", type(loss).__qualname__)
    raise TypeError(
        f"the batch bears weights, and the loss {name} has no way to take them: give one of torch's losses with a "
        f"reduction of 'mean' or 'sum', or a function (predictions, targets, sample_weight)"
    )


def _counted(loss: Any, targets: Any, each: torch.Tensor) -> torch.Tensor | int:
    """What a mean is divided by: the elements that count, or the weights of their classes."""
    ignored = getattr(loss, "ignore_index", None)
    if ignored is None or not isinstance(targets, torch.Tensor) or targets.is_floating_point():
        return each.numel()
    counts = targets != ignored
    of_classes = getattr(loss, "weight", None)
    counted: torch.Tensor = counts if of_classes is None else of_classes[targets[counts]]
    return counted.sum()


def _parameters(loss: Any) -> Any:
    function = loss.forward if isinstance(loss, nn.Module) else loss
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return {}
