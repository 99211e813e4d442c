"""Where windows lie along a time axis (`Grid`), cutting one out (`Cut`), and leaving rows out of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from deeptrain.data.batch import aligned, map_tensors

if TYPE_CHECKING:
    from deeptrain.data.batch import Batch


class Grid(NamedTuple):
    """Where the windows of a batch begin: whole ones at even distances, and perhaps one more at the end.

    Attributes:
        first: The first one's first time step.
        stride: Time steps from one to the next.
        whole: How many there are at these distances.
        last: Where one more begins, behind them; None where there is none.
    """

    first: int
    stride: int
    whole: int
    last: int | None

    @property
    def windows(self) -> int:
        """How many there are."""
        return self.whole + (self.last is not None)

    def start(self, window: int) -> int:
        """Give the first time step of a window."""
        return self.first + window * self.stride if window < self.whole or self.last is None else self.last


class Cut(NamedTuple):
    """One window.

    Attributes:
        start: Its first time step.
        size: How many it has.
        pad: Whether it is padded where the series ends before it does; otherwise it is shorter there.
    """

    start: int
    size: int
    pad: bool

    def adds_to(self, steps: int) -> bool:
        """Say whether the window is padded, where the series have so many time steps."""
        return self.pad and self.start + self.size > steps

    def __call__(self, tensor: torch.Tensor, axis: int, fill: float) -> torch.Tensor:
        """Cut the window out of a tensor, in a memory layout that does not tell where it began."""
        steps = tensor.shape[axis]
        length = min(self.size, steps - self.start)
        if length < self.size and self.pad:
            shape = [*tensor.shape[:axis], self.size, *tensor.shape[axis + 1 :]]
            out = tensor.new_full(shape, fill)
            out.narrow(axis, 0, length).copy_(tensor.narrow(axis, self.start, length))
            return out
        if length == steps:
            return aligned(tensor.contiguous())
        return tensor.narrow(axis, self.start, length).clone(memory_format=torch.contiguous_format)


def select_rows(batch: Batch, keep: torch.Tensor) -> Batch:
    """Leave rows out of a batch."""
    if bool(keep.all()):
        return batch
    index = keep.nonzero().squeeze(1)

    def pick(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.index_select(0, index.to(tensor.device))

    names = ("inputs", "targets", "class_labels", "weights")
    picked = {name: map_tensors(getattr(batch, name), pick) for name in names}
    padded = int(keep[batch.size - batch.padded :].sum())
    return batch.replaced(**picked, rows=batch.rows[index.numpy()], padded=padded)
