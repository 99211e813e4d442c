"""Models that work out their loss by themselves, as Hugging Face's do: how they are called and what they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


def call(model: Any, inputs: Any, targets: Any) -> Any:
    """Call a model that is given its targets too: `model(**inputs, labels=targets)`, or `model(inputs, targets)`."""
    if isinstance(inputs, dict):
        return model(**inputs) if targets is None else model(**inputs, labels=targets)
    return model(inputs) if targets is None else model(inputs, targets)


def parted(model: Any, outputs: Any) -> tuple[torch.Tensor, Any]:
    """Part what such a model gives into its loss and its predictions.

    Args:
        model: For the message.
        outputs: An object or a mapping with `loss`, of which `logits` are the predictions where there are any and else all the
            rest; or a tuple that begins with the loss.

    Raises:
        TypeError: There is no loss in it.
    """
    if isinstance(outputs, torch.Tensor) and outputs.dim() == 0:
        return outputs, None
    if isinstance(outputs, tuple) and outputs and not hasattr(outputs, "_fields"):
        return outputs[0], outputs[1] if len(outputs) == 2 else outputs[1:]  # noqa: PLR2004 - the loss and one more
    values: Mapping[str, Any] = outputs if hasattr(outputs, "items") else getattr(outputs, "__dict__", {})
    if hasattr(outputs, "_asdict"):
        values = outputs._asdict()
    loss = values.get("loss")
    if not isinstance(loss, torch.Tensor):
        raise TypeError(
            f"loss=None says that {type(model).__name__} gives its own loss, and it gave a {type(outputs).__name__} with "
            f"{sorted(values)}: expected `loss` among them, a tuple that begins with the loss, or the loss alone; else give "
            "SupervisedStep a loss"
        )
    rest = {key: value for key, value in values.items() if key != "loss" and value is not None}
    return loss, rest.get("logits", rest or None)
