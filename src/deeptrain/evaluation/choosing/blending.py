"""The models' predictions side by side, their weighted mean, and one greedy selection among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.checks import at_least
from deeptrain.evaluation.metrics.decisions import probabilities_of
from deeptrain.evaluation.metrics.reading import array_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from deeptrain.evaluation.metrics.reading import Floats

WHO = "select_ensemble"


@dataclass(frozen=True)
class How:
    """How ensembles are selected.

    Attributes:
        start: With how many of the best models, at most, an ensemble begins.
        rounds: How many models are added, one by one.
        bags: Over how many ensembles, each of a random part of the models, weights are averaged.
        share: How large that part is.
        seed: What the parts and the folds are drawn from.
    """

    start: int = 5
    rounds: int = 20
    bags: int = 10
    share: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(1, f"{WHO}: start", self.start)
        at_least(0, f"{WHO}: rounds", self.rounds)
        at_least(1, f"{WHO}: bags", self.bags)
        at_least(0, f"{WHO}: seed", self.seed)
        if not 0 < self.share <= 1:
            raise ValueError(f"{WHO}: share: found {self.share!r}, expected a number above 0, up to 1")


@dataclass(frozen=True)
class Library:
    """Predictions of several models for the same rows, in the models' own types.

    Attributes:
        names: The models' names.
        arrays: The predictions of each, `(n, ...)`.
    """

    names: list[str]
    arrays: list[NDArray[Any]]

    @classmethod
    def of(
        cls, who: str, predictions: Mapping[str, Any], *, logits: bool, rows: int | None = None
    ) -> Library:
        """Read predictions; logits become probabilities.

        Raises:
            ValueError: There are none, or their shapes differ, or the number of rows is another one.
            TypeError: They are classes, not fractions.
        """
        if not predictions:
            raise ValueError(f"{who}: found no predictions, expected those of at least one model, by name")
        arrays = {name: array_of(each) for name, each in predictions.items()}
        first = next(iter(arrays.values())).shape
        for name, array in arrays.items():
            if array.dtype.kind != "f":
                raise TypeError(
                    f"{who}: found predictions of {name!r} of type {array.dtype}, of which there is no mean; expected "
                    "probabilities, logits or other numbers with fractions"
                )
            if array.shape != first or (rows is not None and array.shape[:1] != (rows,)):
                raise ValueError(
                    f"{who}: found predictions of {name!r} of shape {array.shape}, expected "
                    f"{first if rows is None else (rows, *first[1:])}, as the others' and the targets'"
                )
        return cls(list(arrays), [probabilities_of(each) if logits else each for each in arrays.values()])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of each model's predictions."""
        return self.arrays[0].shape

    def at(self, rows: NDArray[Any]) -> Library:
        """The predictions of some rows."""
        return Library(self.names, [each[rows] for each in self.arrays])

    def alone(self, model: int) -> Floats:
        """The predictions of one model."""
        result: Floats = self.arrays[model].astype(np.float64)
        return result

    def mean(self, weights: Floats) -> Floats:
        """The mean of the models' predictions by these weights, which sum to 1."""
        total = np.zeros(self.shape)
        for array, weight in zip(self.arrays, weights.tolist(), strict=True):
            if weight:
                total += weight * array.astype(np.float64)
        return _bounded(total, self.arrays)


def _bounded(mean: Floats, arrays: list[NDArray[Any]]) -> Floats:
    """Hold a mean of probabilities at 1, which rounding may exceed."""
    over = (mean > 1) & (mean < 1 + 1e-9)
    if over.any() and max(each.max() for each in arrays) <= 1:
        mean[over] = 1.0
    return mean


def selected(
    library: Library,
    among: NDArray[np.int64],
    alone: Floats,
    score: Callable[[Floats], float],
    how: How,
) -> Floats:
    """Select greedily, with replacement, among some of the models.

    Args:
        library: The predictions.
        among: The models that may be taken.
        alone: Each model's own score; more is better.
        score: The score of a mean; more is better.
        how: With how many it begins at most, and how many are added, one by one.

    Returns:
        Each model's weight, `(models,)`, in the best ensemble on the way; of equal ones the first.
    """
    known: dict[tuple[int, ...], float] = {}

    def of(counts: NDArray[np.int64]) -> float:
        key = tuple(counts.tolist())
        if key not in known:
            known[key] = score(library.mean(counts / counts.sum()))
        return known[key]

    counts = _begun(among, alone, of, how.start)
    best, most = counts, of(counts)
    for _ in range(how.rounds):
        tried = [counts + np.eye(len(alone), dtype=np.int64)[model] for model in among]
        counts = tried[int(np.argmax([of(each) for each in tried]))]
        if of(counts) > most:
            best, most = counts, of(counts)
    weights: Floats = best / best.sum()
    return weights


def _begun(
    among: NDArray[np.int64], alone: Floats, of: Callable[[NDArray[np.int64]], float], start: int
) -> NDArray[np.int64]:
    """As many of the best models as score best together, at most `start`."""
    order = among[np.argsort(-alone[among], kind="stable")]
    begun = [np.bincount(order[:size], minlength=len(alone)) for size in range(1, min(start, len(order)) + 1)]
    return begun[int(np.argmax([of(each) for each in begun]))]
