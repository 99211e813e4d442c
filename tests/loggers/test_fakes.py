"""The adapters call what they are documented to call, by stand-ins for what they send to."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

import deeptrain as dt
from tests.loggers.test_loggers import PNG, Draws, flat, history, make
from tests.support import recipes


class FakeRun:
    """A run of W&B or trackio."""

    def __init__(self, **given):
        self.given, self.rows, self.pictures, self.ended = given, [], [], False
        self.config = SimpleNamespace(update=lambda values, **_: self.values.update(values))
        self.values = dict(given.get("config", {}))

    def define_metric(self, *_, **__):
        pass

    def log(self, values, step=None):
        at = values.pop("iteration", step)
        figures = {name: value for name, value in values.items() if isinstance(value, float)}
        self.rows += [[at, figures]] if figures else []
        self.pictures += [[at, name, value] for name, value in values.items() if name not in figures]

    def finish(self):
        self.ended = True


@pytest.mark.parametrize(("name", "logger"), [("wandb", dt.WandbLogger), ("trackio", dt.TrackioLogger)])
def test_wandb_and_trackio(tmp_path, monkeypatch, name, logger):
    runs, module = [], ModuleType(name)
    module.init = lambda **given: runs.append(FakeRun(**given)) or runs[-1]
    module.Image = lambda path: Path(path).read_bytes()
    module.Markdown = str
    monkeypatch.setitem(sys.modules, name, module)
    t = make(tmp_path, [logger("mine", space_id="a/b")], [Draws(), recipes.Steerer()])
    t.fit(until=dt.At(batch=9))
    t.rewind(batches=4)
    t.fit()
    t.close()
    first, second = runs
    assert (first.given["project"], first.given["name"], first.given["space_id"]) == ("mine", "M1__r", "a/b")
    assert second.given["name"] == "M1__r-line-2"
    assert first.ended
    assert second.ended
    assert first.rows[-1][0] == 9
    assert flat(second.rows) == history(t)
    assert first.values["lr"] == 0.01
    pictures = [row for row in second.pictures if row[1] == "pictures/norms"]
    assert pictures == [[at, "pictures/norms", PNG + str(at).encode()] for at in (4, 9, 13)]
    told = second.values.get("interventions") or [row for row in second.pictures if row[1] == "interventions"]
    assert told


class FakeClient:
    """MLflow's client, with what it keeps."""

    runs: ClassVar = {}

    def __init__(self, uri):
        self.uri = uri

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        return f"experiment {name}"

    def create_run(self, experiment, run_name):
        self.runs[run_name] = SimpleNamespace(metrics=[], params=[], texts={}, artifacts=[], status="RUNNING")
        return SimpleNamespace(info=SimpleNamespace(run_id=run_name))

    def update_run(self, run, status):
        self.runs[run].status = status

    def get_run(self, run):
        return SimpleNamespace(data=SimpleNamespace(metrics={m[0]: 0 for m in self.runs[run].metrics}))

    def get_metric_history(self, run, name):
        return [m for m in self.runs[run].metrics if m[0] == name]

    def log_batch(self, run, metrics=(), params=()):
        assert len(metrics) <= 1000
        assert len(params) <= 100
        self.runs[run].metrics += metrics
        self.runs[run].params += params

    def log_text(self, run, text, file):
        self.runs[run].texts[file] = text

    def log_artifact(self, run, path, folder):
        self.runs[run].artifacts.append((path.rpartition("/")[2], folder))

    def set_terminated(self, run):
        self.runs[run].status = "FINISHED"


def test_mlflow(tmp_path, monkeypatch):
    monkeypatch.setattr(FakeClient, "runs", {})
    module, entities = ModuleType("mlflow"), ModuleType("mlflow.entities")
    module.MlflowClient = FakeClient
    entities.Metric = lambda name, value, time, step: (name, step, value)
    entities.Param = lambda key, value: (key, value)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    for batch in (5, 9, 16):
        t = make(tmp_path, [dt.MLflowLogger("mine")], [Draws(), recipes.Steerer()])
        t.fit(until=dt.At(batch=batch))
        t.close()
    run = FakeClient.runs["M1__r"]
    figures = {}
    for name, at, value in run.metrics:
        figures.setdefault(name, []).append([at, value])
    assert figures == history(t)
    assert ("lr", "0.01") in run.params
    assert run.status == "FINISHED"
    assert run.artifacts == [(f"{at:08d}-norms.png", "pictures") for at in (4, 9, 13)]
    assert len(run.texts["interventions.jsonl"].splitlines()) == 5
