"""What was judged leaves the process: as a table, and by a command that runs a script's own validation."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt
from tests.evaluation.test_validation import loader, make
from tests.support import recipes

parquet = pytest.importorskip("pyarrow.parquet")

SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
import deeptrain as dt

dt.reproducible(seed=0)
x, y = torch.randn(60, 4), torch.randint(0, 3, (60,))
model = nn.Linear(4, 3)
step = dt.SupervisedStep(model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu")
val = dt.BatchLoader(dt.Arrays(x[40:], y[40:]), batch_size=7)
trainer = dt.Trainer(
    step,
    dt.BatchLoader(dt.Arrays(x[:40], y[:40]), batch_size=8, shuffle=True),
    validation=None if "blind" in sys.argv else dt.Validation(val, metrics={"accuracy": lambda p, t: (p.argmax(1) == t).float().mean()}),
    epochs=3, name="r", checkpoints=dt.Checkpoints(every=dt.Every(epochs=1), best=1), verbosity=0,
)
trainer.fit()
print("trained", trainer.progress.train.epochs)
"""


def deeptrain(place, *arguments):
    command = [sys.executable, "-m", "deeptrain", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)


def test_a_run_is_judged_by_its_script_and_only_read(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True)
    run = tmp_path / "runs" / "M1__r"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    told = deeptrain(tmp_path, "evaluate", "M1", "--which", "best", "--predictions", "rows")
    assert told.returncode == 0, told.stderr
    assert "trained" not in told.stdout
    history = dt.open_run(run).history
    best = int(np.argmin(history["val.loss"].values))
    assert f"  loss {history['val.loss'].values[best]:.6g}" in told.stdout
    assert f"  accuracy {history['val.accuracy'].values[best]:.6g}" in told.stdout
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["M1__r"]
    table = parquet.read_table(tmp_path / "rows" / "predictions.parquet").to_pydict()
    assert table["row"] == list(range(20))
    right = np.argmax([table[f"prediction.{i}"] for i in range(3)], axis=0) == table["target"]
    assert right.mean() == pytest.approx(history["val.accuracy"].values[best])


def test_what_cannot_be_evaluated_is_said(tmp_path):
    (tmp_path / "train.py").write_text(SCRIPT)
    subprocess.run([sys.executable, "train.py"], cwd=tmp_path, check=True)
    told = deeptrain(tmp_path, "evaluate", "M1", "--predictions", "train.py")
    assert told.returncode == 2
    assert "File exists: 'train.py'" in told.stderr
    told = deeptrain(tmp_path, "evaluate", "M1", "--script", "train.py", "blind")
    assert told.returncode == 2
    assert "with a validation" in told.stderr
    (tmp_path / "other.py").write_text("print('nothing')")
    told = deeptrain(tmp_path, "evaluate", "M1", "--script", "other.py")
    assert told.returncode == 2
    assert "evaluated nothing" in told.stderr


def test_rows_as_a_table(tmp_path):
    recipes.write_files(tmp_path / "sets")
    data = dt.BatchLoader(dt.Files(tmp_path / "sets"), batch_size=8, shuffle="global", seed=4)
    judged = make(data).validate(keep_predictions=True).judged
    judged.to_parquet(tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet").to_pydict()
    assert table["set"] == judged.sets
    assert table["target"] == judged.targets.tolist()
    assert np.array_equal(
        np.array([table[f"prediction.{i}"] for i in range(3)]).T, judged.predictions.numpy()
    )
    assert sorted(zip(table["set"], table["row_in_set"], strict=True))[:2] == [("0", 0), ("0", 1)]
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["rows.parquet"]


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x):
        out = self.layer(x)
        return {"logits": out.bfloat16(), "maps": (out[:, :, None] * torch.ones(2, 2)[None, 0],)}


def test_nested_predictions_and_further_axes(tmp_path):
    model = Nested()
    step = dt.SupervisedStep(
        model,
        loss=lambda p, t: nn.functional.cross_entropy(p["logits"].float(), t),
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device="cpu",
    )
    t = dt.Trainer(step, loader(1), runs=None, verbosity=0)
    judged = t.predict(loader(2))
    judged.to_parquet(tmp_path / "rows.parquet")
    table = parquet.read_table(tmp_path / "rows.parquet").to_pydict()
    assert {"row", "target", "prediction.logits.0", "prediction.maps.0"} <= set(table)
    assert np.array_equal(
        np.array(table["prediction.maps.0"]).reshape(20, 3, 2), judged.predictions["maps"][0].numpy()
    )
