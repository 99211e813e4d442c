"""Batches that follow each other in the source: read at once into one piece of memory, and cut from it.

What a batch costs beside the copying of its values, some 20 us of Python, is so paid once for several of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from deeptrain.data.batch import aligned, map_tensors

if TYPE_CHECKING:
    from deeptrain.data.batch import Batch

MOST = 1 << 22  # bytes: what is read beyond stays in the processor's caches until it is used


class Together:
    """Batches of an epoch that were read at once, each given out once.

    Args:
        epoch: Their epoch.
        first: The first one's index.
        batches: They, in order.
    """

    def __init__(self, epoch: int, first: int, batches: list[Batch]) -> None:
        self._epoch, self._first = epoch, first
        self._batches: list[Batch | None] = [*batches]

    def take(self, epoch: int, index: int) -> Batch | None:
        """Give a batch; None where it is none of these, or was given: somebody may have changed it in place."""
        place = index - self._first
        if epoch != self._epoch or not 0 <= place < len(self._batches):
            return None
        batch, self._batches[place] = self._batches[place], None
        return batch

    @property
    def last(self) -> tuple[int, int]:
        """The epoch and the index of the last one."""
        return self._epoch, self._first + len(self._batches) - 1


def cut(tree: Any, size: int, count: int) -> list[Any]:
    """Cut nested tensors into batches along their first axis.

    Args:
        tree: Tensors of equally many rows, nested in tuples, lists and dicts; one that comes twice is cut once.
        size: Rows in a batch; the last one may have fewer.
        count: How many batches there are.

    Returns:
        The batches, nested alike. Each tensor starts at a multiple of 64 bytes and has a count of in-place changes of its
        own.
    """
    made: dict[int, tuple[torch.Tensor, ...]] = {}

    def pieces(tensor: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = made.get(id(tensor))
        if found is None:
            # Those of `split` would count the changes of each other.
            made[id(tensor)] = found = tuple(map(aligned, torch.unsafe_split(tensor, size)))
        return found

    def batch(place: int) -> Any:
        return map_tensors(tree, lambda tensor: pieces(tensor)[place])

    return [batch(place) for place in range(count)]
