"""Steps of one's own: stopped anywhere they end with the same bits, and these are those of a loop written by hand."""

import copy
import json

import pytest
import torch
from torch import nn

import deeptrain as dt
from deeptrain.checkpoint import codec
from deeptrain.step.parts import load_optimizer
from tests.support import fresh, own_steps, recipes


def finish(runs, kind):
    t = own_steps.trainer(kind, runs, "r")
    t.fit()
    t.close()
    return recipes.summary(t)


def go(runs, kind, safe_points):
    t = own_steps.trainer(kind, runs, "r")
    done = recipes.advance(t, safe_points)
    t.run.save(t)
    t.close()
    return done


def whole(kind):
    """How many safe points there are, how it ends, and whether that is what a loop written by hand ends with."""
    t = own_steps.trainer(kind)
    count = 1
    while not recipes.advance(t, 1):
        count += 1
    return count, recipes.summary(t), own_steps.trained(t) == own_steps.bare(kind)


@pytest.mark.parametrize("kind", sorted(own_steps.STEPS))
def test_stopped_at_every_safe_point_gives_the_same_bits(kind, tmp_path):
    """Each transition is made in a process of its own."""
    count, expected, _ = fresh.run(whole, kind)
    assert count > 12
    for k in range(count):
        assert fresh.run(go, tmp_path, kind, 1) is (k == count - 1)
    assert fresh.run(finish, tmp_path, kind) == expected
    assert fresh.run(finish, tmp_path / "untouched", kind) == expected


@pytest.mark.parametrize("kind", sorted(own_steps.STEPS))
def test_equal_to_a_loop_written_by_hand(kind):
    assert fresh.run(whole, kind)[2]


@pytest.mark.parametrize("kind", ["gan", "byol", "values", "lbfgs"])
def test_an_aborted_iteration_is_repeated(kind):
    expected = own_steps.trainer(kind)
    expected.fit()
    t = own_steps.trainer(kind)
    for _ in range(3):
        t.step(3)
        before = dt.digest(t.state_dict())
        assert own_steps.abort_before(t)
        assert t.progress.torn is None
        assert dt.digest(t.state_dict()) == before
    t.fit()
    assert recipes.summary(t) == recipes.summary(expected)


def test_the_state_of_lbfgs_comes_back_from_bytes_and_training_does_not_write_into_it():
    t = own_steps.trainer("lbfgs")
    t.step(4)
    saved = t.state_dict()
    first = next(iter(saved["optimizer"]["state"].values()))
    assert all(isinstance(part, torch.Tensor) for part in first["old_dirs"])
    assert len(first["old_dirs"]) > 1
    encoded = codec.encode(saved)
    loaded = codec.decode(
        json.loads(json.dumps(encoded.json)), {k: v.clone() for k, v in encoded.tensors.items()}
    )
    before = dt.digest(loaded)
    assert before == dt.digest(saved)
    other = own_steps.trainer("lbfgs")
    other.load_state_dict(loaded)
    for each in (t, other):
        each.fit()
    assert recipes.summary(other) == recipes.summary(t)
    assert dt.digest(loaded) == before


def test_lists_of_tensors_in_an_optimizers_state_are_copied_in_their_dtype():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    held = [torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.bfloat16), None]
    state = optimizer.state_dict() | {"state": {0: {"held": held, "pair": (torch.zeros(1), 2)}}}
    load_optimizer(optimizer, state)
    loaded = optimizer.state[model.weight]
    assert [None if t is None else t.dtype for t in loaded["held"]] == [torch.float64, torch.bfloat16, None]
    loaded["held"][0].zero_()
    loaded["pair"][0].fill_(7)
    assert held[0].tolist() == [1, 1, 1]
    assert state["state"][0]["pair"][0].item() == 0


# ---------------------------------------------------------------------- what is found, and what is refused


class Small(dt.OwnStep):
    """The least that there is."""

    def __init__(self):
        self.model = nn.Linear(6, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)

    def compute(self, batch):
        loss = self.model(batch.inputs).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


def run_of(step, **more):
    return dt.Trainer(step, own_steps.loader(), runs=None, verbosity=0, **more)


class Doubly(Small):
    def compute(self, batch):
        loss = super().compute(batch)
        return {"loss": loss, "again": super().compute(batch)}


def test_a_subclass_may_call_what_it_overrides():
    t = run_of(Doubly())
    t.step(1)
    assert set(t.history) == {"train.loss", "train.again"}
    assert t.learner.parts.keys() == {"model", "optimizer"}


def test_a_step_works_in_a_loop_of_ones_own():
    step = Small()
    before = step.model.weight.clone()
    outcome = step.compute(next(iter(own_steps.loader())))
    assert isinstance(outcome, dt.Outcome)
    assert not outcome.loss.requires_grad
    assert not torch.equal(before, step.model.weight)


SHARED = nn.Linear(1, 6)


class Elsewhere(Small):
    def compute(self, batch):
        with torch.no_grad():
            SHARED(batch.inputs[:, :1])
        return super().compute(batch)


def test_parts_that_a_method_refers_to_are_found_too():
    assert Elsewhere().parts.keys() == {"model", "optimizer", "SHARED"}


def test_a_trainer_that_a_method_refers_to_is_no_part():
    t = run_of(Small())

    class Asks(Small):
        def compute(self, batch):
            assert t.progress is not None
            return super().compute(batch)

    assert Asks().parts.keys() == {"model", "optimizer"}


class Counting(Small):
    def __init__(self):
        super().__init__()
        self.count, self.seen, self.last, self._time = 0, [], torch.zeros(1), 0.0

    def compute(self, batch):
        self._time += 1
        return super().compute(batch)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda step: setattr(step, "count", 1), "count"),
        (lambda step: step.seen.append(3), "seen"),
        (lambda step: step.last.add_(1), "last"),
        (lambda step: setattr(step, "new", "x"), "new"),
    ],
)
def test_a_plain_attribute_that_changed_is_refused_where_the_state_is_taken(change, name):
    t = run_of(Counting())
    t.step(1)
    t.state_dict()
    change(t.learner)
    with pytest.raises(
        ValueError, match=rf"Counting\.{name} changed in training and is no part of the state"
    ):
        t.state_dict()


def test_a_part_that_was_replaced_is_refused():
    t = run_of(Small())
    t.step(1)
    t.learner.model = copy.deepcopy(t.learner.model)
    with pytest.raises(ValueError, match="Small was given model after it was taken"):
        t.state_dict()


def test_attributes_are_settings(tmp_path):
    def at(count):
        step = Counting()
        step.count = count
        return dt.Trainer(step, own_steps.loader(), runs=tmp_path, name="r", verbosity=0)

    t = at(0)
    t.step(1)
    t.run.save(t)
    t.close()
    with pytest.raises(dt.FingerprintMismatch, match=r"step\.values\.count: 0 -> 2"):
        at(2)


class Empty(dt.OwnStep):
    pass


class Nothing(dt.OwnStep):
    def compute(self, batch):
        return 0.0


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match=r"Empty has no compute\(batch\)"):
        run_of(Empty())
    with pytest.raises(ValueError, match="refers to nothing with state_dict"):
        run_of(Nothing())
    t = run_of(Small(), validation=dt.Validation(own_steps.loader()))
    with pytest.raises(TypeError, match="Small does not say how it is evaluated"):
        t.validate()
    with pytest.raises(TypeError, match="is an OwnStep and a Module"):
        type("Mixed", (dt.OwnStep, nn.Module), {})


class Judged(Small):
    def evaluate(self, batch):
        assert not self.model.training
        assert not torch.is_grad_enabled()
        return dt.Outcome(None, self.model(batch.inputs))

    def loss_over(self, predictions, targets):
        return float(predictions.square().mean())


def test_a_step_that_says_how_it_is_evaluated_is_validated():
    t = run_of(Judged(), validation=dt.Validation(own_steps.loader(), metrics={"size": lambda p, _: len(p)}))
    t.fit()
    assert t.history["val.size"].values.tolist() == [24]
    assert t.learner.model.training
    expected = t.learner.model(own_steps.X).square().mean().item()
    assert t.history["val.loss"].values[-1] == pytest.approx(expected, rel=1e-5)


def test_an_exception_in_a_shielded_step_tears_the_state():
    class Breaks(own_steps.ShieldedValues):
        def compute(self, batch):
            raise RuntimeError("no")

    t = run_of(Breaks())
    with pytest.raises(RuntimeError, match="no"):
        t.fit()
    assert "was cut short by RuntimeError" in t.progress.torn
    t = run_of(Small())
    t.learner.model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        t.fit()
    assert t.progress.torn is None
