"""Ways in which the promise was broken once, each kept as a test."""

import multiprocessing
import os
import resource
import signal

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.checkpoint.snapshot import copied
from deeptrain.step.function import FunctionStep
from deeptrain.testing import prove
from tests.support import recipes


def loader(**more):
    return dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8, **more)


def run_of(step, **more):
    return dt.Trainer(step, loader(), **{"runs": None, "verbosity": 0, **more})


# ---------------------------------------------------------------- functions as steps

MODEL = nn.Linear(6, 3)
OPTIMIZER = torch.optim.SGD(MODEL.parameters(), 0.1)
NETS = {"g": MODEL, "d": nn.Linear(3, 1)}


def loss_of(batch):
    return nn.functional.cross_entropy(MODEL(batch.inputs), batch.targets)


def update():
    OPTIMIZER.step()


def by_helpers(batch):
    loss = loss_of(batch)
    loss.backward()
    update()
    return loss


def in_a_generator_expression(batch):
    loss = sum(nn.functional.cross_entropy(MODEL(x), y) for x, y in [(batch.inputs, batch.targets)])
    loss.backward()
    OPTIMIZER.step()
    return loss


def in_a_container(batch):
    loss = NETS["g"](batch.inputs).square().mean()
    loss.backward()
    OPTIMIZER.step()
    return loss


class Both:
    def __init__(self):
        self.net = nn.Linear(6, 3)
        self.opts = {"a": torch.optim.SGD(self.net.parameters(), 0.1)}

    def __call__(self, batch):
        loss = self.net(batch.inputs).square().mean()
        loss.backward()
        self.opts["a"].step()
        return loss


class Itself(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.opt = torch.optim.SGD(self.net.parameters(), 0.1)

    def train_step(self, batch):
        loss = self.net(batch.inputs).square().mean()
        loss.backward()
        self.opt.step()
        return loss


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (by_helpers, {"MODEL", "OPTIMIZER"}),
        (in_a_generator_expression, {"MODEL", "OPTIMIZER"}),
        (in_a_container, {"NETS.g", "NETS.d", "OPTIMIZER"}),
        (Both(), {"net", "opts.a"}),
        (Itself().train_step, {"self", "self.opt"}),
    ],
)
def test_the_parts_of_a_function_are_found_wherever_it_refers_to_them(function, names):
    assert set(FunctionStep(function).parts) == names
    run_of(function).step(2)


def test_an_optimizer_whose_model_is_not_found_is_refused():
    box = [nn.Linear(6, 3)]
    optimizer = torch.optim.SGD(box.pop().parameters(), 0.1)
    with pytest.raises(ValueError, match="'optimizer' holds parameters of no module"):
        FunctionStep(lambda batch: optimizer.step())


def test_an_optimizer_that_is_not_found_is_refused_when_it_steps_and_nothing_has_changed():
    def step(batch):
        loss = loss_of(batch)
        loss.backward()
        torch._a_test.step()
        OPTIMIZER.step()
        return loss

    torch._a_test = torch.optim.SGD(MODEL.parameters(), 0.1)
    try:
        t = run_of(step)
        before = dt.digest(t.state_dict())
        with pytest.raises(ValueError, match="steps a SGD that was not found"):
            t.fit()
        assert dt.digest(t.state_dict()) == before
        assert t.progress.torn is None
    finally:
        del torch._a_test


def test_an_lbfgs_closure_trains_as_a_function_and_resumes():
    def make():
        dt.reproducible(seed=0)
        model = nn.Linear(6, 3)
        optimizer = torch.optim.LBFGS(model.parameters(), 0.1, max_iter=3)

        def step(batch):
            def closure():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
                loss.backward()
                return loss

            return optimizer.step(closure)

        return run_of(step)

    prove(make, stops=3).check()


@pytest.mark.parametrize("at", [1, 4])
def test_a_loader_error_leaves_a_functions_gradients_alone(at):
    def make():
        dt.reproducible(seed=0)
        model = nn.Linear(6, 3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)

        def step(batch):
            nn.functional.cross_entropy(model(batch.inputs), batch.targets).backward()
            optimizer.step()  # gradients add up

        return run_of(step)

    whole, broken = make(), None
    whole.fit()
    broken = make()
    read, left = broken.train._read, [at]

    def failing(*place):
        left[0] -= 1
        if left[0] == 0:
            raise OSError("planned")
        return read(*place)

    broken.train._read = failing
    with pytest.raises(OSError, match="planned"):
        broken.fit()
    broken.fit()
    assert dt.digest(broken.state_dict()) == dt.digest(whole.state_dict())


def test_what_a_function_changes_before_its_optimizer_steps_is_put_back():
    def make(fail_at):
        dt.reproducible(seed=0)
        model = nn.Linear(6, 3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 0.5, 3)
        count = [0]

        def step(batch):
            count[0] += 1
            optimizer.param_groups[0]["lr"] *= 0.9
            if count[0] > 1:
                schedule.step()
            loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
            if count[0] == fail_at:
                raise RuntimeError("planned")
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss

        return run_of(step)

    whole, broken = make(0), make(5)
    whole.fit()
    with pytest.raises(RuntimeError, match="planned"):
        broken.fit()
    broken.fit()
    assert dt.digest(broken.state_dict()) == dt.digest(whole.state_dict())


# ---------------------------------------------------------------- losses, buffers, validation


class Weighted(nn.Module):
    """A loss that learns, too."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(()))

    def forward(self, predictions, targets):
        return nn.functional.cross_entropy(predictions, targets) * self.w.exp() - self.w


def with_a_learning_loss():
    dt.reproducible(seed=0)
    model, loss = nn.Linear(6, 3), Weighted()
    optimizer = torch.optim.SGD([*model.parameters(), *loss.parameters()], 0.1)
    return dt.SupervisedStep(model, loss=loss, optimizer=optimizer, device="cpu")


def test_a_loss_with_parameters_equals_the_bare_loop_and_resumes():
    step = with_a_learning_loss()
    run_of(step).fit()
    bare = with_a_learning_loss()
    for batch in loader():
        bare.optimizer.zero_grad()
        bare.loss(bare.model(batch.inputs), batch.targets).backward()
        bare.optimizer.step()
    assert torch.equal(step.loss.w, bare.loss.w)
    prove(lambda: run_of(with_a_learning_loss()), stops=3).check()


class Moving(nn.Module):
    """Its buffer moves in evaluation mode too, and one of its buffers grows."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("late", None)
        self.register_buffer("wide", torch.zeros(1).expand(4))

    def forward(self, x):
        self.calls += 1
        if self.training:
            self.seen = torch.cat([self.seen, x[:1, 0].detach()])
            self.late = x[0].detach().clone()
        return self.net(x) * (1 + self.calls * 0.01)


def moving(every, **more):
    dt.reproducible(seed=0)
    model = Moving()
    step = dt.SupervisedStep(
        model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu"
    )
    val = dt.BatchLoader(dt.Arrays(*recipes.data(20, seed=2)), batch_size=7)
    validation = dt.Validation(val, every=dt.Every(batches=every)) if every else None
    return run_of(step, validation=validation, **more)


def test_buffers_that_move_in_evaluation_are_put_back_and_those_that_grow_are_resumed():
    never, often = moving(None), moving(2)
    never.fit()
    often.fit()
    assert dt.digest(never.learner.state_dict()) == dt.digest(often.learner.state_dict())
    before = dt.digest(often.state_dict())
    often.validate()
    assert dt.digest(often.state_dict()) == before
    for k in range(0, 30, 4):
        stopped = moving(2)
        recipes.advance(stopped, k)
        other = moving(2)
        other.load_state_dict(copied(stopped.state_dict()))
        other.fit()
        assert dt.digest(other.state_dict()) == dt.digest(often.state_dict())


def test_parameters_that_evaluation_changes_are_refused():
    dt.reproducible(seed=0)
    model = nn.Sequential(nn.Embedding(9, 3, max_norm=0.1), nn.Flatten(), nn.Linear(6, 3))
    step = dt.SupervisedStep(
        model, loss=nn.CrossEntropyLoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu"
    )
    x, y = torch.randint(0, 9, (16, 2)), torch.randint(0, 3, (16,))
    val = dt.BatchLoader(dt.Arrays(x, y), batch_size=4)
    t = dt.Trainer(
        step,
        dt.BatchLoader(dt.Arrays(x, y), batch_size=4),
        validation=dt.Validation(val),
        runs=None,
        verbosity=0,
    )
    with pytest.raises(ValueError, match="max_norm"):
        t.fit()


def test_one_snapshot_may_be_loaded_twice():
    t = recipes.trainer()
    t.step(3)
    snapshot = t.state_dict()
    snapshot = {**snapshot, "model": {k: v.clone() for k, v in snapshot["model"].items()}}
    optimizer = copied(snapshot)["optimizer"]
    snapshot["optimizer"] = optimizer
    expected = dt.digest(snapshot["optimizer"])
    for _ in range(2):
        t.load_state_dict(snapshot)
        t.step(2)
        assert dt.digest(snapshot["optimizer"]) == expected


# ---------------------------------------------------------------- handlers


def test_a_load_inside_a_handler_is_refused(tmp_path):
    class Loads(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            if event.iteration == 4:
                trainer.load(tmp_path / "a")

    t = recipes.trainer(callbacks=[Loads()])
    t.save(tmp_path / "a")
    with pytest.raises(RuntimeError, match="inside a handler of Loads"):
        t.fit()


def test_an_abort_in_a_handler_puts_back_gradient_mode_rates_and_buffers():
    class Halves(dt.Callback):
        failed = False

        def on_train_iter_end(self, trainer, event):
            if event.iteration == 3:
                trainer.learner.optimizer.param_groups[0]["weight_decay"] *= 0.5
                trainer.learner.model.norm.running_mean += 1
                torch.set_grad_enabled(False)
                if not Halves.failed:
                    Halves.failed = True
                    signal.raise_signal(signal.SIGINT)
                    signal.raise_signal(signal.SIGINT)
                torch.set_grad_enabled(True)

    t = recipes.trainer(callbacks=[Halves()])
    with pytest.raises(dt.Interrupted):
        t.fit()
    t.fit()
    whole = recipes.trainer(callbacks=[Halves()])
    whole.fit()
    assert dt.digest(t.state_dict()) == dt.digest(whole.state_dict())


def test_a_load_that_fails_at_its_end_is_refused():
    t = recipes.trainer()
    state = {**t.state_dict(), "random": {"version": 9}}
    with pytest.raises(ValueError, match="version 9"):
        t.load_state_dict(state)
    with pytest.raises(dt.TornStateError, match="load was cut short"):
        t.fit()


def test_named_tuples_as_outputs_are_saved_between_two_handlers(tmp_path):
    import collections

    Pair = collections.namedtuple("Pair", "logits extra")

    class Net(nn.Linear):
        def forward(self, x):
            return Pair(super().forward(x), x)

    model = Net(6, 3)
    step = dt.SupervisedStep(
        model,
        loss=lambda p, y: nn.functional.cross_entropy(p.logits, y),
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device="cpu",
    )
    chain = type("Told", (dt.Callback,), {"on_train_iter_end": lambda self, trainer, event: None})
    t = run_of(step, callbacks=[chain(), chain()])
    recipes.advance(t, 2)
    assert len(t.progress.pending) == 1
    t.save(tmp_path / "a")


# ---------------------------------------------------------------- requests, signals, disks


def test_a_pause_asked_for_in_a_handler_stops_a_for_loop_and_a_fit_that_is_there():
    class Asks(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            if event.iteration == 3:
                trainer.pause()

    t = recipes.trainer(callbacks=[Asks()])
    seen = []
    with pytest.raises(dt.Interrupted):
        seen += [event.iteration for event in t]
    assert t.progress.train.iterations == 3
    t = recipes.trainer(callbacks=[Asks()])
    with pytest.raises(dt.Interrupted):
        t.fit(until=dt.At(iteration=3))


def test_a_signal_is_not_lost_behind_an_exception():
    def fails(*_):
        signal.raise_signal(signal.SIGTERM)
        raise RuntimeError("planned")

    t = recipes.trainer()
    t.learner.model.head.register_forward_hook(fails)
    with pytest.raises(dt.Interrupted) as stop:
        t.fit()
    assert stop.value.signal == signal.SIGTERM
    assert "planned" in str(stop.value.__cause__)


def sleeps():
    while True:
        signal.pause()


def test_a_process_forked_while_training_can_be_ended():
    ended = []

    class Forks(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            if event.iteration == 2:
                process = multiprocessing.get_context("fork").Process(target=sleeps, daemon=True)
                process.start()
                process.terminate()
                process.join(20)
                ended.append(process.exitcode)

    recipes.trainer(callbacks=[Forks()]).fit()
    assert ended == [-signal.SIGTERM]


def test_a_full_disk_leaves_the_state_whole_and_the_journal_readable(tmp_path):
    seldom = dt.Checkpoints(every=dt.Every(epochs=50))
    t = recipes.trainer(runs=tmp_path, name="r", checkpoints=seldom)
    t.step(2)
    t.run.journalling.file._written = 0.0
    size = os.path.getsize(t.run.path / "journal.jsonl")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, hard))
    try:
        with pytest.raises(OSError, match="journal"):
            t.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert t.progress.torn is None
    t.fit()
    t.close()
    at = [entry["at"] for entry in dt.open_run(t.run.path).journal() if entry["kind"] == "iteration"]
    assert at == list(range(1, 17))
    whole = recipes.trainer(checkpoints=seldom)
    whole.fit()
    assert dt.digest(t.state_dict()) == dt.digest(whole.state_dict())


def test_a_named_run_with_a_registered_generator_is_resumed(tmp_path):
    def make():
        t = recipes.trainer(runs=tmp_path, name="r", callbacks=[])
        generator = np.random.default_rng(4)
        t.register_generator("noise", generator)
        t.learner.model.head.register_forward_pre_hook(
            lambda _, x: (x[0] + 0.1 * generator.standard_normal(),)
        )
        return t

    first = make()
    first.step(5)
    first.run.save(first)
    first.close()
    second = make()
    assert second.progress.train.iterations == 5
    second.fit()
    second.close()
    with pytest.raises(ValueError, match="noise"):
        second.load_state_dict({**second.state_dict(), "random": recipes.trainer().streams.state_dict()})


def test_a_loops_body_counts_to_its_iteration(tmp_path):
    t = recipes.trainer(
        "none", runs=tmp_path, name="r", checkpoints=dt.Checkpoints(every=dt.Every(batches=3))
    )
    for event in t:
        if event.iteration == 3:
            t.learner.optimizer.param_groups[0]["lr"] = 1e-3
        if event.iteration == 4:
            break
    saved = dt.open_run(t.run.path).state
    assert saved["progress"]["train"]["iterations"] == 3
    assert saved["optimizer"]["param_groups"][0]["lr"] == 1e-3
    t.close()
    with pytest.raises(RuntimeError, match="was closed"):
        t.fit()
