"""`open_run`: a run's record, read without a trainer."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.control.journal import read_backwards, read_journal
from deeptrain.run.branches import newest_of
from deeptrain.run.directory import is_held
from deeptrain.state.history import History
from deeptrain.state.tree import digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike


# Lines that a run may write while it is held at a safe point.
_WHILE_PAUSED = {"command", "intervention", "rejected", "refused", "checkpoint"}


class RecordedRun:
    """A run on disk, as of its newest whole checkpoint. Nothing is locked and nothing written.

    Attributes:
        path: The run's directory.
        checkpoint: The checkpoint that was read.
        state: The state tree.
        info: What the checkpoint says of itself: iterations, epochs, phase, settings.
        history: Every figure with its iterations.
        line: The branch that it is on, and those that it came from.
    """

    def __init__(self, path: Path) -> None:
        if not (path / "checkpoints").is_dir():
            raise FileNotFoundError(
                f"{path} holds no run: expected a directory such as runs/M1__name with checkpoints"
            )
        self.path = path
        self.checkpoint, self.state, self.info, self.passed_over, self.line, _ = newest_of(path)
        self.history = History()
        self.history.load_state_dict(self.state["history"])

    @property
    def config(self) -> dict[str, Any]:
        """The values that the script gave the run to keep."""
        return dict(self.info["settings"]["config"])

    @property
    def digest(self) -> str:
        """The hash of the state."""
        return digest(self.state)

    def findings(self, which: Literal["newest", "best"] = "newest") -> dict[str, Any]:
        """What a validation pass found beside figures, as `Trainer.findings` gives it: for use with `load_weights(run, model, which)`.

        Args:
            which: Of the "newest" checkpoint, or of the "best" by the validation's key metric.

        Raises:
            ValueError: `which` is neither.
            CheckpointError: There is no best one.

        Example:
            `dt.Threshold.from_state_dict(dt.open_run("runs/M1__x").findings("best")["threshold"])`
        """
        if which not in {"newest", "best"}:
            raise ValueError(f'which={which!r}: expected "newest" or "best"')
        from deeptrain.evaluation.judging import findings_of  # noqa: PLC0415 - `deeptrain info` does without

        tree = self.state
        if which == "best":
            tree = CheckpointStore(self.path / "checkpoints").best(history=False).tree
        return findings_of(tree.get("evaluation", {}))

    def describe(self) -> str:
        """Where the run stands, in a few lines."""
        newest = {name: self.history[name].values[-1] for name in self.history}
        lines = [
            f"{self.path}: {self.info['phase']}, {self.info['epochs']} epochs, {self.info['iterations']} iterations, by its newest checkpoint",
            *self._paused(),
            f"checkpoint  {self.checkpoint.name}  digest {self.digest}",
            *(f"passed over {path}: {why}" for path, why in self.passed_over),
            "newest      " + "  ".join(f"{name} {value:.4g}" for name, value in newest.items()),
            *(f"pending     {task['kind']} {task['callback']}" for task in self.state["progress"]["pending"]),
        ]
        return "\n".join(lines)

    def _paused(self) -> list[str]:
        """Whether another process has the run held, in words; what the process that trains wrote last tells."""
        with closing(read_backwards(self.path / "journal.jsonl")) as entries:
            for _, entry in entries:
                if entry.get("kind") == "paused" and is_held(self.path):
                    return [
                        f"paused      at iteration {entry.get('at')}: {entry.get('why')} (deeptrain unpause goes on)"
                    ]
                if entry.get("kind") not in _WHILE_PAUSED:
                    break
        return []

    def journal(self) -> Iterator[dict[str, Any]]:
        """Everything that happened, line by line.

        The line of an iteration that was computed again after a crash, and came out the same, has "replayed": true;
        a line of the kind "replay" says what came of such a comparison.
        """
        return read_journal(self.path / "journal.jsonl")


def open_run(path: str | PathLike[str]) -> RecordedRun:
    """Read a run's record.

    Args:
        path: The run's directory, such as "runs/M1__mnist".

    Raises:
        FileNotFoundError: There is no run.
        CheckpointError: None of its checkpoints is whole.

    Example:
        `open_run("runs/M1__mnist").history["val.accuracy"].values[-1]`
    """
    return RecordedRun(Path(path))
