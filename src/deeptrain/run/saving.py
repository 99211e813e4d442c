"""`Saver`: a run's states, staged at a safe point, written by a thread, and counted once they are on the disk."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.checkpoint.appending import Appender
from deeptrain.checkpoint.background import Writer
from deeptrain.checkpoint.format import write_staged
from deeptrain.checkpoint.staging import Staging

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.checkpoint.appending import Addition
    from deeptrain.checkpoint.staging import Staged
    from deeptrain.checkpoint.store import CheckpointStore, Place
    from deeptrain.state.history import History


class Saved(NamedTuple):
    """A checkpoint that is on the disk.

    Attributes:
        path: Its directory.
        at: Completed train iterations of its state.
        position: Where the run stood, as whoever saved it says.
        stalled: For how many seconds training stood still for it.
        seconds: After how many it was on the disk and verified.
    """

    path: Path
    at: int
    position: object
    stalled: float
    seconds: float


class Saver:
    """Saves states one after another: at no time are there more than one in memory beside the live one.

    Args:
        store: Where the checkpoints go. While one is being written nothing else may be done with it.

    Attributes:
        appender: What of the history is on the disk, beside the store.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self.appender = Appender(store.directory.parent)
        self._staging, self._writer = Staging(), Writer[Saved]()

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._writer.busy

    def save(
        self,
        tree: Any,
        history: History,
        info: dict[str, Any],
        *,
        at: int,
        position: object,
        tag: str | None = None,
    ) -> None:
        """Stage a state and have it written. Waits for the one before it.

        Args:
            tree: The state without the history's series.
            history: These; only what is new of them is staged.
            info: What the checkpoint is to say of itself.
            at: Completed train iterations.
            position: Where the run stands.
            tag: A name for it.

        Raises:
            CodecError, CheckpointError: It cannot be staged; those that there are stay as they are.
        """
        self._writer.wait()
        began = monotonic()
        staged = self._staging.stage(tree, self._store.about(info, tag=tag))
        addition = self.appender.stage(history)
        place, stalled = self._store.prepare(), monotonic() - began

        def write() -> Saved:
            self._write(staged, addition, place)
            return Saved(place.path, at, position, round(stalled, 4), round(monotonic() - began, 4))

        self._writer.submit(write)

    def _write(self, staged: Staged, addition: Addition, place: Place) -> None:
        # First: what a checkpoint refers to is on the disk before it is.
        chain = self.appender.write(addition)
        write_staged(place.path, staged, sequence=place.sequence, chain=chain)
        self._store.finish(place.path)

    def wait(self) -> None:
        """Wait until nothing is being written."""
        self._writer.wait()

    def take(self) -> list[Saved]:
        """Fetch what has come to the disk since the last call.

        Raises:
            CheckpointError: One could not be written; said once.
        """
        return self._writer.take()
