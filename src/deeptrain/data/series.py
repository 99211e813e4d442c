"""`Series`: time series of different lengths as a source, padded to the longest of each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch

from deeptrain.data.preprocess import whole_number
from deeptrain.data.source import table_of_contents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeptrain.data.batch import RowIds

Lengths: TypeAlias = Literal["mask", "lengths"] | None
PAD_TARGET = -100  # what torch's losses over classes ignore


class WithMask(NamedTuple):
    """Padded series, and which of their time steps are real.

    Attributes:
        values: Shape `(size, time, ...)`, zeros behind each series' end.
        mask: Booleans of shape `(size, time)`, True where a step is real.
    """

    values: torch.Tensor
    mask: torch.Tensor


class WithLengths(NamedTuple):
    """Padded series, and how many of their time steps are real.

    Attributes:
        values: Shape `(size, time, ...)`, zeros behind each series' end.
        lengths: int64 of shape `(size,)`; in a window that begins behind a series' end 0.
    """

    values: torch.Tensor
    lengths: torch.Tensor


class Series:
    """Series of different lengths, in memory: each is a row, and each batch is padded to its longest series.

    The inputs of a batch are `WithMask(values, mask)`, which unpacks as a pair; or `WithLengths(values, lengths)`; or
    the padded tensor alone. The data is copied when the source is made.

    With `bucket` the series are put in the order of their lengths, and every `bucket` of them are a set; then
    `shuffle="batches"`, or `shuffle="samples"` with `group=1`, makes batches of series of nearly the same length, with
    little padding. Row ids count in that order: `order[batch.rows]` are places in the list that was given.

    Args:
        series: Tensors or arrays of shape `(time, ...)`, alike but for `time`.
        targets: One for each series: a tensor or array of shape `(len(series), ...)`, or a list of numbers. Or one for
            each time step: a list of tensors or arrays, each as long as its series. None for data without targets.
        lengths: How the model is told what is padding: `"mask"`, `"lengths"`, or None for not at all.
        bucket: How many series of like length are a set; None for one set in the order given.
        min_length: Series of fewer time steps are left out; `left_out` says how many.
        pad_target: What targets for each time step are padded with; by default -100 where they are whole numbers, which torch's
            losses over classes ignore. Others need one, as their losses ignore none.

    Attributes:
        order: int64 of shape `(n_rows,)`: each row's place in the list that was given.
        steps: int64 of shape `(n_rows,)`: each row's number of time steps.
        left_out: How many series were shorter than `min_length`.

    Raises:
        ValueError: Series or targets do not fit together, or none is left; the message names the first one.
        TypeError: Something is neither a tensor nor a numeric array.

    Example:
        >>> source = Series([torch.ones(3, 1), torch.ones(2, 1)], targets=[0, 1])
        >>> (values, mask), targets = source.read(np.array([0, 1]))
        >>> values.shape, mask.tolist(), targets.tolist()
        (torch.Size([2, 3, 1]), [[True, True, True], [True, True, False]], [0, 1])
    """

    def __init__(
        self,
        series: Sequence[Any],
        targets: Any = None,
        *,
        lengths: Lengths = "mask",
        bucket: int | None = None,
        min_length: int = 1,
        pad_target: float | None = None,
    ) -> None:
        if lengths is not None and lengths not in get_args(get_args(Lengths)[0]):
            raise ValueError(f"Series: lengths={lengths!r}, expected 'mask', 'lengths' or None")
        self.bucket = None if bucket is None else whole_number("Series: bucket", bucket, 1)
        self.min_length = whole_number("Series: min_length", min_length, 1)
        self.lengths = lengths
        self.pad_target = pad_target
        self._pad: float = 0  # where there is nothing to pad
        tensors = _tensors(series, "series")
        steps = np.array([len(tensor) for tensor in tensors], np.int64)
        _check_steps(steps)
        self.order = self._chosen(steps)
        self.steps = steps[self.order]
        self.left_out = len(steps) - len(self.order)
        self._starts = np.cumsum(self.steps) - self.steps
        self._values = torch.cat([tensors[place] for place in self.order])
        self._targets, self._by_step = self._join_targets(targets, steps)

    @property
    def n_rows(self) -> int:
        """How many series there are."""
        return len(self.order)

    @property
    def set_names(self) -> tuple[str, ...]:
        """`("0", "1", ...)`."""
        return tuple(map(str, range(len(self.set_sizes))))

    @property
    def set_sizes(self) -> tuple[int, ...]:
        """How many series each set has: `bucket`, the last one perhaps fewer."""
        size = self.bucket or self.n_rows
        return tuple(min(size, self.n_rows - start) for start in range(0, self.n_rows, size))

    def describe(self) -> dict[str, Any]:
        """Give the numbers of series and time steps, their types, and how batches are made."""
        told = {} if self._targets is None else {"targets": _spell(self._targets, by_step=self._by_step)}
        return table_of_contents(self.set_names, self.set_sizes) | {
            "inputs": _spell(self._values, by_step=True),
            **told,
            "steps": len(self._values),
            "lengths": self.lengths,
            "bucket": self.bucket,
            "min_length": self.min_length,
            "pad_target": self.pad_target,
        }

    def read(self, rows: RowIds) -> tuple[Any, Any]:
        """Read series, in the order given, in fresh tensors.

        Raises:
            IndexError: A row id is out of range.
        """
        if (outside := (rows < 0) | (rows >= self.n_rows)).any():
            raise IndexError(f"Series: no row {rows[outside][0]}; there are the rows 0 to {self.n_rows - 1}")
        return self._inputs(rows), self._targets_of(rows)

    def _inputs(self, rows: RowIds) -> Any:
        values = self._padded(self._values, rows, 0)
        if self.lengths is None:
            return values
        steps = torch.from_numpy(self.steps[rows])
        if self.lengths == "lengths":
            return WithLengths(values, steps)
        return WithMask(values, torch.arange(values.shape[1]) < steps[:, None])

    def _targets_of(self, rows: RowIds) -> torch.Tensor | None:
        if self._targets is None or not self._by_step:
            return None if self._targets is None else self._targets[torch.from_numpy(rows)]
        return self._padded(self._targets, rows, self._pad)

    def _padded(self, flat: torch.Tensor, rows: RowIds, fill: float) -> torch.Tensor:
        steps = self.steps[rows]
        out = flat.new_full((len(rows), int(steps.max()), *flat.shape[1:]), fill)
        for place, (start, length) in enumerate(
            zip(self._starts[rows].tolist(), steps.tolist(), strict=True)
        ):
            out[place, :length] = flat[start : start + length]
        return out

    def _chosen(self, steps: RowIds) -> RowIds:
        """Choose the series that are long enough, in the order of their lengths where they go into buckets."""
        order = np.arange(len(steps)) if self.bucket is None else np.argsort(steps, kind="stable")
        chosen: RowIds = order[steps[order] >= self.min_length]
        if not len(chosen):
            raise ValueError(
                f"Series: found no series of at least min_length={self.min_length} time steps among {len(steps)}, of which "
                f"the longest has {steps.max(initial=0)}"
            )
        return chosen

    def _join_targets(self, targets: Any, steps: RowIds) -> tuple[torch.Tensor | None, bool]:
        """Put the targets in the rows' order; say whether there is one for each time step."""
        if targets is None:
            return None, False
        if len(targets) != len(steps):
            raise ValueError(
                f"Series: found {len(targets)} targets for {len(steps)} series, expected as many"
            )
        if isinstance(targets, list | tuple) and not isinstance(targets[0], int | float):
            tensors = _tensors(targets, "targets")
            for place, (tensor, length) in enumerate(zip(tensors, steps.tolist(), strict=True)):
                if len(tensor) != length:
                    raise ValueError(
                        f"Series: targets[{place}] has {len(tensor)} time steps and its series {length}, expected as many; "
                        f"targets for whole series are given as one tensor"
                    )
            if len(set(steps.tolist())) > 1:
                self._pad = pad_of("Series", self.pad_target, tensors[0].dtype)
                _check_fits(tensors[0].dtype, self._pad)
            return torch.cat([tensors[place] for place in self.order]), True
        return _tensor(targets, "targets")[torch.from_numpy(self.order)], False


def _tensor(value: Any, path: str) -> torch.Tensor:
    try:
        tensor = value.detach() if isinstance(value, torch.Tensor) else torch.tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Series: {path} is a {type(value).__name__} that torch cannot hold ({error}); expected a tensor or an array "
            f"of native numbers"
        ) from None
    if not tensor.dim():
        raise ValueError(f"Series: {path} has no axis, expected the shape (time, ...)")
    return tensor


def _tensors(values: Sequence[Any], name: str) -> list[torch.Tensor]:
    tensors = [_tensor(value, f"{name}[{place}]") for place, value in enumerate(values)]
    for place, tensor in enumerate(tensors):
        if (tensor.dtype, tensor.shape[1:]) != (tensors[0].dtype, tensors[0].shape[1:]):
            raise ValueError(
                f"Series: {name}[{place}] is {_spell(tensor, by_step=True)} and {name}[0] {_spell(tensors[0], by_step=True)}; "
                f"expected the same type in all, and the same shape but for the time"
            )
    return tensors


def _check_steps(steps: RowIds) -> None:
    if not len(steps):
        raise ValueError("Series: found no series, expected at least one")
    if empty := np.flatnonzero(steps == 0).tolist():
        raise ValueError(
            f"Series: series[{empty[0]}] has no time steps ({len(empty)} have none); leave them out"
        )


def pad_of(what: str, pad_target: float | None, dtype: torch.dtype) -> float:
    """Give what targets of a dtype are padded with.

    Raises:
        ValueError: They are no classes, and nobody has said what to pad them with.
    """
    if pad_target is not None:
        return pad_target
    if dtype.is_floating_point or dtype.is_complex:
        raise ValueError(
            f"{what}: targets of {str(dtype).removeprefix('torch.')} would be padded, and losses over such targets count what "
            f"was added: give pad_target=, and a loss that leaves it out (or weighs by step)"
        )
    return PAD_TARGET


def _check_fits(dtype: torch.dtype, fill: float) -> None:
    if torch.tensor(fill).to(dtype).item() != fill:
        raise ValueError(
            f"Series: pad_target={fill!r} does not fit targets of {str(dtype).removeprefix('torch.')}; give one that does, "
            f"or targets of another type"
        )


def _spell(tensor: torch.Tensor, *, by_step: bool) -> str:
    axes = [*(["*"] if by_step else []), *map(str, tensor.shape[1:])]
    return f"{str(tensor.dtype).removeprefix('torch.')}[{', '.join(axes)}]"
