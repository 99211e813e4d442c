"""The pictures of a run: PNG files in its directory, from which they are sent to loggers."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.files import temporary_beside
from deeptrain.loggers.base import Picture

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.checkpoint.line import Line

FOLDER = "pictures"
_NAME = re.compile(r"[A-Za-z0-9._ -]+")
_FILE = re.compile(r"([0-9]{8,})-b([0-9]+)-(.+)\.png")


def as_png(figure: Any) -> bytes:
    """A figure's PNG bytes: of a matplotlib figure, or of anything with its `savefig`; bytes are taken as they are."""
    if isinstance(figure, bytes):
        return figure
    if not hasattr(figure, "savefig"):
        raise TypeError(
            f"log_picture: found a {type(figure).__name__}, expected a matplotlib figure or the bytes of a PNG file"
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


class Pictures:
    """Pictures by name and iteration; one that is made again in a replay takes the old one's place.

    Args:
        run: The run's directory; None keeps them in memory.
    """

    def __init__(self, run: Path | None) -> None:
        self._folder = None if run is None else run / FOLDER
        self._kept: dict[str, Picture] = {}

    def add(self, name: str, at: int, branch: int, png: bytes) -> None:
        """Keep one.

        Raises:
            ValueError: The name cannot be a file's.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"log_picture({name!r}): expected a name made of letters, digits, spaces and . _ -, as it becomes a file's"
            )
        file = f"{at:08d}-b{branch}-{name}.png"
        if self._folder is None:
            self._kept[file] = Picture(name, at, png, None)
            return
        self._folder.mkdir(exist_ok=True)
        temporary = temporary_beside(self._folder / file)
        temporary.write_bytes(png)
        temporary.replace(self._folder / file)

    def names(self, line: Line, until: int) -> list[str]:
        """Those of a line of history up to an iteration, oldest first."""
        files = list(self._kept)
        if self._folder is not None and self._folder.is_dir():
            files = [path.name for path in self._folder.iterdir()]
        return [file for file in sorted(files) if _is_on(file, line, until)]

    def get(self, file: str) -> Picture:
        """One of `names`."""
        if self._folder is None:
            return self._kept[file]
        match = _FILE.fullmatch(file)
        assert match is not None
        return Picture(match[3], int(match[1]), (self._folder / file).read_bytes(), self._folder / file)


def iteration_of(file: str) -> int:
    """When a picture was made."""
    return int(file.partition("-")[0])


def _is_on(file: str, line: Line, until: int) -> bool:
    match = _FILE.fullmatch(file)
    if match is None:
        return False
    at, branch = int(match[1]), int(match[2])
    return at <= until and (branch == line.branch or at <= dict(line.before).get(branch, -1))
