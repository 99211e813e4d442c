"""`Board`: what a notebook shows of a run while it trains, as HTML and as text."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from deeptrain.callbacks.lines import GAP, WIDTH, columns, cut, wrap

if TYPE_CHECKING:
    from collections.abc import Sequence

_BAR = 24  # characters


@dataclass(frozen=True, slots=True)
class Board:
    """What is shown at one moment. Nothing in it changes any more, and it knows no trainer.

    Attributes:
        title: The run and what it does: "M1__mnist: training".
        place: Where it stands, in words.
        done: Completed iterations.
        total: Those of the whole run, or None where they cannot be counted.
        pieces: What else is said of the last batch, the rate, the time left.
        header: The table's columns.
        rows: Its rows, oldest first.
    """

    title: str
    place: str
    done: int
    total: int | None
    pieces: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()

    def __repr__(self) -> str:
        lines = [cut(self.title, WIDTH), wrap(self.place.split(", ")), wrap([*self._bar(), *self.pieces])]
        return "\n".join([line for line in lines if line] + table_of_text(self.header, self.rows))

    def _bar(self) -> list[str]:
        if not self.total:
            return []
        part = min(self.done / self.total, 1.0)
        full = int(part * _BAR)
        return [f"[{'#' * full}{'.' * (_BAR - full)}] {int(100 * part)}%"]

    def _repr_html_(self) -> str:
        parts = [f"<b>{escape(self.title)}</b><br>{escape(self.place)}"]
        if self.total:
            parts.append(
                f'<br><progress value="{min(self.done, self.total)}" max="{self.total}" '
                'style="width:100%;max-width:40em"></progress>'
            )
        if self.pieces:
            parts.append("<br>" + " &nbsp; ".join(map(escape, self.pieces)))
        return f"<div>{''.join(parts)}{table_of_html(self.header, self.rows)}</div>"


def table_of_text(header: Sequence[str], rows: Sequence[Sequence[str]], width: int = WIDTH) -> list[str]:
    """A table's lines; columns that are too many for the width are left out, which an ellipsis says."""
    if not rows:
        return []
    lines = [""] * (len(rows) + 1)
    for column in zip(header, *rows, strict=True):
        wide = max(map(columns, column))
        gap = GAP if lines[0] else ""
        if columns(lines[0]) + len(gap) + wide > width - 2:
            return [f"{line} …" for line in lines]
        lines = [
            f"{line}{gap}{' ' * (wide - columns(cell))}{cell}"
            for line, cell in zip(lines, column, strict=True)
        ]
    return lines


def table_of_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for a browser; "" where it has no rows."""
    if not rows:
        return ""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
