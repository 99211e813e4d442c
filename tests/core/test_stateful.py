"""`Stateful`: the hidden state from call to call, through aborts and checkpoints, and what is refused."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from deeptrain.checkpoint.codec import decode, encode
from deeptrain.state.randomness import Streams
from deeptrain.state.tree import digest
from deeptrain.step.parts import load_module, load_module_extra, module_extra
from deeptrain.step.rollback import Rollback
from deeptrain.step.stateful import Stateful, reset_states

KINDS = {
    "rnn": lambda: nn.RNN(3, 5, batch_first=True),
    "gru": lambda: nn.GRU(3, 5, num_layers=2, batch_first=True),
    "lstm": lambda: nn.LSTM(3, 5, batch_first=True, bidirectional=True),
}


class Nested(nn.Module):
    """A module of one's own, whose state is tensors nested in tuples and lists, more than ten of them."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x, state):
        if state is None:
            state = (x.new_zeros(len(x), 3), [x.new_zeros(len(x)) for _ in range(11)], (x.new_zeros(2),))
        carried, many, (last,) = state
        y = torch.tanh(self.linear(x) + carried)
        return y, (y.t().contiguous().t(), [v + i for i, v in enumerate(many)], (last - 1,))


def make(kind="lstm"):
    torch.manual_seed(4)
    return Stateful(Nested() if kind == "nested" else KINDS[kind]())


def data(size=4, time=12):
    return torch.randn(size, time, 3, generator=torch.Generator().manual_seed(9))


def leaves(state):
    return [state] if isinstance(state, torch.Tensor) else [leaf for part in state for leaf in leaves(part)]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(leaves(first), leaves(second), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_windows_give_what_the_wrapped_module_gives_with_its_state_handed_on(kind, training):
    stateful, x = make(kind).train(training), data()
    state = None
    for window in x.split(4, dim=1):
        expected, state = stateful.module(window, state)
        assert torch.equal(stateful(window), expected)
        assert same(stateful.hidden, state)
        assert type(stateful.hidden) is type(state)
    stateful.reset()
    assert stateful.hidden is None
    assert torch.equal(stateful(x[:, :4]), stateful.module(x[:, :4])[0])


def test_the_state_is_detached_contiguous_and_its_own_memory():
    lstm = make()
    outputs = lstm(data().requires_grad_())
    assert outputs.requires_grad
    for leaf in leaves(lstm.hidden):
        assert not leaf.requires_grad
        assert leaf.is_contiguous()
        assert leaf.data_ptr() % 64 == 0
    before = copy.deepcopy(lstm.hidden)
    with torch.no_grad():
        outputs.zero_()
    assert same(lstm.hidden, before)
    lstm(data()).sum().backward()  # backward needs the former state, which must not have been written to


def test_without_gradients_the_state_is_the_same():
    with_gradients, without = make(), make()
    for window in data().split(3, dim=1):
        with_gradients(window)
        with torch.no_grad():
            without(window)
    assert same(with_gradients.hidden, without.hidden)


def test_weights_are_found_under_a_prefix_and_the_state_is_no_part_of_them():
    lstm = make("lstm")
    names = {f"module.{name}" for name in lstm.module.state_dict()}
    lstm(data())
    assert set(lstm.state_dict()) == names
    assert {"module.weight_ih_l0", "module.bias_hh_l0_reverse"} < names


def test_a_nested_state_comes_back_as_it_was_nested():
    stateful = make("nested")
    stateful(data()[:, 0])
    carried, many, (last,) = stateful.hidden
    assert isinstance(many, list)
    assert [v[0].item() for v in many] == list(range(11))
    assert last.tolist() == [-1, -1]
    assert carried.is_contiguous()  # the module gave a transposed view
    stateful(data()[:, 1])
    assert [v[0].item() for v in stateful.hidden[1]] == [2 * i for i in range(11)]


@pytest.mark.parametrize("batch_first", [True, False])
def test_other_series_in_number_need_a_reset(batch_first):
    lstm = Stateful(nn.LSTM(3, 5, batch_first=batch_first))
    turn = (lambda x: x) if batch_first else (lambda x: x.transpose(0, 1))
    lstm(turn(data(4)))
    before = lstm.hidden
    with pytest.raises(
        ValueError, match=r"hidden state is of 4 series and this call is given 3.*reset_states"
    ):
        lstm(turn(data(3)))
    assert same(lstm.hidden, before)
    lstm(turn(data(4, time=7)))  # another length is fine
    reset_states([nn.Sequential(lstm)])
    lstm(turn(data(3)))


def test_a_single_series_and_packed_series():
    lstm = make("lstm")
    lstm(data(1)[0])
    lstm(data(1)[0])
    lstm.reset()
    packed = pack_padded_sequence(data(3), [12, 7, 2], batch_first=True)
    lstm(packed)
    assert lstm.hidden[0].shape == (2, 3, 5)
    with pytest.raises(ValueError, match="given 2"):
        lstm(pack_padded_sequence(data(2), [12, 7], batch_first=True))


def test_what_cannot_be_wrapped_is_refused():
    with pytest.raises(TypeError, match=r"cell LSTMCell.*nn\.LSTM"):
        Stateful(nn.LSTMCell(3, 5))
    with pytest.raises(TypeError, match="Linear returned a Tensor"):
        Stateful(LambdaModule(lambda x, s: x, "Linear"))(data())
    with pytest.raises(TypeError, match="state is a dict"):
        Stateful(LambdaModule(lambda x, s: (x, {"h": x})))(data())
    with pytest.raises(TypeError, match="state_1 is a NoneType"):
        Stateful(LambdaModule(lambda x, s: (x, (x, None))))(data())
    with pytest.raises(TypeError, match="found int as input"):
        Stateful(LambdaModule(lambda x, s: (x, s)))(3)


def LambdaModule(fn, name="Own"):
    return type(name, (nn.Module,), {"forward": lambda self, x, state: fn(x, state)})()


# ---------------------------------------------------------------- going back


@pytest.mark.parametrize("kind", [*KINDS, "nested"])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_an_aborted_call_leaves_no_trace(kind, before):
    stateful = make(kind)
    pieces = [data()[:, i] for i in range(4)] if kind == "nested" else list(data().split(3, dim=1))
    rollback = Rollback(Streams(), [stateful])
    for piece in pieces[:before]:
        stateful(piece)
    expected = copy.deepcopy(stateful.hidden)
    rollback.capture()
    stateful(pieces[before])
    stateful.reset()
    stateful(data(2)[:, 0] if kind == "nested" else data(2))
    rollback.restore()
    assert (stateful.hidden is None) == (expected is None) == (before == 0)
    assert expected is None or same(stateful.hidden, expected)
    assert not [name for name in stateful.state_dict() if "state" in name]
    stateful(pieces[before])  # the number of series was put back too


def test_an_aborted_reset_is_undone():
    lstm = make()
    lstm(data())
    expected, rollback = copy.deepcopy(lstm.hidden), Rollback(Streams(), [lstm])
    rollback.capture()
    lstm.reset()
    rollback.restore()
    assert same(lstm.hidden, expected)
    assert "state_0" not in lstm.state_dict()


# ---------------------------------------------------------------- saving and loading


def saved(module):
    """A module's state through the codec, as a checkpoint would keep it."""
    tree = {"model": module.state_dict(), "extra": module_extra(module)}
    encoded = encode(tree)
    return decode(encoded.json, encoded.tensors)


def load(module, tree):
    load_module(module, tree["model"], "model")
    load_module_extra(module, tree["extra"])


def put(model, windows, size=4):
    reset_states([model])
    for window in list(data(size).split(3, dim=1))[:windows]:
        model[0](window)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size_then", [4, 2])
@pytest.mark.parametrize("windows_then", [0, 1, 2])
@pytest.mark.parametrize("windows_now", [0, 1])
def test_a_checkpoint_puts_the_state_to_what_it_was(kind, windows_now, windows_then, size_then):
    """From absent to a tensor, from a tensor to absent, to another shape and to other values."""
    model = nn.Sequential(make(kind), nn.Linear(5, 2))
    put(model, windows_then, size_then)
    tree = saved(model)
    expected = copy.deepcopy(model[0].hidden)
    for other in (model, nn.Sequential(make(kind), nn.Linear(5, 2))):
        put(other, windows_now)
        load(other, tree)
        assert (other[0].hidden is None) == (expected is None)
        assert expected is None or same(other[0].hidden, expected)
        assert set(other.state_dict()) == set(tree["model"])
        again = {"model": other.state_dict(), "extra": module_extra(other)}
        assert digest(again) == digest(tree)
        other[0](data(size_then)) if windows_then else other[0](data(7))


def test_a_nested_state_is_found_by_a_new_module():
    stateful, fresh = make("nested"), make("nested")
    stateful(data()[:, 0])
    load(fresh, saved(stateful))
    assert torch.equal(fresh(data()[:, 1]), stateful(data()[:, 1]))
    assert same(fresh.hidden, stateful.hidden)


def test_loading_does_not_share_memory_with_what_is_loaded():
    lstm, other = make(), make()
    lstm(data())
    load_module_extra(other, module_extra(lstm))
    assert leaves(other.hidden)[0].data_ptr() != leaves(lstm.hidden)[0].data_ptr()


class Cache(nn.Module):
    """A module of one's own that makes a buffer in training, and lets go of it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("cache", None, persistent=False)


def test_a_buffer_that_was_none_is_none_again():
    module = nn.Sequential(Cache())
    at_first = module_extra(module)
    assert at_first["empty"] == ["0.cache"]
    module[0].cache = torch.ones(3)
    later = copy.deepcopy(module_extra(module))
    assert later["empty"] == []
    load_module_extra(module, at_first)
    assert module[0].cache is None
    load_module_extra(module, later)
    assert module[0].cache.tolist() == [1, 1, 1]
    assert not module.state_dict()
