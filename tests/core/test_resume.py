"""Which run a script continues, and what happens where the script has changed since."""

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import deeptrain as dt
from tests.support import recipes


def trainer(
    runs, *, lr=1e-2, batch_size=8, shuffle="global", loss=None, hidden=6, epochs=2, config=None, **more
):
    dt.reproducible(seed=0)
    model = nn.Sequential(nn.Linear(6, hidden), nn.Tanh(), nn.Linear(hidden, 3))
    step = dt.SupervisedStep(
        model,
        loss=loss or nn.CrossEntropyLoss(),
        optimizer=torch.optim.AdamW(model.parameters(), lr),
        device="cpu",
    )
    train = dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=batch_size, shuffle=shuffle, seed=1)
    more = {"name": "r", "verbosity": 0, **more}
    return dt.Trainer(step, train, runs=runs, epochs=epochs, config=config, **more)


def stopped(runs, batches, **more):
    with trainer(runs, **more) as t:
        t.fit(until=dt.At(batch=batches))
        t.run.save(t)
        return t.run.path


def test_the_same_name_continues_the_unfinished_run_and_finds_the_finished_one_done(tmp_path):
    first = stopped(tmp_path, 5)
    with trainer(tmp_path) as t:
        assert t.run.path == first
        assert t.progress.train.iterations == 5
        t.fit()
        digest = dt.digest(t.state_dict())
    with trainer(tmp_path) as again:
        assert again.run.path == first
        again.fit()
        assert dt.digest(again.state_dict()) == digest
    with trainer(tmp_path, lr=3e-3) as other:
        assert other.run.path.name == "M2__r"
        assert other.progress.train.iterations == 0


def test_more_epochs_may_be_asked_of_a_finished_run(tmp_path):
    with trainer(tmp_path, epochs=2) as t:
        t.fit()
    with trainer(tmp_path, epochs=3) as longer:
        assert longer.run.path.name == "M1__r"
        assert longer.progress.phase is dt.Phase.TRAIN
        longer.fit()
        found = dt.digest(longer.state_dict())
    with trainer(tmp_path, epochs=3, resume="new") as whole:
        whole.fit()
        assert found == dt.digest(whole.state_dict())


def test_other_settings_are_refused_by_name_with_the_choices(tmp_path):
    stopped(tmp_path, 5, config={"filters": 16})
    with pytest.raises(dt.FingerprintMismatch) as error:
        trainer(tmp_path, lr=3e-3, batch_size=16, config={"filters": 32})
    text = str(error.value)
    for part in (
        "step.optimizer.param_groups.0.lr: 0.01 -> 0.003",
        "data.train.batch_size: 8 -> 16",
        "config.filters: 16 -> 32",
        'resume="new"',
        '"keep"',
        '"take"',
    ):
        assert part in text


def test_a_refused_start_leaves_the_run_free(tmp_path):
    stopped(tmp_path, 5)
    with pytest.raises(dt.FingerprintMismatch):
        trainer(tmp_path, lr=3e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer(tmp_path).close()


def test_keep_goes_on_with_the_runs_values_to_the_same_bits(tmp_path):
    with trainer(tmp_path / "whole") as whole:
        whole.fit()
    stopped(tmp_path, 5)
    with trainer(tmp_path, lr=3e-3, batch_size=16, shuffle=None, config={"a": 1}, resume="keep") as kept:
        assert kept.train.settings()["batch_size"] == 8
        kept.fit()
        assert dt.digest(kept.state_dict()) == dt.digest(whole.state_dict())


def test_take_goes_on_with_the_scripts_values(tmp_path):
    stopped(tmp_path, 5)
    with trainer(tmp_path, lr=3e-3, config={"a": 1}, resume="take") as t:
        assert t.get("optimizer.param_groups.0.lr") == 3e-3
        assert t.progress.train.iterations == 5
        t.fit()
    assert dt.open_run(t.run.path).config == {"a": 1}


def test_take_of_another_batch_size_only_at_an_epochs_start(tmp_path):
    stopped(tmp_path / "middle", 5)
    with pytest.raises(ValueError, match="batch_size: recorded 8, found 16"):
        trainer(tmp_path / "middle", batch_size=16, resume="take")
    stopped(tmp_path / "start", 8)
    with trainer(tmp_path / "start", batch_size=16, resume="take") as t:
        t.fit()
        assert t.progress.train.iterations == 8 + 4


@pytest.mark.parametrize("resume", ["auto", "keep", "take"])
def test_another_model_is_refused_by_path(tmp_path, resume):
    stopped(tmp_path, 5)
    with pytest.raises(dt.FingerprintMismatch, match=r"0\.weight"):
        trainer(tmp_path, hidden=7, resume=resume)


def test_the_path_of_a_run_or_checkpoint_starts_a_child(tmp_path):
    parent = stopped(tmp_path, 5)
    checkpoint = max((parent / "checkpoints").glob("[0-9]*"))
    for number, source in enumerate((parent, checkpoint), 2):
        with trainer(tmp_path, resume=source) as child:
            assert child.run.path.name == f"M{number}__r"
            assert child.progress.train.iterations == 5
            child.fit()
            start = json.loads((child.run.path / "record" / "start-0001.json").read_text())
            assert start["origin"]["parent"] == str(checkpoint)


def test_a_resume_that_is_neither_choice_nor_path(tmp_path):
    with pytest.raises(ValueError, match=r"'atuo' is neither .* did you mean 'auto'"):
        trainer(tmp_path, resume="atuo")
    with pytest.raises(ValueError, match=r"give the trainer name="):
        trainer(tmp_path, name=None, resume="keep")


def test_without_a_name_a_new_run_starts_and_says_how_to_continue_an_unfinished_one(tmp_path, capsys):
    path = stopped(tmp_path, 5, name=None)
    with trainer(tmp_path, name=None, verbosity=1) as t:
        assert t.run.path != path
    assert f"resume={str(path)!r}" in capsys.readouterr().out


def test_a_second_trainer_of_this_process_takes_over(tmp_path):
    first = trainer(tmp_path)
    first.step(3)
    first.run.save(first)
    with pytest.warns(UserWarning, match="takes over"):
        second = trainer(tmp_path)
    assert second.progress.train.iterations == 3
    with pytest.raises(RuntimeError, match="took over"):
        first.fit()
    second.fit()
    second.close()


def test_a_broken_newest_checkpoint_is_passed_over_and_named(tmp_path, capsys):
    path = stopped(tmp_path, 5)
    newest = max((path / "checkpoints").glob("[0-9]*"))
    tensors = newest / "tensors.safetensors"
    data = bytearray(tensors.read_bytes())
    data[-5] ^= 1
    tensors.write_bytes(data)
    with trainer(tmp_path, verbosity=1) as t:
        assert t.progress.train.iterations == 0
    assert "passed over" in capsys.readouterr().out


def test_a_state_that_does_not_come_back_equal_is_refused(tmp_path):
    class Forgetful(dt.Callback):
        def __init__(self):
            self.count = 0

        def on_train_iter_end(self, trainer, event):
            self.count += 1

        def state_dict(self):
            return {"count": self.count}

    stopped(tmp_path, 5, callbacks=[Forgetful()])
    with pytest.raises(ValueError, match=r"callbacks\.Forgetful\.count"):
        trainer(tmp_path, callbacks=[Forgetful()])


def test_a_state_that_the_codec_cannot_hold_is_refused_by_path_before_training(tmp_path):
    class Odd(dt.Callback):
        def state_dict(self):
            return {"lock": {1, 2}}

    t = trainer(tmp_path, callbacks=[Odd()])
    with pytest.raises(dt.CodecError, match=r"callbacks\.Odd\.lock"):
        t.fit()
    assert t.progress.train.iterations == 0
    t.close()


def test_other_callbacks_are_refused(tmp_path):
    stopped(tmp_path, 5, callbacks=[recipes.Chain()])
    with pytest.raises(ValueError, match="callbacks"):
        trainer(tmp_path)


def test_weights_load_into_a_model_and_mismatches_are_named(tmp_path):
    path = stopped(tmp_path, 5)
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    dt.load_weights(path, model)
    assert dt.digest(model.state_dict()) == dt.digest(dt.open_run(path).state["model"])
    with pytest.raises(ValueError, match=r"0\.weight"):
        dt.load_weights(path, nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)))


def test_the_record_holds_settings_and_environment(tmp_path):
    path = stopped(tmp_path, 5, config={"filters": 16})
    start = json.loads((path / "record" / "start-0001.json").read_text())
    assert start["config"] == {"filters": 16}
    assert start["settings"]["data"]["train"]["batch_size"] == 8
    assert start["environment"]["threads"] == 1
    assert start["environment"]["torch"] == torch.__version__


def test_more_epochs_than_a_schedule_has_steps_are_refused_before_training(tmp_path):
    recipes.trainer(runs=tmp_path, name="r").fit()
    with (
        pytest.warns(UserWarning, match="takes over"),
        pytest.raises(ValueError, match="OneCycleLR was made for 16"),
    ):
        recipes.trainer(runs=tmp_path, name="r", epochs=3)


def test_a_second_trainer_on_the_same_step_makes_its_scheduler_from_the_rates_of_before(tmp_path):
    first = recipes.trainer("multistep")
    rates = first.settings["step"]["optimizer"]
    first.fit()
    second = dt.Trainer(first.learner, first.train, runs=None, verbosity=0)
    assert second.settings["step"]["optimizer"] == rates
    assert second.get("optimizer.param_groups.0.lr") == 1e-2


def test_another_environment_is_named_with_what_it_costs(tmp_path, capsys):
    stopped(tmp_path, 5)
    trainer(tmp_path, verbosity=1).close()
    assert "promised" not in capsys.readouterr().out
    torch.set_num_threads(2)
    try:
        trainer(tmp_path, verbosity=1).close()
    finally:
        torch.set_num_threads(1)
    text = capsys.readouterr().out
    assert "the bits are not promised any more, only the order of samples" in text
    assert "threads: 1 -> 2" in text


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"loss": nn.CrossEntropyLoss(label_smoothing=0.3)}, "step.loss.label_smoothing: 0.0 -> 0.3"),
        ({"loss": nn.CrossEntropyLoss(weight=torch.ones(3))}, "step.loss.state.weight"),
    ],
)
def test_how_the_loss_was_made_is_part_of_the_fingerprint(tmp_path, change, path):
    stopped(tmp_path, 5)
    with pytest.raises(dt.FingerprintMismatch) as error:
        trainer(tmp_path, **change)
    assert path in str(error.value)
    with trainer(tmp_path) as t:
        t.fit()
    with trainer(tmp_path, **change) as changed:
        assert changed.run.path.name == "M2__r"


def test_other_values_in_the_same_shapes_are_other_data(tmp_path, monkeypatch):
    stopped(tmp_path, 5)
    data = recipes.data
    monkeypatch.setattr(recipes, "data", lambda: (data()[0] * 5, data()[1]))
    with pytest.raises(dt.FingerprintMismatch, match=r"data\.train\.source\.sample"):
        trainer(tmp_path)


def test_what_was_trained_is_saved_when_the_trainer_is_closed_and_when_the_script_ends(tmp_path):
    with trainer(tmp_path) as t:
        t.fit(until=dt.At(batch=3))
    assert dt.open_run(t.run.path).info["iterations"] == 3
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(recipes.__file__).parents[2])!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.core.test_resume import trainer\n"
        "def main():\n"
        f"    for event in trainer({str(tmp_path)!r}):\n"
        "        if event.iteration == 7: raise KeyboardInterrupt\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert "KeyboardInterrupt" in done.stderr
    assert dt.open_run(t.run.path).info["iterations"] == 7


def test_a_finished_run_says_that_nothing_is_left(tmp_path, capsys):
    with trainer(tmp_path) as t:
        t.fit()
    with trainer(tmp_path, verbosity=1):
        assert "nothing is left to train" in capsys.readouterr().out


# ------------------------------------------------------------------ from another run's state


def test_a_script_that_begins_with_another_runs_state_continues_its_own_run(tmp_path):
    source = recipes.trainer("multistep", runs=tmp_path, name="source")
    source.fit(until=dt.At(batch=5))
    source.close()

    def script(until):
        t = recipes.trainer("multistep", runs=tmp_path, name="child", resume=str(source.run.path))
        t.fit(until=until)
        t.close()
        return t

    one, two, three = script(dt.At(batch=7)), script(None), script(None)
    assert one.run.path == two.run.path == three.run.path
    assert [t.progress.train.batches for t in (one, two, three)] == [7, 16, 16]
    other = recipes.trainer("multistep", runs=tmp_path, name="other", resume=str(source.run.path))
    assert other.run.path != one.run.path
    assert other.progress.train.batches == 5


def test_settings_that_differ_from_another_runs_name_a_way(tmp_path):
    source = recipes.trainer("multistep", runs=tmp_path, name="source")
    source.fit(until=dt.At(batch=5))
    source.close()
    with pytest.raises(dt.FingerprintMismatch) as error:
        recipes.trainer("onecycle", runs=tmp_path, name="child", resume=str(source.run.path))
    assert "source/checkpoints/" in str(error.value).splitlines()[0]
    assert "load_skip" in str(error.value)
    assert 'resume="keep"' not in str(error.value)


def test_a_run_that_is_done_is_gone_on_from_where_that_is_asked_for(tmp_path):
    said = io.StringIO()

    def script(**more):
        t = recipes.trainer(
            "multistep",
            runs=tmp_path,
            name="r",
            verbosity=dt.Display(1, stream=said),
            **({"config": {"a": 1}} | more),
        )
        t.fit()
        t.close()
        return t.run.path.name, t.progress.train.epochs

    assert script() == ("M1__r", 2)
    assert script(config={"a": 2}, epochs=3, resume="keep") == ("M1__r", 3)
    assert script(config={"a": 3}, epochs=4, resume="take") == ("M1__r", 4)
    assert script(config={"a": 4}) == ("M2__r", 2)
    assert "M1__r is done and was made with other settings" in said.getvalue()
