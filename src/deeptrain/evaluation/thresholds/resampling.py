"""Thresholds of rows drawn again (the bootstrap) and of rows left out (cross-fitting), without sorting anew.

Up to `ROW_LIMIT` rows each row is drawn for itself. Of more, rows that lie side by side are drawn together, as cells: at the
quantiles of either class, so that a cell has about one in `CELLS` of the rows of its class, far less than what a threshold varies by.
What a number of drawn rows of a cell weighs is drawn from the normal distribution with the mean and variance of the cell's weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deeptrain.evaluation.thresholds.cuts import Cuts, Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from deeptrain.evaluation.arrays import Precision

ROW_LIMIT = 20_000
CELLS = 2_000


class Items(NamedTuple):
    """What is drawn: rows, or cells of rows of one class.

    Attributes:
        edges: The thresholds that are looked at, ascending; see `Cuts`.
        group: The edge that each item lies at, shape (items,).
        positive: Its class.
        rows: How many rows it has.
        mean: Their mean weight.
        deviation: The standard deviation of their weights.
        precision: The type of the scores.
        members: Of weighted rows in cells, each row's item, and each row's weight.
    """

    edges: NDArray[Any]
    group: NDArray[np.int64]
    positive: NDArray[np.bool_]
    rows: NDArray[np.int64]
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    precision: Precision
    members: tuple[NDArray[np.int64], NDArray[np.float64]] | None = None

    def cuts(self, amounts: NDArray[np.float64]) -> Cuts:
        """The cuts, where the items weigh so much."""
        sides = []
        for mine in (self.positive, ~self.positive):
            each = np.bincount(self.group[mine], weights=amounts[mine], minlength=len(self.edges))
            sides.append(np.concatenate([[0.0], np.cumsum(each)]))
        return Cuts(self.edges, sides[0], sides[1], self.precision)

    def weigh(self, drawn: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.float64]:
        """What so many rows of each item weigh."""
        amounts = drawn * self.mean
        if self.deviation.any():
            amounts += self.deviation * np.sqrt(drawn) * random.standard_normal(len(drawn))
            np.maximum(amounts, 0, out=amounts)
        return amounts


def items_of(rows: Rows, cuts: Cuts, threshold: float) -> Items:
    """Give what is drawn of some rows; the cut of the threshold is one of those that are looked at."""
    if len(rows.scores) <= ROW_LIMIT:
        count = len(rows.scores)
        weights = np.ones(count) if rows.weights is None else rows.weights
        group = np.searchsorted(cuts.edges, rows.scores)
        return Items(
            cuts.edges,
            group,
            rows.positive,
            np.ones(count, np.int64),
            weights,
            np.zeros(count),
            cuts.precision,
        )
    return _cells(rows, cuts, threshold)


def _cells(rows: Rows, cuts: Cuts, threshold: float) -> Items:
    last = len(cuts.edges)
    shares = np.linspace(0, 1, CELLS + 1)
    at = [np.searchsorted(side, shares * side[-1]) for side in (cuts.fn, cuts.tn)]
    ends = np.unique(np.concatenate([*at, [0, last, cuts.index(threshold)]]))
    edges = cuts.edges[ends[1:] - 1]
    stops = np.searchsorted(rows.scores, edges, side="right")
    starts = np.concatenate([[0], stops[:-1]])
    weights = np.ones(1) if rows.weights is None else rows.weights
    parts = [_cells_of(side, weights, starts) for side in (rows.positive, ~rows.positive)]
    group = np.tile(np.arange(len(edges)), 2)
    count, mean, deviation = (np.concatenate(both) for both in zip(*parts, strict=True))
    kept = count > 0
    positive = np.repeat([True, False], len(edges))
    members = None
    if rows.weights is not None:
        cell = np.repeat(np.arange(len(edges)), np.diff([*starts, len(rows.scores)]))
        item = np.cumsum(kept) - 1
        members = item[np.where(rows.positive, cell, cell + len(edges))], rows.weights
    return Items(
        edges, group[kept], positive[kept], count[kept], mean[kept], deviation[kept], cuts.precision, members
    )


def _cells_of(
    mine: NDArray[np.bool_], weights: NDArray[np.float64], starts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """The number, mean weight and its deviation of one class's rows in each cell."""
    count = np.add.reduceat(mine, starts, dtype=np.int64)
    if len(weights) == 1:
        return count, np.ones(len(starts)), np.zeros(len(starts))
    rows = np.maximum(count, 1)
    first = np.add.reduceat(np.where(mine, weights, 0), starts) / rows
    second = np.add.reduceat(np.where(mine, weights**2, 0), starts) / rows
    # What is left by rounding where all weights are the same is no deviation.
    variance = np.maximum(second - first**2, 0)
    return count, first, np.sqrt(np.where(variance > 1e-12 * second, variance, 0))


def replicates(items: Items, number: int, random: np.random.Generator) -> Iterator[Cuts]:
    """Give the cuts of as many rows drawn from the rows with replacement, so often."""
    total = int(items.rows.sum())
    apart = total == len(items.rows)
    for _ in range(number):
        if apart:
            drawn = np.bincount(random.integers(0, total, total), minlength=total)
        else:
            drawn = random.multinomial(total, items.rows / total)
        yield items.cuts(items.weigh(drawn, random))


def cross_fitted(
    items: Items, folds: int, choose: Callable[[Cuts], float | None], random: np.random.Generator
) -> tuple[float, float, float, float] | None:
    """Call the rows of each fold by the threshold that the other folds choose, and give the confusion counts of all rows.

    Args:
        items: What is dealt to the folds, each class for itself.
        folds: How many.
        choose: Gives a threshold for some rows' cuts, or None.
        random: Where the folds are drawn from.

    Returns:
        True positives, false positives, true negatives, false negatives; None where a fold's threshold could not be found.
    """
    dealt = _deal(items, folds, random)
    whole = items.rows * items.mean
    sums = np.zeros(4)
    for held in dealt.T:
        threshold = choose(items.cuts(np.maximum(whole - held, 0)))
        if threshold is None:
            return None
        cuts = items.cuts(held)
        sums += np.array(cuts.counts(cuts.index(threshold)))
    tp, fp, tn, fn = (float(count) for count in sums)
    return tp, fp, tn, fn


def _deal(items: Items, folds: int, random: np.random.Generator) -> NDArray[np.float64]:
    """What the rows of each item that each fold has weigh, shape (items, folds)."""
    if items.members is not None:
        members, weights = items.members
        fold = random.integers(0, folds, len(weights))
        held = np.bincount(members * folds + fold, weights, len(items.rows) * folds)
        return np.asarray(held.reshape(-1, folds), np.float64)
    if items.rows.max() > 1:
        return np.asarray(random.multinomial(items.rows, np.full(folds, 1 / folds)), np.float64)
    fold = np.empty(len(items.rows), np.int64)
    for mine in (items.positive, ~items.positive):
        fold[mine] = random.permutation(int(mine.sum())) % folds
    return np.where(fold[:, None] == np.arange(folds), items.mean[:, None], 0.0)
