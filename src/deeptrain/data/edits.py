"""Edits of an order: rows skipped, excluded or served again, another batch size; what `Plan` takes and records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from deeptrain.data.checks import at_least

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deeptrain.data.batch import RowIds

Numbers: TypeAlias = "Sequence[int] | RowIds"


@dataclass(frozen=True, kw_only=True)
class _Named:
    """An edit that names rows: by their sets, one by one, or both.

    Attributes:
        sets: Indices of sets, all of whose rows are meant.
        rows: Row ids.
    """

    kind: ClassVar[str]

    sets: Numbers = ()
    rows: Numbers = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sets", _numbers(f"{type(self).__name__}(sets=)", self.sets))
        object.__setattr__(self, "rows", _numbers(f"{type(self).__name__}(rows=)", self.rows))
        if not self._named():
            raise ValueError(f"{type(self).__name__}: found nothing in it, expected {self._expected()}")

    def _named(self) -> bool:
        return bool(self.sets or self.rows)

    def _expected(self) -> str:
        return "sets or rows"

    def as_plain(self) -> dict[str, Any]:
        """Give the edit as a dict of plain values; `from_plain` is the way back."""
        plain: dict[str, Any] = {"kind": self.kind}
        if self.sets:
            plain["sets"] = list(self.sets)
        if self.rows:
            plain["rows"] = list(self.rows)
        return plain


@dataclass(frozen=True, kw_only=True)
class _NamedOrCounted(_Named):
    """An edit that names rows, or counts batches from where it is made.

    Attributes:
        batches: How many batches; None where rows are named.
    """

    batches: int | None = None

    def __post_init__(self) -> None:
        name = f"{type(self).__name__}(batches=)"
        if self.batches is not None:
            object.__setattr__(self, "batches", at_least(1, name, self.batches))
        super().__post_init__()

    def _named(self) -> bool:
        if self.batches is not None and super()._named():
            raise ValueError(
                f"{type(self).__name__}: found batches together with sets or rows, expected one of the two; make two edits"
            )
        return self.batches is not None or super()._named()

    def _expected(self) -> str:
        return "sets, rows or batches"

    def as_plain(self) -> dict[str, Any]:
        """Give the edit as a dict of plain values; `from_plain` is the way back."""
        return super().as_plain() | ({} if self.batches is None else {"batches": self.batches})


class Skip(_NamedOrCounted):
    """Does not serve some rows in the rest of this epoch; the later epochs serve them as ever.

    Args:
        sets: Indices of sets, all of whose rows are skipped.
        rows: Row ids to skip. What of these was served already is as it was.
        batches: Instead of rows: skip the next so many batches.

    Raises:
        ValueError: Nothing is named, batches together with rows, or a number is out of range.
        TypeError: A number is not whole.

    Example:
        >>> Skip(batches=2).as_plain()
        {'kind': 'skip', 'batches': 2}
    """

    kind = "skip"


class Exclude(_Named):
    """Does not serve some rows from here on, in this and all later epochs.

    Args:
        sets: Indices of sets, all of whose rows are excluded.
        rows: Row ids to exclude.

    Raises:
        ValueError: Nothing is named, or a number is below 0.
        TypeError: A number is not whole.

    Example:
        >>> Exclude(sets=[3], rows=[17, 20]).as_plain()
        {'kind': 'exclude', 'sets': [3], 'rows': [17, 20]}
    """

    kind = "exclude"


class Repeat(_NamedOrCounted):
    """Serves some rows next, in batches of the present size; then the order goes on where it was.

    A last batch of theirs that is short is kept, or, where the order pads, padded from their beginning. Excluded rows
    are left out.

    Args:
        sets: Indices of sets, all of whose rows are served, in the order given.
        rows: Row ids to serve after these, in the order given; one may come several times.
        batches: Instead of rows: those of the last so many batches, of earlier epochs too, without what padded them.

    Raises:
        ValueError: Nothing is named, batches together with rows, or a number is out of range.
        TypeError: A number is not whole.

    Example:
        >>> Repeat(rows=[5, 5, 2]).as_plain()
        {'kind': 'repeat', 'rows': [5, 5, 2]}
    """

    kind = "repeat"


@dataclass(frozen=True)
class BatchSize:
    """Cuts batches of another size from here on, in the later epochs too.

    Args:
        n: Rows in a batch, at least 1.

    Raises:
        ValueError: The number is below 1.
        TypeError: It is not whole.

    Example:
        >>> BatchSize(32).as_plain()
        {'kind': 'batch_size', 'n': 32}
    """

    kind: ClassVar[str] = "batch_size"

    n: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", at_least(1, "BatchSize(n)", self.n))

    def as_plain(self) -> dict[str, Any]:
        """Give the edit as a dict of plain values; `from_plain` is the way back."""
        return {"kind": self.kind, "n": self.n}


Edit: TypeAlias = Skip | Exclude | Repeat | BatchSize

_KINDS: dict[str, tuple[type[Edit], frozenset[str]]] = {
    "skip": (Skip, frozenset({"sets", "rows", "batches"})),
    "exclude": (Exclude, frozenset({"sets", "rows"})),
    "repeat": (Repeat, frozenset({"sets", "rows", "batches"})),
    "batch_size": (BatchSize, frozenset({"n"})),
}


def from_plain(plain: Mapping[str, Any]) -> Edit:
    """Make an edit from what its `as_plain` gave.

    Raises:
        ValueError: It is of no known kind, or has other entries than this kind has.
        TypeError: A number is not whole.

    Example:
        >>> from_plain({"kind": "batch_size", "n": 32})
        BatchSize(n=32)
    """
    fields = dict(plain)
    kind = fields.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"edit: found kind {kind!r}, expected one of {', '.join(map(repr, _KINDS))}")
    cls, known = _KINDS[kind]
    if unknown := fields.keys() - known:
        raise ValueError(f"edit {kind!r}: found {sorted(map(str, unknown))}, expected only {sorted(known)}")
    if cls is BatchSize and "n" not in fields:
        raise ValueError(f"edit {kind!r}: found no 'n' in it, expected the rows in a batch")
    return cls(**fields)


def _numbers(name: str, values: Any) -> tuple[int, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: found {values!r}, expected a list of whole numbers")
    # An array may be long, and its numbers are of one kind: one look at the least is enough.
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "iu" and values.size:
        at_least(0, name, values.min())
        return tuple(values.tolist())
    return tuple(at_least(0, name, value) for value in values)
