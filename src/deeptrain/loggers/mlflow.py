"""`MLflowLogger`: figures, hyperparameters, interventions and pictures to MLflow."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.loggers.base import Logger, Picture, Place, Row

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AT_ONCE = 1000  # metrics in a request, by MLflow's own limit
PARAMS, LONGEST = 100, 500  # likewise, and characters of a value


class MLflowLogger(Logger):
    """Sends to MLflow, to one run of its for each line of history. Needs `pip install mlflow` or `mlflow-skinny`.

    When the run goes on, MLflow is asked what it has, and gets the rest: nothing comes twice. What a rewind leaves behind stays
    in MLflow's run, and the new branch gets a run of its own.

    Args:
        experiment: The experiment's name; it is made where there is none.
        tracking_uri: Where MLflow keeps its runs, as "sqlite:///mlflow.db"; its own default otherwise.
    """

    def __init__(self, experiment: str = "deeptrain", tracking_uri: str | None = None) -> None:
        self._experiment, self._uri = experiment, tracking_uri
        self._client: Any = None
        self._run = ""

    def open(self, place: Place) -> Mapping[str, int]:
        """Go on with MLflow's run of this line of history, or begin one."""
        from mlflow import MlflowClient  # noqa: PLC0415 - where it is installed

        self._client = MlflowClient(self._uri)
        if "run_id" in place.own and not place.goes_back:
            self._run = place.own["run_id"]
            self._client.update_run(self._run, status="RUNNING")
            names = self._client.get_run(self._run).data.metrics
            return {name: len(self._client.get_metric_history(self._run, name)) for name in names}
        self._run = place.own["run_id"] = self._begin(place.begin_line(), place.hyperparameters)
        return {}

    def _begin(self, name: str, values: Mapping[str, Any]) -> str:
        from mlflow.entities import Param  # noqa: PLC0415 - likewise

        found = self._client.get_experiment_by_name(self._experiment)
        place = self._client.create_experiment(self._experiment) if found is None else found.experiment_id
        run = str(self._client.create_run(place, run_name=name).info.run_id)
        params = [Param(key, str(value)[:LONGEST]) for key, value in values.items()]
        for start in range(0, len(params), PARAMS):
            self._client.log_batch(run, params=params[start : start + PARAMS])
        return run

    def metrics(self, rows: Sequence[Row]) -> None:
        """A metric for each figure, at the iteration as its step."""
        from mlflow.entities import Metric  # noqa: PLC0415 - likewise

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, at) for at, figures in rows for name, value in figures.items()]
        for start in range(0, len(metrics), AT_ONCE):
            self._client.log_batch(self._run, metrics=metrics[start : start + AT_ONCE])

    def interventions(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """All of them as a file of the run's, a line for each."""
        text = "".join(json.dumps(dict(entry)) + "\n" for entry in entries)
        self._client.log_text(self._run, text, "interventions.jsonl")

    def picture(self, picture: Picture) -> None:
        """A file of the run's."""
        with tempfile.TemporaryDirectory(prefix="deeptrain-") as place:
            path = Path(place) / f"{picture.at:08d}-{picture.name}.png"
            path.write_bytes(picture.png)
            self._client.log_artifact(self._run, str(path), "pictures")

    def close(self) -> None:
        """Say that the run has ended; it is opened again where it goes on."""
        if self._run:
            self._client.set_terminated(self._run)
            self._run = ""
