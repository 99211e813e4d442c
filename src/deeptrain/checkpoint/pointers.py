"""`last.json` and `best.json`: which checkpoint that is, for people and tools. Loading never trusts them."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.files import write_json
from deeptrain.checkpoint.keeping import Facts, best_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LAST, BEST = "last.json", "best.json"


def move_pointers(directory: Path, present: Sequence[Facts], best: int) -> list[str]:
    """Write the pointers, each in one step.

    `best.json` is there only while the best are kept: else the best of the run may be gone.

    Args:
        directory: Where the checkpoints are.
        present: The checkpoints, oldest first; at least one.
        best: How many of the best are kept.

    Returns:
        What went wrong, in words.
    """
    chosen = {LAST: present[-1:], BEST: best_of(present, min(best, 1))}
    problems = []
    for name, facts in chosen.items():
        path = directory / name
        try:
            _point(path, facts[0] if facts else None)
        except OSError as error:
            problems.append(f"{path}: could not be written, and may name another checkpoint: {error}")
    return problems


def _point(path: Path, facts: Facts | None) -> None:
    if facts is None:
        path.unlink(missing_ok=True)
        return
    numbers = {"key": facts.key} | facts.counts
    entry: dict[str, Any] = {"checkpoint": facts.path.name, "mode": facts.mode}
    entry |= {name: _finite(value) for name, value in numbers.items()}
    if _present(path) != entry:
        write_json(path, entry)


def _finite(value: float | None) -> float | str | None:
    """JSON has no NaN and no infinity."""
    return value if value is None or math.isfinite(value) else repr(value)


def _present(path: Path) -> Any:
    with suppress(OSError, ValueError, RecursionError):
        return json.loads(path.read_bytes())
    return None
