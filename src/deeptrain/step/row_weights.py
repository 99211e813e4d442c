"""`RowWeights`: how much each row of a batch counts in the loss, by its class and by a function of one's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch

from deeptrain.data.batch import describe
from deeptrain.step.labels import classes_of, every_label

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.data.batch import Batch
    from deeptrain.data.feed import Feed

ClassWeights: TypeAlias = "Mapping[int, float] | Literal['balanced'] | None"
SampleWeight: TypeAlias = "Callable[[Batch], Any] | None"


@runtime_checkable
class CountsLabels(Protocol):
    """A step whose weights may be counted from the labels of the train loader; a trainer lets it do so when it is made."""

    def count_labels(self, feed: Feed) -> None:
        """Count, where something is to be counted."""


@runtime_checkable
class WeighsPasses(Protocol):
    """A step that gives a weighted loss over a whole validation pass.

    Attributes:
        ignored_class: The label that its loss leaves out, if there is one.
    """

    @property
    def ignored_class(self) -> int | None:
        """See above."""

    def weighted_loss_over(self, predictions: Any, targets: Any, weights: torch.Tensor) -> float:
        """The loss, each row's share in it multiplied by its weight of shape `(rows,)`."""


class RowWeights:
    """Weighs the rows of batches: the batch's own weights, times its class's, times what a function gives.

    Args:
        class_weights: A weight for each class, `{0: 3, 1: 1}`; or `"balanced"` for `rows / (classes * rows of the class)`,
            counted from the labels of the whole source by `counted`. A row's class is its class label, or its target
            where there are no class labels: a whole number, 0 or 1 where labels are binary, or the 1 in a one-hot row.
        sample_weight: A function of a `Batch` that gives weights of shape `(size,)`: a tensor, an array or a list. It
            must depend on the batch and the random streams alone, or a continued run may weigh otherwise.

    Raises:
        ValueError: A weight is negative or not finite, or there are none.
        TypeError: They are neither of these.

    Example:
        >>> batch = BatchLoader(Arrays(torch.rand(3, 2), torch.tensor([0, 1, 0])), batch_size=3).batch(0, 0)
        >>> RowWeights({0: 3, 1: 1}, lambda batch: [1, 2, 1]).of(batch)
        tensor([3., 2., 3.])
    """

    def __init__(self, class_weights: ClassWeights = None, sample_weight: SampleWeight = None) -> None:
        if sample_weight is not None and not callable(sample_weight):
            raise TypeError(
                f"sample_weight={_short(sample_weight)}: expected a function of a batch that gives a weight for each row; for "
                "weights in an array write lambda batch: weights[batch.rows]"
            )
        self.is_balanced = isinstance(class_weights, str)
        self.by_class = None if class_weights is None or self.is_balanced else _checked(class_weights)
        if self.is_balanced and class_weights != "balanced":
            raise ValueError(
                f"class_weights={class_weights!r}: expected 'balanced', or weights such as {{0: 3, 1: 1}}"
            )
        self.sample_weight = sample_weight
        self._table = None if self.by_class is None else _table(self.by_class)

    def __bool__(self) -> bool:
        """Whether anything is weighed beside what batches bring with them."""
        return self.is_balanced or self.by_class is not None or self.sample_weight is not None

    def __repr__(self) -> str:
        return f"RowWeights({self.settings()})"

    def counted(self, *feeds: Feed, ignored: int | None = None) -> RowWeights:
        """Give these weights with the classes of the loaders' sources counted, where they are to be balanced.

        All rows of the source count, once each, however the order of the loader is edited.

        Args:
            feeds: The loaders.
            ignored: The label that the loss leaves out.

        Raises:
            TypeError: The loader is one that can only be gone through.
            ValueError: The labels are no classes.
        """
        if not self.is_balanced:
            return self
        found: dict[int, int] = {}
        for labels in chain.from_iterable(map(every_label, feeds)):
            values, counts = torch.unique(classes_of(labels), return_counts=True)
            for value, count in zip(values.tolist(), counts.tolist(), strict=True):
                found[value] = found.get(value, 0) + count
        found.pop(ignored, None)  # type: ignore[arg-type]
        rows = sum(found.values())
        balanced = {value: rows / (len(found) * count) for value, count in sorted(found.items())}
        made = RowWeights(balanced, self.sample_weight)
        made.is_balanced = True  # another loader is counted anew
        return made

    def of(self, batch: Batch, ignored: int | None = None) -> torch.Tensor | None:
        """Give each row's weight in the loss.

        Args:
            batch: The batch, on whatever device.
            ignored: The label that the loss leaves out; such rows need no weight for their class.

        Returns:
            A tensor of shape `(size,)`; None where all rows count alike.

        Raises:
            ValueError: A class has no weight, labels are no classes, or the function gave something else than weights.
        """
        weights: torch.Tensor | None = batch.weights
        if self._table is not None:
            weights = _times(weights, self._of_classes(batch, self._table, ignored))
        elif self.is_balanced:
            raise ValueError(
                "class_weights='balanced' were not counted yet: a trainer does that when it is made; elsewhere call "
                "step.count_labels(loader)"
            )
        if self.sample_weight is not None:
            weights = _times(weights, _given(self.sample_weight(batch), batch))
        return weights

    def settings(self) -> dict[str, Any]:
        """Plain values that describe it, for a run's fingerprint; nothing where nothing is weighed."""
        made: dict[str, Any] = {}
        if self.by_class is not None:
            made["class_weights"] = {str(key): value for key, value in self.by_class.items()}
        elif self.is_balanced:
            made["class_weights"] = "balanced"
        if (fn := self.sample_weight) is not None:
            made["sample_weight"] = getattr(fn, "__qualname__", type(fn).__qualname__)
        return made

    def _of_classes(
        self, batch: Batch, table: tuple[torch.Tensor, torch.Tensor], ignored: int | None
    ) -> torch.Tensor:
        labels = batch.targets if batch.class_labels is None else batch.class_labels
        found = classes_of(labels)
        if len(found) != batch.size:
            raise ValueError(f"found {len(found)} labels in {_named(batch)}, expected one for each row")
        classes, weights = (part.to(found.device) for part in table)
        places = torch.searchsorted(classes, found).clamp_(max=len(classes) - 1)
        known = classes[places] == found
        if ignored is not None:
            known |= found == ignored
        if not bool(known.all()):
            row = int(known.to(torch.uint8).argmin())
            raise ValueError(
                f"class {int(found[row])} has no weight: row {row} of {_named(batch)} is of it, and class_weights has "
                f"{classes.tolist()}; give each class its weight, or class_weights='balanced'"
            )
        return weights[places]


def _checked(weights: Any) -> dict[int, float]:
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"class_weights={_short(weights)}: expected weights by class, such as {{0: 3, 1: 1}}, or 'balanced'"
        )
    if not weights:
        raise ValueError("class_weights={}: expected a weight for each class")
    made = {}
    for key, value in weights.items():
        if isinstance(key, bool) or not isinstance(key, int | np.integer):
            raise TypeError(f"class_weights has the class {key!r}, expected whole numbers, as the labels are")
        made[int(key)] = float(value)
        if not 0 <= made[int(key)] < math.inf:
            raise ValueError(
                f"class_weights has {value!r} for class {key}, expected finite numbers from 0 up"
            )
    return dict(sorted(made.items()))


def _table(weights: dict[int, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the classes, ascending, and their weights."""
    return torch.tensor(list(weights)), torch.tensor(list(weights.values()), dtype=torch.get_default_dtype())


def _times(one: torch.Tensor | None, other: torch.Tensor) -> torch.Tensor:
    return other if one is None else one.to(other.device) * other


def _given(found: Any, batch: Batch) -> torch.Tensor:
    """What the user's function gave, as weights."""
    weights = found if isinstance(found, torch.Tensor) else torch.as_tensor(np.asarray(found))
    weights = weights.detach()
    if not weights.is_floating_point() or weights.dtype is torch.float64:
        weights = weights.to(torch.get_default_dtype())
    if tuple(weights.shape) != (batch.size,):
        raise ValueError(
            f"sample_weight gave the shape {tuple(weights.shape)} for {_named(batch)}, expected one weight for each row: "
            f"({batch.size},)"
        )
    if not bool(((weights >= 0) & (weights < math.inf)).all()):
        raise ValueError(
            f"sample_weight gave {weights.min().item():g} to {weights.max().item():g} for {_named(batch)}, expected finite "
            "numbers from 0 up"
        )
    return weights


def _named(batch: Batch) -> str:
    sources = f" ({describe(batch.sources)})" if batch.table is not None else ""
    return f"batch {batch.index} of epoch {batch.epoch}{sources}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"a {type(value).__name__}"  # noqa: PLR2004 - what fits into a message
