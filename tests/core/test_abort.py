"""An exception anywhere in the user's code leaves the trainer at its last commit; fit() again gives the same bits."""

import gc
import signal
import sys

import pytest
import torch
from torch import nn

import deeptrain as dt
from tests.support import recipes


class Planned(RuntimeError):
    """What the tests raise."""


class Fault:
    """Raises at its n-th call, once."""

    def __init__(self, at):
        self.left = at

    def __call__(self):
        self.left -= 1
        if self.left == 0:
            raise Planned


def untouched(**recipe):
    t = recipes.trainer(**recipe)
    t.fit()
    return dt.digest(t.state_dict())


def fit_through(t, error=Planned):
    """Fit, through one planned exception."""
    with pytest.raises(error):
        t.fit()
    assert t.progress.torn is None
    t.fit()
    return dt.digest(t.state_dict())


@pytest.mark.parametrize("at", [1, 2, 9, 16])
def test_raised_in_forward(at):
    t = recipes.trainer()
    fault = Fault(at)
    # Behind batch norm, so that buffers have changed when it raises.
    t.learner.model.head.register_forward_hook(lambda *_: fault())
    assert fit_through(t) == untouched()


@pytest.mark.parametrize("at", [1, 5])
def test_raised_in_backward(at):
    t = recipes.trainer()
    fault = Fault(at)
    t.learner.model.first.bias.register_hook(lambda _: fault())
    assert fit_through(t) == untouched()


@pytest.mark.parametrize("at", [1, 8, 20])
def test_raised_in_the_loss(at):
    expected, t = untouched(), recipes.trainer()
    fault, loss = Fault(at), t.learner.loss.forward

    def raising(*args):
        value = loss(*args)
        fault()
        return value

    t.learner.loss.forward = raising
    assert fit_through(t) == expected


@pytest.mark.parametrize("feed", [None, "torch"])
def test_raised_in_the_loader(feed):
    expected, t = untouched(feed=feed), recipes.trainer(feed=feed)
    fault = Fault(11)
    if feed:
        dataset = t.train._loader.dataset
        get = type(dataset).__getitem__
        t.train._loader.dataset.__class__ = type(
            "Sampled", (type(dataset),), {"__getitem__": lambda self, i: (fault(), get(self, i))[1]}
        )
    else:
        read = t.train._read
        t.train._read = lambda *a: (read(*a), fault())[0]
    with pytest.raises(Planned):
        t.fit()
    t.fit()
    assert dt.digest(t.state_dict()) == expected


@pytest.mark.parametrize("at", [1, 6, 13])
def test_raised_in_a_callback(at):
    class Raising(recipes.Chain):
        def _add(self, event):
            super()._add(event)
            torch.rand(3)
            fault()

    fault = Fault(10**9)
    t = recipes.trainer(callbacks=[Raising(), recipes.Jitter()])
    t.fit()
    expected = dt.digest(t.state_dict())
    fault = Fault(at)
    assert fit_through(recipes.trainer(callbacks=[Raising(), recipes.Jitter()])) == expected


def test_raised_in_a_metric_of_validation():
    expected, t = untouched(), recipes.trainer()
    fault = Fault(2)
    t.judging.validation.metrics["accuracy"] = lambda p, y: (fault(), recipes.accuracy(p, y))[1]
    assert fit_through(t) == expected


def test_raised_in_the_optimizer_tears_the_state_until_a_checkpoint_is_loaded(tmp_path):
    expected, t = untouched(), recipes.trainer(runs=tmp_path, name="r")
    fault = Fault(8)
    t.learner.optimizer.register_step_post_hook(lambda *_: fault())
    with pytest.raises(Planned):
        t.fit()
    with pytest.raises(dt.TornStateError, match="iteration 8 was cut short by Planned"):
        t.fit()
    with pytest.raises(dt.TornStateError):
        t.save(tmp_path / "torn")
    t.load(t.run.path)
    assert t.progress.train.iterations == 5
    t.fit()
    assert dt.digest(t.state_dict()) == expected
    t.close()


def test_a_function_step_may_fail_before_its_optimizer_steps_and_tears_after():
    def make(fault_before, fault_after):
        dt.reproducible(seed=1)
        model = recipes.Net()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)

        def step(batch):
            loss = nn.functional.cross_entropy(model(batch.inputs), batch.targets)
            loss.backward()
            fault_before()
            optimizer.step()
            fault_after()
            return loss  # gradients are left and add up

        train = dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8)
        return dt.Trainer(step, train, runs=None, verbosity=0)

    never = Fault(10**9)
    t = make(never, never)
    t.fit()
    expected = dt.digest(t.state_dict())
    assert fit_through(make(Fault(4), never)) == expected
    torn = make(never, Fault(4))
    with pytest.raises(Planned):
        torn.fit()
    with pytest.raises(dt.TornStateError):
        torn.fit()


# ---------------------------------------------------------------- a signal at every opcode


def count_opcodes(run, deliver_at=None, times=1):
    """Run under an opcode trace of DeepTrain's and torch's frames; send a real SIGINT at the n-th opcode.

    With `times=2` the second one comes at the next opcode after the first was seen.
    """
    count, sent = 0, 0

    def local(frame, event, arg):
        nonlocal count, sent
        if event == "opcode":
            count += 1
            if deliver_at is not None and count >= deliver_at and sent < times:
                sent += 1
                if sent == times:
                    sys.settrace(None)  # what follows may be fast
                signal.raise_signal(signal.SIGINT)
        return local if deliver_at is None or sent < times else None

    def tracer(frame, event, arg):
        name = frame.f_code.co_filename
        if "deeptrain/" in name or "/torch/" in name or "support/recipes" in name:
            frame.f_trace_opcodes = True
            return local
        return None

    sys.settrace(tracer)
    try:
        run()
    finally:
        sys.settrace(None)
    return count


@pytest.fixture(params=["memory", "files", "windows", "judged"])
def small(request, monkeypatch, tmp_path):
    """Makes a small run; nothing is printed at the signals."""
    monkeypatch.setattr("deeptrain.control.interrupt._notice", lambda number: None)
    more = {}
    if request.param == "files":  # read ahead by threads, in an order that is edited
        more = {"files": recipes.write_files(tmp_path / "data"), "shuffle": "samples", "edits": tmp_path}
        more["scheduler"] = "multistep"
        # Whether threads are worth it is a matter of time, and under a trace of another time: here they always read.
        monkeypatch.setattr("deeptrain.data.prefetch.Prefetch._is_worth_it", lambda _: True)
    if request.param == "windows":
        more = {"preprocess": "windows"}

    def make():
        if request.param == "judged":
            more["validate"] = recipes.judged()
        t = recipes.trainer(epochs=1, every=4, **more)
        made.append(t)
        return t

    made = []
    yield make
    for t in made:
        t.close()


def injected(t, n, times):
    try:
        count_opcodes(t.fit, n, times)
        stopped = False
    except KeyboardInterrupt:
        stopped = True
    assert t.progress.torn is None
    while t.progress.phase is not dt.Phase.DONE:
        t.fit()
    t.close()
    return dt.digest(t.state_dict()), stopped


def _check_injections(small, total, chosen):
    t = small()
    t.fit()
    expected = dt.digest(t.state_dict())
    for n in chosen:
        for times in (1, 2):
            found, stopped = injected(small(), n, times)
            assert stopped, f"{times} x SIGINT at opcode {n} of {total} was lost"
            assert found == expected, f"{times} x SIGINT at opcode {n} of {total}"


@pytest.fixture
def total(small):
    """How many opcodes the small run has; where threads read ahead, the last few may be other ones each time."""
    small().fit()  # what torch imports at first use is no part of it
    gc.collect()
    return int(count_opcodes(small().fit) * 0.97)


# A signal between a file's opening and the first name that holds it leaves the file to the collector, which closes it and says so.
collected = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"
)


@collected
def test_signals_at_sampled_opcodes(small, total):
    assert total > 30_000
    _check_injections(small, total, range(7, total, total // 30))


@collected
@pytest.mark.torture
@pytest.mark.parametrize("part", range(16))
def test_signals_at_every_opcode(small, total, part):
    _check_injections(small, total, range(1 + part, total + 1, 16))
    print(
        f"\nSIGINT once and twice at every 16th of {total} opcodes from the {part}th on: always the same bits"
    )
