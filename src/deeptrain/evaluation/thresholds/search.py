"""`Search`: the best of all cuts, and the threshold that makes it.

Cuts whose scores differ by rounding alone are equally good. Equally good cuts side by side are a plateau; of several plateaus the widest
is taken, then the one whose middle is nearest to the preferred threshold, then the lower.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deeptrain.evaluation.thresholds.cuts import Cuts

_BLOCK = 1 << 15  # cuts whose counts and scores fit into a core's cache
_ROUNDING = 1e-12  # of the largest score: less is no difference
_WIDTHS = 1e-9  # likewise of two plateaus' widths


class Found(NamedTuple):
    """What a search came to.

    Attributes:
        threshold: The middle of the plateau.
        plateau: The lowest and the highest threshold that are as good.
        score: The best value of what was searched by.
    """

    threshold: float
    plateau: tuple[float, float]
    score: float


class Search:
    """Finds the best threshold.

    Args:
        bounds: The lowest and the highest threshold that is allowed, both included.
        preferred: What the threshold is to be near to, where plateaus are equally wide.
    """

    def __init__(self, bounds: tuple[float, float], preferred: float) -> None:
        self.bounds, self.preferred = bounds, preferred

    def limits(self, cuts: Cuts) -> tuple[float, float] | None:
        """The bounds, as numbers of the scores' type; None where it has none between them."""
        low, high = cuts.precision.at_least(self.bounds[0]), cuts.precision.at_most(self.bounds[1])
        return (low, high) if low <= high else None

    def allowed(self, cuts: Cuts) -> range:
        """The cuts that a threshold within the bounds makes."""
        limits = self.limits(cuts)
        if limits is None:
            return range(0)
        return range(cuts.index(limits[0]), cuts.index(limits[1]) + 1)

    def best(self, cuts: Cuts, score: Callable[[Cuts, Any], NDArray[np.float64]]) -> Found | None:
        """Find the best of all allowed cuts.

        Args:
            cuts: The cuts.
            score: Gives a value for each of some cuts, the larger the better; what is not finite is never the best.

        Returns:
            What was found; None where no value is finite.
        """
        allowed = self.allowed(cuts)
        starts = range(allowed.start, allowed.stop, _BLOCK)
        tops, scale = [], 0.0
        for start in starts:
            values = score(cuts, slice(start, min(start + _BLOCK, allowed.stop)))
            top, bottom = _extremes(values)
            tops.append(top)
            scale = max(scale, abs(top), abs(bottom)) if math.isfinite(top) else scale
        if not tops or (best := max(tops)) == -math.inf:
            return None
        enough = best - _ROUNDING * scale
        ties = []
        for start, top in zip(starts, tops, strict=True):
            if top >= enough:
                values = score(cuts, slice(start, min(start + _BLOCK, allowed.stop)))
                with np.errstate(invalid="ignore"):
                    ties.append(start + np.nonzero((values >= enough) & (values < math.inf))[0])
        threshold, plateau = self._middle(cuts, np.concatenate(ties))
        return Found(threshold, plateau, best)

    def best_of(self, cuts: Cuts, some: NDArray[np.int64], values: NDArray[np.float64]) -> Found | None:
        """Find the best of some cuts whose values are known; see `best`."""
        top, bottom = _extremes(values)
        if top == -math.inf:
            return None
        enough = top - _ROUNDING * max(abs(top), abs(bottom))
        threshold, plateau = self._middle(cuts, some[np.isfinite(values) & (values >= enough)])
        return Found(threshold, plateau, top)

    def _middle(self, cuts: Cuts, ties: NDArray[np.int64]) -> tuple[float, tuple[float, float]]:
        """Choose among equally good cuts, given in ascending order."""
        breaks = np.nonzero(np.diff(ties) != 1)[0]
        firsts = ties[np.concatenate([[0], breaks + 1])]
        lasts = ties[np.append(breaks, len(ties) - 1)]
        chosen = 0 if len(firsts) == 1 else self._chosen(cuts, firsts, lasts)
        low, high = self._plateau(cuts, int(firsts[chosen]), int(lasts[chosen]))
        middle = cuts.precision.nearest(low / 2 + high / 2)
        return min(max(middle, low), high), (low, high)

    def _chosen(self, cuts: Cuts, firsts: NDArray[np.int64], lasts: NDArray[np.int64]) -> int:
        """The number of the widest plateau, then of the nearest."""
        ends = np.concatenate([[-math.inf], cuts.edges.astype(np.float64), [math.inf]])
        low, high = self._natural(cuts)
        lows, highs = np.clip(ends[firsts], low, high), np.clip(ends[lasts + 1], low, high)
        with np.errstate(over="ignore"):
            widths = highs - lows
            widest = np.nonzero(widths >= widths.max() * (1 - _WIDTHS))[0]
            away = np.abs(lows[widest] / 2 + highs[widest] / 2 - self.preferred)
        return int(widest[np.argmin(away)])

    def _natural(self, cuts: Cuts) -> tuple[float, float]:
        """Where plateaus end that reach to infinity: at the bounds, or at 0 and 1 for probabilities, else at the outermost scores."""
        low, high = cuts.finite_range()
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        limits = self.limits(cuts) or (low, high)
        low = limits[0] if math.isfinite(limits[0]) else min(low, limits[1])
        return low, limits[1] if math.isfinite(limits[1]) else max(high, low)

    def _plateau(self, cuts: Cuts, first: int, last: int) -> tuple[float, float]:
        """The lowest and the highest threshold that make one of a range of cuts; finite ones wherever there are."""
        limits = self.limits(cuts) or (-math.inf, math.inf)
        low = limits[0] if first == 0 else max(limits[0], cuts.precision.after(float(cuts.edges[first - 1])))
        high = limits[1] if last == len(cuts.edges) else min(limits[1], float(cuts.edges[last]))
        natural = self._natural(cuts)
        low = max(low, min(natural[0], high))
        return low, min(high, max(natural[1], low))


def _extremes(values: NDArray[np.float64]) -> tuple[float, float]:
    """The largest and the smallest of the finite values; -inf and inf where there is none."""
    top, bottom = float(values.max()), float(values.min())
    if math.isfinite(top) and math.isfinite(bottom):  # NaN would come out of both
        return top, bottom
    finite = values[np.isfinite(values)]
    return (float(finite.max()), float(finite.min())) if len(finite) else (-math.inf, math.inf)
