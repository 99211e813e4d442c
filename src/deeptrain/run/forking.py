"""Forks: a run's present state as the beginning of another run, whose record names where it came from."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.format import write_checkpoint
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.control.journal import Journal
from deeptrain.run.checkpointing import about, ended
from deeptrain.run.directory import RunDirectory
from deeptrain.run.record import origin_in, used_of, write_start
from deeptrain.state.tree import VOLATILE

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.trainer import Trainer


def fork(trainer: Trainer, name: str) -> Path:
    """Write the trainer's present state as the first checkpoint of a new run beside its own.

    Args:
        trainer: Whose state; it stays on its run.
        name: The new run's name.

    Returns:
        The new run's directory.

    Raises:
        ValueError: The name cannot be used.
        CheckpointError: The state could not be written.
    """
    assert trainer.run.path is not None
    directory = RunDirectory.create(trainer.run.path.parent, name)
    directory.lock()
    try:
        state, origin = trainer.state_dict(), origin_of(trainer)
        state["steering"] = {
            **state["steering"],
            VOLATILE: {"script": [], "prompt": []},
        }  # another script's calls
        info = about(trainer) | {"head": True, "rest": ended(trainer), "branch": 0, "before": []}
        now, used = trainer.run.standing.announced, used_of(trainer, directory.path)
        write_start(directory.path, trainer.settings, trainer.config, origin, now, used=used)
        journal = Journal(directory.path / "journal.jsonl")
        journal.write("fork", at=origin["iteration"], parent=origin["parent"], from_branch=origin["branch"])
        journal.close()
        write_checkpoint(CheckpointStore(directory.path / "checkpoints").prepare().path, state, info)
    finally:
        directory.release()
    return directory.path


def origin_of(trainer: Trainer) -> dict[str, Any]:
    """Where a run comes from that begins with a trainer's present state."""
    return {
        "parent": str(trainer.run.path),
        "iteration": trainer.progress.train.iterations,
        "branch": trainer.run.line.branch,
    }


def forks_of(run: Path, name: str | None = None) -> list[tuple[Path, dict[str, Any]]]:
    """The runs beside one that began with a state of it, oldest first, each with the origin that its record names.

    Args:
        run: The run's directory.
        name: Only those of this name.
    """
    found: list[tuple[int, Path, dict[str, Any]]] = []
    for path in run.parent.glob("M*"):
        with suppress(ValueError, OSError):  # no run
            other, origin = RunDirectory(path), origin_in(path)
            if (name is None or other.name == name) and run.name in str(origin.get("parent")).split("/"):
                found.append((other.number, path, origin))
    return [(path, origin) for _, path, origin in sorted(found, key=lambda each: each[0])]
