"""The way out of a run: what is saved when an exception, a signal or the script's end stops it, and what is said if not."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

from deeptrain.checkpoint.files import CheckpointError
from deeptrain.control.interrupt import Interrupted, is_interactive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeptrain.run.run import Run
    from deeptrain.trainer import Trainer


def save_on_the_way_out(run: Run, trainer: Trainer, error: BaseException) -> None:
    """Save what stops a script from going on; in a notebook the state stays in memory instead.

    A failure to save is said and does not hide what stopped the run.
    """
    if run.process != os.getpid():
        return  # a child that was forked off is no trainer
    with saying(run, "on the way out"):
        _note_the_end(run, trainer, error)
        if _wants_saving(run, trainer, error):
            run.save(trainer)


def _note_the_end(run: Run, trainer: Trainer, error: BaseException) -> None:
    kind = "interrupt" if isinstance(error, Interrupted) else "exception"
    reason = error.reason if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}"
    run.journal(kind, at=trainer.progress.train.iterations, reason=reason)


def _wants_saving(run: Run, trainer: Trainer, error: BaseException) -> bool:
    number = getattr(error, "signal", None)
    if is_interactive() and number in {None, signal.SIGINT}:
        return False
    behind = run.checkpoints is not None and run.checkpoints.is_behind(trainer)
    return behind and not isinstance(error, CheckpointError)


def save_the_rest(run: Run) -> None:
    """The run is closed: save what was trained since the last checkpoint."""
    trainer, run.unsaved = run.unsaved, None
    if trainer is None or run.process != os.getpid() or run.checkpoints is None:
        return
    if run.checkpoints.saved is None or not run.checkpoints.is_behind(trainer):
        return
    with saying(run, "at the end"):
        run.save(trainer)


@contextlib.contextmanager
def saying(run: Run, when: str) -> Iterator[None]:
    """Say a failure to save, which is not to hide what stopped the run, and about which nothing can be done."""
    try:
        yield
    except Exception as failure:  # noqa: BLE001 - whatever it is
        sys.stderr.write(f"{run.path}: the state could not be saved {when}: {failure}\n")
