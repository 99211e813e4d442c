"""Rows from whatever holds them: arrays, data sets, sources, and iterables of samples or of batches.

All of them become blocks of rows. What can be asked for any row is a `Table`; what comes once, in its own order, is a
`Stream`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import torch

from deeptrain.data.batch import Batch
from deeptrain.data.source import Source
from deeptrain.data.writers.values import as_array

if TYPE_CHECKING:
    from deeptrain.data.batch import RowIds
    from deeptrain.data.formats.base import Array

AT_ONCE = (
    1024  # rows that are gathered from an array at once, so that memory is needed for one set and not for two
)


INPUTS, LABELS, CLASSES = "inputs", "labels", "class_labels"  # also what the files with labels are called


class Block(NamedTuple):
    """Rows that follow each other in what is to be written.

    Attributes:
        columns: Arrays of shape `(n, ...)`: the inputs, and the labels and class labels where there are such.
        first: The first row's number in what the user gave, for messages.
    """

    columns: dict[str, Array]
    first: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.columns[INPUTS])


class Table(Protocol):
    """Rows that can be asked for in any order."""

    @property
    def rows(self) -> int:
        """How many there are."""

    def blocks(self, ids: RowIds) -> Iterator[Block]:
        """Give these rows, in the order given."""


@dataclass
class Stream:
    """Rows that come once, in an order of their own."""

    blocks: Iterator[Block]


Rows: TypeAlias = "Table | Stream"


def rows_of(inputs: Any, targets: Any = None, *, batched: bool = False) -> Rows:
    """Find out what the user gave, and how its rows are to be had.

    Args:
        inputs: See `write_sets`.
        targets: See `write_sets`.
        batched: Whether what an iterable gives are batches.

    Raises:
        TypeError: It holds no rows that could be written.
        ValueError: Inputs and targets differ in their number.
    """
    _refuse_ambiguous(inputs)
    if targets is not None:
        _refuse_rowless("targets", targets)
    if isinstance(inputs, Source):
        _refuse_targets(inputs, targets)
        return _SourceTable(inputs)
    if not batched and _is_table(inputs) and (targets is None or _is_table(targets)):
        return _table(inputs, targets)
    if isinstance(inputs, torch.utils.data.DataLoader):
        _refuse_targets(inputs, targets)
        batched = inputs.batch_sampler is not None
        inputs = map(_as_pair, inputs)
    return Stream(_stream(inputs, targets, batched=batched))


def _refuse_ambiguous(inputs: Any) -> None:
    if isinstance(inputs, tuple):
        raise TypeError(
            "write_sets: found a tuple as inputs, expected one array, data set, source or iterable; give labels as "
            "targets: write_sets(path, inputs, targets, ...)"
        )
    _refuse_rowless("inputs", inputs)


def _refuse_rowless(name: str, value: Any) -> None:
    """Refuse what has no rows, or is asked for them in another way."""
    odd = isinstance(value, Mapping | str | bytes) or hasattr(value, "iloc") or getattr(value, "ndim", 1) == 0
    if odd or not (_is_table(value) or isinstance(value, Iterable)):
        raise TypeError(
            f"write_sets: found {type(value).__name__} as {name}, expected an array or tensor of shape (rows, ...), a data "
            f"set, a source or an iterable of samples; convert it first, a table for example with its to_numpy()"
        )


def _refuse_targets(inputs: Any, targets: Any) -> None:
    if targets is not None:
        raise TypeError(
            f"write_sets: found targets beside {type(inputs).__name__}, which gives its own; leave targets away"
        )


def _is_table(value: Any) -> bool:
    if isinstance(value, torch.utils.data.IterableDataset):
        return False
    return isinstance(value, Source) or (hasattr(value, "__getitem__") and hasattr(value, "__len__"))


def _as_pair(value: Any) -> Any:
    """Give what a torch DataLoader gives as a list, where the data set gave a tuple, as one again."""
    return tuple(value) if isinstance(value, list) else value


class _SourceTable:
    """The rows of a source; a whole set's are asked for at once, so that each file is visited once for it."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.rows = source.n_rows

    def blocks(self, ids: RowIds) -> Iterator[Block]:
        read: tuple[Any, ...] = self._source.read(ids)
        inputs, targets, *classes = read
        if classes[1:] and classes[1] is not None:
            raise TypeError(
                "write_sets: the source gives weights of rows, which files of sets do not hold: write them into a file of their "
                "own, and weigh by sample_weight=lambda batch: weights[batch.rows]"
            )
        # Labels that are the inputs themselves are not written a second time: `Files(labels="inputs")` has them again.
        yield _block(inputs, None if targets is inputs else targets, int(ids[0]), *classes[:1])


class ArrayTable:
    """Arrays or tensors with one row each; some rows are gathered at a time.

    Args:
        columns: By their names; all have as many rows.
    """

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = columns
        self.rows = len(columns[INPUTS])

    def blocks(self, ids: RowIds) -> Iterator[Block]:
        """Give these rows, in the order given."""
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            first = int(some[0])
            yield Block(
                {
                    name: as_array(_picked(column, some), name, first)
                    for name, column in self._columns.items()
                },
                first,
            )


class _SampleTable:
    """Samples, and perhaps their labels, that are asked for one by one; or pairs of the two."""

    def __init__(self, samples: Any, labels: Any) -> None:
        self._samples, self._labels = samples, labels
        self.rows = len(samples)

    def blocks(self, ids: RowIds) -> Iterator[Block]:
        for row in ids.tolist():
            sample = self._samples[row]
            yield _sample(sample if self._labels is None else (sample, self._labels[row]), row)


def _table(inputs: Any, targets: Any) -> Table:
    if targets is not None and len(targets) != len(inputs):
        raise ValueError(
            f"write_sets: found {len(inputs)} inputs and {len(targets)} targets, expected one target for each input"
        )
    if _is_array(inputs) and (targets is None or _is_array(targets)):
        return ArrayTable({INPUTS: inputs} | ({} if targets is None else {LABELS: targets}))
    return _SampleTable(inputs, targets)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | torch.Tensor)


def _picked(values: Any, ids: RowIds) -> Any:
    start, stop = int(ids[0]), int(ids[-1]) + 1
    if stop - start == len(ids) and bool(np.all(np.diff(ids) == 1)):
        return values[start:stop]
    return values[torch.from_numpy(ids).to(values.device) if isinstance(values, torch.Tensor) else ids]


def _stream(inputs: Any, targets: Any, *, batched: bool) -> Iterator[Block]:
    first = 0
    for value in inputs if targets is None else _together(inputs, targets):
        block = _from_batch(value, first) if batched or isinstance(value, Batch) else _sample(value, first)
        first += block.rows
        yield block


def _together(inputs: Iterable[Any], targets: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Pair two iterables and say at which place one of them ended too soon."""
    ended = object()
    others = iter(targets)
    count = 0
    for count, value in enumerate(inputs, 1):
        target = next(others, ended)
        if target is ended:
            raise ValueError(
                f"write_sets: the targets ended after {count - 1}, and the inputs go on; expected as many"
            )
        yield value, target
    if next(others, ended) is not ended:
        raise ValueError(
            f"write_sets: the inputs ended after {count}, and the targets go on; expected as many"
        )


def _from_batch(value: Any, first: int) -> Block:
    if not isinstance(value, Batch):
        return _block(*_pair(value, first), first)
    size = value.size - value.padded
    block = _block(
        value.inputs, None if value.targets is value.inputs else value.targets, first, value.class_labels
    )
    return Block({name: values[:size] for name, values in block.columns.items()}, first)


def _sample(value: Any, row: int) -> Block:
    inputs, label = _pair(value, row) if isinstance(value, tuple) else (value, None)
    columns = {INPUTS: as_array(inputs, "sample", row)[np.newaxis]}
    if label is not None:
        columns[LABELS] = as_array(label, "label", row)[np.newaxis]
    return Block(columns, row)


def _pair(value: Any, row: int) -> tuple[Any, Any]:
    """Take what a loader or a data set gives apart: `x`, `(x,)` or `(x, y)`."""
    if not isinstance(value, Sequence):
        return value, None
    if len(value) == 1:
        return value[0], None
    if len(value) == 2:  # noqa: PLR2004 - a pair
        return value[0], value[1]
    raise TypeError(
        f"write_sets: row {row} is a {type(value).__name__} of {len(value)}, expected a sample, or a sample and its label"
    )


def _block(inputs: Any, labels: Any, first: int, classes: Any = None) -> Block:
    """Make a block of rows that came together."""
    given = {INPUTS: inputs, LABELS: labels, CLASSES: classes}
    columns = {name: as_array(value, name, first) for name, value in given.items() if value is not None}
    for name, values in columns.items():
        if values.ndim == 0:
            raise TypeError(
                f"write_sets: the {name} from row {first} on have no axis, expected shape (rows, ...)"
            )
        if len(values) != len(columns[INPUTS]):
            raise ValueError(
                f"write_sets: found {len(columns[INPUTS])} inputs and {len(values)} {name} in the batch from row {first} "
                f"on, expected one for each input"
            )
    return Block(columns, first)
