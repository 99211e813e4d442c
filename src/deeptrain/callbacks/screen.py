"""`Screen`: where plain text goes; on a terminal with one line that is drawn again in its place."""

from __future__ import annotations

import sys
from typing import Any, TextIO

from deeptrain.callbacks.lines import WIDTH, columns


class Screen:
    """A stream that lines are written to.

    Args:
        stream: Where to write; None is standard output as it is at the time.

    Attributes:
        gone: Whether the other end is gone: then nothing is written any more.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.gone = False
        self._live = 0  # columns of the live line that stands there now

    def _out(self) -> TextIO:
        return sys.stdout if self.stream is None else self.stream

    def is_terminal(self) -> bool:
        """Whether a line can be drawn again in its place."""
        out: Any = self._out()
        return bool(getattr(out, "isatty", bool)())

    def live_width(self) -> int:
        """How wide the live line may be: at its end the cursor needs a column too."""
        from shutil import get_terminal_size  # noqa: PLC0415 - only where there is a terminal

        return max(1, min(WIDTH, get_terminal_size().columns - 1))

    def say(self, line: str) -> None:
        """Write a line for good."""
        self.clear()
        self._write(line + "\n")

    def draw(self, line: str) -> None:
        """Write the live line, in place of the one that stands there."""
        wide = columns(line)
        self._write(f"\r{line}{' ' * (self._live - wide)}")
        self._live = wide

    def clear(self) -> None:
        """Take the live line away."""
        if self._live:
            self._write("\r" + " " * self._live + "\r")
            self._live = 0

    def _write(self, text: str) -> None:
        out = self._out()
        try:
            out.write(text)
            out.flush()
        except UnicodeEncodeError:  # a stream of another encoding: its own sign for what it has not
            self._write_in(out, text)
        except (OSError, ValueError):  # the other end is gone; the training is not
            self.gone = True

    def _write_in(self, out: TextIO, text: str) -> None:
        self._write(text.encode(out.encoding, "replace").decode(out.encoding))
