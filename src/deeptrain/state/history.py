"""The figures of a run with the iterations at which they were taken.

A value that is still on a device is kept there and fetched later together with others, so that the loop does
not wait for it; whoever reads the history gets all of them.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from deeptrain.state.progress import check_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VERSION = 1
LATE = 50  # figures of at most so many iterations wait on a device


class Series(NamedTuple):
    """One figure over time.

    Attributes:
        iterations: Completed train iterations when each value was taken; int64, shape (n,).
        values: The values; float64, shape (n,).
    """

    iterations: np.ndarray[Any, np.dtype[np.int64]]
    values: np.ndarray[Any, np.dtype[np.float64]]


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
        self._late: list[tuple[array[float], int, torch.Tensor]] = []

    def add(self, iteration: int, figures: Mapping[str, float | torch.Tensor], prefix: str = "") -> None:
        """Append one value to each named series.

        Args:
            iteration: Completed train iterations.
            figures: Numbers, or tensors of one element that may be on a device.
            prefix: Put before each name.
        """
        for name, value in figures.items():
            series = self._series.get(prefix + name)
            if series is None:
                series = self._series[prefix + name] = (array("q"), array("d"))
            series[0].append(iteration)
            if type(value) is not float and isinstance(value, torch.Tensor):
                self._late.append((series[1], len(series[1]), value))
                series[1].append(float("nan"))
            else:
                series[1].append(value)
        if len(self._late) >= LATE:
            self.settle()

    def settle(self) -> None:
        """Fetch the values that still wait on a device, all at once."""
        if not self._late:
            return
        late, self._late = self._late, []
        values = torch.stack([tensor.reshape(()).double() for *_, tensor in late]).tolist()
        for (series, index, _), value in zip(late, values, strict=True):
            series[index] = value

    def __getitem__(self, name: str) -> Series:
        """The series of that name, as copies.

        Raises:
            KeyError: There is none; the message lists those that there are.
        """
        self.settle()
        if name not in self._series:
            raise KeyError(f"no figure named {name!r} in the history: there are {sorted(self._series)}")
        iterations, values = self._series[name]
        return Series(np.array(iterations, dtype=np.int64), np.array(values, dtype=np.float64))

    def __repr__(self) -> str:
        shown = ", ".join(f"{name!r}: {len(series[1])}" for name, series in self._series.items())
        return f"History({{{shown}}})"

    def __iter__(self) -> Iterator[str]:
        return iter(self._series)

    def __len__(self) -> int:
        return len(self._series)

    def __contains__(self, name: object) -> bool:
        return name in self._series

    def last(self, name: str) -> float | None:
        """The newest value of a series, or None where there is none."""
        self.settle()
        return self._series[name][1][-1] if name in self._series else None

    def mean_since(self, name: str, iteration: int) -> float:
        """The mean of a series over what came after a count of completed iterations; NaN where that is nothing."""
        self.settle()
        iterations, values = self._series.get(name, (array("q"), array("d")))
        start = bisect_right(iterations, iteration)
        return sum(values[start:]) / (len(values) - start) if start < len(values) else float("nan")

    def state_dict(self) -> dict[str, Any]:
        """All series as arrays."""
        series = {
            name: {"iterations": s.iterations, "values": s.values} for name in self if (s := self[name])
        }
        return {"version": VERSION, "series": series}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved series in place of the present ones."""
        check_version("History", state, VERSION)
        self._late = []
        self._series = {
            name: (array("q", saved["iterations"].tolist()), array("d", saved["values"].tolist()))
            for name, saved in state["series"].items()
        }
