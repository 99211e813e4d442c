"""TensorBoard, MLflow, W&B and trackio as they are, where they are installed; nothing leaves the machine."""

import io
import json
import logging

import pytest
from matplotlib.figure import Figure

import deeptrain as dt
from deeptrain.loggers import feeding
from tests.core.test_steering import DECAY, Dies, again_and_again
from tests.loggers.test_loggers import history, make
from tests.support import fresh, recipes


def png():
    buffer = io.BytesIO()
    Figure(figsize=(1, 1)).savefig(buffer, format="png")
    return buffer.getvalue()


class Draws(dt.Callback):
    def on_train_batch_end(self, trainer, event):
        if event.iteration in {4, 9, 13}:
            trainer.log_picture("empty", png())


LOGGERS = {
    "tensorboard": lambda place: dt.TensorBoardLogger(),
    "mlflow": lambda place: dt.MLflowLogger(tracking_uri=f"file:{place}/mlruns"),
    "wandb": lambda place: dt.WandbLogger(mode="offline"),
    "trackio": lambda place: dt.TrackioLogger(),
}


def script(runs, mark, iteration, name, *more):
    """A run that is steered and draws, and dies where it is told to; gives its figures."""
    feeding.SECONDS, back = more
    t = make(runs, [LOGGERS[name](runs.parent)], [Draws(), recipes.Steerer(), Dies(mark, iteration)])
    t.fit(until=dt.At(batch=9))
    if back:
        t.rewind(batches=4)
        t.set(DECAY, 0.5)
    t.fit()
    t.close()
    return history(t)


def pairs(figures):
    return {name: sorted(map(tuple, values)) for name, values in figures.items()}


def rounded(figures):
    """As floats of 32 bits, which TensorBoard keeps."""
    return {name: [(at, pytest.approx(value, rel=1e-6)) for at, value in v] for name, v in figures.items()}


# ------------------------------------------------------------------ TensorBoard


def in_tensorboard(run):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = module.EventAccumulator(str(run / "tensorboard"), size_guidance=dict.fromkeys(
        ("scalars", "images", "tensors"), 0
    ))  # fmt: skip
    found.Reload()
    return found


@pytest.mark.parametrize(("every", "back"), [(0.0, False), (1e9, False), (0.0, True)])
def test_tensorboard_has_each_thing_once_wherever_the_process_is_killed(tmp_path, every, back):
    pytest.importorskip("tensorboard")
    for iteration in (None, 1, 5, 6, 7, 9, 12, 16):
        place = tmp_path / str(iteration)
        figures = again_and_again(
            script, place, tmp_path / f"{iteration}.died", iteration, "tensorboard", every, back
        )
        found = in_tensorboard(place / "M1__r")
        scalars = {
            tag.replace("/", ".", 1): [(event.step, event.value) for event in found.Scalars(tag)]
            for tag in found.Tags()["scalars"]
        }
        assert {name: [tuple(p) for p in v] for name, v in scalars.items()} == rounded(figures), iteration
        assert [event.step for event in found.Images("pictures/empty")] == [4, 9, 13]
        last = found.Tensors("interventions/text_summary")[-1].tensor_proto.string_val[0].decode()
        assert last.count("\n") == (9 if back else 6)
        assert len(found.Tensors("hyperparameters/text_summary")) == 1
        logging.getLogger("tensorboard").setLevel(logging.ERROR)


# ------------------------------------------------------------------ MLflow


def in_mlflow(place):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"file:{place}/mlruns")
    experiment = client.get_experiment_by_name("deeptrain").experiment_id
    found = {}
    for run in client.search_runs([experiment]):
        metrics = {
            name: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, name))
            for name in run.data.metrics
        }
        folder = place / "mlruns" / experiment / run.info.run_id / "artifacts"
        found[run.info.run_name] = metrics, run.data.params, folder, run.info.status
    return found


@pytest.fixture(autouse=True)
def _mlflow_keeps_files(monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.mark.parametrize("back", [False, True])
def test_mlflow_has_each_thing_once_wherever_the_process_is_killed(tmp_path, back):
    pytest.importorskip("mlflow")
    for iteration in (None, 5, 7, 12):
        place = tmp_path / str(iteration)
        place.mkdir()
        figures = again_and_again(script, place / "runs", place / "died", iteration, "mlflow", 0.0, back)
        found = in_mlflow(place)
        assert sorted(found) == (["M1__r", "M1__r-line-2"] if back else ["M1__r"])
        metrics, params, folder, status = found[max(found)]
        assert metrics == pairs(figures), iteration
        assert params["lr"] == "0.01"
        assert status == "FINISHED"
        assert sorted(p.name for p in (folder / "pictures").iterdir()) == [
            f"{at:08d}-empty.png" for at in (4, 9, 13)
        ]
        lines = [json.loads(line) for line in (folder / "interventions.jsonl").read_text().splitlines()]
        assert [entry["at"] for entry in lines if entry["origin"] == "callback"][:3] == [3, 4, 8]


# ------------------------------------------------------------------ W&B and trackio


def test_wandb_offline(tmp_path):
    pytest.importorskip("wandb")
    fresh.run(script, tmp_path / "runs", None, None, "wandb", 0.0, True)
    run = tmp_path / "runs" / "M1__r"
    assert len(list((run / "wandb").glob("offline-run-*"))) == 2
    own = json.loads((run / "loggers" / "WandbLogger.json").read_text())["own"]
    assert own["name"] == "M1__r-line-2"
    assert list((run / "wandb").glob(f"offline-run-*-{own['id']}/run-{own['id']}.wandb"))


def trackio_script(runs, mark, iteration, back):
    figures = script(runs, mark, iteration, "trackio", 0.0, back)
    from trackio.sqlite_storage import SQLiteStorage

    found = {}
    for run in SQLiteStorage.get_runs("deeptrain"):
        found[run] = {}
        for row in SQLiteStorage.get_logs("deeptrain", run):
            for name in set(row) & set(figures):
                found[run].setdefault(name, []).append((row["step"], row[name]))
    return figures, found


def test_trackio(tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    for back, iteration in ((False, 7), (True, None)):
        place = tmp_path / str(back)
        place.mkdir()
        monkeypatch.setenv("TRACKIO_DIR", str(place / "trackio"))
        figures, found = again_and_again(trackio_script, place / "runs", place / "died", iteration, back)
        assert len(found) == (2 if back else 1)
        assert pairs(found[max(found)]) == pairs(figures)
