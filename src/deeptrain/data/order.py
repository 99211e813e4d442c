"""The order of rows as a pure function of (seed, epoch, batch): no walking, no array as long as the data.

Shuffled positions come from a keyed permutation of `range(n)`: a generalised Feistel network over pairs (l, r) of
Z_a x Z_b with a * b >= n, whose rounds add a hash of one half to the other half, and cycle walking for what falls
outside. The construction is that of J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002.
"""

from __future__ import annotations

import difflib
import operator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from deeptrain.state.hashing import mix_many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeptrain.data.batch import RowIds

Words: TypeAlias = npt.NDArray[np.uint64]
Shuffle: TypeAlias = Literal["sets", "samples", "global"] | bool | None
Last: TypeAlias = Literal["keep", "drop"]

SHUFFLES = (None, "sets", "samples", "global")
LASTS = ("keep", "drop")
ROUNDS = 8
BLOCK_ROWS = 8192  # NumPy costs about 400 us a call whatever the size, so batches are computed by the block


def permute(values: Words, size: int | Words, keys: Words) -> Words:
    """Permute `range(size)` under the keys and look the values up.

    Args:
        values: Positions, each below its size.
        size: The domain's size, or one for each value, so that several permutations are looked up at once.
        keys: uint64 of shape `(ROUNDS,)`, or `(ROUNDS, len(values))`.

    Returns:
        The values' images, in the same order.
    """
    sizes = np.broadcast_to(np.asarray(size, np.uint64), values.shape)
    keys = np.broadcast_to(keys.reshape(ROUNDS, -1), (ROUNDS, len(values)))
    a = np.ceil(np.sqrt(sizes)).astype(np.uint64)
    # With both halves odd every round is an even permutation, and so would be the whole; an even half mends that.
    a += a % 2
    b = (sizes + a - 1) // a
    images = _feistel(values, a, b, keys)
    walking = np.flatnonzero(images >= sizes)
    while walking.size:
        images[walking] = _feistel(images[walking], a[walking], b[walking], keys[:, walking])
        walking = walking[images[walking] >= sizes[walking]]
    return images


def _feistel(values: Words, a: Words, b: Words, keys: Words) -> Words:
    right, left = np.divmod(values, a)
    for number, key in enumerate(keys):
        if number % 2 == 0:
            left = _add(left, right + key, a)
        else:
            right = _add(right, left + key, b)
    return left + right * a


def _add(half: Words, value: Words, modulus: Words) -> Words:
    """Add a hash of the value (splitmix64's finaliser) to the half, modulo the half's size."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value = (value ^ (value >> np.uint64(31))) >> np.uint64(32)
    total = half + (
        (value * modulus) >> np.uint64(32)
    )  # the hash scaled to [0, modulus), which is below 2**32
    return np.where(total >= modulus, total - modulus, total)


class _Layout(NamedTuple):
    """One epoch's sets in their order: where each begins in the source, and in the epoch."""

    sources: RowIds
    starts: RowIds

    def rows(self, positions: RowIds) -> RowIds:
        which = np.searchsorted(self.starts, positions, side="right") - 1
        return self.sources[which] + positions - self.starts[which]


class Order:
    """Maps (epoch, batch) to row ids, in constant time and memory.

    Args:
        sizes: Row counts of the source's sets, in order; row ids count through them.
        batch_size: Rows in a batch, at least 1; the last batch of an epoch may have fewer.
        shuffle: None, `"sets"` (the sets' order), `"samples"` (the sets' order, then rows within groups of `group`
            sets), `"global"` (all rows) or True, which means `"global"`.
        seed: Any whole number.
        group: Sets in a group, under `"samples"`.
        last: `"keep"` or `"drop"` a last batch that is short.

    Attributes:
        rows_total: Rows in the source.
        batches: Batches in an epoch.

    Raises:
        ValueError: A setting is out of range, or there would be no batch.
        TypeError: A number is not whole.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        batch_size: int,
        shuffle: Shuffle = None,
        seed: int = 0,
        *,
        group: int = 8,
        last: Last = "keep",
    ) -> None:
        self.batch_size = _at_least_one("batch_size", batch_size)
        self.shuffle = _known_shuffle(shuffle)
        self.seed = _whole("seed", seed)
        self.group = _at_least_one("group", group)
        self.last = _known("last", last, LASTS)
        self._sizes = np.asarray(sizes, np.int64)
        self.rows_total = int(self._sizes.sum())
        full, short = divmod(self.rows_total, self.batch_size)
        self.batches = full + (short > 0 and self.last == "keep")
        if self.batches == 0:
            raise ValueError(self._nothing())
        # Whole batches only, so that a batch never lies in two blocks.
        self._span = max(1, BLOCK_ROWS // self.batch_size)
        self._cached_layout: tuple[int, _Layout] | None = None
        self._cached_block: tuple[int, int, RowIds] | None = None

    def _nothing(self) -> str:
        if self.rows_total == 0:
            return f"no rows to load: found {len(self._sizes)} sets with 0 rows; expected at least one row"
        return (
            f"no batch to load: found {self.rows_total} rows, fewer than batch_size {self.batch_size}, and last='drop' "
            f"drops a short batch; make batch_size smaller or set last='keep'"
        )

    def span(self, epoch: int, batch: int) -> tuple[int, int]:
        """Give the positions of a batch in its epoch: first, and one after the last.

        Raises:
            IndexError: There is no such epoch or batch.
        """
        if not 0 <= batch < self.batches or epoch < 0:
            raise IndexError(out_of_range(epoch, batch, self.batches))
        start = batch * self.batch_size
        return start, min(start + self.batch_size, self.rows_total)

    def rows(self, epoch: int, batch: int) -> RowIds:
        """Give the row ids of a batch, in order; a fresh array.

        Raises:
            IndexError: There is no such epoch or batch.
        """
        start, stop = self.span(epoch, batch)
        if self.shuffle is None:
            return np.arange(start, stop)
        which = batch // self._span
        first = which * self._span * self.batch_size
        return self._block(epoch, which, first)[start - first : stop - first].copy()

    def _block(self, epoch: int, which: int, first: int) -> RowIds:
        cached = self._cached_block
        if cached is None or cached[0] != epoch or cached[1] != which:
            stop = min(first + self._span * self.batch_size, self.rows_total)
            self._cached_block = cached = (epoch, which, self._compute(epoch, np.arange(first, stop)))
        return cached[2]

    def _compute(self, epoch: int, positions: RowIds) -> RowIds:
        if self.shuffle == "global":
            images = permute(positions.astype(np.uint64), self.rows_total, self._keys("rows", epoch))
            return images.astype(np.int64)
        layout = self._layout(epoch)
        if self.shuffle == "samples":
            positions = self._within_groups(epoch, positions, layout.starts[:: self.group])
        return layout.rows(positions)

    def _within_groups(self, epoch: int, positions: RowIds, starts: RowIds) -> RowIds:
        sizes = np.diff(starts, append=self.rows_total).astype(np.uint64)
        which = np.searchsorted(starts, positions, side="right") - 1
        first = int(which[0])
        keys = [self._keys("group", epoch, group) for group in range(first, int(which[-1]) + 1)]
        within = (positions - starts[which]).astype(np.uint64)
        shuffled = permute(within, sizes[which], np.stack(keys, axis=1)[:, which - first])
        return starts[which] + shuffled.astype(np.int64)

    def _layout(self, epoch: int) -> _Layout:
        cached = self._cached_layout
        if cached is None or cached[0] != epoch:
            count = len(self._sizes)
            order = permute(np.arange(count, dtype=np.uint64), count, self._keys("sets", epoch)).astype(
                np.int64
            )
            layout = _Layout(_starts(self._sizes)[order], _starts(self._sizes[order]))
            self._cached_layout = cached = (epoch, layout)
        return cached[1]

    def _keys(self, purpose: str, *counters: int) -> Words:
        return np.array(mix_many(ROUNDS, self.seed, "order", purpose, *counters), np.uint64)


def out_of_range(epoch: int, batch: int, batches: int) -> str:
    """Word the error for a place that is not there."""
    return f"no batch {batch} in epoch {epoch}: an epoch has the batches 0 to {batches - 1}, and epochs count from 0"


def _starts(sizes: RowIds) -> RowIds:
    return np.cumsum(sizes) - sizes


def _whole(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: found {value!r}, expected a whole number") from None


def _at_least_one(name: str, value: Any) -> int:
    number = _whole(name, value)
    if number < 1 or isinstance(value, bool):
        raise ValueError(f"{name}: found {value!r}, expected a whole number of at least 1")
    return number


def _known_shuffle(value: Any) -> str | None:
    if isinstance(value, bool):
        return "global" if value else None
    return None if value is None else _known("shuffle", value, SHUFFLES)


def _known(name: str, value: Any, choices: Sequence[str | None]) -> str:
    if isinstance(value, str) and value in choices:
        return value
    texts = [choice for choice in choices if choice is not None]
    near = difflib.get_close_matches(str(value).lower(), texts, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name}: found {value!r}, expected one of {', '.join(map(repr, choices))}{hint}")
