"""`TrackioLogger`: figures, hyperparameters, interventions and pictures to trackio."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.loggers.base import Logger, Picture, Place, Row
from deeptrain.loggers.csv_files import ENTRY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class TrackioLogger(Logger):
    """Sends to trackio, to one run of its for each line of history. Needs `pip install trackio`.

    When the run goes on, trackio's own store is asked what it has, and gets the rest: no figure comes twice, and none is missing.
    trackio sends in the background, so that a kill may cost a picture of the last second; and where it sends to a Space or a server,
    which is not asked, figures of that second. What a rewind leaves behind stays in its run, and the new branch gets one of its own.

    Args:
        project: The project's name.
        settings: Further arguments of `trackio.init`, as `space_id=...`.
    """

    def __init__(self, project: str = "deeptrain", **settings: Any) -> None:
        self._project, self._settings = project, settings
        self._run: Any = None
        self._at = 0

    def open(self, place: Place) -> Mapping[str, int] | None:
        """Go on with the run of this line of history, or begin one."""
        import trackio  # noqa: PLC0415 - where it is installed

        is_new = place.goes_back or "name" not in place.own
        if is_new:
            place.own["name"] = place.begin_line()
        name = place.own["name"]
        given = {"name": name, "group": place.name, "config": place.hyperparameters, "embed": False}
        self._at = place.start
        has = {} if is_new else self._counts(name)
        resume = "never" if is_new else "allow"
        self._run = trackio.init(project=self._project, resume=resume, **{**given, **self._settings})
        return has

    def _counts(self, name: str) -> Mapping[str, int] | None:
        """How many values of each figure the store on this machine has; None where they go elsewhere."""
        if {"space_id", "server_url"} & set(self._settings):
            return None
        from trackio.sqlite_storage import SQLiteStorage  # noqa: PLC0415 - likewise

        return Counter(key for row in SQLiteStorage.get_logs(self._project, name) for key in row)

    def metrics(self, rows: Sequence[Row]) -> None:
        """A row for each, at the iteration as its step."""
        for at, figures in rows:
            self._run.log(dict(figures), step=at)
            self._at = at

    def interventions(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """All of them as a text."""
        import trackio  # noqa: PLC0415 - likewise

        lines = [" ".join(str(entry[name]) for name in ENTRY) for entry in entries]
        self._run.log({"interventions": trackio.Markdown("\n\n".join(lines))}, step=self._at)

    def picture(self, picture: Picture) -> None:
        """An image."""
        import trackio  # noqa: PLC0415 - likewise

        with tempfile.TemporaryDirectory(prefix="deeptrain-") as place:
            path = Path(place) / "picture.png"
            path.write_bytes(picture.png)
            self._run.log({f"pictures/{picture.name}": trackio.Image(str(path))}, step=picture.at)

    def close(self) -> None:
        """End the run; it is gone on with where this one goes on."""
        if self._run is not None:
            self._run.finish()
            self._run = None
