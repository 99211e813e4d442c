"""What every row's loss was: the same wherever the run was interrupted, within its bound, and the worst rows of it."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.cli import main
from deeptrain.evaluation.row_ledger import ENTRY, RowLedger, read_ledger
from deeptrain.evaluation.worst import worst_rows
from tests.evaluation.test_validation import loader
from tests.support import fresh, recipes

EPOCHS = 3


def make(runs, more=(), validation=True, **settings):
    dt.reproducible(seed=3)
    model = recipes.Net()
    step = dt.SupervisedStep(
        model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.AdamW(model.parameters(), 1e-2), device="cpu"
    )
    recipes_files = runs.parent / "sets"
    if not recipes_files.exists():
        recipes.write_files(recipes_files)
    return dt.Trainer(
        step,
        dt.BatchLoader(dt.Files(recipes_files), batch_size=8, shuffle="global", seed=5),
        validation=dt.Validation(loader(2), ledger=True, every=dt.Every(batches=5)) if validation else None,
        epochs=EPOCHS,
        runs=runs,
        name="r",
        checkpoints=dt.Checkpoints(every=dt.Every(batches=3), keep=9),
        callbacks=[*recipes.callbacks(), dt.Ledger(validation=False, **settings), *more],
        verbosity=0,
    )


def ledgers(run):
    return {name: [a.tobytes() if hasattr(a, "tobytes") else a for a in read_ledger(run / "ledger" / name)[:2]] for name in ("train", "val")}  # fmt: skip


def go(runs, stop):
    t = make(runs)
    recipes.advance(t, stop)
    t.run.checkpoints.settle()
    os.kill(os.getpid(), recipes.signal.SIGKILL)


def finish(runs):
    t = make(runs)
    t.fit()
    t.close()
    return ledgers(t.run.path), recipes.summary(t)


class Remembers(dt.Callback):
    def __init__(self):
        self.losses = {}

    def on_train_iter_end(self, trainer, event):
        each = nn.functional.cross_entropy(event.outputs, event.batch.targets, reduction="none")
        for row, loss in zip(event.batch.rows.tolist(), each.tolist(), strict=True):
            self.losses[event.batch.epoch, row] = loss


def test_it_has_the_loss_of_every_row_in_every_pass(tmp_path):
    remembers = Remembers()
    t = make(tmp_path / "runs", [remembers])
    t.fit()
    t.close()
    numbers, table, sets, paths = read_ledger(t.run.path / "ledger" / "train")
    assert numbers == list(range(EPOCHS))
    assert sets.names == ("0", "1", "2", "3", "4", "5")
    assert [path.rpartition("/")[2] for path in paths] == [f"set{number}.npy" for number in range(6)]
    for (epoch, row), loss in remembers.losses.items():
        assert table["loss"][epoch, row] == np.float32(loss)
    assert set(np.unique(table["right"])) == {0, 1}
    numbers, table, *_ = read_ledger(t.run.path / "ledger" / "val")
    assert len(numbers) == t.progress.validation.passes
    judged = t.validate(keep_predictions=True).judged
    assert table.shape == (len(numbers), len(judged))


def test_stopped_and_killed_anywhere(tmp_path):
    expected = finish(tmp_path / "whole")
    points, t = 1, make(tmp_path / "count")
    while not recipes.advance(t, 1):
        points += 1
    t.close()
    for stop in range(1, points, 19):
        runs = tmp_path / str(stop)
        if stop % 2:
            with pytest.raises(EOFError):
                fresh.run(go, runs, stop)
        else:
            t = make(runs)
            recipes.advance(t, stop)
            t.run.save(t)
            t.close()
        assert finish(runs) == expected, f"stopped after {stop} of {points}"


def test_a_rewind_forgets_what_came_later(tmp_path):
    t = make(tmp_path / "runs")
    t.fit(until=dt.At(epoch=2))
    t.rewind(batches=12)
    t.step(1)
    numbers, *_ = read_ledger(t.run.path / "ledger" / "train")
    assert numbers == [0]
    t.fit()
    t.close()
    assert read_ledger(t.run.path / "ledger" / "train")[0] == [0, 1, 2]


@pytest.mark.parametrize("place", [None, "ledger"])
def test_past_its_bound_older_passes_go(tmp_path, place):
    rows = 10
    ledger = RowLedger(rows, None if place is None else tmp_path / place, 6 * rows * ENTRY.itemsize)
    every = np.arange(rows)
    for number in range(40):
        ledger.note(number, every, np.full(rows, number, np.float32), np.zeros(rows, np.int8))
        kept, table = ledger.read()
        assert kept[0] == 0
        assert kept[-1] == number
        assert len(kept) <= 6
        assert table["loss"][:, 0].tolist() == kept


def test_without_a_directory_it_is_in_memory():
    t = recipes.trainer(callbacks=[dt.Ledger()])
    t.fit()
    kept, table = t.handlers.by_name["Ledger"].ledgers["train"].read()
    assert kept == [0, 1]
    assert not np.isnan(table["loss"]).any()


def test_windows_that_a_series_has_not_do_not_count():
    t = recipes.trainer(preprocess="windows", callbacks=[dt.Ledger()])
    t.fit()
    for name in ("train", "val"):
        assert not np.isnan(t.handlers.by_name["Ledger"].ledgers[name].read()[1]["loss"]).any()


def test_a_loss_without_rows_is_refused():
    model = nn.Linear(6, 3)
    step = dt.SupervisedStep(
        model, loss=lambda p, t: p.mean(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu"
    )
    t = dt.Trainer(step, loader(1), callbacks=[dt.Ledger()], runs=None, verbosity=0)
    with pytest.raises(TypeError, match="no value for each row"):
        t.fit()
    own = dt.Trainer(lambda batch: model(batch.inputs).mean(), loader(1), callbacks=[dt.Ledger()], runs=None, verbosity=0)  # fmt: skip
    with pytest.raises(TypeError, match="has no loss of predictions"):
        own.fit()


def table_of(*passes):
    return np.array([[(loss, right) for loss, right in each] for each in passes], ENTRY)


def test_the_worst_rows():
    found = worst_rows(
        table_of(
            [(0.1, 1), (2.0, 0), (0.5, 1), (np.nan, -1)],
            [(0.1, 1), (3.0, 0), (0.9, 0), (np.nan, -1)],
            [(0.1, 1), (3.0, 0), (0.5, 1), (np.nan, -1)],
            [(0.2, 1), (np.inf, 0), (0.9, 0), (np.nan, -1)],
        )
    )
    assert found.hardest.tolist() == [1, 2, 0]
    assert found.forgotten.tolist() == [2]
    assert found.forgettings.tolist() == [0, 0, 2, 0]
    assert found.doubted.tolist() == [1]
    assert found.rights[:3].tolist() == [1.0, 0.0, 0.5]


def test_labels_that_were_exchanged_are_found(tmp_path, capsys):
    """Rows that are told apart easily, and three whose label is another one's."""
    dt.reproducible(seed=0)
    x = torch.randn(200, 4) * torch.tensor([1.0, 0.1, 0.1, 0.1])
    y = (x[:, 0] > 0).long()
    clear = x[:, 0].abs().argsort(descending=True)[:3]
    y[clear] = 1 - y[clear]
    model = nn.Linear(4, 2)
    step = dt.SupervisedStep(
        model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu"
    )
    t = dt.Trainer(
        step,
        dt.BatchLoader(dt.Arrays(x, y), batch_size=20, shuffle=True),
        epochs=12,
        runs=tmp_path,
        callbacks=[dt.Ledger()],
        name="r",
        verbosity=0,
    )
    t.fit()
    t.close()
    assert main(["worst", str(t.run.path), "--number", "3"]) == 0
    told = capsys.readouterr().out
    assert f"trainer.train.exclude(rows={worst_rows(read_ledger(t.run.path / 'ledger' / 'train')[1], 3).doubted.tolist()})" in told  # fmt: skip
    assert {int(line.split()[0]) for line in told.split("doubted")[1].splitlines()[2:5]} == set(
        clear.tolist()
    )
    t = recipes.trainer(runs=tmp_path, name="none")
    t.close()
    assert main(["worst", str(t.run.path)]) == 2
    assert "train with dt.Validation(..., ledger=True)" in capsys.readouterr().err
