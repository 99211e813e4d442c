"""`find_batch_size`: the largest batch with which an iteration fits into memory."""

from __future__ import annotations

import gc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch

from deeptrain.checkpoint.snapshot import copied
from deeptrain.data.checks import at_least
from deeptrain.data.loader import BatchLoader
from deeptrain.tuning.aside import aside, iterate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from deeptrain.trainer import Trainer

MOST = 1 << 20
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


@dataclass(frozen=True)
class BatchFit:
    """What was found about batch sizes.

    Attributes:
        largest: The largest batch that fits. Leave some room: other batches, other shapes and validation take more.
        bound: What bounds it: `"memory"`, `"rows"` (there are no more), or `"most"`.
        tried: Each size that was tried, in that order, and whether it fits.
    """

    largest: int
    bound: Literal["memory", "rows", "most"]
    tried: dict[int, bool] = field(default_factory=dict)


def is_memory_error(error: BaseException) -> bool:
    """Whether an exception says that memory is at its end: torch's and Python's own, and what some libraries raise instead."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def find_batch_size(
    trainer: Trainer,
    *,
    start: int | None = None,
    most: int | None = None,
    memory_error: Callable[[BaseException], bool] = is_memory_error,
) -> BatchFit:
    """Find the largest batch with which one iteration fits: forward, backward and update. Then put everything back.

    The size is doubled until one does not fit, then bisected. Each iteration begins from the same state, and everything
    is as it was when this returns or raises, the loader too, and nothing is written: to go on with the size that was found,
    `trainer.train.set_batch_size(n)`, or better make the loader with it.

    Args:
        trainer: At rest, with a `BatchLoader`.
        start: The first size that is tried; by default the loader's.
        most: The largest that is tried; by default a million, and never more than there are rows.
        memory_error: Whether an exception means that memory is at its end; any other is raised.

    Raises:
        TypeError: The data are no `BatchLoader`'s, whose batch size could be changed.
        ValueError: An argument is out of range.
        MemoryError: Not even one row fits.
        TornStateError, RuntimeError, Interrupted: As for `find_lr`.

    Example:
        >>> import deeptrain as dt
        >>> model = torch.nn.Linear(4, 1)
        >>> step = dt.SupervisedStep(model, loss=torch.nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1))
        >>> train = dt.BatchLoader(dt.Arrays(torch.zeros(100, 4), torch.zeros(100, 1)), batch_size=16)
        >>> find_batch_size(dt.Trainer(step, train, runs=None, verbosity=0))
        BatchFit(largest=100, bound='rows', tried={16: True, 32: True, 64: True, 100: True})
    """
    loader = trainer.train
    if not isinstance(loader, BatchLoader):
        raise TypeError(
            f"find_batch_size: the trainer's data are a {type(loader).__name__}, whose batch size is fixed; expected a "
            "dt.BatchLoader, for a torch data set dt.BatchLoader(dt.FromDataset(dataset), batch_size=...)"
        )
    most = MOST if most is None else at_least(1, "most", most)
    start = loader.settings()["batch_size"] if start is None else at_least(1, "start", start)
    bound: Literal["rows", "most"] = "rows" if loader.rows_total <= most else "most"
    with aside(trainer, "find_batch_size") as state:
        search = Search(lambda size: _fits(trainer, state, size, memory_error), min(most, loader.rows_total))
        largest = search.largest(min(int(start), search.most))
    return BatchFit(largest, bound if largest == search.most else "memory", search.tried)


class Search:
    """Finds the largest size that fits, where every smaller one does too.

    Args:
        fits: Whether a size does.
        most: The largest that may be tried.
    """

    def __init__(self, fits: Callable[[int], bool], most: int) -> None:
        self._fits, self.most = fits, most
        self.tried: dict[int, bool] = {}

    def _try(self, size: int) -> bool:
        self.tried[size] = self._fits(size)
        return self.tried[size]

    def largest(self, start: int) -> int:
        """Go up by doubling, or down by halving, and then between the two."""
        size = start
        while self._try(size):
            if size == self.most:
                return size
            size = min(2 * size, self.most)
        too_large, fits = size, max((s for s, fit in self.tried.items() if fit), default=0)
        while fits == 0:
            if too_large == 1:
                raise MemoryError("find_batch_size: one iteration does not fit with a batch of one row")
            half = too_large // 2
            fits, too_large = (half, too_large) if self._try(half) else (0, half)
        while too_large - fits > 1:
            middle = (fits + too_large) // 2
            fits, too_large = (middle, too_large) if self._try(middle) else (fits, middle)
        return fits


def _fits(
    trainer: Trainer, state: dict[str, Any], size: int, memory_error: Callable[[BaseException], bool]
) -> bool:
    """Make an iteration with a batch of that size, from the state that is given."""
    fits = True
    try:
        # At an epoch's beginning, where so many rows are left.
        trainer.train.seek(epoch=trainer.train.position.epoch + 1)
        trainer.train.set_batch_size(size)  # type: ignore[attr-defined]  # it is a `BatchLoader`
        iterate(trainer)
    except Exception as error:
        if not memory_error(error):
            raise
        fits = False
    # Outside the handler: the exception's traceback held on to all that was in memory.
    trainer.load_state_dict(copied(state))
    if not fits:
        _free()
    return fits


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
