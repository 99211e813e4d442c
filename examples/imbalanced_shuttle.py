"""Seven rows in a hundred are anomalies: class weights, an exact threshold with an honest score, the best model, the worst rows.

    pip install --no-deps river
    python examples/imbalanced_shuttle.py

The data is Shuttle, from the compressed table in river's wheel: nine sensors, 49,097 rows. A small network is given two of
the sensors only, so that the classes overlap and the threshold matters.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import nn

import deeptrain as dt

INSIDE = Path("datasets", "shuttle.csv.gz")  # within river
REMEDY = "pip install --no-deps river (only its data file is read, nothing of it is imported)"
SENSORS = (1, 7)
BATCH = 128
EPOCHS = 4


def find_shuttle() -> Path | None:
    """Find the table in the installed river, which is not imported; None where there is none."""
    found = importlib.util.find_spec("river")
    places = [] if found is None else list(found.submodule_search_locations or [])
    return next((Path(place) / INSIDE for place in places if (Path(place) / INSIDE).is_file()), None)


def read_shuttle(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Two sensors, scaled, `(rows, 2)`; and 1 for an anomaly, `(rows, 1)`."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1, dtype=np.float32)
    x = table[:, SENSORS]
    return torch.from_numpy((x - x.mean(0)) / x.std(0)), torch.from_numpy(table[:, -1:])


def main() -> None:
    """Train, and say what the threshold is worth on rows that nobody looked at."""
    path = find_shuttle()
    if path is None:
        print(f"skipped: river's data is not there: {REMEDY}")
        return
    dt.reproducible(seed=0)
    x, y = read_shuttle(path)
    order = torch.randperm(len(x))
    parts = [dt.Arrays(x[rows], y[rows]) for rows in order.tensor_split([30_000, 40_000])]
    train, val, test = (
        dt.BatchLoader(part, batch_size=size, shuffle=size == BATCH)
        for part, size in zip(parts, (BATCH, 1000, 1000), strict=True)
    )
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
    step = dt.SupervisedStep(
        model,
        loss=nn.BCEWithLogitsLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), 1e-3),
        class_weights={0: 1, 1: 3},
        device="cpu",
    )
    validation = dt.Validation(
        val,
        metrics=["f1", "auroc"],
        key_metric="f1",
        threshold="f1",
        calibration=dt.TemperatureCalibration,
        ledger=True,
    )
    trainer = dt.Trainer(
        step,
        train,
        validation=validation,
        epochs=EPOCHS,
        name="shuttle",
        checkpoints=dt.Checkpoints(best=1),
        verbosity=0,
    )
    trainer.fit()
    for name in ("f1", "f1_optimistic", "threshold", "calibration_error", "calibration_error_calibrated"):
        print(f"val.{name}: {', '.join(f'{value:.4f}' for value in trainer.history[f'val.{name}'].values)}")

    found = dt.Threshold.from_state_dict(trainer.findings["threshold"])
    rows = trainer.predict(test)
    scores, truth = torch.sigmoid(rows.predictions), rows.targets
    f1 = dt.resolve_metric("f1")
    print(
        f"elsewhere: f1 {f1(scores, truth, threshold=found.threshold):.4f} at the threshold, {f1(scores, truth):.4f} at 0.5"
    )
    trainer.close()
    dt.load_weights(trainer.run.path, model, which="best")
    print(f"deeptrain worst {trainer.run.path}")


if __name__ == "__main__":
    main()
