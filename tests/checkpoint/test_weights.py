"""`load_weights` and `save_weights`: weights into a module or a file, or a list of what does not fit."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.support import recipes
from torch import nn

import deeptrain as dt
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.format import write_checkpoint
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.checkpoint.weight_files import save_weights
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


# ---------------------------------------------------------------------- files and state dicts


class Tied(nn.Module):
    """Two names for one tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


def same(a, b):
    return digest(a.state_dict()) == digest(b.state_dict())


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".bin"])
@pytest.mark.parametrize("make", [model, Tied])
def test_a_file_gives_back_the_weights(make, ending, tmp_path):
    saved, other = make(), make()
    assert not same(saved, other)
    assert save_weights(saved, tmp_path / f"w{ending}") == tmp_path / f"w{ending}"
    assert load_weights(str(tmp_path / f"w{ending}"), other) == []
    assert same(saved, other)
    assert os.listdir(tmp_path) == [f"w{ending}"]


def test_files_are_what_other_libraries_read_and_write(saved, tmp_path):
    save_weights(saved, tmp_path / "a.safetensors")
    save_weights(saved, tmp_path / "a.pt")
    for found in (load_file(tmp_path / "a.safetensors"), torch.load(tmp_path / "a.pt", weights_only=True)):
        assert digest(dict(found)) == digest(dict(saved.state_dict()))
    save_file(saved.state_dict(), tmp_path / "b.safetensors")
    torch.save(saved.state_dict(), tmp_path / "b.pt")
    for name in ("b.safetensors", "b.pt"):
        load_weights(tmp_path / name, other := model())
        assert same(saved, other)


def test_a_state_dict_is_a_source(saved):
    load_weights(saved.state_dict(), other := model())
    assert same(saved, other)
    assert other[0].weight.data_ptr() != saved[0].weight.data_ptr()


def test_a_tied_name_that_a_file_leaves_out_is_no_missing_one(tmp_path):
    saved, other = Tied(), Tied()
    weights = {name: x for name, x in saved.state_dict().items() if name != "second.weight"}
    assert load_weights(weights, other) == []
    assert same(saved, other)
    assert other.first.weight is other.second.weight


def test_a_file_in_the_way_is_replaced_whole_or_stays(saved, tmp_path, monkeypatch):
    path = tmp_path / "w.pt"
    save_weights(model(), path)
    save_weights(saved, path)
    before = path.read_bytes()

    def fails(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(CheckpointError, match=r"w\.pt: the weights could not be written.*No space"):
            save_weights(model(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.pt"]
    for name in ("w.pt", "w.safetensors"):
        with pytest.raises(CheckpointError, match="could not be written"):
            save_weights(saved, tmp_path / "missing" / name)


def test_a_slice_of_a_larger_memory_is_saved_alone(tmp_path):
    flat = torch.arange(100_000.0)
    part = nn.Linear(2, 2, bias=False)
    part.weight = nn.Parameter(flat[:4].view(2, 2))
    save_weights(part, tmp_path / "w.pt")
    assert (tmp_path / "w.pt").stat().st_size < 10_000


class Global:
    """What a file of weights must not make anew."""


@pytest.mark.parametrize("loads", ["model", "object"])
def test_what_would_be_executed_is_refused_by_name(loads, tmp_path):
    torch.save(model() if loads == "model" else {"w": torch.ones(1), "x": Global()}, tmp_path / "w.pt")
    name = "torch.nn.modules.container.Sequential" if loads == "model" else "test_weights.Global"
    with pytest.raises(ValueError, match=f"{name} in it, expected tensors by name"):
        load_weights(tmp_path / "w.pt", model())


def test_what_is_no_weight_is_refused_by_name_and_its_part_taken(saved, tmp_path):
    torch.save({"epoch": 3, "model_state": saved.state_dict()}, tmp_path / "w.pt")
    with pytest.raises(
        ValueError, match=r"found epoch \(int\), model_state \(OrderedDict\).*\['model_state'\]"
    ):
        load_weights(tmp_path / "w.pt", model())
    load_weights(torch.load(tmp_path / "w.pt", weights_only=True)["model_state"], other := model())
    assert same(saved, other)
    torch.save([torch.ones(1)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="found a list, expected tensors by name"):
        load_weights(tmp_path / "list.pt", model())


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_damaged_file_is_named(ending, saved, tmp_path):
    path = tmp_path / f"w{ending}"
    save_weights(saved, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"w{ending}: is no"):
        load_weights(path, model())
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"w{ending}: is no"):
        load_weights(path, model())
    with pytest.raises(FileNotFoundError, match="none"):
        load_weights(tmp_path / f"none{ending}", model())


def test_what_a_format_cannot_hold_is_named(saved, tmp_path):
    extra = nn.Sequential(Counting())
    extra[0].seen = {"n": 3}
    with pytest.raises(ValueError, match=r"cannot hold 0\._extra_state"):
        save_weights(extra, tmp_path / "w.safetensors")
    save_weights(extra, tmp_path / "w.pt")
    load_weights(tmp_path / "w.pt", other := nn.Sequential(Counting()))
    assert other[0].seen == {"n": 3}
    with pytest.raises(ValueError, match=r"found the ending '\.npz', expected one of \.safetensors"):
        save_weights(saved, tmp_path / "w.npz")
    (tmp_path / "w.npz").write_bytes(b"1")
    with pytest.raises(ValueError, match=r"w\.npz: found a file, expected one of weights"):
        load_weights(tmp_path / "w.npz", model())
    with pytest.raises(TypeError, match="expected a module or a trainer"):
        save_weights(3, tmp_path / "w.pt")


def test_of_a_trainer_the_model_is_saved(tmp_path):
    trainer = recipes.trainer()
    trainer.step(2)
    dt.save_weights(trainer, tmp_path / "w.safetensors")
    load_weights(tmp_path / "w.safetensors", other := recipes.Net())
    assert same(trainer.learner.model, other)
    trainer.tear("a test", RuntimeError())
    with pytest.raises(ValueError, match="not whole"):
        dt.save_weights(trainer, tmp_path / "w.safetensors")


# ---------------------------------------------------------------------- other names


@pytest.mark.parametrize(
    ("beginning", "rename"),
    [
        ("module.", {"module": ""}),
        ("a.b.", {"a": "x", "a.b": ""}),
        ("old.", lambda name: name.removeprefix("old.")),
    ],
)
def test_saved_names_are_changed(beginning, rename, saved):
    weights = {beginning + name: x for name, x in saved.state_dict().items()}
    load_weights(weights, other := model(), rename=rename)
    assert same(saved, other)


def test_a_beginning_is_added_and_a_layer_moved(saved):
    whole = nn.ModuleDict({"encoder": model()})
    load_weights(saved.state_dict(), whole, rename={"": "encoder"})
    assert same(saved, whole["encoder"])
    part = nn.Sequential(nn.Identity(), nn.Linear(3, 4))
    missing = load_weights(saved.state_dict(), part, rename={"0": "1", "1": "0"}, strict=False)
    assert missing == []
    assert torch.equal(part[1].weight, saved[0].weight)


def test_names_that_a_function_leaves_out_are_not_loaded(saved):
    small = nn.Sequential(nn.Linear(3, 4))
    load_weights(saved.state_dict(), small, rename=lambda name: name if name[0] == "0" else None)
    assert torch.equal(small[0].weight, saved[0].weight)


def test_a_beginning_of_no_name_and_two_of_one_are_refused(saved):
    with pytest.raises(
        ValueError, match=r"rename=\{'modul': \.\.\.\}: no saved name begins so; near it .*module\.0"
    ):
        load_weights({"module.0.weight": torch.ones(4, 3)}, model(), rename={"modul": ""})
    with pytest.raises(ValueError, match=r"one name, 0\.weight, of a\.weight and b\.weight"):
        load_weights(
            {"a.weight": torch.ones(1), "b.weight": torch.ones(1)}, saved, rename={"a": "0", "b": "0"}
        )
