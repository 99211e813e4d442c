"""The best model: from the first value on, whatever its size or sign; saved before an older one goes."""

import math

import pytest
import torch

import deeptrain as dt
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.store import CheckpointStore
from tests.evaluation.test_validation import loader, make
from tests.support import recipes

NAN = math.nan


def told(values):
    """A metric that gives these values, one a pass, by the count of passes that its trainer has made."""
    holder = {}

    def metric(predictions, targets):
        return values[holder["trainer"].progress.validation.passes]

    return metric, holder


def run(values, mode, runs, **more):
    metric, holder = told(values)
    dt.reproducible(seed=3)
    model = recipes.Net()
    step = dt.SupervisedStep(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device="cpu",
    )
    t = holder["trainer"] = dt.Trainer(
        step,
        loader(1, 8 * len(values), 8),
        validation=dt.Validation(
            loader(2), metrics={"told": metric}, key_metric="told", mode=mode, every=dt.Every(batches=1)
        ),
        runs=runs,
        name="r",
        checkpoints=dt.Checkpoints(every=dt.Every(epochs=1), best=1, **more),
        verbosity=0,
    )
    return t, model


@pytest.mark.parametrize(
    ("values", "mode", "best"),
    [
        ([0.0, -1.0, -2.0], "max", 0),
        ([-5.0, -6.0, -4.0], "max", 2),
        ([1000.0, 2000.0, 1500.0], "min", 0),
        ([NAN, 3.0, NAN, 2.0], "max", 1),
        ([NAN, 3.0, NAN, 2.0], "min", 3),
        ([1.0, 1.0, 1.0], "max", 0),
        ([0.0, 0.0, 0.0], "min", 0),
        ([math.inf, 1.0, -math.inf, 2.0], "min", 2),
        ([-math.inf, NAN, -math.inf], "max", 0),
    ],
)
def test_the_weights_of_the_best_pass_are_kept(values, mode, best, tmp_path):
    t, model = run(values, mode, tmp_path)
    weights = []
    for batch in range(1, len(values) + 1):
        t.fit(until=dt.At(batch=batch))
        weights.append({k: v.clone() for k, v in model.state_dict().items()})
    t.fit()
    t.close()
    other = recipes.Net()
    dt.load_weights(t.run.path, other, which="best")
    for name, value in other.state_dict().items():
        if name != "calls":
            assert torch.equal(value, weights[best][name]), name
    dt.load_weights(t.run.path, other)
    assert torch.equal(other.head.bias, weights[-1]["head.bias"])


def test_it_is_the_same_wherever_the_run_was_stopped(tmp_path):
    values = [3.0, 2.0, 4.0, 4.0, 1.0]
    t, _ = run(values, "max", tmp_path / "whole")
    t.fit()
    t.close()
    whole = recipes.Net()
    dt.load_weights(t.run.path, whole, which="best")
    for stop in range(1, 17):
        for _ in range(2):
            t, _ = run(values, "max", tmp_path / str(stop))
            recipes.advance(t, stop)
            t.run.save(t)
            t.close()
        t, _ = run(values, "max", tmp_path / str(stop))
        t.fit()
        t.close()
        found = recipes.Net()
        dt.load_weights(t.run.path, found, which="best")
        assert torch.equal(found.head.weight, whole.head.weight), stop


def test_a_damaged_best_gives_the_next(tmp_path):
    t, _ = run([1.0, 3.0, 2.0], "max", tmp_path, keep=9)
    t.fit()
    t.close()
    store = t.run.path / "checkpoints"
    keys = {p: CheckpointStore(store)._facts(p).key for p in sorted(store.glob("0*"))}  # fmt: skip
    best = next(p for p, key in keys.items() if key == 3.0)
    file = next(best.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    found = CheckpointStore(store).best()
    assert [p for p, _ in found.passed_over] == [best]
    assert keys[found.path] in {3.0, 2.0}


def test_without_a_figure_there_is_no_best(tmp_path):
    t = make(loader(2), tmp_path)
    t.fit(until=dt.At(batch=1))
    t.close()
    with pytest.raises(CheckpointError, match=r"Checkpoints\(best=1\)"):
        dt.load_weights(t.run.path, recipes.Net(), which="best")
    with pytest.raises(ValueError, match='expected "newest" or "best"'):
        dt.load_weights(t.run.path, recipes.Net(), which="last")
