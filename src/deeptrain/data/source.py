"""Where rows come from: the `Source` protocol, and `Arrays` for data in memory."""

from __future__ import annotations

import warnings
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch

from deeptrain.data.batch import RowIds, aligned, is_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deeptrain.data.blocks import Stretch
    from deeptrain.data.buffers import Take

COLUMNS = ("inputs", "targets", "class_labels", "weights")  # what a read gives, in this order
PAIR = 2  # of which the first ones are always there


@runtime_checkable
class Source(Protocol):
    """A random-access table of rows, grouped in named sets; row ids count through the sets in their order."""

    @property
    def n_rows(self) -> int:
        """Rows of all sets."""

    @property
    def set_names(self) -> Sequence[str]:
        """The sets' names, in order."""

    @property
    def set_sizes(self) -> Sequence[int]:
        """The sets' row counts, in the same order."""

    def describe(self) -> dict[str, Any]:
        """Describe the data in plain values, equal wherever the rows are the same; `table_of_contents` helps."""

    def read(self, rows: RowIds) -> tuple[Any, Any]:
        """Read rows, in the order given.

        Args:
            rows: int64 row ids of shape `(n,)`.

        Returns:
            Inputs and targets (None where there are none): tensors whose first axis has length n, nested or not; and
            perhaps, as a third, class labels, where the targets are something else (or None), and as a fourth, weights
            of shape `(n,)`.
        """


@runtime_checkable
class RangeSource(Source, Protocol):
    """A source that reads rows which follow each other at less cost."""

    def read_range(self, start: int, stop: int) -> tuple[Any, Any]:
        """Read the rows `start` to `stop - 1`."""


@runtime_checkable
class LabelledSource(Source, Protocol):
    """A source that reads labels without the inputs."""

    def read_labels(self, rows: RowIds) -> Any:
        """Read the rows' class labels, or their targets where there are no class labels; None without either."""


@runtime_checkable
class StoredSource(Source, Protocol):
    """A source whose rows lie on a disk: it may be read by several threads, and into memory that is used again."""

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of everything that is read."""

    def read_stored(
        self,
        rows: RowIds,
        span: tuple[int, int] | None,
        stretches: tuple[Stretch, ...],
        take: Take,
        *,
        near: bool,
    ) -> tuple[Any, ...]:
        """Read rows as `read` does.

        Args:
            rows: int64 row ids of shape `(n,)`.
            span: The first row and one after the last, where the rows follow each other and that is known.
            stretches: What to read together, as it will be asked for soon: the first rows lie in these, one after another.
            take: Gives the memory for a tensor of some shape and dtype.
            near: Whether the other rows of their sets will be asked for soon too.
        """

    def keep(self, sets: Sequence[int]) -> None:
        """Keep these sets in memory once they are read."""

    def close(self) -> None:
        """Let go of files and maps; the next read opens them again."""


def table_of_contents(names: Sequence[str], sizes: Sequence[int]) -> dict[str, Any]:
    """Give the part of a source's description that says which row belongs to which set, hashed."""
    return {
        "rows": int(sum(sizes)),
        "sets": len(names),
        "set_names": _hashed(names),
        "set_sizes": _hashed(map(str, map(int, sizes))),
    }


def _hashed(texts: Any) -> str:
    state = blake2b(digest_size=8)
    for text in texts:
        state.update(f"{len(text)}:{text}".encode())
    return state.hexdigest()


def spell(shape: Sequence[int], dtype: Any) -> str:
    """Write one row's type: `float32[28, 28]`."""
    return f"{dtype}{list(shape)}".removeprefix("torch.")


class _Leaf(NamedTuple):
    """One of the user's tensors, with what must be known to read from it safely."""

    tensor: torch.Tensor
    edits: int
    read_only: bool

    def check(self) -> None:
        # `_version` counts a tensor's in-place changes; it has no public name.
        if self.tensor._version != self.edits:  # noqa: SLF001
            raise ValueError(
                "Arrays: the data was changed in place after Arrays was made, so that batches could not be read again as "
                "they were; expected it to stay as it is. Make Arrays after the last change. A model that changes its "
                "input in place (nn.ReLU(inplace=True) as its first layer does) must work on a copy, x = x.clone()"
            )

    def piece(self, start: int, stop: int) -> torch.Tensor:
        self.check()
        piece = self.tensor[start:stop]
        if self.read_only or not piece.is_contiguous():
            return piece.clone(memory_format=torch.contiguous_format)
        return aligned(piece)

    def pick(self, index: torch.Tensor) -> torch.Tensor:
        self.check()
        # A fresh tensor, which torch aligns.
        return self.tensor.index_select(0, index if self.tensor.is_cpu else index.to(self.tensor.device))


class Arrays:
    """Data in memory: one set named `"0"`.

    Rows that follow each other are handed out as slices, which **share memory with the data** (as `tensor[a:b]` does):
    do not change a batch in place. Should it happen, the next read refuses with an error. Other rows are copied.

    Args:
        inputs: A tensor or NumPy array of shape `(rows, ...)`, or several in a tuple, list or dict.
        targets: The same, with as many rows; None for data without targets.
        class_labels: The rows' classes, where the targets are something else (an autoencoder's are its inputs).
        weights: A weight for each row in the loss, of shape `(rows,)`.

    Raises:
        ValueError: The lengths differ, or an array has no axis, or weights have more than one.
        TypeError: Something is neither a tensor nor a numeric array.

    Example:
        >>> import torch
        >>> Arrays(torch.zeros(6, 4), torch.arange(6)).describe()["inputs"]
        'float32[4]'
    """

    def __init__(
        self, inputs: Any, targets: Any = None, *, class_labels: Any = None, weights: Any = None
    ) -> None:
        given = {"inputs": inputs, "targets": targets, "class_labels": class_labels, "weights": weights}
        self._columns = {
            name: _convert(value, name)
            for name, value in given.items()
            if value is not None or name == "inputs"
        }
        self._refuse_odd_weights()
        lengths = {path: len(leaf.tensor) for path, leaf in self._leaves()}
        if not lengths:
            raise ValueError("Arrays: found no array in inputs, expected at least one")
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{path} {length}" for path, length in lengths.items())
            raise ValueError(f"Arrays: the numbers of rows differ: found {found}; expected the same in all")
        self._rows = next(iter(lengths.values()))

    @property
    def n_rows(self) -> int:
        """Rows in each array."""
        return self._rows

    @property
    def set_names(self) -> tuple[str, ...]:
        """`("0",)`."""
        return ("0",)

    @property
    def set_sizes(self) -> tuple[int, ...]:
        """The one set's row count."""
        return (self._rows,)

    def describe(self) -> dict[str, Any]:
        """Give row count, set and each array's type by its path."""
        types = {path: spell(leaf.tensor.shape[1:], leaf.tensor.dtype) for path, leaf in self._leaves()}
        return table_of_contents(self.set_names, self.set_sizes) | types

    def read(self, rows: RowIds) -> tuple[Any, ...]:
        """Read rows in the order given: a slice if they follow each other, else a copy.

        Raises:
            IndexError: A row id is out of range.
        """
        if is_run(rows):
            return self.read_range(int(rows[0]), int(rows[-1]) + 1)
        index = torch.from_numpy(rows)
        return self._read(lambda leaf: leaf.pick(index))

    def read_range(self, start: int, stop: int) -> tuple[Any, ...]:
        """Read the rows `start` to `stop - 1` as slices; copied only where their memory is not aligned.

        Raises:
            IndexError: The range is not within the data.
        """
        if not 0 <= start < stop <= self._rows:
            raise IndexError(
                f"Arrays: no rows {start} to {stop - 1}; there are the rows 0 to {self._rows - 1}"
            )
        return self._read(lambda leaf: leaf.piece(start, stop))

    def read_labels(self, rows: RowIds) -> Any:
        """Read class labels, or targets where there are none; None without either.

        Raises:
            IndexError: A row id is out of range.
        """
        column = self._columns.get("class_labels", self._columns.get("targets"))
        index = torch.from_numpy(rows)
        return None if column is None else _map(column, lambda leaf: leaf.pick(index))

    def _read(self, fn: Callable[[_Leaf], torch.Tensor]) -> tuple[Any, ...]:
        found = {name: _map(column, fn) for name, column in self._columns.items()}
        last = max(map(COLUMNS.index, found), default=0)
        return tuple(found.get(name) for name in COLUMNS[: max(last + 1, PAIR)])

    def _leaves(self) -> Iterator[tuple[str, _Leaf]]:
        for name, column in self._columns.items():
            yield from _walk(column, name)

    def _refuse_odd_weights(self) -> None:
        leaf = self._columns.get("weights")
        if leaf is not None and (not isinstance(leaf, _Leaf) or leaf.tensor.dim() != 1):
            found = f"the shape {tuple(leaf.tensor.shape)}" if isinstance(leaf, _Leaf) else "several arrays"
            raise ValueError(f"Arrays: weights: found {found}, expected one number for each row, (rows,)")


def _map(tree: Any, fn: Callable[[_Leaf], torch.Tensor]) -> Any:
    if isinstance(tree, _Leaf):
        return fn(tree)
    if isinstance(tree, dict):
        return {key: _map(value, fn) for key, value in tree.items()}
    return type(tree)(_map(value, fn) for value in tree)


def _walk(tree: Any, path: str) -> Iterator[tuple[str, _Leaf]]:
    if isinstance(tree, _Leaf):
        yield path, tree
        return
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _walk(value, f"{path}.{key}")


def _convert(value: Any, path: str) -> Any:
    if isinstance(value, torch.Tensor):
        return _leaf(value, path)
    if isinstance(value, np.ndarray):
        return _leaf(_as_tensor(value, path), path, read_only=not value.flags.writeable)
    if isinstance(value, dict):
        return {key: _convert(entry, f"{path}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        container: type[list[Any] | tuple[Any, ...]] = list if isinstance(value, list) else tuple
        return container(_convert(entry, f"{path}.{key}") for key, entry in enumerate(value))
    raise TypeError(
        f"Arrays: {path} is {type(value).__name__}; expected a torch.Tensor, a numpy.ndarray, or a tuple, list or "
        f"dict of them"
    )


def _leaf(tensor: torch.Tensor, path: str, *, read_only: bool = False) -> _Leaf:
    if tensor.dim() == 0:
        raise ValueError(f"Arrays: {path} has no axis (shape ()); expected rows along its first axis")
    tensor = tensor.detach()
    if tensor.is_inference():
        with torch.inference_mode(mode=False):  # autograd refuses what was made in inference mode
            tensor = tensor.clone()
    return _Leaf(tensor, tensor._version, read_only)  # noqa: SLF001


def _as_tensor(array: np.ndarray[Any, Any], path: str) -> torch.Tensor:
    try:
        with warnings.catch_warnings():
            # torch warns of read-only memory; from such an array batches are copied, so nobody can write to it.
            warnings.filterwarnings("ignore", message=".*not writable.*", category=UserWarning)
            return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Arrays: {path} is an array of {array.dtype} with strides {array.strides}, which torch cannot hold "
            f"({error}); expected native numbers or booleans: convert it with numpy.ascontiguousarray(array, dtype)"
        ) from None
