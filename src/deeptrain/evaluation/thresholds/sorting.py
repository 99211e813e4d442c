"""Sorting scores together with what belongs to them, faster than an argsort and a gather.

NumPy sorts plain 64-bit numbers about twice as fast as it finds the permutation that sorts. So each score's leading bits and its place
are put into one such number. Scores that these bits cannot tell apart may come out in the wrong order, and are exchanged afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FEW = 1 << 15  # below, an argsort takes no time
_ROUNDS = 12  # of exchanges, before the rest is left to an argsort
_SIGN = np.uint64(1 << 63)


def ascending(scores: NDArray[Any]) -> NDArray[Any]:
    """Give the scores in ascending order.

    Those of float16 by way of float32: NumPy (2.4, with AVX-512) leaves some before -inf.
    """
    if scores.dtype == np.float16:
        return np.sort(scores.astype(np.float32)).astype(np.float16)
    return np.sort(scores)


def sorted_with_order(scores: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Give the scores in ascending order, and each one's place before; equal ones in any order.

    Args:
        scores: Floats without NaN, shape (rows,).

    Example:
        >>> scores, order = sorted_with_order(np.array([0.3, 0.1, 0.2]))
        >>> scores.tolist(), order.tolist()
        ([0.1, 0.2, 0.3], [1, 2, 0])
    """
    if len(scores) < _FEW:
        order = np.argsort(scores)
        return scores[order], order
    order = _by_leading_bits(scores)
    found = scores[order]
    if not _exchange(found, order):
        last = np.argsort(found, kind="stable")  # nearly sorted
        found, order = found[last], order[last]
    return found, order


def _by_leading_bits(scores: NDArray[Any]) -> NDArray[np.int64]:
    places = np.uint64((len(scores) - 1).bit_length())
    bits = scores.astype(np.float64).view(np.uint64)
    # A float's bits, as a number, rise with it once those of negative ones are turned over.
    bits ^= np.where(bits & _SIGN, ~np.uint64(0), _SIGN)
    bits >>= places
    bits <<= places
    bits |= np.arange(len(scores), dtype=np.uint64)
    bits.sort()
    bits &= (np.uint64(1) << places) - np.uint64(1)
    return bits.view(np.int64)


def _exchange(scores: NDArray[Any], order: NDArray[np.int64]) -> bool:
    """Exchange neighbours that stand the wrong way round, in place; False where that does not come to an end soon."""
    for _ in range(_ROUNDS):
        wrong = np.flatnonzero(scores[1:] < scores[:-1])
        if not len(wrong):
            return True
        apart = wrong[np.concatenate([[True], np.diff(wrong) > 1])]
        for values in (scores, order):
            values[apart], values[apart + 1] = values[apart + 1], values[apart].copy()
    return bool((scores[1:] >= scores[:-1]).all())
