"""Which runs the trainers of this process hold. Each lets go when it is closed, or another takes over, or Python ends."""

from __future__ import annotations

import atexit
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.run.directory import RunDirectory
    from deeptrain.run.run import Run

_held: dict[Path, Run] = {}


def take(run: Run, directory: RunDirectory) -> None:
    """Lock a run's directory for a trainer; a trainer of this process that holds it lets it go."""
    other = _held.get(directory.path.resolve())
    if other is not None:
        other.taken_over = True
        other.close()
        warnings.warn(
            f"another trainer of this process held {directory.path}; this one takes over", stacklevel=7
        )
    forget(run)
    directory.lock()
    run.directory, run.path = directory, directory.path
    _held[directory.path.resolve()] = run


def forget(run: Run) -> None:
    """The run is held no more."""
    if run.path is not None and _held.get(run.path.resolve()) is run:
        del _held[run.path.resolve()]


@atexit.register
def _close_all() -> None:
    """A script that ends, in whatever way lets Python run, leaves no training unsaved."""
    for run in list(_held.values()):
        run.close()
