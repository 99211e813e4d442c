"""`DataError`: what is said of stored data that is not as it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MOST_NAMED = 4


class DataError(ValueError):
    """Stored data is not as it should be; the message names the file, what was found, what was expected, and a remedy.

    Args:
        path: The file or directory.
        found: What is there.
        expected: What should be there.
        remedy: A sentence that says what to do.

    Attributes:
        path: The file or directory.
        reason: The message without the path, which may change where data are moved.
    """

    def __init__(self, path: Path | str, *, found: str, expected: str, remedy: str) -> None:
        self.path = path
        self.reason = f"found {found}; expected {expected}. {remedy}"
        super().__init__(f"{path}: {self.reason}")


def joined(names: Iterable[object]) -> str:
    """List names, the first few of many."""
    texts = [str(name) for name in names]
    more = len(texts) - MOST_NAMED
    return ", ".join(texts[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
