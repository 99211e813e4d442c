"""`Windows`: cuts the series of a batch along their time axis, and feeds window after window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import torch

from deeptrain.data.batch import describe, map_tensors
from deeptrain.data.grid import Cut, Grid, select_rows
from deeptrain.data.preprocess import Phase, Preprocessor, name_of, whole_number
from deeptrain.data.series import WithLengths, WithMask, pad_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deeptrain.data.batch import Batch

Label: TypeAlias = Literal["series", "windows"]
Short: TypeAlias = Literal["error", "keep", "pad", "drop"]
Tail: TypeAlias = Literal["drop", "overlap", "pad"]


class Windows(Preprocessor):
    """Feeds each batch of series in windows, from the first to the last; each window is an iteration.

    A recurrent model keeps its state from window to window with `Stateful`. Tensors nested in the inputs are all cut
    alike; those without a time axis go into each window as they are. Of `Series` the mask or the lengths are cut too;
    a row whose series ended before a window stays in it, masked, with weight 0.

    Args:
        size: Time steps in a window.
        stride: Time steps from one window's start to the next one's; `size` by default, so that each step is seen once.
            A smaller one lets windows overlap.
        starts: Where the first window begins: `starts[epoch % len(starts)]`. Where that leaves no room for a whole
            window, the last whole one is the first.
        axis: The time axis, counted with the rows' axis, which is 0.
        label: `"series"`: each window has the targets of the whole series. `"windows"`: the targets have the same time
            axis and are cut alike.
        short: What happens with a series of fewer steps than `size`: an `"error"`, or it is one window, as short as it is
            (`"keep"`) or padded (`"pad"`). With `"drop"` its row is left out of the windows, and a batch of short series
            alone is passed over.
        tail: What happens with the steps behind the last whole window: `"drop"`; a window more that ends with the series
            and overlaps the one before (`"overlap"`); or one more that is padded (`"pad"`).
        weights: What the rows' weights are multiplied with, for instance because a label is better founded at a series'
            end: `(first, last)`, rising in a line from the first window to the last, or a function of a window's
            number and their count. A single window has the last's.
        validation_starts: In place of `starts` in validation, where otherwise windows begin at `starts[0]` always.
        pad_target: What targets are padded with, under `label="windows"`, as for `Series`; inputs are padded with zeros.

    Raises:
        ValueError: A setting is out of range.

    Example:
        >>> from deeptrain.data import Arrays, BatchLoader
        >>> batch = BatchLoader(Arrays(torch.zeros(4, 100, 3), torch.zeros(4)), batch_size=4).batch(0, 0)
        >>> windows = Windows(30, tail="overlap")
        >>> windows.count(batch, "train")
        4
        >>> windows.piece(batch, 3, "train").inputs.shape
        torch.Size([4, 30, 3])
    """

    def __init__(
        self,
        size: int,
        stride: int | None = None,
        starts: Sequence[int] = (0,),
        *,
        axis: int = 1,
        label: Label = "series",
        short: Short = "error",
        tail: Tail = "drop",
        weights: tuple[float, float] | Callable[[int, int], float] | None = None,
        validation_starts: Sequence[int] | None = None,
        pad_target: float | None = None,
    ) -> None:
        self.size = whole_number("Windows: size", size, 1)
        self.stride = self.size if stride is None else whole_number("Windows: stride", stride, 1)
        self.starts = _checked_starts("starts", starts)
        self.axis = whole_number("Windows: axis", axis, 1)
        self.label = _one_of("label", label, get_args(Label))
        self.short = _one_of("short", short, get_args(Short))
        self.may_be_empty = self.short == "drop"
        self.tail = _one_of("tail", tail, get_args(Tail))
        self.weights: tuple[float, float] | Callable[[int, int], float] | None = _checked_weights(weights)
        self.validation_starts = (
            self.starts[:1]
            if validation_starts is None
            else _checked_starts("validation_starts", validation_starts)
        )
        self.pad_target = pad_target

    def count(self, batch: Batch, phase: Phase) -> int | None:
        """Count the windows of the batch's longest series; 0 where all are short and dropped.

        Raises:
            ValueError: A series is shorter than a window, and `short` says nothing of it; or the inputs' time axes are
                of different lengths.
        """
        steps = self._steps(batch)
        self._refuse_short(batch, steps)
        return self._grid(int(steps.max()), batch.epoch, phase).windows

    def piece(self, batch: Batch, iteration: int, phase: Phase) -> Batch:
        """Cut a window; its tensors are contiguous and aligned, so that their layout is the same wherever it began.

        Raises:
            ValueError: As of `count`; or the targets have no such time axis, under `label="windows"`.
            IndexError: There are not so many windows.
        """
        steps = self._steps(batch)
        self._refuse_short(batch, steps)
        longest = int(steps.max())
        grid = self._grid(longest, batch.epoch, phase)
        if not 0 <= iteration < grid.windows:
            raise IndexError(self._nothing(batch, iteration, grid.windows, longest))
        cut = Cut(grid.start(iteration), self.size, pad=not (longest < self.size and self.short == "keep"))
        piece = batch.replaced(
            inputs=self._cut_inputs(batch.inputs, cut),
            targets=self._cut_targets(batch, cut),
            weights=self._weigh(batch, steps, cut.start, iteration, grid.windows),
            iteration=iteration,
        )
        return select_rows(piece, steps >= self.size) if self.short == "drop" else piece

    def pieces_in_total(self, row_shape: tuple[int, ...] | None, epoch: int) -> int | None:
        """Count the windows of series that all have as many time steps.

        Raises:
            ValueError: They are shorter than a window, and `short` says nothing of it.
        """
        if row_shape is None or len(row_shape) < self.axis:
            return None
        steps = row_shape[self.axis - 1]
        if steps < self.size and self.short == "error":
            raise ValueError(self._too_long(f"the series have {steps} time steps along axis {self.axis}"))
        return self._grid(steps, epoch, "train").windows

    def settings(self) -> dict[str, Any]:
        """Describe it in plain values."""
        names = ("size", "stride", "axis", "label", "short", "tail", "pad_target")
        return super().settings() | {
            **{name: getattr(self, name) for name in names},
            "starts": list(self.starts),
            "validation_starts": list(self.validation_starts),
            "weights": name_of(self.weights)
            if callable(self.weights)
            else self.weights and list(self.weights),
        }

    def _grid(self, steps: int, epoch: int, phase: Phase) -> Grid:
        if steps < self.size:
            return Grid(0, self.stride, int(self.short != "drop"), None)
        starts = self.starts if phase == "train" else self.validation_starts
        first = min(starts[epoch % len(starts)], steps - self.size)
        whole = (steps - self.size - first) // self.stride + 1
        after = first + whole * self.stride
        end = after - self.stride + self.size
        last = {"drop": None, "overlap": steps - self.size, "pad": after if after < steps else None}[
            self.tail
        ]
        return Grid(first, self.stride, whole, last if end < steps else None)

    def _steps(self, batch: Batch) -> torch.Tensor:
        """Give each row's number of time steps: int64 of shape `(size,)`, on the CPU."""
        inputs = batch.inputs
        if isinstance(inputs, WithLengths):
            return inputs.lengths.cpu()
        if isinstance(inputs, WithMask):
            # Where the last real step is, also if something has hidden steps in between.
            places = torch.arange(1, inputs.mask.shape[1] + 1, device=inputs.mask.device)
            return (inputs.mask * places).amax(dim=1).cpu()
        found: list[int] = []
        map_tensors(inputs, lambda t: found.append(t.shape[self.axis]) if t.dim() > self.axis else None)
        if len(set(found)) != 1:
            raise ValueError(
                f"Windows: found {sorted(set(found)) or 'no'} time steps along axis {self.axis} of the inputs of batch "
                f"{batch.index}, expected one number for all tensors that have such an axis"
            )
        return torch.full((batch.size,), found[0])

    def _refuse_short(self, batch: Batch, steps: torch.Tensor) -> None:
        if self.short != "error" or int(steps.min()) >= self.size:
            return
        row = int(steps.argmin())
        named = "" if batch.table is None else f" ({describe(batch.table.locate(batch.rows[row : row + 1]))})"
        raise ValueError(
            self._too_long(
                f"row {row}{named} of batch {batch.index} in epoch {batch.epoch} has {int(steps[row])} time steps"
            )
        )

    def _too_long(self, found: str) -> str:
        return (
            f"Windows: size={self.size} is longer than a series: {found}; give a smaller size, or short='keep', 'pad' or "
            f"'drop'"
        )

    def _nothing(self, batch: Batch, window: int, count: int, longest: int) -> str:
        if count == 0:
            return (
                f"Windows: batch {batch.index} of epoch {batch.epoch} has no window: its longest series has {longest} time "
                f"steps, size={self.size} and short='drop'; leave such series out of the data: "
                f"Series(..., min_length={self.size})"
            )
        return f"Windows: no window {window} of batch {batch.index}: there are the windows 0 to {count - 1}"

    def _cut_inputs(self, inputs: Any, cut: Cut) -> Any:
        if isinstance(inputs, WithMask):
            return WithMask(cut(inputs.values, self.axis, 0), cut(inputs.mask, 1, 0))
        if isinstance(inputs, WithLengths):
            return WithLengths(
                cut(inputs.values, self.axis, 0), (inputs.lengths - cut.start).clamp(0, self.size)
            )
        return map_tensors(inputs, lambda t: cut(t, self.axis, 0) if t.dim() > self.axis else t)

    def _cut_targets(self, batch: Batch, cut: Cut) -> Any:
        if self.label == "series":
            return batch.targets
        wanted = self._time_in(batch.inputs)

        def cut_one(target: torch.Tensor) -> torch.Tensor:
            if target.dim() <= self.axis or target.shape[self.axis] != wanted:
                raise ValueError(
                    f"Windows: found targets of shape {tuple(target.shape)} in batch {batch.index}, expected {wanted} time "
                    f"steps along axis {self.axis}, as the inputs have; targets of whole series go with label='series'"
                )
            fill = pad_of("Windows", self.pad_target, target.dtype) if cut.adds_to(wanted) else 0
            return cut(target, self.axis, fill)

        return map_tensors(batch.targets, cut_one)

    def _time_in(self, inputs: Any) -> int:
        found: list[int] = []
        map_tensors(inputs, lambda t: found.append(t.shape[self.axis]) if t.dim() > self.axis else None)
        return found[0]

    def _weigh(self, batch: Batch, steps: torch.Tensor, start: int, window: int, count: int) -> Any:
        """Give the rows' weights in a window; None where all are 1."""
        alive = steps > start
        if self.weights is None and bool(alive.all()):
            return batch.weights
        before = torch.ones(batch.size) if batch.weights is None else batch.weights
        return before * self._weight(window, count) * alive.to(before.device)

    def _weight(self, window: int, count: int) -> float:
        if self.weights is None:
            return 1.0
        if callable(self.weights):
            return float(self.weights(window, count))
        first, last = self.weights
        return last if count == 1 else first + (last - first) * window / (count - 1)


def _checked_starts(name: str, starts: Sequence[int]) -> tuple[int, ...]:
    if isinstance(starts, int) or not len(starts):
        raise ValueError(f"Windows: {name}={starts!r}, expected one or more time steps, such as (0,)")
    return tuple(whole_number(f"Windows: {name}", start, 0) for start in starts)


def _checked_weights(weights: Any) -> Any:
    if weights is None or callable(weights):
        return weights
    first, last = map(float, weights)
    if not all(0 <= weight < float("inf") for weight in (first, last)):
        raise ValueError(
            f"Windows: weights={weights!r}, expected two finite numbers from 0 up, the first window's and the last's, or a "
            f"function of a window's number and their count"
        )
    return first, last


def _one_of(name: str, value: Any, choices: Sequence[str]) -> Any:
    if value not in choices:
        raise ValueError(f"Windows: {name}={value!r}, expected one of {', '.join(map(repr, choices))}")
    return value
