"""`Trainer.dry_run`: everything that a run does, once, and nothing of it left behind."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.format import write_checkpoint
from deeptrain.checkpoint.snapshot import copied
from deeptrain.data.cursor import CursorFeed
from deeptrain.run.checkpointing import about
from deeptrain.run.loading import read_state
from deeptrain.state import tree
from deeptrain.state.progress import Phase, Task
from deeptrain.tuning.aside import aside

if TYPE_CHECKING:
    from deeptrain.trainer import Trainer


@dataclass(frozen=True)
class DryRun:
    """What a dry run found.

    Attributes:
        train: The figures of the train batch.
        validation: Those of the validation's one batch; None where there is no validation.
        ended_epoch: Whether the train batch was an epoch's last one. Loaders that can only be walked do not go there.
        checkpoint_bytes: Size of a checkpoint.
    """

    train: dict[str, float]
    validation: dict[str, float] | None
    ended_epoch: bool
    checkpoint_bytes: int


def dry_run(trainer: Trainer) -> DryRun:
    """Make a dry run. See `Trainer.dry_run`."""
    if trainer.progress.phase is Phase.DONE:
        raise ValueError("dry_run: the run is done; ask for more epochs, or make the trainer anew")
    with aside(trainer, "dry_run") as state:
        _begin(trainer)
        ended_epoch = _train(trainer)
        train = {} if trainer.last is None else trainer.last.metrics
        validation = None if trainer.judging.validation is None else _validate(trainer)
        size = _checkpoint(trainer, state)
    return DryRun(train, validation, ended_epoch, size)


def _begin(trainer: Trainer) -> None:
    """Leave what is pending, which is of the run itself, and go to where an epoch's end is near."""
    trainer.progress.pending.clear()
    trainer.progress.phase = Phase.TRAIN
    trainer.progress.validation.batches = 0
    trainer.judging.forget()
    feed = trainer.train
    walked = not isinstance(feed, CursorFeed) or type(feed).seek is not CursorFeed.seek
    empty = (
        feed.preprocess is not None and feed.preprocess.may_be_empty
    )  # perhaps none of the last batch's is fed
    if feed.batches is not None and not walked and not empty:
        feed.seek(epoch=feed.position.epoch, batch=feed.batches - 1)


def _train(trainer: Trainer) -> bool:
    """Train a batch, with all that follows from it but a whole validation; says whether it ended an epoch."""
    done, judging = trainer.progress.train, trainer.judging
    epochs, validation = done.epochs, judging.validation
    judging.validation = None
    trainer.listen()
    try:
        trainer.retrace("batches", done.batches + 1, finish=False)
    finally:
        judging.validation = validation
        trainer.listen()
    return done.epochs > epochs


def _validate(trainer: Trainer) -> dict[str, float]:
    """Make a pass of a single batch, with its handlers."""
    progress = trainer.progress
    progress.phase = Phase.TRAIN  # a handler may have asked for the run's end
    progress.pending.append(Task("validation"))
    trainer.judging.advance(trainer)
    trainer.judging.cut_short()
    trainer.retrace("batches", progress.train.batches, finish=False)
    found = {name: trainer.history.last(name) for name in trainer.history if name.startswith("val.")}
    return {name.removeprefix("val."): value for name, value in found.items() if value is not None}


def _checkpoint(trainer: Trainer, before: dict[str, Any]) -> int:
    """Save, and go to the state of before and to the saved one, which are both to come back; gives the bytes that it takes."""
    trainer.delivery.tell("save")
    with tempfile.TemporaryDirectory(prefix="deeptrain-") as place:
        path = Path(place) / "checkpoint"
        write_checkpoint(path, trainer.state_dict(), about(trainer))
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        saved = read_state(path).tree
    for state in (copied(before), saved):
        _load(trainer, state)
    return size


def _load(trainer: Trainer, state: dict[str, Any]) -> None:
    expected = tree.digest(state)
    trainer.load_state_dict(state)
    present = trainer.state_dict()
    if tree.digest(present) != expected:
        lines = "\n  ".join(str(difference) for difference in tree.diff(state, present)[:10])
        raise ValueError(
            f"dry_run: a state was loaded and what is there now is not the same:\n  {lines}\nsee that each part's "
            "load_state_dict takes over all that its state_dict gives"
        )
