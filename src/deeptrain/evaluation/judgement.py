"""What a pass has found: `Judged`, the predictions of one loader's rows, and `Judgement`, the figures with them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.batch import map_tensors
from deeptrain.evaluation.gathered import Gathered
from deeptrain.evaluation.measures import measure
from deeptrain.evaluation.metrics.named import resolve_metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from os import PathLike

    import torch

    from deeptrain.data.batch import RowIds, Rows, SetTable


@dataclass(frozen=True)
class JudgedBatch:
    """One batch of a pass.

    Attributes:
        index: Its place in the pass.
        loss: Its loss, the mean of its rows; None where the step gives none.
        sources: The sets and rows that it was made of.
        start: From which row of the pass on its rows are,
        stop: and up to which.
    """

    index: int
    loss: float | None
    sources: tuple[Rows, ...]
    start: int
    stop: int


class Judged:
    """Predictions, targets and identity of the rows of one validation loader, in the order in which they were judged.

    Past the bound of memory they lie in files without a name, and are mapped.

    Args:
        name: The loader's name; "" where it has none.
        memory: How many bytes may be held.
        place: The directory of the files; the system's own for temporary files where it is None.

    Attributes:
        name: The loader's name.
        table: Names the rows' sets; None where there are no names.
    """

    def __init__(self, name: str, memory: int, place: Path | None) -> None:
        self.name = name
        self.table: SetTable | None = None
        self._gathered = Gathered(memory, place)
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._gathered.forget()
        self._indices: list[int] = []
        self._losses: list[float | None] = []
        self._staged: tuple[int, float | None] | None = None
        self._whole: dict[str, Any] | None = None

    def stage(
        self, index: int, pieces: list[dict[str, Any]], loss: float | None, table: SetTable | None
    ) -> None:
        """Take a batch without counting it yet; see `Gathered.stage` for what it may raise."""
        self.table = table
        self._gathered.stage(pieces, sum(len(piece["rows"]) for piece in pieces))
        self._staged = index, loss

    def commit(self) -> None:
        """Count what was staged."""
        assert self._staged is not None
        self._gathered.commit()
        index, loss = self._staged
        self._indices.append(index)
        self._losses.append(loss)
        self._staged = self._whole = None

    def __len__(self) -> int:
        return self._gathered.rows

    def __repr__(self) -> str:
        return f"Judged(rows={len(self)}, batches={len(self._indices)})"

    def _get(self, name: str) -> Any:
        if self._whole is None:
            self._whole = self._gathered.whole()
        return self._whole.get(name)

    @property
    def spilled(self) -> bool:
        """Whether the rows lie in files."""
        return self._gathered.spilled

    @property
    def predictions(self) -> Any:
        """What the model gave: a tensor `(rows, ...)` on the CPU, or tensors nested in tuples, lists, dicts."""
        return self._get("predictions")

    @property
    def targets(self) -> Any:
        """What it should have given, likewise; None where the data has no targets."""
        return self._get("targets")

    def cut(self, part: slice) -> tuple[Any, Any]:
        """Predictions and targets of some of the rows."""
        return tuple(map_tensors(tree, lambda t: t[part]) for tree in (self.predictions, self.targets))

    @property
    def weights(self) -> torch.Tensor | None:
        """What each row counts, `(rows,)`; None where all count alike."""
        found: torch.Tensor | None = self._get("weights")
        return found

    @property
    def rows(self) -> RowIds:
        """The rows' numbers in the loader's source, int64 `(rows,)`."""
        found = self._get("rows")
        return np.zeros(0, np.int64) if found is None else found.numpy()

    @property
    def sets(self) -> list[str]:
        """The name of each row's set; empty where there are no names."""
        return [] if self.table is None else self.table.identify(self.rows)[0]

    @property
    def batches(self) -> list[JudgedBatch]:
        """The batches, in order."""
        return list(self._batches())

    def _batches(self) -> Iterator[JudgedBatch]:
        start, rows = 0, self.rows
        for index, loss, stop in zip(self._indices, self._losses, self._gathered.ends, strict=True):
            known = self.table is not None and stop > start
            sources = self.table.locate(rows[start:stop]) if known and self.table is not None else ()
            yield JudgedBatch(index, loss, sources, start, stop)
            start = stop

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write the rows as a table for other tools. See `write_predictions` for its columns.

        Args:
            path: The file; one that is there is replaced, in one step.

        Raises:
            ValueError: pyarrow is not installed.
            TypeError: Predictions hold something else than tensors.

        Example:
            `trainer.predict(test).to_parquet("predictions.parquet")`
        """
        from deeptrain.evaluation.predictions_file import write_predictions  # noqa: PLC0415 - few write one

        write_predictions(self, Path(path))

    def by_batch(self, metric: str | Callable[..., Any], **settings: Any) -> list[float]:
        """A metric of each batch's rows alone; their mean is not that of the pass.

        Args:
            metric: A name, or a function of `(predictions, targets[, sample_weight, threshold])`.
            settings: `mode` and `form`, as `resolve_metric` takes them (for logits, `form="logits"`); and `threshold`.

        Returns:
            One for each of `batches`; NaN for one without rows.

        Raises:
            ValueError: It cannot be computed for one of them.

        Example:
            `trainer.validate(keep_predictions=True).judged.by_batch("f1", form="logits")`
        """
        threshold = settings.pop("threshold", None)
        made = resolve_metric(metric, **settings)
        weights = self.weights
        found = []
        for batch in self._batches():
            rows = slice(batch.start, batch.stop)
            mine = None if weights is None else weights[rows]
            if batch.start == batch.stop:
                found.append(float("nan"))
            else:
                found.append(measure(made.name, made, *self.cut(rows), weights=mine, threshold=threshold))
        return found

    def worst_batches(
        self, number: int = 5, metric: str | Callable[..., Any] | None = None, **settings: Any
    ) -> list[JudgedBatch]:
        """The batches that were judged worst, the worst first.

        Args:
            number: How many.
            metric: By what, see `by_batch`; by default the loss.
            settings: Those of `by_batch`.

        Returns:
            They; by loss, those whose loss is not finite come before all others. By a metric, those where it is NaN are left out.

        Raises:
            ValueError: It is not known which values of the metric are good.
        """
        if metric is None:
            pairs = [(_height(batch.loss), batch) for batch in self._batches() if batch.loss is not None]
        else:
            mode = settings.get("mode") or resolve_metric(metric).mode
            if mode is None:
                raise ValueError(
                    f"worst_batches: of the function {metric!r} it is not known what is best: give mode='max' or mode='min'"
                )
            sign = -1.0 if mode == "max" else 1.0
            figures = self.by_batch(metric, **settings)
            pairs = [
                (sign * figure, batch)
                for figure, batch in zip(figures, self._batches(), strict=True)
                if not np.isnan(figure)
            ]
        return [batch for _, batch in sorted(pairs, key=lambda pair: pair[0], reverse=True)[:number]]


def _height(loss: float) -> float:
    return loss if np.isfinite(loss) else np.inf


class Judgement(dict[str, float]):
    """The figures of a pass by name, and what they were made of.

    Args:
        figures: They.
        parts: What was judged, by the loader's name.
        found: What was found besides, by the loader's name.

    Attributes:
        found: A threshold, a calibration, a subset, by the loader's name, as the state holds them.
        parts: What was judged, by the loader's name; "" where there is one that has none. Empty where nothing was to be kept.

    Example:
        `trainer.validate(keep_predictions=True).judged.worst_batches()`
    """

    def __init__(
        self,
        figures: Mapping[str, float],
        parts: Mapping[str, Judged],
        found: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(figures)
        self.parts, self.found = dict(parts), dict(found or {})

    @property
    def judged(self) -> Judged:
        """What was judged, of the only loader.

        Raises:
            ValueError: There are several, or nothing was kept.
        """
        if len(self.parts) == 1:
            return next(iter(self.parts.values()))
        if self.parts:
            raise ValueError(
                f"there are several validation loaders: take parts[name] of one of {list(self.parts)}"
            )
        raise ValueError("nothing was kept: ask with trainer.validate(keep_predictions=True)")
