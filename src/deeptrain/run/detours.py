"""Ways that a run goes without getting on: over ground that it knows, to try something out, to a point of another run."""

from __future__ import annotations

import contextlib
import copy
from typing import TYPE_CHECKING

from deeptrain.run.journalling import Journalling
from deeptrain.run.replaying import Replaying

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeptrain.control.interrupt import Interrupted
    from deeptrain.run.run import Run
    from deeptrain.trainer import Trainer

FOREVER = 1 << 62


@contextlib.contextmanager
def retracing(run: Run, trainer: Trainer, until: int) -> Iterator[None]:
    """While the trainer goes over ground that it knows: nothing is saved or shown, and the figures are compared.

    Args:
        run: Its run.
        trainer: It has just been put where it begins.
        until: Up to which count of iterations it had come before.
    """
    journalling = run.journalling
    assert journalling.file is not None
    assert run.checkpoints is not None
    journalling.flush()
    journalling.replay = Replaying(journalling.file, after=trainer.progress.train.iterations)
    journalling.replay.prepare({"environment": run.standing.environment}, run.standing, comparable=True)
    run.replay_until, run.checkpoints.muted, trainer.display.quiet = until, True, True
    verdict = None
    try:
        yield
        verdict = None if journalling.replay is None else journalling.replay.end()
    finally:
        journalling.replay, run.replay_until = None, 0
        run.checkpoints.muted = trainer.display.quiet = False
    if verdict is not None:
        trainer.display.on_replay(verdict)


@contextlib.contextmanager
def aside(run: Run, trainer: Trainer) -> Iterator[None]:
    """While the trainer tries something out: nothing is saved, shown or written down, and sinks are told of a replay."""
    journalling, until, standing, unsaved = run.journalling, run.replay_until, run.standing, run.unsaved
    run.journalling, run.replay_until, run.standing = Journalling(), FOREVER, copy.deepcopy(standing)
    trainer.display.quiet = True
    if run.checkpoints is not None:
        run.checkpoints.muted = True
    try:
        yield
    finally:
        run.journalling, run.replay_until, run.standing, run.unsaved = journalling, until, standing, unsaved
        trainer.display.quiet = False
        if run.checkpoints is not None:
            run.checkpoints.muted = False


def arrive(run: Run, trainer: Trainer) -> Interrupted:
    """The point that the run was to come to is there: save, report, and give what ends the script."""
    assert run.travel is not None
    travel, run.travel = run.travel, None
    run.save(trainer)
    journalling = run.journalling
    if journalling.replay is not None:
        journalling.replay.end()
        journalling.verdict, journalling.replay = journalling.replay.verdict, None
    return travel.report(trainer, journalling.verdict)
