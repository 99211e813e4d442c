"""The trainer's verbs, and bad input refused before any training."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.checkpoint.snapshot import copied
from tests.support import recipes


def test_fit_until_and_step_go_to_a_point_with_all_that_follows_from_it():
    t = recipes.trainer(epochs=3)
    t.fit(until=dt.At(epoch=1))
    assert (t.progress.train.epochs, t.progress.train.iterations) == (1, 8)
    t.fit(until=dt.At(epoch=1))
    assert t.progress.train.iterations == 8
    t.step(6)
    assert t.progress.train.iterations == 14
    assert t.history["val.loss"].iterations.tolist() == [7, 14]
    t.fit()
    assert t.progress.phase is dt.Phase.DONE
    assert t.progress.train.epochs == 3
    t.fit()
    whole = recipes.trainer(epochs=3)
    whole.fit()
    assert dt.digest(t.state_dict()) == dt.digest(whole.state_dict())


def test_iterating_yields_every_iteration_after_its_events():
    class Last(dt.Callback):
        seen = 0

        def on_train_iter_end(self, trainer, event):
            self.seen = event.iteration

    last = Last()
    t = recipes.trainer(callbacks=[last])
    seen = []
    for event in t:
        assert last.seen == event.iteration
        assert sum(len(rows.rows) for rows in event.sources) == len(event.batch.rows)
        assert set(event.metrics) == {"loss", "accuracy"}
        seen.append(event.iteration)
    assert seen == list(range(1, 17))
    assert t.progress.phase is dt.Phase.DONE


def test_events_tell_what_coincides_and_come_in_order():
    names = []

    class All(dt.Callback):
        pass

    def handler(name):
        def handle(self, trainer, event):
            names.append((event.iteration, event.name, event.coincides))

        return handle

    for name in ("train_iter_end", "train_batch_end", "train_epoch_end", "val_end"):
        setattr(All, f"on_{name}", handler(name))
    t = recipes.trainer(
        callbacks=[All()], epochs=1, every=8, checkpoints=dt.Checkpoints(every=dt.Every(epochs=1))
    )
    t.fit()
    train = ("train_iter_end", "train_batch_end")
    assert names[:2] == [(1, name, train) for name in train]
    assert [name for _, name, _ in names[-4:]] == [*train, "train_epoch_end", "val_end"]
    assert names[-2][2] == (*train, "train_epoch_end", "validation", "checkpoint")


def test_info_says_where_and_what_is_pending():
    t = recipes.trainer()
    recipes.advance(t, 2)
    info = t.info()
    assert info.iterations == 1
    assert info.pending == (
        "on_train_batch_end of Chain",
        "on_train_batch_end of Jitter",
    )
    assert "iteration 1/16" in repr(info)
    assert re.search(r"0\[\d+", info.sources)
    assert "iteration 1/16" in repr(t)


def test_get_by_path_and_glob():
    t = recipes.trainer()
    assert t.get("progress.train.batches") == 0
    assert list(t.get("optimizer.param_groups.*.lr")) == ["optimizer.param_groups.0.lr"]
    assert t.get("data.train.cursor") == {"epoch": 0, "batch": 0, "iteration": 0}
    with pytest.raises(KeyError, match="batches"):
        t.get("progress.train.batchs")


def test_validate_now_leaves_nothing_behind():
    t = recipes.trainer()
    t.step(3)
    before = dt.digest(t.state_dict())
    figures = t.validate()
    assert set(figures) == {"loss", "accuracy"}
    assert dt.digest(t.state_dict()) == before
    recipes.advance(t, 40)  # into the middle of a validation
    while t.progress.phase is not dt.Phase.VALIDATE:
        recipes.advance(t, 1)
    before = dt.digest(t.state_dict())
    t.validate()
    assert dt.digest(t.state_dict()) == before
    t.fit()
    whole = recipes.trainer()
    whole.fit()
    assert dt.digest(t.state_dict()) == dt.digest(whole.state_dict())


def test_training_flags_are_put_back_as_they_were():
    t = recipes.trainer()
    t.learner.model.norm.eval()
    t.fit()
    assert t.learner.model.training
    assert not t.learner.model.norm.training


def test_validation_figures_are_of_the_whole_pass():
    t = recipes.trainer()
    t.fit()
    model = t.learner.model.eval()
    x, y = recipes.data(20, seed=2)
    with torch.no_grad():
        predictions = torch.cat([model(x[i : i + 7]) for i in range(0, 20, 7)])
    expected = {"loss": nn.functional.cross_entropy(predictions, y).item()}
    expected["accuracy"] = recipes.accuracy(predictions, y).item()
    model.train()
    assert t.validate() == expected


def test_save_and_load_go_back_to_the_same_state(tmp_path):
    t = recipes.trainer()
    t.step(5)
    t.save(tmp_path / "here")
    expected = dt.digest(t.state_dict())
    t.step(4)
    t.load(tmp_path / "here")
    assert dt.digest(t.state_dict()) == expected
    with pytest.raises(dt.CheckpointError, match="here"):
        t.save(tmp_path / "here")


def test_a_save_inside_a_handler_is_of_the_moment_before_it(tmp_path):
    class Saves(recipes.Jitter):
        def on_train_batch_end(self, trainer, event):
            super().on_train_batch_end(trainer, event)
            if event.iteration == 4 and not (tmp_path / "inside").exists():
                trainer.save(tmp_path / "inside")

    t = recipes.trainer(callbacks=[recipes.Chain(), Saves()])
    t.fit()
    other = recipes.trainer(callbacks=[recipes.Chain(), Saves()])
    other.load(tmp_path / "inside")
    assert other.progress.pending[0].callback == "Saves"
    other.fit()
    assert dt.digest(other.state_dict()) == dt.digest(t.state_dict())


def test_fit_inside_a_handler_is_refused():
    class Fits(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            trainer.fit()

    with pytest.raises(RuntimeError, match="running already"):
        recipes.trainer(callbacks=[Fits()]).fit()


def test_a_registered_generator_is_part_of_the_state():
    def make():
        t = recipes.trainer(callbacks=[])
        generator = np.random.default_rng(4)
        t.register_generator("noise", generator)
        t.learner.model.head.register_forward_pre_hook(
            lambda _, x: (x[0] + 0.1 * generator.standard_normal(),)
        )
        return t

    whole = make()
    whole.fit()
    half = make()
    half.step(5)
    state = half.state_dict()
    other = make()
    other.load_state_dict(copied(state))
    other.fit()
    assert dt.digest(other.state_dict()) == dt.digest(whole.state_dict())
    forgetful = recipes.trainer(callbacks=[])
    forgetful.load_state_dict(copied(state))
    with pytest.raises(ValueError, match="noise"):
        forgetful.fit()


def test_the_state_of_a_bf16_optimizer_keeps_its_dtype():
    def make():
        torch.manual_seed(0)
        model = nn.Linear(6, 3).bfloat16()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        for p in model.parameters():
            optimizer.state[p] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p, dtype=torch.float32),
                                  "exp_avg_sq": torch.zeros_like(p, dtype=torch.float32)}  # fmt: skip
        return dt.SupervisedStep(model, loss=nn.CrossEntropyLoss(), optimizer=optimizer, device="cpu")

    step = make()
    other = make()
    other.load_state_dict(step.state_dict())
    assert dt.digest(other.state_dict()) == dt.digest(step.state_dict())


# ---------------------------------------------------------------- bad input


def step_of(model, loss=None, **more):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return dt.SupervisedStep(
        model, loss=loss or nn.CrossEntropyLoss(), optimizer=optimizer, device="cpu", **more
    )


def loader():
    return dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8)


def test_an_optimizer_of_another_model():
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)
    with pytest.raises(ValueError, match=r"holds 2 parameters and none of them is of the model Linear"):
        dt.SupervisedStep(nn.Linear(6, 3), loss=nn.CrossEntropyLoss(), optimizer=other)


def test_a_scheduler_of_another_optimizer():
    model = nn.Linear(6, 3)
    other = torch.optim.SGD(model.parameters(), 0.1)
    step = step_of(model, scheduler=torch.optim.lr_scheduler.ConstantLR(other))
    with pytest.raises(ValueError, match="another optimizer"):
        dt.Trainer(step, loader(), runs=None)


def test_a_loss_that_is_no_scalar_changes_nothing():
    model = nn.Linear(6, 3)
    t = dt.Trainer(
        step_of(model, loss=nn.CrossEntropyLoss(reduction="none")), loader(), runs=None, verbosity=0
    )
    before = dt.digest(t.state_dict())
    with pytest.raises(ValueError, match=r"shape \(8,\), expected a scalar"):
        t.fit()
    assert dt.digest(t.state_dict()) == before


def test_a_metric_that_is_no_number_changes_nothing():
    t = dt.Trainer(
        step_of(nn.Linear(6, 3), metrics={"odd": lambda p, y: p}), loader(), runs=None, verbosity=0
    )
    with pytest.raises(ValueError, match=r"metric 'odd' gave a Tensor of shape \(8, 3\)"):
        t.fit()
    assert t.progress.torn is None


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_epochs_must_be_a_whole_number(epochs):
    with pytest.raises(ValueError, match="epochs="):
        dt.Trainer(step_of(nn.Linear(6, 3)), loader(), epochs=epochs, runs=None)


def test_the_train_loader_cannot_validate_too():
    train = loader()
    with pytest.raises(ValueError, match="second one"):
        dt.Trainer(step_of(nn.Linear(6, 3)), train, validation=dt.Validation(train), runs=None)


def test_validation_settings():
    with pytest.raises(ValueError, match="key_metric='f1'"):
        dt.Validation(loader(), metrics={"accuracy": recipes.accuracy}, key_metric="f1")
    with pytest.raises(ValueError, match="clock"):
        dt.Validation(loader(), every=dt.Every(seconds=5))


def test_cadences():
    with pytest.raises(ValueError, match="exactly one unit"):
        dt.Every(batches=1, epochs=1)
    with pytest.raises(ValueError, match="above 0"):
        dt.Every(batches=0)
    with pytest.raises(TypeError, match="whole number"):
        dt.Every(batches=1.5)
    with pytest.raises(ValueError, match="before the run"):
        dt.At(epoch=-1)


def test_a_callback_must_be_one():
    with pytest.raises(TypeError, match="holds a str"):
        dt.Trainer(step_of(nn.Linear(6, 3)), loader(), callbacks=["no"], runs=None)
    with pytest.raises(TypeError, match=r"a CSVLogger, which is a logger: give it as Trainer\(..., loggers="):
        dt.Trainer(step_of(nn.Linear(6, 3)), loader(), callbacks=[dt.CSVLogger()], runs=None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"validation": loader}, r"validation=BatchLoader\(...\): expected .* dt.Validation\(loader"),
        ({"checkpoints": lambda: 5}, "checkpoints=5: expected .* dt.Checkpoints"),
        ({"callbacks": lambda: None}, "expected a list"),
    ],
)
def test_what_a_trainer_is_given_by_mistake(given, message):
    made = {name: make() for name, make in given.items()}
    with pytest.raises(TypeError, match=message):
        dt.Trainer(step_of(nn.Linear(6, 3)), loader(), runs=None, **made)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"optimizer": None}, "optimizer=None: expected an optimizer over the model's parameters"),
        ({"optimizer": torch.optim.SGD}, "optimizer=SGD: expected"),
        ({"loss": "mse"}, "loss='mse': expected a function"),
        ({"scheduler": "cosine"}, "scheduler='cosine': expected a function that makes one"),
        ({"compile": "yes"}, "compile='yes': expected True, False, or a dict"),
        ({"metrics": {"loss": nn.L1Loss}}, r"the class L1Loss, expected an instance .* write L1Loss\(...\)"),
    ],
)
def test_what_a_step_is_given_by_mistake(given, message):
    model = nn.Linear(6, 3)
    parts = {"loss": nn.MSELoss(), "optimizer": torch.optim.SGD(model.parameters(), 0.1), **given}
    with pytest.raises(TypeError, match=message):
        dt.SupervisedStep(model, **parts)
    with pytest.raises(TypeError, match=r"model='m': expected a torch.nn.Module"):
        dt.SupervisedStep("m", **parts)


def test_steps_are_counted_by_whole_numbers():
    with pytest.raises(TypeError, match="step: found '3', expected a whole number"):
        dt.Trainer(step_of(nn.Linear(6, 3)), loader(), runs=None, verbosity=0).step("3")


def test_data_that_is_no_loader():
    with pytest.raises(TypeError, match="BatchLoader"):
        dt.Trainer(step_of(nn.Linear(6, 3)), [1, 2], runs=None)


def test_a_function_without_state():
    with pytest.raises(ValueError, match="no state to save"):
        dt.Trainer(lambda batch: None, loader(), runs=None)


def test_a_checkpoint_of_another_model_is_refused_by_path_and_the_trainer_refuses_to_train_on(tmp_path):
    t = dt.Trainer(step_of(nn.Linear(6, 3)), loader(), runs=None, verbosity=0)
    t.save(tmp_path / "a")
    other = dt.Trainer(
        step_of(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))), loader(), runs=None, verbosity=0
    )
    with pytest.raises(ValueError) as error:
        other.load(tmp_path / "a")
    for part in ("model.0.weight", "missing", "model.weight", "unexpected"):
        assert part in str(error.value)
    wider = dt.Trainer(step_of(nn.Linear(6, 5)), loader(), runs=None, verbosity=0)
    with pytest.raises(ValueError, match=r"model\.weight: found shape \[3, 6\], expected \[5, 6\]"):
        wider.load(tmp_path / "a")


def test_a_directory_that_cannot_be_written():
    with pytest.raises(OSError, match=r"/proc/nowhere: no run can be made here .*: give a directory"):
        dt.Trainer(step_of(nn.Linear(6, 3)), loader(), runs="/proc/nowhere", verbosity=0)


def test_a_step_that_is_neither_step_nor_function():
    with pytest.raises(TypeError, match="step is a int"):
        dt.Trainer(3, loader(), runs=None)


def test_frequent_mistakes_are_named():
    model = nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(TypeError, match=r"loss=CrossEntropyLoss is a class"):
        dt.SupervisedStep(model, loss=nn.CrossEntropyLoss, optimizer=optimizer)
    with pytest.raises(TypeError, match=r"scheduler=StepLR is a class"):
        step_of(model, scheduler=torch.optim.lr_scheduler.StepLR)
    with pytest.raises(ValueError, match="scheduler_by='epoch'"):
        step_of(model, scheduler_by="epoch")
    with pytest.raises(TypeError, match="functions by name"):
        step_of(model, metrics=[recipes.accuracy])
    with pytest.raises(TypeError, match="functions by name"):
        dt.Validation(loader(), metrics=[recipes.accuracy])
    with pytest.raises(TypeError, match="module Linear, which says nothing of loss"):
        dt.Trainer(model, loader(), runs=None)
    wrong = step_of(model, loss=lambda p, y: nn.functional.cross_entropy(p, y).item())
    with pytest.raises(TypeError, match="gave a float, expected a tensor"):
        dt.Trainer(wrong, loader(), runs=None, verbosity=0).fit()

    class Keras(dt.Callback):
        def on_epoch_end(self, trainer, event):
            pass

    with pytest.raises(ValueError, match=r"Keras\.on_epoch_end would never be called"):
        dt.Trainer(step_of(model), loader(), callbacks=[Keras()], runs=None)


def test_rows_that_are_trained_and_validated_on_are_warned_of(tmp_path):
    place = recipes.write_files(tmp_path / "data")

    def make(train_sets, val_sets):
        model = recipes.Net()
        step = dt.SupervisedStep(
            model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1)
        )
        train = dt.BatchLoader(dt.Files(place, sets=train_sets), batch_size=4)
        val = dt.Validation(dt.BatchLoader(dt.Files(place, sets=val_sets), batch_size=4))
        return dt.Trainer(step, train, validation=val, runs=None, verbosity=0)

    with pytest.warns(UserWarning, match="9 of the 23 validation rows are trained on too"):
        make([0, 1, 2], [2, 3])
    make([0, 1], [2, 3])  # warnings are errors here


def test_an_exception_in_a_metric_says_which_one_and_what_it_was_given():
    t = recipes.trainer()
    t.learner.metrics["mine"] = lambda predictions, targets: predictions @ targets
    with pytest.raises(RuntimeError) as raised:
        t.fit()
    assert "the metric 'mine', which is called as (predictions, targets): found float32 [8, 3]" in "".join(
        raised.value.__notes__
    )


def test_a_batch_begins_without_the_state_of_another_one_whose_windows_were_cut_short():
    t = recipes.trainer("multistep", preprocess="windows", validate=False)
    t.step(2)  # within the first batch
    t.train.seek(epoch=0, batch=2)
    t.step(1)
    moved = t.last.outputs
    other = recipes.trainer("multistep", preprocess="windows", validate=False)
    other.step(2)
    dt.reset_states(other.learner.modules())
    other.train.seek(epoch=0, batch=2)
    other.step(1)
    assert torch.equal(moved, other.last.outputs)


def test_a_run_that_an_edit_made_longer_than_its_schedule_stops_whole(tmp_path):
    t = recipes.trainer("onecycle", files=recipes.write_files(tmp_path / "data"), epochs=1)
    t.step(2)
    t.train.set_batch_size(4)
    with pytest.raises(
        RuntimeError, match="the schedule of OneCycleLR ends after 7 updates, and the run goes on"
    ):
        t.fit()
    assert t.progress.torn is None
    assert t.progress.train.iterations == 7


def test_the_order_of_a_validation_is_not_edited():
    t = recipes.trainer()
    with pytest.raises(ValueError, match="validation's loader is not to be edited"):
        t.judging.feed.exclude(rows=[0])
    edited = dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8)
    edited.exclude(rows=[0])
    with pytest.raises(ValueError, match="the validation's loader has an edited order"):
        dt.Trainer(
            t.learner,
            dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8),
            validation=dt.Validation(edited),
            runs=None,
        )


def test_a_run_begins_at_the_loaders_beginning():
    t = recipes.trainer()
    loader = dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8)
    next(iter(loader))
    with pytest.warns(UserWarning, match="a run begins at the beginning"):
        again = dt.Trainer(t.learner, loader, runs=None, verbosity=0)
    assert again.train.position == (0, 0, 0)


def test_what_follows_from_the_last_epoch_is_behind_it():
    lines, t = [], recipes.trainer()
    while not recipes.advance(t, 1):
        lines.append(t.info().line)
    assert not any(f"epoch {recipes.EPOCHS + 1}" in line for line in lines)
    assert any(
        line.startswith(f"after epoch {recipes.EPOCHS}/{recipes.EPOCHS}, iteration 16/16") for line in lines
    )
