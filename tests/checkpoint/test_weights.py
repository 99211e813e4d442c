"""`load_weights`: a saved model's weights into a module, or a list of what does not fit."""

import pytest
import torch
from torch import nn

from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.format import write_checkpoint
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.checkpoint.weights import load_weights
from deeptrain.state.tree import digest


def model(width=4, *, extra=False):
    layers = [nn.Linear(3, width), nn.BatchNorm1d(width)] + ([nn.Linear(width, 1)] if extra else [])
    return nn.Sequential(*layers)


@pytest.fixture
def saved():
    torch.manual_seed(1)
    return model()


@pytest.fixture
def checkpoint(saved, tmp_path):
    write_checkpoint(tmp_path / "c", {"model": saved.state_dict(), "optimizer": {}}, {})
    return tmp_path / "c"


def test_from_a_checkpoint(saved, checkpoint):
    other = model()
    assert digest(other.state_dict()) != digest(saved.state_dict())
    assert load_weights(checkpoint, other) == []
    assert digest(other.state_dict()) == digest(saved.state_dict())
    assert other[0].weight.requires_grad


def test_from_a_run_the_newest_is_taken(saved, tmp_path):
    store = CheckpointStore(tmp_path / "M1__x" / "checkpoints")
    store.commit({"model": model().state_dict()}, {})
    store.commit({"model": saved.state_dict()}, {})
    other = model()
    load_weights(str(tmp_path / "M1__x"), other)
    assert digest(other.state_dict()) == digest(saved.state_dict())


def test_a_nested_subtree_means_the_same_names(saved, tmp_path):
    nested = {}
    for name, tensor in saved.state_dict().items():
        layer, _, leaf = name.partition(".")
        nested.setdefault(int(layer), {})[leaf] = tensor
    write_checkpoint(tmp_path / "c", {"model": nested}, {})
    other = model()
    load_weights(tmp_path / "c", other)
    assert digest(other.state_dict()) == digest(saved.state_dict())


def test_the_models_dtype_stays(checkpoint, saved):
    other = model().double()
    load_weights(checkpoint, other)
    assert other[0].weight.dtype is torch.float64
    assert torch.equal(other[0].weight, saved[0].weight.double())


class Counting(nn.Linear):
    """A module with extra state, which is a tree and not a tensor."""

    def __init__(self):
        super().__init__(2, 2)
        self.seen = {}

    def get_extra_state(self):
        return self.seen

    def set_extra_state(self, state):
        self.seen = state


def test_extra_state_is_loaded_whole(tmp_path):
    saved, other = nn.Sequential(Counting()), nn.Sequential(Counting())
    saved[0].seen = {"a": {"b": 3}}
    write_checkpoint(tmp_path / "c", {"model": saved.state_dict()}, {})
    load_weights(tmp_path / "c", other)
    assert other[0].seen == {"a": {"b": 3}}


def test_what_does_not_fit_is_listed_by_path_and_nothing_is_changed(checkpoint):
    other = model(5, extra=True)
    before = digest(other.state_dict())
    with pytest.raises(ValueError, match="the weights do not fit the model Sequential") as caught:
        load_weights(checkpoint, other)
    message = str(caught.value)
    assert str(checkpoint) in message
    assert "0.weight: found shape [4, 3], expected [5, 3]" in message
    assert "2.bias: missing, expected [1]" in message
    assert digest(other.state_dict()) == before


def test_unexpected_names_are_listed(checkpoint):
    with pytest.raises(ValueError, match=r"1.running_mean: unexpected, \[4\]"):
        load_weights(checkpoint, nn.Sequential(nn.Linear(3, 4)))


def test_without_strict_the_same_names_are_loaded_and_the_others_told(checkpoint, saved):
    other = model(extra=True)
    assert load_weights(checkpoint, other, strict=False) == ["2.weight", "2.bias"]
    assert torch.equal(other[0].weight, saved[0].weight)
    load_weights(checkpoint, small := nn.Sequential(nn.Linear(3, 4)), strict=False)
    assert torch.equal(small[0].weight, saved[0].weight)
    with pytest.raises(ValueError, match="found shape"):
        load_weights(checkpoint, model(5), strict=False)


def test_places_without_weights_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="neither a run's directory"):
        load_weights(tmp_path, model())
    write_checkpoint(tmp_path / "c", {"other": 1}, {})
    with pytest.raises(ValueError, match="no part named 'model'"):
        load_weights(tmp_path / "c", model())
