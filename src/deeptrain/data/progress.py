"""A progress bar for those who look at a terminal, and nothing for anything else."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress_bar(
    text: str, total: int | None, unit: str, *, wanted: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show how much is done.

    Args:
        text: What is being done.
        total: How much there is to do; None where that is not known.
        unit: What is counted, such as "rows".
        wanted: Whether to show it. It is shown on a terminal alone.

    Yields:
        A function to be called with how much was done since the last call.
    """
    if not (wanted and sys.stderr.isatty()):
        yield lambda _count: None
        return
    from rich.console import Console  # noqa: PLC0415 - only who watches pays for it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)
