"""Range tests and batch sizes: what they find, and that they leave no trace, wherever they are interrupted."""

import contextlib
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.tuning.batch_size import Search
from deeptrain.tuning.rate import summary
from tests.support import recipes

EVERY = dt.Checkpoints(every=dt.Every(batches=3), keep=9)


def make(runs=None, **more):
    return recipes.trainer(runs=runs, name=None if runs is None else "r", **({"checkpoints": EVERY} | more))


def files_below(place):
    return {str(path): path.stat().st_size for path in sorted(place.rglob("*")) if path.is_file()}


class Raises:
    """Stands for a function and raises in its call of a number, before or behind it."""

    def __init__(self, owner, name, at, error=KeyboardInterrupt, behind=False):
        self.owner, self.name, self.real = owner, name, getattr(owner, name)
        self.left, self.error, self.behind = at, error, behind

    def __enter__(self):
        setattr(self.owner, self.name, self)
        return self

    def __exit__(self, *_):
        delattr(self.owner, self.name)

    def __call__(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0 and not self.behind:
            raise self.error("as planned")
        result = self.real(*args, **kwargs)
        if self.left == 0:
            raise self.error("as planned")
        return result


FINDERS = {
    "rates": lambda t: dt.find_lr(t, lowest=1e-4, highest=1e-1, iterations=12),
    "sizes": lambda t: dt.find_batch_size(t, start=4),
}


@pytest.mark.parametrize(
    ("scheduler", "point"),
    [
        ("none", None),
        ("onecycle", dt.At(batch=5)),
        ("plateau", dt.At(batch=8)),
        ("onecycle", dt.At(batch=13)),
    ],
)
@pytest.mark.parametrize("finder", FINDERS)
def test_a_finder_leaves_everything_as_it_was(tmp_path, finder, point, scheduler):
    untouched = make(scheduler=scheduler)
    untouched.fit()
    t = make(tmp_path, scheduler=scheduler)
    if point is not None:
        t.fit(until=point)
    before, files = dt.digest(t.state_dict()), files_below(tmp_path)
    streams = torch.get_rng_state()
    FINDERS[finder](t)
    assert dt.digest(t.state_dict()) == before
    assert files_below(tmp_path) == files
    assert torch.equal(torch.get_rng_state(), streams)
    assert all(p.grad is None for p in t.learner.model.parameters())
    t.fit()
    t.close()
    assert recipes.summary(t) == recipes.summary(untouched)


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize("where", ["compute", "apply"])
@pytest.mark.parametrize("behind", [False, True])
def test_a_finder_that_is_interrupted_leaves_everything_as_it_was(tmp_path, finder, where, behind):
    untouched = make()
    untouched.fit()
    t = make(tmp_path)
    t.fit(until=dt.At(batch=5))
    before, files = dt.digest(t.state_dict()), files_below(tmp_path)
    at = 1
    while True:
        planted = Raises(t.learner, where, at, behind=behind)
        with contextlib.suppress(KeyboardInterrupt), planted:
            FINDERS[finder](t)
        assert dt.digest(t.state_dict()) == before, at
        assert files_below(tmp_path) == files
        if planted.left > 0:
            break
        at += 1
    assert at > {"rates": 12, "sizes": 4}[finder]  # it was interrupted in each iteration
    t.fit()
    assert recipes.summary(t) == recipes.summary(untouched)


def test_ctrl_c_stops_a_finder_between_two_iterations():
    t = make()
    before, real, calls = dt.digest(t.state_dict()), t.learner.compute, []

    def compute(batch):
        calls.append(batch)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return real(batch)

    t.learner.compute = compute
    with pytest.raises(dt.Interrupted, match="SIGINT"):
        dt.find_lr(t, iterations=30)
    del t.learner.compute
    assert len(calls) == 3
    assert dt.digest(t.state_dict()) == before


@pytest.mark.filterwarnings("ignore:.*walk")
@pytest.mark.parametrize("feed", ["torch", "dataset", "stateful", "iterable"])
def test_a_range_test_with_any_loader(feed):
    untouched = make(feed=feed, scheduler="none")
    untouched.fit()
    t = make(feed=feed, scheduler="none")
    t.fit(until=dt.At(batch=5))
    before = dt.digest(t.state_dict())
    dt.find_lr(t, lowest=1e-4, highest=1e-1, iterations=12)
    assert dt.digest(t.state_dict()) == before
    t.fit()
    assert recipes.summary(t) == recipes.summary(untouched)


# ------------------------------------------------------------------ rates


def regression(optimizer=lambda ps: torch.optim.SGD(ps, 0.1), rows=512, step=None):
    torch.manual_seed(0)
    x = torch.randn(rows, 8)
    model = nn.Linear(8, 1)
    parts = {"loss": nn.MSELoss(), "optimizer": optimizer(list(model.parameters())), "device": "cpu"}
    train = dt.BatchLoader(
        dt.Arrays(x, x.sum(1, keepdim=True) + 0.1 * torch.randn(rows, 1)), batch_size=32, shuffle=True
    )
    return dt.Trainer(step or dt.SupervisedStep(model, **parts), train, epochs=20, runs=None, verbosity=0)


def test_the_rate_rises_and_the_suggestion_learns():
    t = regression()
    found = dt.find_lr(t, lowest=1e-5, highest=10, iterations=120)
    assert np.allclose(found.rates, np.geomspace(1e-5, 10, 120)[: len(found.rates)])
    assert len(found.losses) == len(found.smoothed) == len(found.rates) < 120
    assert "at first" in found.stopped
    # The Hessian's eigenvalues are near 2: a step diverges from 1 on, and is no step below 1e-3.
    assert 1e-3 < found.suggestion < 0.6
    assert str(found).startswith(f"RateTest(suggestion {found.suggestion:.2g}; ")

    def loss_after(rate):
        t = regression(lambda ps: torch.optim.SGD(ps, rate))
        t.fit(until=dt.At(epoch=2))
        return t.history["train.loss"].values[-1]

    at = loss_after(found.suggestion)
    assert at < loss_after(found.suggestion / 100)
    assert at < 0.5


def test_groups_keep_their_ratio():
    seen = []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            seen.append([group["lr"] for group in self.param_groups])

    t = regression(lambda ps: Noting([{"params": ps[:1], "lr": 0.2}, {"params": ps[1:], "lr": 0.05}]))
    found = dt.find_lr(t, lowest=1e-3, highest=1e-1, iterations=10)
    assert np.allclose(seen, np.stack([found.rates, found.rates / 4], 1))


def test_rates_that_are_tensors_and_a_function_as_step():
    model = nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), torch.tensor(0.1))

    def step(batch):
        loss = (model(batch.inputs) - batch.targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    t = regression(step=step)
    before, rate = dt.digest(t.state_dict()), optimizer.param_groups[0]["lr"]
    assert 1e-3 < dt.find_lr(t, lowest=1e-5, highest=10).suggestion < 0.6
    assert dt.digest(t.state_dict()) == before
    assert isinstance(rate, torch.Tensor)


def test_the_steepest_fall_of_known_losses():
    rates = np.geomspace(1e-6, 1, 200)
    curve = 2 - np.tanh(2 * np.log10(rates / 1e-3)) + np.maximum(0, np.log10(rates / 0.1)) ** 2 * 50
    noise = np.random.default_rng(0).normal(size=200) * 0.05
    for width in (0, 4, 8):
        found = summary(rates, curve + (noise if width else 0), width)
        assert 2.5e-4 < found.suggestion < 4e-3, width
    rising = summary(rates, np.linspace(1, 2, 200), 4)
    assert rising.suggestion is None
    assert "does not fall" in str(rising)


def test_losses_that_are_not_finite_end_it():
    t = regression(lambda ps: torch.optim.SGD(ps, 0.1, momentum=0.9))
    found = dt.find_lr(t, lowest=1e-4, highest=1e30, iterations=40, stop_above=float("inf"))
    assert "not finite" in found.stopped
    assert np.isfinite(found.losses).all()
    before = dt.digest(t.state_dict())
    with pytest.raises(ValueError, match="begin with a lower rate"):
        dt.find_lr(t, lowest=1e10, highest=1e30)
    assert dt.digest(t.state_dict()) == before


def test_the_picture_of_a_range_test(tmp_path):
    dt.find_lr(regression(), lowest=1e-5, highest=10).plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 20_000
    axes = summary(np.geomspace(1e-5, 1, 20), np.linspace(1, 2, 20), 1).figure().axes[0]
    assert axes.get_xscale() == "log"
    assert len(axes.lines) == 2  # no suggestion is marked


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lowest": 0}, "two rates above 0"),
        ({"lowest": 1, "highest": 0.1}, "the lower one first"),
        ({"iterations": 9}, "from 10 up"),
        ({"smooth": 1}, "part of all iterations"),
        ({"stop_above": 1}, "above 1"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        dt.find_lr(make(), **given)


def test_a_handler_and_a_step_without_rates_are_refused():
    class Finds(dt.Callback):
        def on_train_batch_end(self, trainer, event):
            dt.find_lr(trainer)

    with pytest.raises(RuntimeError, match="in a handler"):
        make(callbacks=[Finds()]).fit()
    model = nn.Linear(8, 1)
    with pytest.raises(ValueError, match="no optimizer"):
        dt.find_lr(regression(step=lambda batch: model(batch.inputs).sum().detach()))


# ------------------------------------------------------------------ batch sizes


class Limited(nn.Linear):
    """Raises as allocators do, where a batch is larger than it takes."""

    def __init__(self, most, error):
        super().__init__(8, 1)
        self.most, self.error = most, error

    def forward(self, x):
        if len(x) > self.most:
            raise self.error
        return super().forward(x)


MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to"
    ),
    RuntimeError("MPS backend out of memory"),
    MemoryError(),
]


def limited(most, error=MEMORY[0], rows=512):
    torch.manual_seed(0)
    model = Limited(most, error)
    parts = {"loss": nn.MSELoss(), "optimizer": torch.optim.Adam(model.parameters()), "device": "cpu"}
    train = dt.BatchLoader(dt.Arrays(torch.randn(rows, 8), torch.randn(rows, 1)), batch_size=32)
    return dt.Trainer(dt.SupervisedStep(model, **parts), train, epochs=2, runs=None, verbosity=0)


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
def test_the_largest_batch_that_fits(error):
    t = limited(100, error)
    before = dt.digest(t.state_dict())
    found = dt.find_batch_size(t)
    assert (found.largest, found.bound) == (100, "memory")
    assert list(found.tried)[:4] == [32, 64, 128, 96]
    assert all(fits == (size <= 100) for size, fits in found.tried.items())
    assert dt.digest(t.state_dict()) == before
    assert t.train.settings()["batch_size"] == 32
    assert not t.train.edits


@pytest.mark.parametrize("start", [1, 7, 32, 400])
def test_any_limit_is_found_from_any_start(start):
    for most in range(1, 512):
        search = Search(lambda size, most=most: size <= most, 512)
        assert search.largest(start) == most
        assert len(search.tried) < 20
    assert Search(lambda size: True, 512).largest(start) == 512
    assert dt.find_batch_size(limited(33), start=start).largest == 33


def test_rows_and_the_user_bound_it_too():
    assert repr(dt.find_batch_size(limited(10**6))).startswith("BatchFit(largest=512, bound='rows'")
    found = dt.find_batch_size(limited(10**6), most=50)
    assert (found.largest, found.bound) == (50, "most")


def test_not_even_one_row_fits_or_it_is_another_error():
    t = limited(0)
    before = dt.digest(t.state_dict())
    with pytest.raises(MemoryError, match="one row"):
        dt.find_batch_size(t)
    with pytest.raises(RuntimeError, match="shapes"):
        dt.find_batch_size(limited(3, RuntimeError("shapes do not fit")))
    found = dt.find_batch_size(
        limited(3, RuntimeError("shapes do not fit")), memory_error=lambda error: "shapes" in str(error)
    )
    assert found.largest == 3
    assert dt.digest(t.state_dict()) == before


def test_other_loaders_have_no_batch_size_to_change():
    with pytest.raises(TypeError, match=r"expected a dt\.BatchLoader"):
        dt.find_batch_size(make(feed="torch"))


def test_from_the_middle_of_an_epoch_and_then_with_the_size_that_was_found():
    t = limited(100)
    t.fit(until=dt.At(batch=18))
    t.train.set_batch_size(dt.find_batch_size(t).largest)
    t.fit()
    assert t.progress.train.batches == 18 + 5
