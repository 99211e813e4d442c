"""`Gathered`: what a pass has found of its rows, on the CPU within a bound of memory, past it in files that nobody else sees."""

from __future__ import annotations

import os
import tempfile
import weakref
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.data.batch import map_tensors

if TYPE_CHECKING:
    from pathlib import Path


class Gathered:
    """Named trees of tensors, of each batch, whose leaves are joined along their first axis; what holds no tensor becomes a list.

    What a batch adds is staged first, which may fail, and counts from `commit` on, which cannot. The files have no name, so that a
    process that dies leaves nothing behind.

    Args:
        most: How many bytes may be held in memory, with the joined whole; past it leaves go to files.
        place: The directory of the files; the system's own for temporary files where it is None.

    Attributes:
        ends: Up to which row each of the batches goes.
    """

    def __init__(self, most: int, place: Path | None = None) -> None:
        self._most, self._place = most // 2, place  # the other half is for the whole
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.ends: list[int] = []
        self._first: dict[str, Any] = {}
        self._columns: list[_Column] = []
        self._others: dict[str, list[Any]] = {}  # what joins no other: an object of one's own
        self._staged: tuple[list[dict[str, Any]], list[list[torch.Tensor]], int] | None = None

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return self.ends[-1] if self.ends else 0

    @property
    def spilled(self) -> bool:
        """Whether they are in files, or on the way there."""
        return any(column.spilled for column in self._columns)

    def stage(self, pieces: list[dict[str, Any]], rows: int) -> None:
        """Take a batch, on the CPU, without counting it yet.

        Args:
            pieces: Its pieces; of each by name tensors `(rows, ...)`, nested in tuples, lists and dicts as in those before.
            rows: How many rows they have together.

        Raises:
            ValueError: It does not go together with those before.
            OSError: A file could not be written.
        """
        leaves = [leaves_of(piece) for piece in pieces]
        if not self._columns and leaves:
            self._columns = [_Column() for _ in leaves[0]]
        for each in leaves:
            self._see(each)
        size = sum(leaf.nbytes for each in leaves for leaf in each)
        if self.spilled or sum(column.nbytes for column in self._columns) + size > self._most:
            for number, column in enumerate(self._columns):
                column.spill(self._place)
                column.write([each[number] for each in leaves])
        self._staged = pieces, leaves, rows

    def _see(self, leaves: list[torch.Tensor]) -> None:
        if len(leaves) != len(self._columns):
            raise ValueError(
                f"the batches of the validation gave {len(self._columns)} and {len(leaves)} tensors, which cannot be joined into one pass: "
                "give the same ones of each batch"
            )
        for column, leaf in zip(self._columns, leaves, strict=True):
            column.see(leaf)

    def commit(self) -> None:
        """Count what was staged."""
        assert self._staged is not None
        (pieces, leaves, rows), self._staged = self._staged, None
        for piece in pieces:
            self._first = self._first or piece
            for name, part in piece.items():
                if part is not None and not leaves_of(part):
                    self._others.setdefault(name, []).append(part)
        for each in leaves:
            for column, leaf in zip(self._columns, each, strict=True):
                column.take(leaf)
        self.ends.append(self.rows + rows)

    def whole(self) -> dict[str, Any]:
        """All rows, as one tree a name; those in files are mapped and not read."""
        columns = iter(self._columns)
        whole: dict[str, Any] = map_tensors(self._first, lambda _: next(columns).whole())
        return whole | self._others


def leaves_of(tree: Any) -> list[torch.Tensor]:
    """A tree's tensors, in the order of `map_tensors`."""
    found: list[torch.Tensor] = []

    def note(leaf: torch.Tensor) -> torch.Tensor:
        found.append(leaf)
        return leaf

    map_tensors(tree, note)
    return found


class _Column:
    """One leaf of all batches; in memory, or in a file.

    Attributes:
        nbytes: Its size so far.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._like: torch.Tensor | None = None
        self._held: (
            list[torch.Tensor] | IO[bytes]
        ) = []  # one name, so that an interrupt leaves one or the other

    @property
    def spilled(self) -> bool:
        """Whether it is in a file."""
        return not isinstance(self._held, list)

    def see(self, leaf: torch.Tensor) -> None:
        """See that a leaf goes with those before."""
        like = self._like if self._like is not None else leaf
        if leaf.dim() == 0 or leaf.shape[1:] != like.shape[1:] or leaf.dtype is not like.dtype:
            raise ValueError(
                f"the batches of the validation gave rows of {_told(like)} and {_told(leaf)}, which cannot be joined into one pass: pad all "
                "series to one length, or give each one prediction and target"
            )

    def spill(self, place: Path | None) -> None:
        """Move what there is to a file, if it is not there yet."""
        if isinstance(self._held, list):
            file = tempfile.TemporaryFile(dir=place, prefix="deeptrain-validation-")  # noqa: SIM115 - it is for the pass
            weakref.finalize(self, file.close)  # maps of it stay
            _write(file, 0, self._held)
            self._held = file

    def write(self, leaves: list[torch.Tensor]) -> None:
        """Write leaves behind what counts, over those that were staged before and did not come to count."""
        assert not isinstance(self._held, list)
        _write(self._held, self.nbytes, leaves)

    def take(self, leaf: torch.Tensor) -> None:
        """Count a leaf; one of a file is there already."""
        self._like = leaf[:0].clone() if self._like is None else self._like
        self.nbytes += leaf.nbytes
        if isinstance(self._held, list):
            self._held.append(leaf)

    def whole(self) -> torch.Tensor:
        """All of it."""
        if isinstance(self._held, list):
            return torch.cat(self._held)
        like = self._like
        assert like is not None
        if not self.nbytes:
            return like
        kind = _as_numpy(like).dtype
        flat = np.memmap(self._held, dtype=kind, mode="c", shape=(self.nbytes // kind.itemsize,))
        return torch.from_numpy(flat).view(like.dtype).reshape(-1, *like.shape[1:])


def _write(file: IO[bytes], at: int, leaves: list[torch.Tensor]) -> None:
    for leaf in leaves:
        data = memoryview(_as_numpy(leaf).tobytes())
        while data:
            written = os.pwrite(file.fileno(), data, at)
            data, at = data[written:], at + written


def _as_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor's bytes in a type that NumPy has."""
    tensor = tensor.contiguous()
    return (tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor).numpy()


def _told(tensor: torch.Tensor) -> str:
    return f"shape {tuple(tensor.shape[1:])} in {tensor.dtype}".replace("torch.", "")
