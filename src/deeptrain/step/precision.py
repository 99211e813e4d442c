"""`Precision`: in which number format a step computes, and the scaling of the loss that fp16 wants."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch

if TYPE_CHECKING:
    from torch.optim import Optimizer

Name = Literal["fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """torch's autocast, and for fp16 its GradScaler.

    Parameters and their updates stay as they are; what torch lists as safe is computed in the narrow format.

    Args:
        name: "fp32", "bf16" or "fp16".
        device: Where is computed.

    Attributes:
        name: As given.
        scales: Whether the loss is scaled: then a gradient beyond the format is normal, and its update is left out.

    Raises:
        ValueError: There is no such precision.
    """

    def __init__(self, name: Name, device: torch.device) -> None:
        if name not in {"fp32", *DTYPES}:
            raise ValueError(f"precision={name!r}: expected 'fp32', 'bf16' or 'fp16'")
        self.name, self._device = name, device.type
        self.scales = name == "fp16"
        self._scaler = torch.amp.GradScaler(self._device) if self.scales else None

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which model and loss are called."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self._device, DTYPES[self.name])

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss as its gradients are taken of it."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """Give the gradients the size that they have without scaling."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Step the optimizer, unless a scaled gradient was beyond the format.

        Returns:
            Whether it was stepped. Under fp16 an accelerator is waited for.
        """
        if self._scaler is None:
            optimizer.step()
            return True
        before = self._scaler.get_scale()
        self._scaler.step(optimizer)
        self._scaler.update()
        return self._scaler.get_scale() >= before

    def state_dict(self) -> dict[str, Any]:
        """The scale and its counter; empty where nothing is scaled."""
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        if self._scaler is not None and state:
            self._scaler.load_state_dict(dict(state))
