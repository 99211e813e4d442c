"""The figures of a run with the iterations at which they were taken.

What is added waits and is sorted into its series together with others; values that are still on a device are then
fetched all at once, so that the loop does not wait for each. Whoever reads the history gets all of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch

from deeptrain.state.progress import check_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = 1
LATE = 50  # figures of at most so many iterations wait


class Series(NamedTuple):
    """One figure over time.

    Attributes:
        iterations: Completed train iterations when each value was taken; int64, shape (n,).
        values: The values; float64, shape (n,).
    """

    iterations: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float64]]

    def first(self, count: int) -> Series:
        """The first so many values of it."""
        return Series(self.iterations[:count], self.values[:count])


class History:
    """Every figure of a run, by names such as "train.loss" and "val.accuracy".

    Example:
        >>> history = History()
        >>> history.add(1, {"train.loss": 0.5})
        >>> history["train.loss"].values
        array([0.5])
    """

    def __init__(self) -> None:
        self._series: dict[str, tuple[array[int], array[float]]] = {}
        self._waiting: Waiting = []

    def add(self, iteration: int, figures: Mapping[str, float | torch.Tensor], prefix: str = "") -> None:
        """Append one value to each named series.

        Args:
            iteration: Completed train iterations.
            figures: Numbers, or tensors of one element that may be on a device. Not to be changed any more.
            prefix: Put before each name.
        """
        self._waiting.append((iteration, figures, prefix))
        if len(self._waiting) >= LATE:
            self._settle()

    def _settle(self) -> None:
        """Sort what waits into its series. Done by `add` alone, in a commit: it could not be aborted and repeated."""
        waiting, self._waiting = self._waiting, []
        for name, late in _sorted(waiting).items():
            iterations, values = self._series.setdefault(name, (array("q"), array("d")))
            iterations.extend(late[0])
            values.extend(late[1])

    def _tail(self, name: str) -> tuple[list[int], list[float]]:
        """What waits of a series. Reading changes nothing, so that a handler may be aborted in the middle of it."""
        return _sorted(self._waiting).get(name, ([], []))

    def __getitem__(self, name: str) -> Series:
        """The series of that name, as copies.

        Raises:
            KeyError: There is none; the message lists those that there are.
        """
        if name not in self:
            raise KeyError(f"no figure named {name!r} in the history: there are {sorted(self)}")
        return self._from(name, 0, self._tail(name))

    def since(self, counts: Mapping[str, int]) -> dict[str, Series]:
        """What every series has behind so many of its values, as copies, at the cost of that alone.

        Args:
            counts: By name; 0 where there is none.
        """
        late = _sorted(self._waiting)
        return {name: self._from(name, counts.get(name, 0), late.get(name, ([], []))) for name in self}

    def _from(self, name: str, start: int, late: tuple[list[int], list[float]]) -> Series:
        columns = self._series.get(name, _NOTHING)
        waiting = max(0, start - len(columns[0]))  # counted, of what waits
        return Series(
            _column(columns[0][start:], late[0][waiting:], np.int64),
            _column(columns[1][start:], late[1][waiting:], np.float64),
        )

    @property
    def columns(self) -> Mapping[str, tuple[array[int], array[float]]]:
        """The series as far as they are sorted, in which what is added goes on. Not to be changed.

        The same object until a state is loaded: by that one sees whether the history went elsewhere.
        """
        return self._series

    def __repr__(self) -> str:
        shown = ", ".join(f"{name!r}: {len(self[name].values)}" for name in self)
        return f"History({{{shown}}})"

    def __iter__(self) -> Iterator[str]:
        waiting = (prefix + name for _, figures, prefix in self._waiting for name in figures)
        return iter(dict.fromkeys((*self._series, *waiting)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return name in set(self)

    def last(self, name: str) -> float | None:
        """The newest value of a series, or None where there is none."""
        values = self._tail(name)[1] or self._series.get(name, _NOTHING)[1]
        return values[-1] if values else None

    def mean_since(self, name: str, iteration: int, until: float = float("inf")) -> float:
        """The mean of a series over what came after a count of completed iterations; NaN where that is nothing.

        Args:
            name: The series.
            iteration: The count.
            until: Up to which count, itself included.
        """
        iterations, values = self._series.get(name, _NOTHING)
        after = list(values[bisect_right(iterations, iteration) : bisect_right(iterations, until)])
        after += [value for at, value in zip(*self._tail(name), strict=True) if iteration < at <= until]
        return sum(after) / len(after) if after else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """All series as arrays."""
        series = {
            name: {"iterations": s.iterations, "values": s.values} for name, s in self.since({}).items()
        }
        return {"version": VERSION, "series": series}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved series in place of the present ones."""
        check_version("History", state, VERSION)
        series = {
            name: (_array("q", saved["iterations"], np.int64), _array("d", saved["values"], np.float64))
            for name, saved in state["series"].items()
        }
        self._settle()  # whoever has the old columns has all of it
        self._series = series


Waiting: TypeAlias = "list[tuple[int, Mapping[str, float | torch.Tensor], str]]"
_NOTHING: tuple[array[int], array[float]] = (array("q"), array("d"))


def without_series() -> dict[str, Any]:
    """The state of a history whose series are elsewhere."""
    return {"version": VERSION, "series": {}}


def same_series(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether two states of a history are the same bit for bit; at a tenth of the cost of their digests."""
    a, b = one["series"], two["series"]
    if one["version"] != two["version"] or set(a) != set(b):
        return False
    pairs = [(a[name][column], b[name][column]) for name in a for column in ("iterations", "values")]
    return all(x.dtype == y.dtype and np.array_equal(x.view(np.int64), y.view(np.int64)) for x, y in pairs)


def _column(settled: array[Any], late: list[Any], dtype: type[np.generic]) -> np.ndarray[Any, Any]:
    whole = np.array(settled, dtype=dtype)
    return np.concatenate((whole, np.array(late, dtype=dtype))) if late else whole


def _array(code: str, values: Any, dtype: type[np.generic]) -> array[Any]:
    made = array(code)
    made.frombytes(np.ascontiguousarray(values, dtype=dtype).tobytes())
    return made


def _sorted(waiting: Waiting) -> dict[str, tuple[list[int], list[float]]]:
    """What waits by the series' names; of each, values that are on a device are fetched all at once."""
    found: dict[str, tuple[list[int], list[Any]]] = {}
    for at, figures, prefix in waiting:
        for name, value in figures.items():
            iterations, values = found.setdefault(prefix + name, ([], []))
            iterations.append(at)
            values.append(value)
    return {name: (iterations, _fetched(values)) for name, (iterations, values) in found.items()}


def _fetched(values: list[Any]) -> list[float]:
    if {float, int}.issuperset(map(type, values)):
        return values
    return torch.stack([torch.as_tensor(value).reshape(()).double() for value in values]).tolist()
