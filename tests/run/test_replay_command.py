"""`deeptrain replay`: the run's script comes to a point again, in a run of its own; the run that it came from is only read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deeptrain.cli import main

ROOT = Path(__file__).parents[2]

SCRIPT = """
import sys, threading
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)
import deeptrain as dt
from tests.support import recipes

DECAY = "optimizer.param_groups.*.weight_decay"


class Asks(dt.Callback):
    # a person's change, once in the life of the run
    def on_train_iter_end(self, trainer, event):
        if event.iteration == 5 and "asks" in sys.argv and not trainer.run.travel:
            thread = threading.Thread(target=trainer.set, args=("scheduler.gamma", 0.75))
            thread.start()
            while not trainer.steering.waiting:
                pass


def main():
    t = recipes.trainer("multistep", runs="runs", name="r", callbacks=[*recipes.callbacks(), Asks()],
                        checkpoints=dt.Checkpoints(every=dt.Every(batches=4), keep=20), verbosity=1)
    t.fit(until=dt.At(batch=6))
    t.set(DECAY, 0.5)
    t.fit(until=dt.At(batch=11))
    t.rewind(batches=2)
    t.train.skip(batches=1)
    if "noise" in sys.argv:
        torch.manual_seed(1)
    t.fit(until=dt.At(batch=13))
    print("digest", dt.digest(t.state_dict()))
    t.fit()


main()
"""


def run(place, *arguments, expect=0):
    script = place / "train.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONWARNINGS": "default"},
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout


def replay(place, *arguments, expect=0):
    return run(place, "-m", "deeptrain", "replay", *arguments, expect=expect)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("replay")
    place.joinpath("out").write_text(run(place, "train.py", "asks"))
    return place


def contents(path):
    return {
        str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()
    }


@pytest.mark.parametrize("point", ["--to-batch=13", "--to-iteration=13"])
def test_a_point_is_come_to_again_with_the_same_bits(place, point):
    digest = next(
        line for line in place.joinpath("out").read_text().splitlines() if line.startswith("digest")
    )
    before = contents(place / "runs" / "M1__r")
    said = replay(place, "runs/M1__r", point)
    assert f"iteration 13, {digest}" in said
    assert "replayed 1 iteration, all identical" in said  # from the checkpoint at 12
    assert contents(place / "runs" / "M1__r") == before


def test_what_was_changed_from_outside_is_changed_again_or_left_out(place):
    said = replay(place, "runs/M1__r", "--to-batch", "7", "--name", "with")
    assert (
        "replayed 3 iterations, all identical" in said
    )  # from 4, through the person's change and the script's
    assert replay(place, "runs/M1__r", "--to-batch", "7", "--without-interventions", "--name", "without")
    with_it, without = max(place.glob("runs/M*__with")), max(place.glob("runs/M*__without"))
    assert main(["diff", str(with_it), str(without)]) == 1


def test_what_differs_is_told(place):
    said = replay(place, "runs/M1__r", "--to-batch", "13", "--script", "train.py", "noise", expect=1)
    assert "the replay is not identical" in said


def test_what_cannot_be_come_to(place, capsys):
    path = str(place / "runs" / "M1__r")
    assert main(["replay", path, "--to-batch", "99"]) == 2
    assert "lies ahead" in capsys.readouterr().err
    assert main(["replay", str(place), "--to-batch", "1"]) == 2
    assert "a run's directory is named" in capsys.readouterr().err


def test_a_script_that_makes_no_such_trainer(place):
    (place / "other.py").write_text("print('hello')")
    done = subprocess.run(
        [sys.executable, "-m", "deeptrain", "replay", "runs/M1__r", "--to-batch", "13", "--script", "other.py"],
        cwd=place, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "did not come to batches=13" in done.stderr
