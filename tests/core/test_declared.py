"""What components declare as never saved or never loaded: between runs, and never within one."""

import pytest
import torch

import deeptrain as dt
from deeptrain.checkpoint.format import read_checkpoint
from deeptrain.state import tree
from deeptrain.state.tree import UnknownPathError
from tests.support import fresh, recipes

LR = "optimizer.param_groups.0.lr"


class Memory(recipes.Chain):
    """A callback that has something which does not go to other runs."""

    save_skip = ("hash",)
    load_skip = ("events",)


def make(runs=None, name="r", rate=1e-2, **more):
    """A small trainer without a schedule; its step keeps its rate where another run's state is loaded."""
    dt.reproducible(seed=3)
    model, train, _ = recipes.loaders("global", None, 0, None)
    step = dt.SupervisedStep(
        model,
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), rate),
        device="cpu",
    )
    step.load_skip = more.pop("step_skip", ("optimizer.param_groups.*.lr",))
    step.save_skip = more.pop("save_skip", ())
    train.load_skip = more.pop("train_skip", ())
    return dt.Trainer(
        step,
        train,
        epochs=2,
        name=name,
        runs=runs,
        callbacks=[Memory()],
        verbosity=more.pop("verbosity", 0),
        **more,
    )


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a whole state of another run."""
    t = make(step_skip=())
    Memory.save_skip, kept = (), Memory.save_skip
    t.step(5)
    t.save(tmp_path / "saved")
    Memory.save_skip = kept
    return tmp_path / "saved"


def test_what_is_not_to_be_loaded_stays_as_it_is_and_is_told(saved):
    t = make(rate=0.5, train_skip=["cursor"])
    report = t.load(saved)
    cursor = [f"data.train.cursor.{name}" for name in ("epoch", "batch", "iteration")]
    assert report.kept == [LR, *cursor, "callbacks.Memory.events"]
    assert t.get(LR) == 0.5
    assert t.train.position == (0, 0, 0)
    memory = t.handlers.by_name["Memory"]
    assert memory.events == 0
    assert memory.hash
    assert t.progress.train.iterations == 5


def test_patterns_of_the_call_come_on_top_and_what_is_named_is_meant(saved):
    t = make(rate=0.5)
    report = t.load(saved, skip=["history"])
    assert t.get(LR) == 0.5
    assert not len(t.history)
    assert LR in report.kept
    assert t.load(saved, only=[LR, "history"]).loaded[0] == LR
    assert t.get(LR) == 1e-2


def test_what_is_not_to_be_saved_is_left_out_of_save_alone(tmp_path):
    t = make(tmp_path / "runs", save_skip=("optimizer.state", "optimizer.state.*.exp_avg"))
    t.step(3)
    t.save(tmp_path / "here")
    state, info = read_checkpoint(tmp_path / "here")
    assert info["partial"]["skip"][0] == "optimizer.state"
    assert not tree.matching(state, "optimizer.state.*.exp_avg")
    assert not tree.matching(state, "callbacks.Memory.hash")
    t.save(tmp_path / "there", only=["optimizer", "callbacks"])
    state, _ = read_checkpoint(tmp_path / "there")
    assert tree.matching(state, "optimizer.state.*.exp_avg")
    assert tree.matching(state, "callbacks.Memory.hash")
    t.close()
    state = t.run.read(t.run.path)
    assert tree.digest(state) == dt.digest(t.state_dict())


def go(runs, iterations=None):
    t = make(runs, rate=1e-2)
    t.fit(None if iterations is None else dt.At(iteration=iterations))
    t.close()
    return dt.digest(t.state_dict())


def test_a_run_that_goes_on_takes_all_of_its_own_state_and_says_why(tmp_path, capsys):
    fresh.run(go, tmp_path / "runs", 5)
    again = make(tmp_path / "runs", verbosity=1)
    assert (
        "load_skip is left aside (optimizer.param_groups.*.lr, callbacks.Memory.events): the run goes on"
        in capsys.readouterr().out
    )
    again.set(LR, 0.5)
    assert again.load(again.run.path) is None
    assert again.get(LR) == 1e-2
    assert "the run goes on from its own checkpoint" in capsys.readouterr().out
    again.close()


def test_what_is_declared_changes_no_bit_of_a_run_that_goes_on(tmp_path):
    expected = fresh.run(go, tmp_path / "untouched")
    fresh.run(go, tmp_path / "runs", 5)
    assert fresh.run(go, tmp_path / "runs") == expected


def test_a_new_run_from_another_ones_state_keeps_what_is_its_own(tmp_path):
    fresh.run(go, tmp_path, 5)
    child = make(tmp_path, "child", rate=0.5, resume=tmp_path / "M1__r")
    assert child.get(LR) == 0.5
    assert child.progress.train.iterations == 5
    assert child.handlers.by_name["Memory"].events == 0
    child.fit()
    child.close()
    again = make(tmp_path, "child", rate=0.5)
    assert dt.digest(again.state_dict()) == dt.digest(child.state_dict())
    with pytest.raises(dt.FingerprintMismatch, match=r"lr: 0\.01 -> 0\.5"):
        make(tmp_path, "other", rate=0.5, resume=tmp_path / "M1__r", step_skip=())


def test_a_new_run_from_a_state_that_was_saved_in_part(tmp_path):
    t = make(save_skip=("optimizer",))
    t.step(5)
    t.save(tmp_path / "part")
    child = make(tmp_path, "child", resume=tmp_path / "part")
    assert torch.equal(child.get(r"model.head\.bias"), t.get(r"model.head\.bias"))
    assert not child.get("optimizer.state")
    child.fit()
    child.close()


def test_a_state_that_is_torn_is_loaded_whole(saved, capsys):
    t = make(rate=0.5, verbosity=1)
    t.progress.torn = "something was cut short"
    t.load(saved)
    assert t.get(LR) == 1e-2
    assert "load_skip is left aside" in capsys.readouterr().out


@pytest.mark.parametrize("which", ["load_skip", "save_skip"])
def test_what_is_no_part_of_the_component_is_refused_by_name(saved, tmp_path, which):
    for pattern, error in (
        ("progress.*", UnknownPathError),
        ("optimiser.*", UnknownPathError),
        (3, TypeError),
    ):
        t = make()
        setattr(t.learner, which, (pattern,))
        with pytest.raises(error, match=rf"SupervisedStep.{which}"):
            t.load(saved) if which == "load_skip" else t.save(tmp_path / "x")
    t = make()
    setattr(t.handlers.by_name["Memory"], which, ("hsah",))
    with pytest.raises(
        UnknownPathError,
        match=rf"Memory.{which} = 'hsah': there is nothing at this of the state at callbacks",
    ):
        t.load(saved) if which == "load_skip" else t.save(tmp_path / "x")


def test_what_comes_with_training_may_be_named_before(saved):
    t = make(step_skip=("optimizer.state.*.exp_avg",))
    t.load(saved)
    assert not tree.matching(t.state_dict(), "optimizer.state.*.exp_avg")
    assert tree.matching(t.state_dict(), "optimizer.state.*.exp_avg_sq")
