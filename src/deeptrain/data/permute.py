"""A keyed permutation of `range(n)` and its inverse, looked up value by value: no array as long as n.

A generalised Feistel network over pairs (l, r) of Z_a x Z_b with a * b >= n, whose rounds add a hash of one half to
the other half, and cycle walking for what falls outside. The construction is that of J. Black and P. Rogaway, "Ciphers
with Arbitrary Finite Domains", CT-RSA 2002.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable

Words: TypeAlias = npt.NDArray[np.uint64]

ROUNDS = 8


def permute(values: Words, size: int | Words, keys: Words) -> Words:
    """Permute `range(size)` under the keys and look the values up.

    Args:
        values: Positions, each below its size; uint64 of shape `(n,)`.
        size: The domain's size, or one for each value, so that several permutations are looked up at once.
        keys: uint64 of shape `(ROUNDS,)`, or `(ROUNDS, n)`.

    Returns:
        The values' images, in the same order.

    Example:
        >>> keys = np.arange(ROUNDS, dtype=np.uint64)
        >>> images = permute(np.arange(5, dtype=np.uint64), 5, keys)
        >>> invert(images, 5, keys).tolist()
        [0, 1, 2, 3, 4]
    """
    return _walk(_forward, values, size, keys)


def invert(images: Words, size: int | Words, keys: Words) -> Words:
    """Find the values that `permute` gives these images for.

    Args:
        images: Each below its size; uint64 of shape `(n,)`.
        size: As for `permute`.
        keys: As for `permute`.

    Returns:
        The values, in the same order.
    """
    return _walk(_backward, images, size, keys)


def _walk(
    step: Callable[[Words, Words, Words, Words], Words], values: Words, size: int | Words, keys: Words
) -> Words:
    """Take the step on the whole of Z_a x Z_b, again for what comes to lie outside of `range(size)`."""
    sizes = np.atleast_1d(np.asarray(size, np.uint64))
    keys = keys.reshape(ROUNDS, -1)
    a = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    # With both halves odd every round is an even permutation, and so would be the whole; an even half mends that.
    a += a % 2
    b = (sizes + a - 1) // a
    images = step(values, a, b, keys)
    walking = np.flatnonzero(images >= sizes)
    while walking.size:
        own = [_of(table, walking) for table in (a, b, keys, sizes)]
        images[walking] = step(images[walking], own[0], own[1], own[2])
        walking = walking[images[walking] >= own[3]]
    return images


def _of(table: Words, which: npt.NDArray[np.intp]) -> Words:
    """Take the columns of these values from a table that may have one column for all."""
    return table if table.shape[-1] == 1 else table[..., which]


def _forward(values: Words, a: Words, b: Words, keys: Words) -> Words:
    right, left = _halves(values, a)
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = _below(left + _hash(right + key, a), a)
        else:
            right = _below(right + _hash(left + key, b), b)
    return left + right * a


def _backward(values: Words, a: Words, b: Words, keys: Words) -> Words:
    right, left = _halves(values, a)
    for number in reversed(range(ROUNDS)):
        if number % 2 == 0:
            left = _below(left + (a - _hash(right + keys[number], a)), a)
        else:
            right = _below(right + (b - _hash(left + keys[number], b)), b)
    return left + right * a


def _below(total: Words, modulus: Words) -> Words:
    """Reduce a total below twice the modulus; where it is already below, the difference wraps round to a large one."""
    reduced: Words = np.minimum(total, total - modulus)
    return reduced


def _halves(values: Words, a: Words) -> tuple[Words, Words]:
    right = values // a  # NumPy divides by one divisor for all several times faster than divmod does
    return right, values - right * a


def _hash(value: Words, modulus: Words) -> Words:
    """Hash the value (splitmix64's finaliser) into `[0, modulus)`; the value's memory is used up."""
    value ^= value >> np.uint64(30)
    value *= np.uint64(0xBF58476D1CE4E5B9)
    value ^= value >> np.uint64(27)
    value *= np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    value >>= np.uint64(32)
    value *= modulus  # the upper half scaled: the modulus is below 2**32
    value >>= np.uint64(32)
    return value
