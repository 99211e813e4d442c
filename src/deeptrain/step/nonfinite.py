"""What is not finite, seen before it comes into the weights.

The check is one call over all gradients, torch's own of its GradScaler, which leaves a flag where they are. On the CPU it is
read at once. On an accelerator reading it would wait for all that is under way: there the flag masks the update, by
optimizers that can be told to leave one out on the device, and is read by the fifty.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch

from deeptrain.data.batch import describe

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from deeptrain.data.batch import Batch

Policy = Literal["stop", "skip", "rewind", "ignore"]
POLICIES = ("stop", "skip", "rewind", "ignore")
READ_EVERY = 50  # iterations: as late as figures of an accelerator may come


class NonFiniteError(ArithmeticError):
    """A loss or a gradient is NaN or infinite. The weights were not changed by it, and the run can be continued.

    Attributes:
        batch: The batch that it came of.
    """

    def __init__(self, what: str, batch: Batch) -> None:
        super().__init__(
            f"{what} in batch {batch.index} of epoch {batch.epoch} (of {describe(batch.sources)}), seen before the update: the "
            "weights are as they were. Look at those rows; then leave them out (trainer.train.skip(batches=1)), lower the "
            "learning rate, or choose SupervisedStep(on_nonfinite='skip'), and call fit() again"
        )
        self.batch = batch


class Watch:
    """Looks at losses and gradients.

    Args:
        policy: What is done about a value that is not finite.
        away: Whether they are on an accelerator.
    """

    def __init__(self, policy: Policy, *, away: bool) -> None:
        if policy not in POLICIES:
            raise ValueError(f"on_nonfinite={policy!r}: expected one of {', '.join(map(repr, POLICIES))}")
        self.policy, self._away = policy, away
        self._scalars: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        self._standing = None if away else (torch.zeros(()), torch.ones(()))
        self._late: list[tuple[torch.Tensor, Batch]] = []
        self._batch: Batch | None = None

    def is_masked(self, optimizer: Optimizer) -> bool:
        """Whether updates are left out on the device, by an optimizer that can do so."""
        return self._away and bool(getattr(optimizer, "_step_supports_amp_scaling", False))

    def found(self, loss: torch.Tensor, gradients: list[torch.Tensor]) -> str | None:
        """Say what is not finite; None where all is. An accelerator is waited for."""
        value = loss.item()
        if not math.isfinite(value):
            return f"the loss is {value}"
        if gradients and not self._are_finite(gradients):
            return "a gradient is not finite, though the loss is,"
        return None

    def _are_finite(self, gradients: list[torch.Tensor]) -> bool:
        """Whether they are, by a flag that stands for all calls and is put back where it was raised."""
        if self._standing is None:
            return not self.flag(gradients).item()
        flag, one = self._standing
        try:
            # Multiplies by 1 on the way, which changes no bit.
            torch._amp_foreach_non_finite_check_and_unscale_(gradients, flag, one)
        except (RuntimeError, NotImplementedError):  # of several kinds, or of one that it cannot check
            flag.zero_()
            return not self.flag(gradients).item()
        if not flag.item():
            return True
        flag.zero_()
        return False

    def put_back(self) -> None:
        """Lower the flag, which an abort may have left raised."""
        if self._standing is not None:
            self._standing[0].zero_()

    def flag(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """Give a tensor of shape (), above 0 where a gradient is not finite; on their device."""
        try:
            return self._checked(gradients)
        except (RuntimeError, NotImplementedError):  # of several kinds, or of one that it cannot check
            flags = [self._checked(kind) for kind in _by_kind(gradients)]
            return torch.stack([flag.to(flags[0].device) for flag in flags]).amax(0)

    def _checked(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        device = gradients[0].device
        known = self._scalars.get(device)
        if known is None:
            self._scalars[device] = known = (
                torch.zeros((), device=device),
                torch.ones((), device=device),
            )
        flag = known[0].clone()
        # Multiplies by 1 on the way, which changes no bit.
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, flag, known[1])
        return flag

    def begin(self, batch: Batch) -> None:
        """Note of which batch the next flag will be, without its values."""
        self._batch = batch.replaced(inputs=None, targets=None, class_labels=None)

    def note(self, flag: torch.Tensor) -> None:
        """Keep a flag that is on an accelerator, to be read later."""
        if self._batch is not None:
            self._late.append((flag, self._batch))

    def read(self) -> tuple[int, Batch] | None:
        """Read the flags that were kept, once there are fifty: how many stand, and the first one's batch."""
        if len(self._late) < READ_EVERY:
            return None
        late, self._late = self._late, []
        stand = torch.stack([flag for flag, _ in late]).tolist()
        hit = [batch for (_, batch), value in zip(late, stand, strict=True) if value]
        return (len(hit), hit[0]) if hit else None

    def forget(self) -> None:
        """Another state was loaded: what was kept is not of it."""
        self._late.clear()


def _by_kind(gradients: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    kinds: dict[Any, list[torch.Tensor]] = {}
    for gradient in gradients:
        plain = gradient.coalesce().values() if gradient.layout is torch.sparse_coo else gradient
        plain = torch.view_as_real(plain.resolve_conj()) if plain.is_complex() else plain
        kinds.setdefault((plain.device, plain.dtype), []).append(plain)
    return list(kinds.values())
