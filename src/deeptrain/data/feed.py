"""What a trainer asks of a loader: `Feed`, and the `Position` of what comes next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from deeptrain.data.batch import Batch
    from deeptrain.data.preprocess import Phase as PhaseName
    from deeptrain.data.preprocess import Preprocessor
    from deeptrain.step.base import Outcome


class Position(NamedTuple):
    """What comes next: completed epochs, completed batches of the present one, completed pieces of the present batch.

    Without a preprocessor that makes several pieces of a batch, the last is always 0.
    """

    epoch: int
    batch: int
    iteration: int = 0


@runtime_checkable
class Feed(Protocol):
    """A loader that a trainer can stop, move and continue: batches by position, and a cursor of consumed ones."""

    phase: PhaseName
    preprocess: Preprocessor | None
    passed: int

    @property
    def position(self) -> Position:
        """What is next; always a batch that exists."""

    @property
    def batches(self) -> int | None:
        """Batches in the cursor's epoch; None where only its end tells."""

    @property
    def rows_total(self) -> int:
        """Rows of the source."""

    def fetch(self) -> Batch:
        """Give the piece at the cursor; repeatable, without effect on the cursor or on any random stream."""

    def whole(self) -> Batch:
        """Give the batch at the cursor, before anything makes pieces of it."""

    def through(self, fn: Callable[[Batch], Outcome]) -> list[tuple[Batch, Outcome]]:
        """Put the batch at the cursor through a function, piece by piece; the cursor stays where it is."""

    def ends_batch(self, outcome: Outcome | None) -> bool:
        """Say whether the piece at the cursor, of which this came, is the last one of its batch."""

    def advance(self, *, whole: bool = True) -> bool:
        """Move past the batch at the cursor, or past its present piece alone; True if that ended the epoch."""

    def seek(self, *, epoch: int, batch: int = 0) -> None:
        """Move the cursor."""

    def batch(self, epoch: int, batch: int, iteration: int = 0) -> Batch:
        """Give any batch's piece, without effect on the cursor or on any random stream."""

    def fed(self, epoch: int, batch: int, iteration: int) -> Batch:
        """Give the piece that was fed last once more, whatever became of its place in the order."""

    def iterations(self, epochs: int) -> int | None:
        """Count the pieces of so many epochs from the first on; None where only the outcomes tell."""

    def mark(self) -> Any:
        """Note how the order is edited and where the cursor stands."""

    def back_to(self, mark: Any) -> None:
        """Undo what edits and moves there were since `mark`."""

    def state_dict(self) -> dict[str, Any]:
        """Give the cursor, and the settings under which it has its meaning."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a cursor back; refuses one of another source or of other settings."""

    def settings(self) -> dict[str, Any]:
        """Describe source and order in plain values."""

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take those settings from a record that can be changed."""

    def close(self) -> None:
        """Free what is held: batches, files, worker processes."""
