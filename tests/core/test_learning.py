"""What one iteration may do to a model, in every combination: killed or stopped anywhere, continued, the same bits."""

import itertools
import shutil

import pytest

import deeptrain as dt
from tests.support import fresh, recipes

PRECISIONS = ("fp32", "bf16")
ACCUMULATE = (1, 3)
SCHEDULERS = ("none", "onecycle", "plateau")
EMA = (None, 0.9)
FED = ("windows", "repeat", None)
MATRIX = list(itertools.product(PRECISIONS, ACCUMULATE, SCHEDULERS, EMA, FED))
# Each pair of settings is among these.
SAMPLE = [
    ("fp32", 3, "onecycle", 0.9, "windows"),
    ("bf16", 3, "plateau", None, "repeat"),
    ("bf16", 1, "onecycle", 0.9, None),
    ("fp32", 3, "none", None, None),
    ("bf16", 1, "none", 0.9, "windows"),
    ("fp32", 1, "plateau", 0.9, "repeat"),
    ("bf16", 3, "plateau", 0.9, None),
    ("fp32", 1, "onecycle", None, "repeat"),
]


def recipe(precision, accumulate, scheduler, ema, preprocess, **more):
    learning = {"precision": precision, "accumulate": accumulate, "clip_norm": 0.5}
    if ema is not None:
        learning |= {"ema": ema, "evaluate_ema": True}
    return {"scheduler": scheduler, "preprocess": preprocess, "learning": learning | more}


def finish(runs, made):
    t = recipes.trainer(runs=runs, name="r", **made)
    t.fit()
    t.close()
    return recipes.summary(t)


def go(runs, safe_points, made, kill):
    """Continue for so many safe points, and then save and end, or just die."""
    t = recipes.trainer(runs=runs, name="r", **made)
    done = recipes.advance(t, safe_points)
    if kill:
        t.run.checkpoints.settle()
        recipes.os.kill(recipes.os.getpid(), recipes.signal.SIGKILL)
    t.run.save(t)
    t.close()
    return done


def count(made):
    t = recipes.trainer(**made)
    points = 1
    while not recipes.advance(t, 1):
        points += 1
    return points, recipes.summary(t)


def interrupted(place, made, stops):
    points, expected = fresh.run(count, made)
    for stop in range(1, points, stops):
        kill, runs = stop % 2, place / str(stop)
        if kill:
            with pytest.raises(EOFError):
                fresh.run(go, runs, stop, made, kill)
        else:
            fresh.run(go, runs, stop, made, kill)
            fresh.run(go, runs, 1 + stop % 4, made, kill)
        assert fresh.run(finish, runs, made) == expected, f"stopped after {stop} of {points}"


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: "-".join(map(str, case)))
def test_learning_stopped_and_killed_anywhere(case, tmp_path):
    interrupted(tmp_path, recipe(*case), 23)


@pytest.mark.torture
@pytest.mark.parametrize("case", MATRIX, ids=lambda case: "-".join(map(str, case)))
def test_the_whole_matrix(case, tmp_path):
    interrupted(tmp_path, recipe(*case), 3)


def test_fp16_stopped_and_killed_anywhere(tmp_path):
    made = recipe("fp16", 3, "onecycle", 0.9, None)
    # With a scale that is halved on the way.
    interrupted(tmp_path, made, 13)


@pytest.mark.filterwarnings("ignore")  # importing torch's compiler warns of its own parts
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.parametrize("stops", [45, pytest.param(3, marks=pytest.mark.torture)])
def test_a_compiled_model_stopped_and_killed_anywhere(stops, tmp_path):
    """Batches of two sizes, so that a process that begins elsewhere compiles in another order."""
    made = recipe("fp32", 3, "onecycle", 0.9, None, compile=True) | {"net": "plain"}
    interrupted(tmp_path, made, stops)


def test_lbfgs_stopped_and_killed_anywhere(tmp_path):
    made = {"scheduler": "multistep", "optimizer": "lbfgs", "learning": {"ema": 0.9}}
    interrupted(tmp_path, made, 13)


class TorchMetricsLike:
    """Adds up over an epoch, as torchmetrics' objects do."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.right, self.rows = recipes.torch.tensor(0), recipes.torch.tensor(0)

    def update(self, predictions, targets):
        self.right = self.right + (predictions.argmax(1) == targets).sum()
        self.rows = self.rows + len(targets)

    def compute(self):
        return self.right / self.rows

    @property
    def metric_state(self):
        return {"right": self.right, "rows": self.rows}


def test_metrics_that_add_up_go_on_where_they_were(tmp_path):
    def added(t):
        return [t.history["train.epoch_adding"].values.tolist(), recipes.summary(t)]

    whole = None
    for stops in ((), (3, 7, 8, 13)):
        runs = tmp_path / str(len(stops))

        def trainer(runs=runs):
            recipes.dt.reproducible(seed=3)
            model, train, _ = recipes.loaders("global", None, 0, None)
            step = dt.SupervisedStep(
                model,
                loss=recipes.nn.CrossEntropyLoss(),
                optimizer=recipes.OPTIMIZERS["adamw"](model.parameters()),
                metrics={"adding": TorchMetricsLike()},
                device="cpu",
            )
            return dt.Trainer(step, train, epochs=2, runs=runs, name="r", verbosity=0)

        for stop in stops:
            t = trainer()
            t.fit(until=dt.At(iteration=stop))
            t.run.save(t)
            t.close()
        t = trainer()
        t.fit()
        t.close()
        found = added(t)
        whole = whole or found
        assert found == whole
    assert len(whole[0]) == 2


def test_in_the_middle_of_an_update_the_gradients_are_part_of_the_state(tmp_path):
    """Paused between two pieces of one update, looked at, and continued in another process."""
    made = recipe("fp32", 3, "none", None, None)
    t = recipes.trainer(runs=tmp_path, name="r", **made)
    t.step(4)
    gathered = t.get("gathered.*")
    assert gathered["gathered.pieces"] == 1
    assert t.progress.train.updates == 1
    t.run.save(t)
    t.close()
    assert fresh.run(finish, tmp_path, made) == fresh.run(count, made)[1]


class Breaks(Exception):
    pass


def test_an_aborted_piece_leaves_those_before_it(tmp_path):
    made = recipe("fp32", 3, "none", None, None)
    expected = fresh.run(count, made)[1]
    t = recipes.trainer(**made)
    for at in range(16):
        backward, calls = t.learner._backward, []

        def broken(batch, backward=backward, calls=calls):
            found = backward(batch)
            if not calls:
                calls.append(1)
                raise Breaks
            return found

        t.learner._backward = broken
        before = dt.digest(t.state_dict())
        with pytest.raises(Breaks):
            t.step(1)
        assert dt.digest(t.state_dict()) == before, f"at {at}"
        t.step(1)
        t.learner._backward = backward
    t.fit()
    assert recipes.summary(t) == expected
