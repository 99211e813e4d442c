"""`Repeat`, `Augment` and `Chain`: what each makes of a batch, and what is refused."""

import random

import numpy as np
import pytest
import torch

from deeptrain.data.augment import Augment
from deeptrain.data.batch import Batch
from deeptrain.data.chain import Chain
from deeptrain.data.preprocess import Preprocessor
from deeptrain.data.repeat import Repeat
from deeptrain.data.seeded import seed_streams, streams_put_back
from deeptrain.data.windows import Windows
from deeptrain.step.base import Outcome

PLAIN = (type(None), bool, int, float, str, list, dict)


def make(epoch=0, index=0, size=4, time=6):
    x = torch.arange(size * time * 2.0).reshape(size, time, 2)
    return Batch(x, torch.arange(size), epoch, index, np.arange(size))


def outcome(loss):
    return Outcome(torch.tensor(loss), torch.zeros(3), {"accuracy": 0.5})


def pieces(preprocessor, batch, phase="train", losses=None):
    """All pieces of a batch, as a loader would ask for them."""
    found = []
    while True:
        with streams_put_back():
            if preprocessor.random:
                seed_streams(hash((phase, batch.epoch, batch.index, len(found))) & (2**64 - 1))
            found.append(preprocessor.piece(batch, len(found), phase))
        loss = 1.0 if losses is None else losses[len(found) - 1]
        if preprocessor.is_done(batch, len(found), outcome(loss), phase):
            return found


# ---------------------------------------------------------------- the base class


def test_a_batch_is_one_iteration_by_default():
    batch = make()
    assert pieces(Preprocessor(), batch)[0] is batch
    assert Preprocessor().pieces_in_total((6, 2), 0) == 1
    assert Preprocessor().settings() == {"class": "Preprocessor"}


# ---------------------------------------------------------------- Repeat


def test_repeat_feeds_a_batch_so_often():
    batch, repeat = make(), Repeat(3)
    found = pieces(repeat, batch)
    assert [piece.iteration for piece in found] == [0, 1, 2]
    assert all(piece.inputs is batch.inputs for piece in found)
    assert repeat.count(batch, "train") == repeat.pieces_in_total(None, 0) == 3
    assert len(pieces(repeat, batch, "val")) == repeat.count(batch, "val") == 1


@pytest.mark.parametrize(
    ("losses", "expected"), [([0.1], 1), ([0.9, 0.6, 0.4], 3), ([0.9] * 5, 5), ([float("nan")] * 5, 5)]
)
def test_repeat_until_the_outcome_is_good_enough(losses, expected):
    repeat = Repeat(until=lambda o: o.loss < 0.5, most=5)
    assert len(pieces(repeat, make(), losses=losses)) == expected
    assert repeat.count(make(), "train") is None
    assert repeat.pieces_in_total((6, 2), 0) is None
    assert len(pieces(repeat, make(), "val", losses=[9.0])) == 1


def test_repeat_until_sees_predictions_and_metrics_and_has_a_bound_by_itself():
    assert (
        len(pieces(Repeat(until=lambda o: o.metrics["accuracy"] < 1 and len(o.predictions) == 3), make()))
        == 1
    )
    assert len(pieces(Repeat(until=lambda o: False), make())) == 10


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "found neither of times and until"),
        ({"times": 2, "until": bool}, ValueError, "found both of times and until"),
        ({"times": 0}, ValueError, "times=0: expected a whole number from 1 up"),
        ({"times": True}, ValueError, "times=True"),
        ({"until": bool, "most": 0}, ValueError, "most=0"),
        ({"until": 3}, TypeError, "until=3 is a int"),
    ],
)
def test_repeat_refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        Repeat(**arguments)


# ---------------------------------------------------------------- Augment


def noise(x):
    return x + torch.rand(()) + random.random() + np.random.rand()


def test_augment_is_a_function_of_the_seed_alone():
    augment, batch = Augment(noise), make()
    first, again = pieces(augment, batch), pieces(augment, batch)
    assert torch.equal(first[0].inputs, again[0].inputs)
    assert not torch.equal(first[0].inputs, pieces(augment, make(index=1))[0].inputs)
    assert not torch.equal(first[0].inputs, batch.inputs)
    assert torch.equal(first[0].targets, batch.targets)


def test_augment_may_change_its_copies_in_place_and_the_batch_stays():
    batch = make()
    before, version = batch.inputs.clone(), batch.inputs._version
    piece = pieces(Augment(lambda x: x.mul_(2)), batch)[0]
    assert torch.equal(piece.inputs, before * 2)
    assert torch.equal(batch.inputs, before)
    assert batch.inputs._version == version


def test_augment_transforms_inputs_and_targets_alike():
    def turn(x, y):
        order = torch.randperm(len(x))
        return x[order], y[order]

    batch = make(size=50)
    piece = pieces(Augment(turn, on="both"), batch)[0]
    assert piece.targets.tolist() != batch.targets.tolist()
    assert torch.equal(piece.inputs, batch.inputs[piece.targets])


def test_augment_targets_alone_and_nested_inputs():
    batch = make()
    assert pieces(Augment(lambda y: y + 1, on="targets"), batch)[0].targets.tolist() == [1, 2, 3, 4]
    nested = batch.replaced(inputs={"a": batch.inputs, "b": (batch.inputs,)})
    piece = pieces(Augment(lambda x: {"a": x["a"] * 0, "b": x["b"]}), nested)[0]
    assert piece.inputs["a"].sum() == 0
    assert torch.equal(piece.inputs["b"][0], batch.inputs)


def test_augment_leaves_validation_alone_unless_asked():
    batch = make()
    assert pieces(Augment(noise), batch, "val")[0] is batch
    assert not torch.equal(pieces(Augment(noise, validation=True), batch, "val")[0].inputs, batch.inputs)


def test_augment_gives_aligned_tensors():
    piece = pieces(Augment(lambda x: x[:, 1:]), make())[0]
    assert piece.inputs.data_ptr() % 64 == 0
    assert torch.equal(piece.inputs, make().inputs[:, 1:])


@pytest.mark.parametrize(
    ("fn", "on", "message"),
    [
        (lambda x: x[:2], "inputs", r"returned as inputs tensors of \[2\] rows, expected tensors of 4 rows"),
        (lambda x: None, "inputs", "a NoneType without tensors"),
        (lambda x: x.sum(), "inputs", r"tensors of \[None\] rows"),
        (lambda x, y: x, "both", r"returned a Tensor, expected the two values \(inputs, targets\)"),
        (lambda x, y: (x, y[:1]), "both", "returned as targets"),
    ],
)
def test_augment_refuses_what_is_no_transform(fn, on, message):
    with pytest.raises(ValueError, match=message):
        pieces(Augment(fn, on=on), make())


def test_augment_refuses_settings():
    with pytest.raises(TypeError, match="fn is a int"):
        Augment(3)
    with pytest.raises(ValueError, match="on='labels', expected one of 'inputs', 'targets', 'both'"):
        Augment(noise, on="labels")
    with pytest.raises(ValueError, match="the batches have no targets"):
        pieces(Augment(noise, on="targets"), make().replaced(targets=None))


# ---------------------------------------------------------------- Chain


def test_a_chain_applies_its_members_in_order():
    chain = Chain(Augment(lambda x: x + 1), Augment(lambda x: x * 2))
    assert torch.equal(pieces(chain, make())[0].inputs, (make().inputs + 1) * 2)
    assert chain.count(make(), "train") == chain.pieces_in_total((6, 2), 0) == 1
    assert pieces(Chain(), make())[0].iteration == 0
    assert Chain(Chain(Repeat(2)), Augment(noise)).members[0].times == 2


def test_what_stands_before_the_cut_is_the_same_for_all_pieces_and_behind_it_anew():
    batch = make()
    before = pieces(Chain(Augment(noise), Repeat(3)), batch)
    assert torch.equal(before[0].inputs, before[2].inputs)
    assert not torch.equal(before[0].inputs, batch.inputs)
    behind = pieces(Chain(Repeat(3), Augment(noise)), batch)
    assert not torch.equal(behind[0].inputs, behind[2].inputs)
    assert [piece.iteration for piece in before] == [piece.iteration for piece in behind] == [0, 1, 2]


def test_any_piece_of_a_chain_can_be_made_alone_and_moves_no_stream():
    def chain():
        return Chain(Augment(noise), Windows(2), Augment(lambda x: x * 3), seed=8)

    batch = make()
    in_turn, alone = pieces(chain(), batch), chain()
    place = random.getstate(), np.random.rand(), torch.get_rng_state()
    np.random.seed(0)
    for k in (2, 0, 1):
        assert torch.equal(alone.piece(batch, k, "train").inputs, in_turn[k].inputs)
    assert random.getstate() == place[0]
    assert np.random.rand() == place[1]
    assert torch.equal(torch.get_rng_state(), place[2])


@pytest.mark.parametrize("change", [{"epoch": 1}, {"index": 1}])
def test_other_batches_and_other_seeds_are_transformed_otherwise(change):
    chain, first, second = Chain(Augment(noise), Windows(2)), make(), make(**change)
    shift = chain.piece(first, 0, "train").inputs - first.inputs[:, :2]
    assert not torch.allclose(chain.piece(second, 0, "train").inputs - second.inputs[:, :2], shift)
    other = Chain(Augment(noise), Windows(2), seed=1)
    assert not torch.allclose(other.piece(first, 0, "train").inputs - first.inputs[:, :2], shift)


def test_a_chain_notices_that_what_it_keeps_was_changed_in_place():
    chain, batch = Chain(Augment(noise), Repeat(2)), make()
    first = chain.piece(batch, 0, "train").inputs
    expected = first.clone()
    first.zero_()  # as a model with an in-place activation would
    assert torch.equal(chain.piece(batch, 1, "train").inputs, expected)


def test_a_chain_transforms_a_batch_once_for_all_of_its_pieces():
    calls = []
    chain, batch = Chain(Augment(lambda x: calls.append(1) or x), Windows(2)), make()
    assert len(pieces(chain, batch)) == 3
    assert len(calls) == 1
    pieces(chain, make())
    assert len(calls) == 2


def test_a_chain_asks_the_one_that_cuts():
    batch = make()
    assert Chain(Windows(2), Augment(noise)).pieces_in_total((6, 2), 0) == 3
    assert Chain(Augment(noise), Windows(2)).pieces_in_total((6, 2), 0) is None
    assert Chain(Augment(noise), Repeat(4)).pieces_in_total(None, 0) == 4
    assert Chain(Augment(lambda x: x[:, :4]), Windows(2)).count(batch, "train") == 2
    until = Chain(Augment(noise), Repeat(until=lambda o: o.loss < 0.5))
    assert len(pieces(until, batch, losses=[1, 1, 0.1])) == 3


class Remembers(Preprocessor):
    def __init__(self):
        self.seen = 0

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def test_a_chain_keeps_its_members_states():
    chain, other = Chain(Remembers(), Repeat(2)), Chain(Remembers(), Repeat(2))
    chain.members[0].seen = 5
    other.load_state_dict(chain.state_dict())
    assert other.members[0].seen == 5
    with pytest.raises(ValueError, match="state is of 2 preprocessors, expected 1"):
        Chain(Repeat(2)).load_state_dict(chain.state_dict())


def test_a_chain_refuses():
    with pytest.raises(ValueError, match=r"found Repeat \(place 0\) and Windows \(place 2\)"):
        Chain(Repeat(2), Augment(noise), Windows(2))
    with pytest.raises(
        TypeError, match=r"found a function, expected a Preprocessor; wrap a function: Augment\(fn\)"
    ):
        Chain(noise)
    with pytest.raises(TypeError, match=r"found a int, expected a Preprocessor$"):
        Chain(3)


def test_settings_are_plain_and_tell_differences():
    def plain(value):
        assert isinstance(value, PLAIN)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            plain(part)

    made = [
        Repeat(2), Repeat(3), Repeat(until=bool), Repeat(until=bool, most=3), Augment(noise), Augment(noise, on="both"),
        Augment(noise, validation=True), Augment(torch.relu), Windows(2), Chain(), Chain(Repeat(2)), Chain(seed=1),
    ]  # fmt: skip
    for preprocessor in made:
        plain(preprocessor.settings())
    texts = [repr(preprocessor.settings()) for preprocessor in made]
    assert len(set(texts)) == len(texts)
