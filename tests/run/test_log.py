"""The tree of a run: branches where they left, what was done on each, and the runs that began with it."""

import pytest
from tests.core.test_steering import DECAY
from tests.support import recipes

import deeptrain as dt
from deeptrain.cli import main
from deeptrain.run.log import RunLog


def steered(runs):
    t = recipes.trainer(
        "multistep", runs=runs, name="r", checkpoints=dt.Checkpoints(every=dt.Every(batches=3), keep=20)
    )
    t.fit(until=dt.At(batch=6))
    t.set(DECAY, 0.5)
    t.rewind(batches=3, skip=t.last.batch)
    t.fit(until=dt.At(batch=10))
    t.train.exclude(rows=[1, 2])
    t.fork("half")
    t.try_({"a": lambda trainer: None, "b": lambda trainer: trainer.set(DECAY, 1.0)}, batches=1, keep="b")
    t.rewind(to=dt.At(batch=9))
    t.rewind(to=dt.At(batch=2))
    t.request_validation()
    t.request_validation()
    t.fit(until=dt.At(batch=5))
    t.close()
    return t.run.path


TREE = """branch 0, iterations 0 to 6
├─ branch 3, iterations 2 to 5: back from 9  (script)  <- the run is here
│  └─        2  request_validation()  (script), 2 times
├─ branch 1, iterations 3 to 10: back from 6, 1 batch passed over  (script)
│  ├─ branch 2, iterations 9 to 9: back from 10  (script)
│  ├─       10  train.exclude(rows=[1, 2])  (script)
│  ├─       10  tried a, b, went on with 'b'
│  ├─       10  set('optimizer.param_groups.*.weight_decay', 1.0)  (script)
│  └─       10  -> M2__half began with this state
└─        6  set('optimizer.param_groups.*.weight_decay', 0.5)  (script)"""


def test_a_run_is_drawn_as_a_tree(tmp_path, capsys):
    path = steered(tmp_path)
    log = RunLog(path)
    assert str(log) == f"{path}\n{TREE}"
    assert log.present == 3
    assert main(["log", str(path)]) == 0
    assert capsys.readouterr().out == f"{log}\n"
    fork = RunLog(tmp_path / "M2__half")
    assert str(fork).splitlines()[0] == f"{tmp_path / 'M2__half'}, from {path} at iteration 10"
    assert fork.branches[0].at == 10


def test_what_is_no_run(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        RunLog(tmp_path)
    assert main(["log", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_starts_interrupts_and_loads_are_told(tmp_path):
    class Pauses(dt.Callback):
        def on_train_batch_end(self, trainer, event):
            if event.iteration == 4:
                trainer.pause("a look")

    def make():
        return recipes.trainer("multistep", runs=tmp_path, name="r", callbacks=[Pauses()])

    t = make()
    with pytest.raises(dt.Interrupted):
        t.fit()
    t.close()
    t = make()
    t.save(tmp_path / "there")
    t.fit(until=dt.At(batch=6))
    t.load(tmp_path / "there")
    t.close()
    text = str(RunLog(t.run.path))
    assert "4  a look" in text
    assert "4  started again" in text
    assert f"branch 1, iterations 4 to 4: load({str(tmp_path / 'there')!r})" in text
