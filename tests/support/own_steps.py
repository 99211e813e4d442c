"""Steps of one's own, each with the loop that a user would write in its place."""

import random

import torch
from torch import nn
from torch.nn import functional

import deeptrain as dt
from tests.support import recipes

X, Y = recipes.data(24)


def noise(batch):
    return torch.randn(len(batch.inputs), 3)


class Gan(dt.OwnStep):
    """Two networks, two optimizers, and a scheduler that goes by epochs."""

    def __init__(self):
        self.generator = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
        self.critic = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
        self.optimizers_ = {
            "g": torch.optim.Adam(self.generator.parameters(), 1e-2),
            "d": torch.optim.RMSprop(self.critic.parameters(), 1e-2),
        }
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizers_["g"], 0.5)

    def compute(self, batch):
        fake = self.generator(noise(batch))
        real, made = self.critic(batch.inputs), self.critic(fake.detach())
        loss_d = functional.softplus(-real).mean() + functional.softplus(made).mean()
        loss_d.backward()
        self.optimizers_["d"].step()
        self.optimizers_["d"].zero_grad()
        loss_g = functional.softplus(-self.critic(fake)).mean()
        loss_g.backward()
        self.optimizers_["g"].step()
        for optimizer in self.optimizers_.values():
            optimizer.zero_grad()
        return {"loss": loss_g, "critic": loss_d}

    def end_epoch(self):
        self.scheduler.step()

    def evaluate(self, batch):
        return dt.Outcome(None, self.generator(noise(batch)))

    def loss_over(self, predictions, targets):
        with torch.no_grad():
            return float(predictions.square().mean())


class Byol(dt.OwnStep):
    """Self-supervision: a target network follows the online one, in `compute`, and is not trained."""

    def __init__(self):
        self.online = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        self.target = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
        self.target.load_state_dict(self.online.state_dict())
        self.target.requires_grad_(False)
        self.head = nn.Linear(4, 4)
        both = [*self.online.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(both, 0.05, momentum=0.9)
        self.momentum = 0.9

    def compute(self, batch):
        one, two = (batch.inputs + 0.1 * torch.randn_like(batch.inputs) for _ in range(2))
        loss = -functional.cosine_similarity(self.head(self.online(one)), self.target(two)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.online.parameters(), strict=True):
                slow.lerp_(fast, 1 - self.momentum)
        return loss


class Replay:
    """A buffer of transitions, as a list of tensors."""

    def __init__(self, size):
        self.size, self.held = size, []

    def add(self, transition):
        self.held = [*self.held, transition][-self.size :]

    def sample(self, count):
        return [random.choice(self.held) for _ in range(count)]

    def state_dict(self):
        return {"held": list(self.held)}

    def load_state_dict(self, state):
        self.held = list(state["held"])


class Values(dt.OwnStep):
    """A value function that learns from what it has seen, by samples out of a buffer."""

    def __init__(self):
        self.q = nn.Linear(6, 2)
        self.optimizer = torch.optim.Adam(self.q.parameters(), 1e-2)
        self.buffer = Replay(20)

    def compute(self, batch):
        for x, y in zip(batch.inputs, batch.targets, strict=True):
            action = self.q(x).argmax() if torch.rand(()) > 0.3 else torch.randint(2, ())
            self.buffer.add((x.clone(), action.clone(), (action == y).float()))
        states, actions, rewards = (torch.stack(part) for part in zip(*self.buffer.sample(8), strict=True))
        loss = functional.mse_loss(self.q(states)[torch.arange(8), actions], rewards)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return dt.Outcome(loss, None, {"reward": rewards.mean()})


class ShieldedValues(Values):
    """The same, where nothing is put back."""

    shielded = True


def lbfgs():
    """A fit by LBFGS, whose state has lists of tensors, as a function."""
    model = nn.Linear(6, 1)
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=3, history_size=4, line_search_fn="strong_wolfe"
    )

    def fit(batch):
        def closure():
            optimizer.zero_grad()
            loss = functional.mse_loss(model(batch.inputs)[:, 0], batch.targets.float())
            loss.backward()
            return loss

        return optimizer.step(closure)

    fit.parts = {"model": model, "optimizer": optimizer}
    return fit


STEPS = {"gan": Gan, "byol": Byol, "values": Values, "shielded": ShieldedValues, "lbfgs": lbfgs}
EPOCHS = 2


def loader():
    return dt.BatchLoader(dt.Arrays(X, Y), batch_size=8, shuffle="global", seed=5, preprocess=dt.Repeat(2))


def trainer(kind, runs=None, name=None):
    dt.reproducible(seed=3)
    step = STEPS[kind]()
    val = dt.BatchLoader(dt.Arrays(*recipes.data(20, seed=2)), batch_size=7)
    validation = dt.Validation(val, every=dt.Every(iterations=5)) if kind == "gan" else None
    return dt.Trainer(
        step,
        loader(),
        validation=validation,
        epochs=EPOCHS,
        runs=runs,
        name=name,
        checkpoints=dt.Checkpoints(every=dt.Every(batches=3)),
        verbosity=0,
    )


def bare(kind):
    """The same training in a loop written by hand: the digest of all states, and the losses."""
    dt.reproducible(seed=3)
    step = STEPS[kind]()
    # What a user has in hand: the class's own function, without anything around it.
    one = step if kind == "lbfgs" else type(step).compute.__wrapped__.__get__(step)
    losses, train = [], loader()
    for _ in range(EPOCHS):
        for batch in train:
            found = one(batch)
            loss = found["loss"] if isinstance(found, dict) else getattr(found, "loss", found)
            losses.append(loss.item())
        if kind == "gan":
            step.scheduler.step()
    return dt.digest(states(step)), losses


def states(step):
    """What a step trains, by name."""
    return {name: part.state_dict() for name, part in step.parts.items()}


def trained(t):
    """The same of a trainer."""
    return dt.digest(states(t.learner)), t.history["train.loss"].values.tolist()


def abort_before(t):
    """Abort the next iteration's computation where its first optimizer is about to step; whether it came there."""
    inner = t.learner if hasattr(t.learner, "_begin_commit") else t.learner._whole
    begin, hit = inner._begin_commit, []

    def stop():
        hit.append(1)
        raise RuntimeError("about to step")

    inner._begin_commit = stop
    try:
        t.step(1)
    except RuntimeError as error:
        assert str(error) == "about to step"  # noqa: PT017 - and not where none is expected
    finally:
        inner._begin_commit = begin
    return bool(hit)
