"""Lines of text that are no wider than they may be, whatever is to be said in them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 80  # columns
GAP = "  "
_LEAST = 8  # columns that are left of a piece that is made shorter
_MINUTE, _HOUR = 60, 3600


def columns(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese takes two each, an accent none of its own.

    Example:
        >>> columns("loss"), columns("損失")
        (4, 4)
    """
    if text.isascii():
        return len(text)
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def per_second(rate: float) -> str:
    """A rate of iterations.

    Example:
        >>> per_second(1893.2), per_second(0.51234)
        ('1893/s', '0.512/s')
    """
    return f"{rate:.0f}/s" if rate >= 100 else f"{rate:.3g}/s"  # noqa: PLR2004 - three digits


def cut(text: str, width: int) -> str:
    """A text of at most so many columns; where something was cut off, it ends in an ellipsis.

    Example:
        >>> cut("validation", 6)
        'valid…'
    """
    if columns(text) <= width:
        return text
    while text and columns(text) > width - 1:
        text = text[:-1]
    return text + "…"


def join(pieces: Sequence[str]) -> str:
    """Pieces one behind the other in one line; empty ones are passed over."""
    return GAP.join(filter(None, pieces))


def wrap(pieces: Sequence[str], width: int = WIDTH) -> str:
    """Pieces one behind the other, in as many lines as they need; a piece is cut only where it is wider than a line.

    Example:
        >>> print(wrap(["epoch 1/2", "loss 0.5", "accuracy 0.9"], 22))
        epoch 1/2  loss 0.5
          accuracy 0.9
    """
    lines: list[str] = []
    for piece in filter(None, pieces):
        joined = f"{lines[-1]}{GAP}{piece}" if lines else cut(piece, width)
        if columns(joined) <= width:
            lines[-1:] = [joined]
        else:
            lines.append(cut(GAP + piece, width))
    return "\n".join(lines)


def squeeze(pieces: Sequence[str], yielding: int, width: int = WIDTH) -> str:
    """Pieces in one line. What is too much is taken from one of them, and then from the line's end.

    Args:
        pieces: What is to be said.
        yielding: Which of them is made shorter first.
        width: Of the line, in columns.

    Example:
        >>> squeeze(["epoch 1/2", "12 sets, 64 rows", "loss 0.5"], 1, 30)
        'epoch 1/2  12 sets,…  loss 0.5'
    """
    over = columns(join(pieces)) - width
    if over > 0:
        shorter = cut(pieces[yielding], max(_LEAST, columns(pieces[yielding]) - over))
        pieces = [*pieces[:yielding], shorter, *pieces[yielding + 1 :]]
    return cut(join(pieces), width)


def duration(seconds: float) -> str:
    """A time in the words of a clock.

    Example:
        >>> duration(8), duration(75), duration(3675)
        ('8 s', '1:15', '1:01:15')
    """
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}:{whole % _MINUTE:02d}"
    return f"{whole // _HOUR}:{whole // _MINUTE % _MINUTE:02d}:{whole % _MINUTE:02d}"
