"""Going back to just before a computation: random streams, module buffers, the gradient mode.

Buffers are copied into standing backups before each computation and copied back after an abort. One that was
bound anew (`self.mask = other`) is found by its identity and bound back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from deeptrain.step.parts import is_expanded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from deeptrain.state.randomness import Streams


class _Slot(NamedTuple):
    """One buffer: the dictionary that owns it, its name there, the tensor (or None), and its backup."""

    owner: dict[str, torch.Tensor | None]
    name: str
    tensor: torch.Tensor | None
    backup: torch.Tensor | None


class Rollback:
    """What is put back when a computation does not come to its end.

    Plain attributes that a module changes in `forward` are not covered.

    Args:
        streams: The random streams of the run.
        modules: The modules whose buffers are covered, with all their children.
    """

    def __init__(self, streams: Streams, modules: Iterable[nn.Module]) -> None:
        self._streams = streams
        self._owners: list[Any] = [m._buffers for root in modules for m in root.modules()]  # noqa: SLF001
        self._slots: list[_Slot] = []
        self._tensors: list[torch.Tensor] = []
        self._backups: list[torch.Tensor] = []
        self._count = -1
        self.place: list[Any] = []
        self._grad_mode = self._plain = True

    def _prepare(self) -> None:
        """List the buffers there are now and give each a backup."""
        self._slots = [
            _Slot(
                owner,
                name,
                tensor,
                None if tensor is None or is_expanded(tensor) else torch.empty_like(tensor),
            )
            for owner in self._owners
            for name, tensor in owner.items()
        ]
        self._tensors = [
            slot.tensor for slot in self._slots if slot.tensor is not None and slot.backup is not None
        ]
        self._backups = [slot.backup for slot in self._slots if slot.backup is not None]
        self._count = sum(map(len, self._owners))
        self._plain = not any(tensor.requires_grad for tensor in self._tensors)

    def _is_current(self) -> bool:
        if sum(map(len, self._owners)) != self._count:
            return False
        for owner, name, tensor, _ in self._slots:  # noqa: SIM110 - twice as fast as all(); in every iteration
            if owner.get(name) is not tensor:
                return False
        return True

    def capture(self) -> None:
        """Remember where everything stands."""
        self.place = self._streams.capture()
        self._grad_mode = torch.is_grad_enabled()
        if not self._is_current():
            self._prepare()
        if not self._tensors:
            return
        try:
            self._back_up()
        except RuntimeError:  # one was given another shape through its `.data`
            self._prepare()
            self._back_up()

    def _back_up(self) -> None:
        if self._plain:
            torch._foreach_copy_(self._backups, self._tensors)
            return
        with torch.no_grad():
            torch._foreach_copy_(self._backups, self._tensors)

    def restore_buffers(self) -> None:
        """Put the buffers back to the last `capture`, and leave the rest as it is."""
        known = {(id(slot.owner), slot.name) for slot in self._slots}
        for owner in self._owners:
            for name in [name for name in owner if (id(owner), name) not in known]:
                del owner[name]
        for slot in self._slots:
            slot.owner[slot.name] = slot.tensor
        if self._tensors:
            with torch.no_grad():
                torch._foreach_copy_(self._tensors, self._backups)

    def restore(self) -> None:
        """Put everything back to the last `capture`."""
        self.restore_buffers()
        # An abort can hit inside `torch.no_grad().__enter__`, whose `__exit__` then never comes.
        torch.set_grad_enabled(self._grad_mode)
        self._streams.restore(self.place)
