"""What is kept of one piece of a validation batch: the rows that count, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.data.batch import map_tensors

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.data.batch import Batch
    from deeptrain.step.base import Outcome


@dataclass(frozen=True)
class Kept:
    """The rows of one piece.

    Attributes:
        predictions: What the model gave, `(rows, ...)`, nested.
        targets: What it should have given.
        weights: What each row counts in the loss, `(rows,)`; None where all count alike.
        rows: Their numbers in the source, int64 `(rows,)`.
        shares: The weights that came with the piece, as of windows, float32 or wider `(rows,)`, none of them 0.
    """

    predictions: Any
    targets: Any
    weights: torch.Tensor | None
    rows: torch.Tensor
    shares: torch.Tensor

    def tree(self) -> dict[str, Any]:
        """What is gathered of it."""
        return {
            "predictions": self.predictions, "targets": self.targets, "weights": self.weights, "rows": self.rows
        }  # fmt: skip


def kept(batch: Batch, outcome: Outcome, weights: torch.Tensor | None) -> Kept:
    """Leave out rows of weight 0 and those that fill the batch up.

    Args:
        batch: The piece.
        outcome: What came of it.
        weights: What its rows count in the loss, where they are weighed.
    """
    counted = batch.size - batch.padded
    own = None if batch.weights is None else on_cpu(batch.weights)[:counted]
    keep = None if own is None or bool((own != 0).all()) else torch.nonzero(own).flatten()

    def take(tensor: torch.Tensor) -> torch.Tensor:
        return _chosen(on_cpu(tensor), counted, batch.size, keep)

    rows = take(torch.from_numpy(batch.rows))
    return Kept(
        predictions=map_tensors(outcome.predictions, _alone(take)),
        targets=map_tensors(batch.targets, take),
        weights=None if weights is None else take(weights),
        rows=rows,
        shares=torch.ones(len(rows)) if own is None else _chosen(own, counted, counted, keep),
    )


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's values on the CPU, without a history."""
    return tensor.detach().cpu()


def _chosen(tensor: torch.Tensor, counted: int, size: int, keep: torch.Tensor | None) -> torch.Tensor:
    if keep is not None:
        return tensor[keep]
    return tensor if counted == size else tensor[:counted]


def _alone(take: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Let a view of something larger, as the last step of a sequence, not hold all of that."""

    def alone(tensor: torch.Tensor) -> torch.Tensor:
        found = take(tensor)
        return found.clone() if found.untyped_storage().nbytes() > found.nbytes else found

    return alone
