"""`Average`: a moving average of a model's weights, by torch's `swa_utils`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deeptrain.step.parts import load_module, load_module_extra, module_extra
from deeptrain.step.stateful import reset_states

if TYPE_CHECKING:
    from torch import nn


class Average:
    """A second model whose weights follow those of the first: w <- decay * w + (1 - decay) * new, after each update.

    The idea of averaging iterates is Polyak's and Ruppert's. Buffers, such as a batch norm's statistics, are copied.

    Args:
        model: The model that is trained; it is never changed here.
        decay: How much of the average stays, from 0 to 1; or an `AveragedModel` of that model, which says how by itself.

    Attributes:
        module: The averaged model, in evaluation mode.
        updates: How many updates it has followed.

    Raises:
        ValueError: The decay is out of range.
    """

    def __init__(self, model: nn.Module, decay: float | AveragedModel) -> None:
        self._model, self._decay = model, decay
        self.updates = 0
        if isinstance(decay, AveragedModel):
            self.module: nn.Module = decay.module
        elif isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 <= decay < 1:
            raise ValueError(f"ema={decay!r}: expected how much stays at each update, from 0 to below 1")
        else:
            self.module = copy.deepcopy(model)
            self._follow = get_ema_multi_avg_fn(float(decay))  # type: ignore[no-untyped-call]
        self.module.requires_grad_(False).eval()

    def update(self) -> None:
        """Let the average follow; the first update makes it the model's weights."""
        if isinstance(self._decay, AveragedModel):
            self._decay.update_parameters(self._model)
        else:
            self._update()
        self.updates += 1

    @torch.no_grad()
    def _update(self) -> None:
        mine, new = ([p.detach() for p in model.parameters()] for model in (self.module, self._model))
        if self.updates == 0:
            torch._foreach_copy_(mine, new)
        else:
            self._follow(mine, new, self.updates)
        # By name: what a `Stateful` carries comes and goes, and is the model's alone.
        reset_states([self.module])
        theirs = dict(self._model.named_buffers())
        for name, buffer in self.module.named_buffers():
            if name in theirs and theirs[name].shape == buffer.shape:
                buffer.copy_(theirs[name])

    def settings(self) -> Any:
        """How it was made."""
        return type(self._decay).__name__ if isinstance(self._decay, AveragedModel) else self._decay

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights, and of how many updates they are."""
        return {
            "model": self.module.state_dict(),
            "model_extra": module_extra(self.module),
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        load_module(self.module, state["model"], "ema.model")
        load_module_extra(self.module, state["model_extra"])
        self.updates = state["updates"]
        if isinstance(self._decay, AveragedModel):
            with torch.no_grad():
                self._decay.n_averaged.fill_(self.updates)
