"""What a loader hands out: a batch, the names of the sets and rows in it, and helpers for nested tensors."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RowIds: TypeAlias = npt.NDArray[np.int64]

SHOWN = 6
ALIGNMENT = 64  # bytes; what torch's own CPU allocations have
MOST_PARTS = 4  # sets, or single rows, that a display names one by one


class Rows(NamedTuple):
    """Rows of one set, as they stand in a batch.

    Attributes:
        set_name: The set's name, `"1"` for the file `name1.npy`.
        rows: Row numbers within the set; a `range` (it has `start` and `stop`) where they follow each other.
        total: How many rows the set has; 0 where that is not known.
    """

    set_name: str
    rows: range | tuple[int, ...]
    total: int

    def __str__(self) -> str:
        """Give `1[64:128]`, `1` for the whole set, `7[4]` for one row, `3[1,5]` for a few, `3[40 rows]`."""
        rows = self.rows
        if self.total and len(rows) == self.total and len(set(rows)) == self.total:
            return self.set_name
        if len(rows) == 1:
            return f"{self.set_name}[{rows[0]}]"
        if isinstance(rows, range):
            return f"{self.set_name}[{rows.start}:{rows.stop}]"
        if len(rows) <= MOST_PARTS:
            return f"{self.set_name}[{','.join(map(str, rows))}]"
        return f"{self.set_name}[{len(rows)} rows]"


def is_run(numbers: RowIds) -> bool:
    """Whether each of at least one number is the one before plus one."""
    first, last = int(numbers[0]), int(numbers[-1])
    return last - first == len(numbers) - 1 and not (numbers - np.arange(first, last + 1)).any()


def describe(sources: Sequence[Rows]) -> str:
    """Say in a few characters where a batch comes from.

    Args:
        sources: A batch's `sources`.

    Returns:
        `1[64:128]`, `1+2` for whole sets, `3[0:10]+7[4]`, or `12 sets, 64 rows` where there are many.
    """
    if len(sources) > MOST_PARTS:
        return f"{len(sources)} sets, {sum(len(part.rows) for part in sources)} rows"
    return "+".join(map(str, sources))


class SetTable:
    """Knows which set each row of a source belongs to.

    Args:
        names: The sets' names, in the source's order.
        sizes: Their row counts, in the same order.
    """

    def __init__(self, names: Sequence[str], sizes: Sequence[int]) -> None:
        self.names = tuple(names)
        self.sizes = tuple(map(int, sizes))
        self._starts = np.cumsum((0, *self.sizes[:-1]), dtype=np.int64)

    def index(self, name: str) -> int:
        """Find a set by its name.

        Raises:
            KeyError: There is none.
        """
        try:
            return self._indices[str(name)]
        except KeyError:
            few = ", ".join(self.names[:SHOWN]) + (", ..." if len(self.names) > SHOWN else "")
            raise KeyError(f"no set named {name!r}: there are {few}") from None

    @cached_property
    def _indices(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.names)}

    def locate(self, rows: RowIds) -> tuple[Rows, ...]:
        """Group row ids by set: sets in order of first appearance, rows in the order given."""
        if len(self.names) == 1:
            return (self._part(0, rows),)
        sets = np.searchsorted(self._starts, rows, side="right") - 1
        present, first = np.unique(sets, return_index=True)
        return tuple(self._part(int(which), rows[sets == which]) for which in present[np.argsort(first)])

    def identify(self, rows: RowIds) -> tuple[list[str], RowIds]:
        """Name each row's set, and its number there."""
        sets = np.searchsorted(self._starts, rows, side="right") - 1
        return [self.names[which] for which in sets.tolist()], rows - self._starts[sets]

    def _part(self, which: int, rows: RowIds) -> Rows:
        local = rows - self._starts[which]
        start = int(local[0])
        return Rows(
            self.names[which],
            range(start, start + len(local)) if is_run(local) else tuple(local.tolist()),
            self.sizes[which],
        )


@dataclass(slots=True, eq=False, repr=False)
class Batch:
    """One batch, as a loader yields it. Treat it as constant.

    Attributes:
        inputs: What the model is given: a tensor of shape `(size, ...)`, or tensors nested in tuples, lists, dicts.
        targets: What it should answer, likewise; None where the data has no targets.
        epoch: The epoch that the batch belongs to, from 0.
        index: Its place in that epoch, from 0.
        rows: The source's row ids, int64 of shape `(size,)`, in the order of the inputs.
        table: Names the rows' sets; None where there are no names.
        class_labels: The rows' classes, where the targets are something else (an autoencoder's are its inputs); None
            where the targets tell them.
        weights: A weight for each row, of shape `(size,)`; None where all count alike.
        iteration: Which piece of the batch this is, from 0, where a preprocessor makes several of it.
        padded: How many rows at the end were added to fill the batch (`last="pad"`).
    """

    inputs: Any
    targets: Any
    epoch: int
    index: int
    rows: RowIds
    table: SetTable | None = None
    class_labels: Any = None
    weights: Any = None
    iteration: int = 0
    padded: int = 0
    _sources: tuple[Rows, ...] | None = field(init=False, default=None)

    @property
    def size(self) -> int:
        """How many rows are in the batch."""
        return len(self.rows)

    @property
    def sources(self) -> tuple[Rows, ...]:
        """The sets and rows that the batch was made of; worked out when first asked for."""
        if self._sources is None:
            self._sources = () if self.table is None else self.table.locate(self.rows)
        return self._sources

    def __iter__(self) -> Iterator[Any]:
        """Inputs and targets, so that `for x, y in loader` works."""
        return iter((self.inputs, self.targets))

    def replaced(self, **changes: Any) -> Batch:
        """Give a copy with other values in some of its fields; the rest is shared."""
        return replace(self, **changes)

    def __repr__(self) -> str:
        return f"Batch(epoch={self.epoch}, index={self.index}, size={self.size}, sources={describe(self.sources)})"


def map_tensors(tree: Any, fn: Callable[[torch.Tensor], Any]) -> Any:
    """Apply a function to each tensor in nested tuples (named ones too), lists and dicts.

    Args:
        tree: Anything; what is neither a tensor nor such a container is kept as it is.
        fn: Called with each tensor.

    Returns:
        The same nesting with the function's results in the tensors' places.
    """
    if isinstance(tree, torch.Tensor):
        return fn(tree)
    if isinstance(tree, dict):
        return type(tree)((key, map_tensors(value, fn)) for key, value in tree.items())
    if isinstance(tree, list):
        return [map_tensors(value, fn) for value in tree]
    if isinstance(tree, tuple):
        values = [map_tensors(value, fn) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else tuple(values)
    return tree


def aligned(tensor: torch.Tensor) -> torch.Tensor:
    """Give the tensor itself, or a copy if its memory does not start at a multiple of 64 bytes.

    Matrix kernels take other paths for unaligned memory, and their results differ in the last bits: without this,
    how a batch was cut out would show in the weights.
    """
    if not tensor.is_cpu or tensor.layout is not torch.strided or tensor.data_ptr() % ALIGNMENT == 0:
        return tensor
    return tensor.clone()


def edits_of(batch: Batch) -> int:
    """Count the in-place changes that a batch's inputs and targets have seen."""
    try:  # in every iteration, and mostly these are two plain tensors
        return batch.inputs._version + batch.targets._version  # type: ignore[no-any-return]  # noqa: SLF001
    except (AttributeError, RuntimeError):  # nested ones, no targets, or made in inference mode
        return edits(batch.inputs) + edits(batch.targets)


def edits(tree: Any) -> int:
    """Count the in-place changes that the tree's tensors have seen; a later, larger count tells of a new one."""
    if isinstance(tree, torch.Tensor):
        # torch keeps no count for tensors made in inference mode. The counter has no public name.
        return 0 if tree.is_inference() else tree._version  # noqa: SLF001
    if isinstance(tree, (list, tuple)):
        count = 0
        for value in tree:  # in every iteration, where sum() and map() would cost twice as much
            count += edits(value)
        return count
    return sum(map(edits, tree.values())) if isinstance(tree, dict) else 0
