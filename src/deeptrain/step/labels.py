"""Labels as classes: whole numbers, binary ones, one-hot rows; and all labels of a loader's source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.data.loader import BatchLoader
from deeptrain.data.source import LabelledSource
from deeptrain.integrations.torch_loader import TorchFeed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeptrain.data.feed import Feed

MATRIX = 2  # axes
ALONE = 1 << 16  # rows that are read at once, of labels
WITH_INPUTS = 1 << 8  # and where the inputs come along
REMEDY = "give class_labels, or weigh by sample_weight, a function of the batch"


def classes_of(labels: Any) -> torch.Tensor:
    """Give each row's class.

    Args:
        labels: Whole numbers of shape `(size,)` or `(size, 1)`, in any dtype (0. and 1. of a binary loss too); or one-hot
            rows of shape `(size, classes)`.

    Returns:
        int64 of shape `(size,)`, on the labels' device.

    Raises:
        ValueError, TypeError: They are something else.

    Example:
        >>> classes_of(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        tensor([1, 0])
    """
    if not isinstance(labels, torch.Tensor):
        what = "no labels" if labels is None else f"labels in a {type(labels).__name__}"
        raise TypeError(
            f"class_weights: found {what}, expected one tensor with a class for each row: {REMEDY}"
        )
    if labels.dim() == MATRIX and labels.shape[1] == 1:
        labels = labels[:, 0].contiguous()
    if labels.dim() == MATRIX:
        return _of_one_hot(labels)
    if labels.dim() != 1 or labels.is_complex():
        raise ValueError(
            f"class_weights: found labels of shape {tuple(labels.shape)}, expected (size,), (size, 1), or one-hot rows "
            f"(size, classes): {REMEDY}"
        )
    found: torch.Tensor = labels.to(torch.int64)
    if not labels.is_floating_point():
        return found
    if not bool((found == labels).all()):
        value = float(labels[int((found != labels).to(torch.uint8).argmax())])
        raise ValueError(f"class_weights: found the label {value:g}, expected whole numbers: {REMEDY}")
    return found


def _of_one_hot(labels: torch.Tensor) -> torch.Tensor:
    ones, zeros = labels == 1, labels == 0
    fits = (ones | zeros).all(dim=1) & (ones.sum(dim=1) == 1)
    if not bool(fits.all()):
        row = labels[int(fits.to(torch.uint8).argmin())].tolist()
        raise ValueError(
            f"class_weights: found the label {row}, expected one-hot rows, a single 1 among zeros: {REMEDY}"
        )
    return ones.to(torch.uint8).argmax(dim=1)


def every_label(feed: Feed) -> Iterator[Any]:
    """Give the labels of a loader's rows, in pieces; neither its place nor a random stream moves.

    Args:
        feed: A `BatchLoader`, whose source tells every row's once; or a torch `DataLoader` over a map-style data set, whose
            first epoch is read.

    Raises:
        TypeError: It is another one, which can only be gone through.
    """
    if isinstance(feed, BatchLoader):
        source = feed.source
        size = ALONE if isinstance(source, LabelledSource) else WITH_INPUTS
        for start in range(0, source.n_rows, size):
            rows = np.arange(start, min(start + size, source.n_rows))
            yield (
                source.read_labels(rows)
                if isinstance(source, LabelledSource)
                else _labels_in(source.read(rows))
            )
    elif isinstance(feed, TorchFeed):
        for number in range(feed.batches):
            batch = feed.batch(0, number)
            yield batch.targets if batch.class_labels is None else batch.class_labels
    else:
        raise TypeError(
            f"class_weights='balanced': found a {type(feed).__name__}, whose labels cannot be counted without going through "
            "it; expected a BatchLoader or a torch DataLoader over a map-style data set: give the weights, {0: 3, 1: 1}"
        )


def _labels_in(found: tuple[Any, ...]) -> Any:
    targets, *more = found[1:]
    return more[0] if more and more[0] is not None else targets
