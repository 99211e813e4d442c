"""A DeepTrain run equals a hand-written loop over the same loader, bit for bit."""

import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import deeptrain as dt
from tests.support import recipes


def parts():
    dt.reproducible(seed=7)
    model = recipes.Net()
    train = dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8, shuffle="global", seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    return model, train, optimizer, nn.CrossEntropyLoss()


def bare_loop(epochs):
    model, train, optimizer, loss_fn = parts()
    scheduler = OneCycleLR(optimizer, 1e-2, total_steps=epochs * len(train))
    losses = []
    for _ in range(epochs):
        for batch in train:
            optimizer.zero_grad()
            loss = loss_fn(model(batch.inputs), batch.targets)
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
    return model.state_dict(), losses


def with_deeptrain(epochs, **more):
    model, train, optimizer, loss_fn = parts()
    step = dt.SupervisedStep(
        model,
        loss=loss_fn,
        optimizer=optimizer,
        device="cpu",
        scheduler=lambda o, totals: OneCycleLR(o, 1e-2, total_steps=totals.updates),
    )
    trainer = dt.Trainer(step, train, epochs=epochs, runs=None, verbosity=0, **more)
    trainer.fit()
    return model.state_dict(), trainer.history["train.loss"].values.tolist()


def test_three_epochs_equal_a_hand_written_loop():
    expected, losses = bare_loop(3)
    found, history = with_deeptrain(3)
    assert dt.digest(found) == dt.digest(expected)
    assert history == losses


def test_callbacks_and_validation_change_nothing():
    expected, _ = bare_loop(2)
    val = dt.BatchLoader(dt.Arrays(*recipes.data(20, seed=2)), batch_size=6)
    for every in (1, 3, 5):
        validation = dt.Validation(val, metrics={"accuracy": recipes.accuracy}, every=dt.Every(batches=every))
        found, _ = with_deeptrain(2, validation=validation, callbacks=[recipes.Chain()])
        assert dt.digest(found) == dt.digest(expected)


def test_a_function_as_step_equals_the_loop_whose_body_it_is():
    expected, losses = bare_loop(2)
    model, train, optimizer, loss_fn = parts()
    scheduler = OneCycleLR(optimizer, 1e-2, total_steps=2 * len(train))

    def step(batch):
        optimizer.zero_grad()
        loss = loss_fn(model(batch.inputs), batch.targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss

    trainer = dt.Trainer(step, train, epochs=2, runs=None, verbosity=0)
    trainer.fit()
    assert dt.digest(model.state_dict()) == dt.digest(expected)
    assert trainer.history["train.loss"].values.tolist() == losses
    assert {"model", "optimizer", "scheduler"} <= set(trainer.state_dict())
