"""How subsets of batches are scored in a search: from what adds up, or on the rows themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from deeptrain.evaluation.metrics.named import Metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deeptrain.evaluation.choosing.scoring import Scoring
    from deeptrain.evaluation.metrics.reading import Floats


class Candidates(Protocol):
    """Batches by number, of which subsets are scored."""

    @property
    def count(self) -> int:
        """How many there are."""

    def extended(self, chosen: list[int], more: NDArray[np.int64]) -> Floats:
        """The scores of the chosen ones with each one of `more`; more is better, `(len(more),)`."""

    def figure(self, chosen: Sequence[int], threshold: float | None = None) -> tuple[float, float | None]:
        """The metric over the chosen ones, and its threshold: this one, where it is given."""


@dataclass(frozen=True)
class ByRows:
    """Each subset is scored on its rows."""

    scoring: Scoring
    groups: list[NDArray[np.int64]]
    predictions: NDArray[Any]
    targets: NDArray[Any]
    weights: NDArray[Any] | None

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.groups)

    def rows(self, chosen: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
        """Predictions, targets and weights of the chosen ones, the rows in their order."""
        rows = np.sort(np.concatenate([self.groups[each] for each in chosen]))
        return (
            self.predictions[rows],
            self.targets[rows],
            None if self.weights is None else self.weights[rows],
        )

    def extended(self, chosen: list[int], more: NDArray[np.int64]) -> Floats:
        """Score each."""
        return self.scoring.oriented([self.figure([*chosen, each])[0] for each in more.tolist()])

    def figure(self, chosen: Sequence[int], threshold: float | None = None) -> tuple[float, float | None]:
        """The metric over the rows of the chosen ones."""
        rows = self.rows(chosen)
        try:
            if threshold is None:
                return self.scoring.score(*rows)
            return self.scoring.metric(*rows, threshold), threshold
        except Exception as error:
            error.add_note(f"raised over the batches {sorted(chosen)} of {self.count}, by number")
            raise


@dataclass(frozen=True)
class ByTallies:
    """Each subset is scored from the sum of its batches' tallies, `(batches, ...)`."""

    rows: ByRows
    tallies: Floats

    @classmethod
    def of(cls, rows: ByRows) -> ByTallies:
        """Tally all batches in one reading."""
        metric, threshold = rows.scoring.metric, rows.scoring.threshold
        assert isinstance(metric, Metric)
        assert not callable(threshold)
        numbers = np.empty(len(rows.targets), dtype=np.int64)
        for number, group in enumerate(rows.groups):
            numbers[group] = number
        return cls(rows, metric.tallies(rows.predictions, rows.targets, numbers, rows.weights, threshold))

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.tallies)

    def extended(self, chosen: list[int], more: NDArray[np.int64]) -> Floats:
        """Score all at once."""
        scoring = self.rows.scoring
        assert isinstance(scoring.metric, Metric)
        sums = self.tallies[chosen].sum(axis=0) + self.tallies[more]
        return scoring.oriented(scoring.metric.of_tallies(sums))

    def figure(self, chosen: Sequence[int], threshold: float | None = None) -> tuple[float, float | None]:
        """The metric over the rows of the chosen ones."""
        return self.rows.figure(chosen, threshold)


@dataclass(frozen=True)
class Means:
    """Each subset's score is the quotient of its batches' sums: `parts` over `weights`, `(batches,)` each."""

    scoring: Scoring
    parts: Floats
    weights: Floats

    @classmethod
    def of(cls, rows: ByRows, *, by_batches: bool) -> Means:
        """From each batch's own figure, each counting as one, or as much as its rows do."""
        figures = np.array([rows.figure([each])[0] for each in range(rows.count)])
        if by_batches:
            weights = np.ones(rows.count)
        else:
            weights = np.array(
                [len(group) if rows.weights is None else rows.weights[group].sum() for group in rows.groups],
                dtype=np.float64,
            )
        return cls(rows.scoring, figures * weights, weights)

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.parts)

    def oriented_parts(self) -> Floats:
        """The parts so that more is better; those of a batch whose figure is NaN as less than any."""
        return self.scoring.oriented(self.parts)

    def extended(self, chosen: list[int], more: NDArray[np.int64]) -> Floats:
        """Score all at once."""
        parts = self.parts[chosen].sum() + self.parts[more]
        return self.scoring.oriented(parts / (self.weights[chosen].sum() + self.weights[more]))

    def figure(self, chosen: Sequence[int], threshold: float | None = None) -> tuple[float, float | None]:
        """The mean over the chosen ones."""
        given = self.scoring.threshold
        kept = threshold if callable(given) else given
        index = list(chosen)
        return float(self.parts[index].sum() / self.weights[index].sum()), kept
