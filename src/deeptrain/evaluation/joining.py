"""Windows of one series put together to one prediction, before anything is scored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from deeptrain.data.batch import map_tensors
from deeptrain.evaluation.gathered import leaves_of
from deeptrain.evaluation.keeping import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence

Join = Literal["mean", "last", "later"]
JOINS = ("mean", "last", "later")


def joined(how: Join, pieces: Sequence[Kept]) -> list[Kept]:
    """Give each series of a batch one prediction, of those of its windows.

    Args:
        how: "mean": by the windows' own weights, which are 1 where none were given. "last": the last window of each series
            alone. "later": by their weights, the first window once, the second twice, and so on.
        pieces: The batch's windows, from the first to the last. A series has those in which its row is.

    Returns:
        One piece, its series in the order in which they first came; none of none.

    Raises:
        ValueError: The targets of a series differ from window to window, or predictions have no mean.
    """
    if not pieces:
        return []
    rows = torch.cat([piece.rows for piece in pieces])
    if len(pieces) > 1 and any(len(np.unique(piece.rows)) < len(piece.rows) for piece in pieces):
        raise ValueError(
            f"Validation(join={how!r}): a batch has a row twice, so that windows cannot be told apart: validate on an order without repeats"
        )
    series, which = _in_order(rows)
    window = torch.cat([torch.full((len(piece.rows),), at) for at, piece in enumerate(pieces)])
    newest = torch.zeros(len(series), dtype=torch.int64).scatter_reduce(
        0, which, torch.arange(len(rows)), "amax"
    )
    shares = _shares(how, torch.cat([piece.shares for piece in pieces]).double(), window, which, newest)
    weights = [piece.weights for piece in pieces]
    return [
        Kept(
            predictions=_columns(
                [p.predictions for p in pieces], lambda t: _mean(how, t, shares, which, newest)
            ),
            targets=_columns([p.targets for p in pieces], lambda t: _one(how, t, which, newest)),
            weights=None
            if weights[0] is None
            else (torch.cat(weights) / torch.cat([p.shares for p in pieces]))[newest],  # type: ignore[arg-type]
            rows=series,
            shares=torch.ones(len(series)),
        )
    ]


def _in_order(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The distinct rows in the order in which they came, and the place of each of all among them."""
    found, places = np.unique(rows, return_inverse=True)
    ascending, which = torch.from_numpy(found), torch.from_numpy(places)
    first = torch.full((len(ascending),), len(rows)).scatter_reduce(0, which, torch.arange(len(rows)), "amin")
    order = first.argsort()
    return ascending[order], order.argsort()[which]


def _shares(
    how: Join, own: torch.Tensor, window: torch.Tensor, which: torch.Tensor, newest: torch.Tensor
) -> torch.Tensor:
    """What each window counts in its series' prediction; their sum is 1 for each."""
    if how == "last":
        return torch.zeros_like(own).index_fill(0, newest, 1.0)
    shares = own * (window + 1) if how == "later" else own
    sums = torch.zeros(len(newest), dtype=torch.float64).index_add(0, which, shares)
    return shares / sums[which]


def _columns(trees: Sequence[Any], fn: Any) -> Any:
    """Put a function to each leaf of all trees, joined along the first axis."""
    wholes = iter([fn(torch.cat(column)) for column in zip(*map(leaves_of, trees), strict=True)])
    return map_tensors(trees[0], lambda _: next(wholes))


def _mean(
    how: Join, values: torch.Tensor, shares: torch.Tensor, which: torch.Tensor, newest: torch.Tensor
) -> torch.Tensor:
    if how == "last":
        return values[newest]
    if not values.is_floating_point():
        raise ValueError(
            f"Validation(join={how!r}): the predictions are {values.dtype}, of which there is no mean: let the model give scores, or "
            'take join="last"'
        )
    weighed = values.double() * shares.reshape(-1, *[1] * (values.dim() - 1))
    sums = torch.zeros((len(newest), *values.shape[1:]), dtype=torch.float64)
    return sums.index_add(0, which, weighed).to(values.dtype)


def _one(how: Join, targets: torch.Tensor, which: torch.Tensor, newest: torch.Tensor) -> torch.Tensor:
    found = targets[newest]
    if not torch.equal(found[which], targets):
        raise ValueError(
            f"Validation(join={how!r}): the targets differ from window to window of a series, so that there is no one to score its "
            "prediction by: leave join out, and each window is scored by itself"
        )
    return found
