"""`SeedSetter`: any of its points can be computed again from its checkpoint, or from the weights and the count."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import deeptrain as dt


def make(callbacks, epochs=3):
    """No momentum, so that weights and a count are the whole of a state; dropout and three streams in the model."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.drop = nn.Linear(4, 1), nn.Dropout(0.5)

        def forward(self, x):
            return self.layer(self.drop(x)) + random.random() + float(np.random.rand())

    model = Noisy()
    with torch.no_grad():
        model.layer.weight.fill_(0.25)
        model.layer.bias.zero_()
    x = torch.linspace(0, 1, 128).reshape(32, 4)
    step = dt.SupervisedStep(
        model, loss=nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1), device="cpu"
    )
    train = dt.BatchLoader(dt.Arrays(x, x[:, :1]), batch_size=8, shuffle=True, seed=5)
    return dt.Trainer(step, train, epochs=epochs, runs=None, callbacks=callbacks, verbosity=0)


def losses(t):
    return t.history["train.loss"].values.tolist()


def test_an_epoch_is_computed_alone_from_the_weights_and_the_count():
    setter = dt.SeedSetter(dt.Every(epochs=1), seed=4)
    t = make([setter])
    t.fit(until=dt.At(epoch=2))
    weights = t.learner.model.state_dict()
    weights = {name: value.clone() for name, value in weights.items()}
    t.fit()

    torch.manual_seed(12345)
    alone = make([], epochs=1)
    alone.learner.model.load_state_dict(weights)
    alone.train.seek(epoch=2)
    setter.seed_at(2, alone.streams)
    alone.step(4)
    assert losses(alone) == losses(t)[8:]
    assert torch.equal(alone.learner.model.layer.weight, t.learner.model.layer.weight)


def test_the_beginning_does_not_depend_on_what_was_drawn_before():
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        t = make([dt.SeedSetter(dt.Every(batches=3))])
        torch.rand(seed)
        t.fit()
        found.append(losses(t))
    assert found[0] == found[1]
    torch.manual_seed(1)
    t = make([])
    t.fit()
    assert losses(t) != found[0]


@pytest.mark.parametrize(
    ("every", "points"), [(dt.Every(epochs=1), [0, 1, 2, 3]), (dt.Every(batches=5), [0, 5, 10])]
)
def test_it_seeds_at_its_points_and_nowhere_else(every, points):
    class Noting(dt.SeedSetter):
        def seed_at(self, count, streams=None):
            seen.append(count)
            super().seed_at(count, streams)

    seen = []
    make([Noting(every)]).fit()
    assert seen == points


def drawn(seed, count, every=None):
    dt.SeedSetter(every or dt.Every(epochs=1), seed=seed).seed_at(count)
    return torch.rand(()).item(), np.random.rand(), random.random()


def test_seed_count_and_unit_are_mixed_and_not_added():
    found = {drawn(0, 1), drawn(1, 0), drawn(0, 0), drawn(1, 1), drawn(0, 1, dt.Every(batches=1))}
    assert len(found) == 5
    assert drawn(0, 1) in found


def test_generators_that_were_registered_are_seeded_too():
    generator = torch.Generator()
    t = make([])
    t.register_generator("mine", generator)
    setter = dt.SeedSetter(dt.Every(epochs=1))
    setter.seed_at(3, t.streams)
    first = torch.rand((), generator=generator)
    setter.seed_at(3, t.streams)
    assert torch.rand((), generator=generator) == first


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"every": 5}, TypeError, "expected a cadence"),
        ({"every": dt.Every(seconds=5)}, ValueError, "act by the clock"),
        ({"every": dt.Every(epochs=1), "seed": 0.5}, TypeError, "whole number"),
    ],
)
def test_wrong_settings_are_refused(given, error, says):
    with pytest.raises(error, match=says):
        dt.SeedSetter(**given)
