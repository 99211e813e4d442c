"""What is shown while a loader is walked forward: a warning, once, and a bar on a terminal."""

from __future__ import annotations

import sys
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def warn_of_walking(name: str, batches: int, remedy: str) -> None:
    """Say that a position is reached by walking there."""
    warnings.warn(
        f"{name} is walked through {batches} batches to where it is to go on, which takes as long as they took to load; "
        f"{remedy}",
        stacklevel=2,
    )


@contextmanager
def walking_bar(total: int) -> Iterator[Callable[[], None]]:
    """Give a function to be called after each batch; a bar follows it where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console  # noqa: PLC0415 - only where there is a terminal
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("walking to the position", total=total)
        yield lambda: progress.advance(task)
