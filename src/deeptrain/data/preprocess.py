"""`Preprocessor`: turns one batch into the iterations that are made of it, and says when the next batch is due."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from deeptrain.data.batch import Batch
    from deeptrain.step.base import Outcome

Phase: TypeAlias = Literal["train", "val"]


class Preprocessor:
    """Base class: one batch is one iteration, fed as it is. Override what you want to be otherwise.

    A batch is fed in pieces, counted from 0. The loader asks for `piece(batch, 0)`, and after each iteration that
    was committed `is_done(batch, 1, outcome)`, `is_done(batch, 2, outcome)`, ...: while that is False the next piece
    is fed, and then the next batch is due. How far a batch is stands in the loader's cursor, so that a run that was
    stopped between two pieces asks for the next one again; therefore `piece` must be a function of its arguments
    (and of the global random streams, where `random` is True: they are then seeded from the loader's seed, epoch,
    batch and piece, and put back afterwards).

    One that transforms overrides `piece` alone; one that makes several pieces overrides `count` as well, or `is_done`
    where the outcomes tell. `Repeat`, `Augment` and `Windows` are built in, and `Chain` joins several.

    Attributes:
        random: Whether `piece` draws random numbers.
        may_be_empty: Whether `count` may be 0. Such a batch is passed over: it counts as a batch, and is no iteration.

    Example:
        >>> class Halves(Preprocessor):
        ...     def count(self, batch, phase):
        ...         return 2
        ...
        ...     def piece(self, batch, iteration, phase):
        ...         half = batch.size // 2
        ...         rows = slice(0, half) if iteration == 0 else slice(half, None)
        ...         return batch.replaced(
        ...             inputs=batch.inputs[rows].clone(),
        ...             targets=batch.targets[rows].clone(),
        ...             rows=batch.rows[rows],
        ...             iteration=iteration,
        ...         )
        ...
        ...     def pieces_in_total(self, row_shape, epoch):
        ...         return 2
    """

    random: bool = False
    may_be_empty: bool = False

    def count(self, batch: Batch, phase: Phase) -> int | None:  # noqa: ARG002 - for overriding
        """Say how many pieces a batch has; None where only the outcomes tell."""
        return 1

    def piece(self, batch: Batch, iteration: int, phase: Phase) -> Batch:  # noqa: ARG002 - for overriding
        """Give a piece.

        Args:
            batch: The batch as the loader read it; not to be changed. `batch.replaced(inputs=...)` makes a piece.
                Slices should be copied: how a tensor lies in memory shows in the last bits of matrix products.
            iteration: Which piece, from 0.
            phase: "train" or "val".
        """
        return batch

    def is_done(self, batch: Batch, iterations: int, outcome: Outcome | None, phase: Phase) -> bool:
        """Say whether the next batch is due, after so many pieces of this one; `outcome` is the last one's.

        In validation `outcome` is what the evaluation of the last piece gave.
        """
        del outcome
        count = self.count(batch, phase)
        return count is not None and iterations >= count

    def pieces_in_total(self, row_shape: tuple[int, ...] | None, epoch: int) -> int | None:  # noqa: ARG002
        """Say how many pieces each batch of an epoch has in training; None where that is not known, or not the same.

        Schedulers that need the length of the run ask for it.

        Args:
            row_shape: The shape of one row of the inputs, where all have the same one.
            epoch: The epoch.
        """
        return 1

    def settings(self) -> dict[str, Any]:
        """Describe how it was made, in plain values, for a run's fingerprint."""
        return {"class": type(self).__name__}

    def state_dict(self) -> dict[str, Any]:
        """Give what it must remember from piece to piece; nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""


def name_of(function: Any) -> str:
    """Give what a function is called in settings and messages; of an instance, its class."""
    return getattr(function, "__qualname__", type(function).__qualname__)


def whole_number(name: str, value: Any, least: int) -> int:
    """Check a setting that counts.

    Raises:
        ValueError: It is no whole number, or a smaller one than `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number from {least} up")
    return value
