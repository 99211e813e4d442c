"""`Gathered`: the gradients of several pieces, put together for one update.

Each piece computes gradients of its own, which are added to those of the earlier pieces where the piece is committed. So a
computation that is aborted leaves the earlier pieces' gradients alone, and nothing has to be computed again. It costs what
keeping a copy of them would.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.nn import Parameter

    from deeptrain.data.feed import Feed


def updates_in(feed: Feed, epochs: int, accumulate: int) -> int | None:
    """Count the updates of so many epochs, where so many iterations make one, and an epoch's end makes one of what is left.

    Returns:
        None where only the outcomes tell how often a batch is fed.
    """
    total = feed.iterations(epochs)
    if total is None or accumulate == 1:
        return total
    if feed.preprocess is None and total % epochs == 0:
        return epochs * -(-(total // epochs) // accumulate)
    ends = [feed.iterations(epoch) for epoch in range(epochs + 1)]
    return sum(-(-((stop or 0) - (start or 0)) // accumulate) for start, stop in pairwise(ends))


class Gathered:
    """Sums of gradients, each piece's by its weight, and what they sum up to.

    Attributes:
        pieces: How many were added since the last update, those without gradients too.
    """

    def __init__(self) -> None:
        self.pieces = 0
        self._first = self._total = 0.0
        self._sums: list[torch.Tensor | None] = []

    def add(self, parameters: Sequence[Parameter], weight: float) -> None:
        """Take a piece's gradients from its parameters.

        Args:
            parameters: Each with the piece's gradient, or with none.
            weight: How much the piece counts: the number of rows that its loss is the mean of.
        """
        self.pieces += 1
        if not self._sums:
            self._sums, self._first = [None] * len(parameters), weight
        share = weight / self._first  # 1 for pieces of one size, whose gradients are then added as they are
        self._total += share
        with torch.no_grad():
            for place, parameter in enumerate(parameters):
                if parameter.grad is not None:
                    self._sums[place] = _added(self._sums[place], parameter.grad, share)
                    parameter.grad = None

    def pass_over(self) -> None:
        """Count a piece that adds nothing."""
        self.pieces += 1

    def give_back(self, parameters: Sequence[Parameter], *, mean: bool) -> bool:
        """Make the sums the parameters' gradients, and begin anew.

        Args:
            parameters: Those of `add`.
            mean: Whether the pieces' losses are means, so that what is wanted is the mean over all their rows.

        Returns:
            Whether there were any.
        """
        sums, total = self._sums, self._total
        self.clear()
        for parameter, gradient in zip(parameters, sums, strict=False):
            if gradient is not None and mean and total != 1:
                gradient.div_(total)
            parameter.grad = gradient
        return bool(sums)

    def clear(self) -> None:
        """Forget what was gathered."""
        self.pieces = 0
        self._first = self._total = 0.0
        self._sums = []

    def state_dict(self) -> dict[str, Any]:
        """The sums, in the parameters' order, and their weights."""
        return {
            "pieces": self.pieces,
            "first": self._first,
            "total": self._total,
            "gradients": list(self._sums),
        }

    def load_state_dict(self, state: dict[str, Any], parameters: Sequence[Parameter]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: It is of other parameters.
        """
        saved = state["gradients"]
        if saved and len(saved) != len(parameters):
            raise ValueError(
                f"gathered: the saved state has gradients of {len(saved)} parameters, this step has {len(parameters)}: give "
                "the model that was saved"
            )
        self.pieces, self._first, self._total = state["pieces"], state["first"], state["total"]
        self._sums = [
            None if gradient is None else gradient.to(parameter.device, copy=True)
            for gradient, parameter in zip(saved, parameters, strict=False)
        ]


def _added(sums: torch.Tensor | None, gradient: torch.Tensor, share: float) -> torch.Tensor:
    if sums is None:
        return gradient if share == 1 else gradient * share
    return sums.add_(gradient, alpha=share)
