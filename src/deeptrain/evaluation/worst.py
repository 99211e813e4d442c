"""The rows that a model has most trouble with, by a ledger of rows: hard ones, forgotten ones, probably mislabelled ones.

How often a row went from right to wrong is the count of forgetting events of Toneva et al. (2019), "An Empirical Study of Example
Forgetting during Deep Neural Network Learning". That a label is doubted by how its loss lies over the whole of training rather
than at its end is the thought of Pleiss et al. (2020), "Identifying Mislabeled Data using the Area Under the Margin Ranking".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.evaluation.row_ledger import UNKNOWN

if TYPE_CHECKING:
    from numpy.typing import NDArray

SELDOM = 0.25  # a share of the passes


@dataclass(frozen=True)
class Worst:
    """Rows by what they were like over the passes; each an int64 array of row numbers, the worst first.

    Attributes:
        hardest: By the mean loss over the newer half of the passes.
        forgotten: By how often they were right in one pass and wrong in the next; only those that ever were.
        doubted: Wrong in more than three of four passes, by the mean loss over all of them: probably mislabelled.
        losses: Each row's mean loss over the newer half, `(rows,)`; NaN of a row that no pass had.
        means: And over all passes.
        forgettings: How often each was forgotten.
        rights: In what share of the passes each was right; NaN where that is not known.
    """

    hardest: NDArray[Any]
    forgotten: NDArray[Any]
    doubted: NDArray[Any]
    losses: NDArray[Any]
    means: NDArray[Any]
    forgettings: NDArray[Any]
    rights: NDArray[Any]


def worst_rows(table: NDArray[Any], number: int = 20) -> Worst:
    """Look through a ledger.

    Args:
        table: Of `ENTRY`, shape `(passes, rows)`, oldest first.
        number: How many rows at most of each kind.

    Example:
        >>> table = np.array([[(2.0, 0), (0.1, 1)], [(1.5, 0), (0.9, 0)]], [("loss", "<f4"), ("right", "i1")])
        >>> found = worst_rows(table)
        >>> found.hardest.tolist(), found.forgotten.tolist(), found.doubted.tolist()
        ([0, 1], [1], [0])
    """
    losses, right = table["loss"].astype(np.float64), table["right"]
    newer = _mean(losses[len(losses) // 2 :])
    means = _mean(losses)
    known = right != UNKNOWN
    with np.errstate(invalid="ignore"):
        rights = np.where(known, right == 1, False).sum(axis=0) / known.sum(axis=0)
    forgettings = _forgettings(right)
    return Worst(
        hardest=_highest(newer, ~np.isnan(newer), number),
        forgotten=_highest(forgettings + _small(means), forgettings > 0, number),
        doubted=_highest(means, rights < SELDOM, number),
        losses=newer,
        means=means,
        forgettings=forgettings,
        rights=rights,
    )


def _mean(losses: NDArray[Any]) -> NDArray[Any]:
    """Each row's mean over the passes that had it; infinite where one was not finite."""
    seen = ~np.isnan(losses)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(seen, losses, 0).sum(axis=0) / seen.sum(axis=0))


def _small(values: NDArray[Any]) -> NDArray[Any]:
    """The values' ranks, below 1: they decide between equal counts."""
    return np.asarray(np.argsort(np.argsort(values)) / (len(values) + 1))


def _forgettings(right: NDArray[Any]) -> NDArray[Any]:
    """How often each row's newest known answer was right and the next one wrong."""
    count, before = np.zeros(right.shape[1], np.int64), np.full(right.shape[1], UNKNOWN, np.int8)
    for now in right:
        count += (before == 1) & (now == 0)
        before = np.where(now == UNKNOWN, before, now)
    return count


def _highest(values: NDArray[Any], among: NDArray[Any], number: int) -> NDArray[Any]:
    rows = np.flatnonzero(among)
    return rows[np.argsort(-values[rows], kind="stable")][:number]
