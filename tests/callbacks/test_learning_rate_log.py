"""`LearningRateLog`: the rates of each group, where the history has them."""

import pytest
import torch
from torch import nn

import deeptrain as dt


def fit(groups, callback, scheduler=None, scaled=None):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    given = [{"params": layer.parameters(), "lr": rate} for layer, rate in zip(model, groups, strict=False)]
    step = dt.SupervisedStep(
        model,
        loss=nn.MSELoss(),
        optimizer=torch.optim.Adam(given),
        scheduler=scheduler,
        device="cpu",
    )
    train = dt.BatchLoader(dt.Arrays(torch.rand(16, 2), torch.rand(16, 1)), batch_size=4)
    t = dt.Trainer(step, train, epochs=2, runs=None, callbacks=[callback], verbosity=0)
    if scaled is not None:
        t.set("optimizer.param_groups.*.lr_scale", scaled)
    t.fit()
    return {name: [v.tolist() for v in t.history[name]] for name in t.history if name.startswith("lr")}


def halving(optimizer, totals):
    return torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.5)


def test_the_rate_that_the_next_update_is_made_with():
    found = fit([0.5], dt.LearningRateLog(), halving)
    assert found == {"lr": [[*range(9)], [0.5] * 3 + [0.25] * 3 + [0.125] * 3]}


def test_groups_have_numbers_and_a_cadence_is_kept():
    found = fit([0.5, 0.25], dt.LearningRateLog(dt.Every(epochs=1)))
    assert found == {"lr.0": [[0, 4, 8], [0.5] * 3], "lr.1": [[0, 4, 8], [0.25] * 3]}


def test_a_rate_may_be_a_tensor():
    found = fit([torch.tensor(0.5)], dt.LearningRateLog(dt.Every(batches=4)))
    assert found == {"lr": [[0, 4, 8], [0.5] * 3]}


def test_the_scale_of_a_group_counts():
    found = fit([0.5], dt.LearningRateLog(dt.Every(epochs=1)), halving, scaled=0.5)
    assert found == {"lr": [[0, 4, 8], [0.25, 0.125, 0.0625]]}


def test_the_clock_is_no_cadence_of_the_history():
    with pytest.raises(ValueError, match="act by the clock"):
        dt.LearningRateLog(dt.Every(seconds=1))
