"""Kept predictions of several runs: read, laid side by side, and averaged by the command."""

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.cli import main
from deeptrain.evaluation.choosing.kept import read_predictions, side_by_side
from deeptrain.evaluation.judgement import Judged

parquet = pytest.importorskip("pyarrow.parquet")
import pyarrow as pa  # noqa: E402 - where it is installed


def write(path, rows, predictions, targets, **columns):
    table = {"row": rows, "target": targets} | columns
    if np.ndim(predictions) == 1:
        table["prediction"] = predictions
    else:
        table |= {f"prediction.{at}": column for at, column in enumerate(np.transpose(predictions))}
    parquet.write_table(pa.table(table), path)
    return path


@pytest.fixture
def three(tmp_path):
    """Three models whose errors are unlike, each with its rows in another order."""
    rng = np.random.default_rng(1)
    targets = rng.integers(0, 2, 300)
    found = {}
    for name in ("a", "b", "c"):
        logits = targets * 2 - 1 + 1.5 * rng.normal(size=300)
        order = rng.permutation(300)
        scores = 1 / (1 + np.exp(-logits))
        found[name] = write(tmp_path / f"{name}.parquet", order, scores[order], targets[order])
    return found


def test_what_a_trainer_wrote_is_read_again(tmp_path):
    dt.reproducible(seed=0)
    model = nn.Linear(4, 3)
    step = dt.SupervisedStep(model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu")  # fmt: skip
    data = dt.BatchLoader(dt.Arrays(torch.randn(20, 4), torch.randint(0, 3, (20,))), batch_size=6)
    trainer = dt.Trainer(step, data, runs=None, verbosity=0)
    judged = trainer.predict(dt.BatchLoader(data.source, batch_size=6, shuffle=True, seed=1))
    judged.to_parquet(tmp_path / "predictions.parquet")
    found = read_predictions(tmp_path)
    np.testing.assert_array_equal(found.predictions, judged.predictions.numpy())
    np.testing.assert_array_equal(found.targets, judged.targets.numpy())
    assert found.rows.tolist() == judged.rows.tolist() != list(range(20))
    assert (len(found), found.weights) == (20, None)


def test_the_rows_are_brought_into_one_order(three):
    kept = {name: read_predictions(path) for name, path in three.items()}
    rows = side_by_side(kept)
    for name, each in kept.items():
        where = {row: at for at, row in enumerate(each.rows.tolist())}
        expected = [each.predictions[where[row]] for row in kept["a"].rows.tolist()]
        assert rows.predictions[name].tolist() == expected
    assert rows.targets.tolist() == kept["a"].targets.tolist()


def test_rows_are_known_by_their_sets_and_windows_stay_together(tmp_path):
    rows, sets, places = [5, 6, 5, 9], ["x", "x", "x", "y"], [0, 1, 0, 0]
    one = write(tmp_path / "one.parquet", rows, [0.1, 0.2, 0.3, 0.4], [0, 1, 0, 1], set=sets, row_in_set=places)  # fmt: skip
    # Another run numbers the rows otherwise, and gives them in another order.
    two = write(tmp_path / "two.parquet", [0, 1, 1, 2], [0.9, 0.5, 0.6, 0.7], [1, 0, 0, 1], set=["y", "x", "x", "x"], row_in_set=[0, 0, 0, 1])  # fmt: skip
    found = side_by_side({"one": read_predictions(one), "two": read_predictions(two)})
    assert found.predictions["two"].tolist() == [0.5, 0.7, 0.6, 0.9]
    assert found.groups.tolist() == [0, 1, 0, 2]


def test_the_command_says_what_to_average_and_what_it_gains(three, capsys):
    names = [f"{name}={path}" for name, path in three.items()]
    assert main(["ensemble", *names, "--metric", "auroc"]) == 0
    told = capsys.readouterr().out
    rows = side_by_side({name: read_predictions(path) for name, path in three.items()})
    expected = dt.select_ensemble(rows.predictions, rows.targets, "auroc")
    assert f"out of fold: {expected.out_of_fold:.6g}, {expected.best_out_of_fold:.6g} of the best" in told
    assert f"{expected.score:.6g} (optimistic), {expected.best_score:.6g} of {expected.best}" in told
    for name, weight in expected.weights.items():
        assert f"{weight:.3f}  {name}" in told
    assert expected.gain > 0


def test_the_command_finds_a_threshold_for_each_ensemble(three, capsys):
    assert main(["ensemble", *map(str, three.values()), "--metric", "f1", "--threshold", "best"]) == 0
    assert "threshold 0." in capsys.readouterr().out
    assert main(["ensemble", *map(str, three.values()), "--metric", "f1", "--threshold", "most"]) == 2
    assert "--threshold most: expected a number, or best" in capsys.readouterr().err


def test_logits_are_said_to_be_such(tmp_path, capsys):
    logits = np.array([[2.0, -1.0], [0.5, 1.5], [1.0, 0.0], [-1.0, 3.0], [2.0, 2.5], [0.0, -2.0]])
    path = write(tmp_path / "p.parquet", range(6), logits, [0, 1, 0, 1, 1, 0])
    assert main(["ensemble", str(path), "--metric", "log_loss"]) == 2
    assert "--form" in capsys.readouterr().err
    assert main(["ensemble", str(path), "--metric", "log_loss", "--form", "logits"]) == 0
    assert f"1.000  {path}" in capsys.readouterr().out


def test_what_does_not_go_together_is_refused_by_name(tmp_path, three, capsys):
    def refused(*arguments):
        assert main(["ensemble", *map(str, arguments), "--metric", "auroc"]) == 2
        return capsys.readouterr().err

    fewer = write(tmp_path / "fewer.parquet", range(250), np.full(250, 0.5), np.zeros(250, int))
    assert "fewer.parquet: found 250 rows, of which 50 of the 300" in refused(three["a"], fewer)
    other = write(tmp_path / "other.parquet", range(300), np.full(300, 0.5), np.full(300, 7))
    assert "other.parquet: found other targets than those of" in refused(three["a"], other)
    assert "there is no such file: write one by deeptrain evaluate" in refused(tmp_path / "none")
    (tmp_path / "text").write_text("no table")
    assert "found no Parquet file" in refused(tmp_path / "text")
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    assert "found the columns ['x'], expected row" in refused(tmp_path / "x.parquet")
    nested = write(tmp_path / "nested.parquet", [0], [0.1], [0])
    table = parquet.read_table(nested).rename_columns(["row", "target", "prediction.mean"])
    parquet.write_table(table, nested)
    assert "predictions that are nested" in refused(nested)
    blind = parquet.read_table(three["a"]).drop(["target"])
    parquet.write_table(blind, tmp_path / "blind.parquet")
    assert "found no column target" in refused(tmp_path / "blind.parquet")
    assert "expected a name of its own" in refused(f"a={three['a']}", f"a={three['b']}")


def test_predictions_with_further_axes_are_read_flat(tmp_path):
    values = torch.arange(48.0).reshape(8, 3, 2)
    judged = Judged("", 1 << 20, None)
    piece = {"rows": torch.arange(8), "predictions": values, "targets": torch.zeros(8)}
    judged.stage(0, [piece], None, None)
    judged.commit()
    judged.to_parquet(tmp_path / "p.parquet")
    assert read_predictions(tmp_path / "p.parquet").predictions.tolist() == values.reshape(8, 6).tolist()
