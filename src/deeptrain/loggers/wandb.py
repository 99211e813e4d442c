"""`WandbLogger`: figures, hyperparameters, interventions and pictures to Weights & Biases."""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.loggers.base import Logger, Picture, Place, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class WandbLogger(Logger):
    """Sends to Weights & Biases, to one run of its for each line of history. Needs `pip install wandb`.

    Figures are drawn over "iteration". A kill within the moment between the sending and the note of it may let those few rows come
    twice, as W&B does not tell what it has. What a rewind leaves behind stays in its run, and the new branch gets one of its own.

    Args:
        project: The project's name.
        settings: Further arguments of `wandb.init`, as `mode="offline"` or `entity=...`.
    """

    def __init__(self, project: str = "deeptrain", **settings: Any) -> None:
        self._project, self._settings = project, settings
        self._run: Any = None

    def open(self, place: Place) -> Mapping[str, int] | None:
        """Go on with the run of this line of history, or begin one."""
        import wandb  # noqa: PLC0415 - where it is installed

        is_new = place.goes_back or "id" not in place.own
        if is_new:
            place.own["id"], place.own["name"] = secrets.token_hex(4), place.begin_line()
        given = {
            "name": place.own["name"],
            "group": place.name,
            "dir": None if place.directory is None else str(place.directory),
        }
        self._run = wandb.init(
            project=self._project, id=place.own["id"], resume="allow", **{**given, **self._settings}
        )
        self._run.define_metric("*", step_metric="iteration")
        self._run.config.update(place.hyperparameters, allow_val_change=True)
        return {} if is_new else None

    def metrics(self, rows: Sequence[Row]) -> None:
        """A row for each."""
        for at, figures in rows:
            self._run.log({"iteration": at, **figures})

    def interventions(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """All of them in the run's config."""
        told = {"interventions": [dict(entry) for entry in entries]}
        self._run.config.update(told, allow_val_change=True)

    def picture(self, picture: Picture) -> None:
        """An image."""
        import wandb  # noqa: PLC0415 - likewise

        with tempfile.TemporaryDirectory(prefix="deeptrain-") as place:
            path = Path(place) / "picture.png"
            path.write_bytes(picture.png)
            self._run.log({"iteration": picture.at, f"pictures/{picture.name}": wandb.Image(str(path))})

    def close(self) -> None:
        """End the run; it is gone on with where this one goes on."""
        if self._run is not None:
            self._run.finish()
            self._run = None
