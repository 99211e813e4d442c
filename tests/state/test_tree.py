"""State trees: paths, search, comparison bit for bit, and the digest."""

import math
import struct
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.state.leaves import LeafError
from deeptrain.state.tree import Difference, UnknownPathError, diff, digest, get, join, split, walk

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=5) | st.integers(-3, 10**9)


@given(st.lists(keys | st.sampled_from([".", "\\", "", "e", "\\e", "a.b", "\\."]), max_size=6))
@settings(max_examples=200, deadline=None, database=None)
def test_a_path_splits_into_the_keys_it_was_joined_from(parts):
    path = ""
    for part in parts:
        path = join(path, part)
    assert split(path) == [str(part) for part in parts]


def test_dots_and_backslashes_in_keys_are_escaped():
    assert join("model", "conv1.weight") == r"model.conv1\.weight"
    assert join("", "a\\b") == r"a\\b"
    assert join("groups", 0) == "groups.0"


def test_walk_gives_leaves_in_the_trees_order_and_empty_containers_are_leaves():
    tree = {"b": [1, (2, {})], "a": {3: None, "x.y": torch.Size([4])}, "c": OrderedDict()}
    assert list(walk(tree)) == [
        ("b.0", 1), ("b.1.0", 2), ("b.1.1", {}), ("a.3", None), (r"a.x\.y.0", 4), ("c", {}),
    ]  # fmt: skip
    assert list(walk(5)) == [("", 5)]


def test_walk_can_leave_out_what_is_volatile():
    tree = {"a": 1, "deep": [{"volatile": {"clock": 2}, "kept": 3}], "only": {"volatile": 4}}
    assert list(walk(tree, volatile=False)) == [("a", 1), ("deep.0.kept", 3), ("only", {})]
    assert ("deep.0.volatile.clock", 2) in list(walk(tree))
    assert tree["only"] == {"volatile": 4}


def test_a_tree_that_contains_itself_is_refused():
    tree = {}
    tree["again"] = tree
    with pytest.raises(LeafError, match="contain itself"):
        list(walk(tree))


@pytest.mark.parametrize("key", [True, 1.0, None, (1,), np.int64(3)])
def test_keys_of_other_types_are_refused(key):
    with pytest.raises(LeafError, match=f"key of the type {type(key).__name__}"):
        digest({"a": {key: 1}})


TREE = {
    "optimizer": {
        "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}, {"lr": 0.2}],
        "state": {0: {"step": 7}},
    },
    "model": {"conv1.weight": 1, "conv1.bias": 2, "a*b": 3},
    "1": "text",
}


def test_get_gives_leaves_and_subtrees():
    assert get(TREE, "optimizer.param_groups.1.lr") == 0.2
    assert get(TREE, "optimizer.param_groups.1") == {"lr": 0.2}
    assert get(TREE, "optimizer.state.0.step") == 7
    assert get(TREE, r"model.conv1\.weight") == 1
    assert get(TREE, "1") == "text"
    assert get(TREE, "") is TREE


def test_a_star_stands_for_any_part_of_one_key():
    assert get(TREE, "optimizer.param_groups.*.lr") == {
        "optimizer.param_groups.0.lr": 0.1,
        "optimizer.param_groups.1.lr": 0.2,
    }
    assert get(TREE, r"model.conv1\.*") == {r"model.conv1\.weight": 1, r"model.conv1\.bias": 2}
    assert get(TREE, "*.state.*.st*p") == {"optimizer.state.0.step": 7}
    assert get(TREE, "model.a*b") == 3  # a key that has a star is found as it is
    assert get(TREE, r"*.a\*b") == {"model.a*b": 3}


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("optimizer.param_groups.0.lrr", "optimizer.param_groups.0.lr"),
        ("optimizer.params_groups.*.lr", "optimizer.param_groups"),
        ("optimizer.param_groups.2.lr", "optimizer.param_groups.1.lr"),
        ("zzz", "its first level is optimizer, model, 1"),
        ("optimizer.param_groups.-1.lr", "optimizer.param_groups.1.lr"),
    ],
)
def test_an_unknown_path_names_similar_ones(path, near):
    with pytest.raises(KeyError, match="there is nothing at") as caught:
        get(TREE, path)
    assert isinstance(caught.value, UnknownPathError)
    assert near in str(caught.value)
    assert not str(caught.value).startswith("'")


NAN = float("nan")
OTHER_NAN = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]


@pytest.mark.parametrize(
    ("a", "b", "kind"),
    [
        (1, True, "type"),
        (1, 1.0, "type"),
        (1.0, np.float64(1.0), "type"),
        (np.int64(1), np.int32(1), "type"),
        (torch.zeros(2), np.zeros(2, np.float32), "type"),
        ([], (), "type"),
        ({}, OrderedDict(), "type"),
        (torch.zeros(2), torch.zeros(2).double(), "dtype"),
        (np.zeros(2, "<f4"), np.zeros(2, ">f4"), "dtype"),
        (torch.zeros(2), torch.zeros(2, 1), "shape"),
        (torch.zeros(0, 3), torch.zeros(3, 0), "shape"),
        (0.0, -0.0, "value"),
        (NAN, OTHER_NAN, "value"),
        (torch.tensor([0.0]), torch.tensor([-0.0]), "value"),
        (torch.tensor(1.0), torch.tensor(2.0), "value"),
        ("a", "b", "value"),
        ("x" * 99 + "a", "x" * 99 + "b", "value"),
        (1, 2**70, "value"),
        (np.float64(0.0), np.float64(-0.0), "value"),
    ],
)
def test_differences_of_one_leaf(a, b, kind):
    found = diff({"x": {"y.z": a}}, {"x": {"y.z": b}})
    assert [(d.path, d.kind) for d in found] == [(r"x.y\.z", kind)]
    assert found[0].found != found[0].expected or found[0].differing
    assert digest({"x": a}) != digest({"x": b})


@pytest.mark.parametrize(
    "value",
    [
        NAN,
        -0.0,
        math.inf,
        torch.tensor([NAN, -0.0]),
        np.array([NAN]),
        None,
        "",
        torch.zeros(0, 2),
        np.str_("é"),
        {},
    ],
)
def test_a_value_is_equal_to_its_copy(value):
    copy = value.clone() if isinstance(value, torch.Tensor) else value
    assert diff([value], [copy]) == []


def test_array_differences_say_how_many_and_by_how_much():
    a = torch.arange(12.0).reshape(3, 4)
    b = a.clone()
    b[1, 2] += 0.5
    b[2, 0] -= 2.0
    (found,) = diff({"w": a}, {"w": b})
    assert (found.kind, found.differing, found.size, found.largest) == ("value", 2, 12, 2.0)
    assert str(found) == "w: value: 2 of 12 elements of tensor float32 [3, 4] differ, by at most 2"


@pytest.mark.parametrize(
    ("a", "b", "largest"),
    [
        (torch.tensor([1.0, NAN]), torch.tensor([2.0, 0.0]), NAN),
        (torch.tensor([1 + 1j]), torch.tensor([1 - 1j]), 2.0),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1.0),
        (torch.tensor([0, 2**63], dtype=torch.uint64), torch.tensor([0, 0], dtype=torch.uint64), 2.0**63),
        (torch.tensor([1.0]).bfloat16(), torch.tensor([1.5]).bfloat16(), 0.5),
        (torch.tensor([1.0]).to(torch.float8_e4m3fn), torch.tensor([1.5]).to(torch.float8_e4m3fn), 0.5),
        (np.array([1, 2], ">i2"), np.array([1, 5], ">i2"), 3.0),
        (np.array(["a", "b"]), np.array(["a", "c"]), None),
        (np.array(["2020"], "M8[Y]"), np.array(["2021"], "M8[Y]"), None),
        (torch.tensor([0.0]), torch.tensor([-0.0]), 0.0),
    ],
)
def test_the_largest_difference_of_every_sort_of_array(a, b, largest):
    (found,) = diff([a], [b])
    assert found.differing == 1 + (isinstance(largest, float) and math.isnan(largest))
    assert found.largest == pytest.approx(largest, nan_ok=True)


def test_missing_and_unexpected_leaves():
    found = diff({"a": 1, "c": torch.zeros(2)}, {"a": 1, "b": [2, 3]})
    assert found == [
        Difference("c", "unexpected", "tensor float32 [2]", "nothing"),
        Difference("b.0", "missing", "nothing", "2"),
        Difference("b.1", "missing", "nothing", "3"),
    ]
    assert str(found[1]) == "b.0: missing: found nothing, expected 2"


def test_volatile_subtrees_count_only_when_asked_for():
    a, b = {"x": 1, "volatile": {"t": 1}}, {"x": 1, "volatile": {"t": 2}}
    assert diff(a, b) == []
    assert [d.path for d in diff(a, b, volatile=True)] == ["volatile.t"]
    assert digest(a) == digest(b) == digest({"x": 1})


def test_the_digest_is_pinned():
    tree = {"a": [1, 2.5, None, True, "é"], "w": torch.arange(3.0), "n": np.arange(2), "e": {}, 3: -0.0}
    assert digest(tree) == "be992b5de51e29e2decb8f4e6bbf055e15e9e649"


def test_the_digest_does_not_depend_on_order_parameters_or_layout():
    w = torch.arange(6.0).reshape(2, 3)
    assert digest({"a": 1, "w": w}) == digest({"w": torch.nn.Parameter(w), "a": 1})
    assert digest([w.t()]) == digest([w.t().contiguous()]) != digest([w.reshape(3, 2)])
    assert digest([w.expand(2, 2, 3)]) == digest([torch.stack([w, w])])
    assert digest([np.asfortranarray(w.numpy())]) == digest([w.numpy()])
    assert digest([w[:, 1:]]) == digest([w[:, 1:].clone()])
    assert digest([w.numpy()[::-1]]) == digest([w.numpy()[::-1].copy()])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.0), torch.zeros(0), torch.zeros(2, 0, 3), torch.ones(3).bfloat16(), torch.tensor(1 + 2j),
        torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag, torch.tensor([True]),
        torch.ones(2, dtype=torch.uint64), torch.ones(3).to(torch.float8_e5m2), torch.ones(4, requires_grad=True),
    ],
)  # fmt: skip
def test_every_sort_of_tensor_has_a_digest(tensor):
    copy = tensor.detach().resolve_conj().resolve_neg().clone()
    assert digest({"x": tensor}) == digest({"x": copy})
    assert digest({"x": tensor}) != digest({"x": torch.full((7,), 3)})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_matter():
    w = torch.randn(5, 3)
    assert digest([w]) == digest([w.cuda()])
    assert diff([w], [w.cuda()]) == []


def test_neighbouring_leaves_cannot_be_taken_for_one_another():
    assert digest({"a": "1", "b": "2"}) != digest({"a": "1b", "b": ""})
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest([1]) != digest(1)


def test_an_int_and_a_str_key_that_are_written_alike_have_no_digest():
    with pytest.raises(LeafError, match=r"a\.1: two keys"):
        digest({"a": {1: 0, "1": 0}})


class Odd:
    pass


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Odd(), "Odd"),
        ({1, 2}, "builtins.set"),
        (b"bytes", "builtins.bytes"),
        (1j, "builtins.complex"),
        (np.array([None]), "dtype object"),
        (torch.eye(2).to_sparse(), "layout torch.sparse_coo"),
        (torch.zeros(2, device="meta"), "meta"),
        (torch.nn.UninitializedParameter(), "UninitializedParameter"),
        (np.ma.zeros(2), "MaskedArray"),
    ],
)
def test_what_cannot_be_part_of_a_state_is_refused_by_its_path(value, named):
    with pytest.raises(TypeError, match=r"optimizer\.0\.x: found") as caught:
        digest({"optimizer": [{"x": value}]})
    assert named in str(caught.value)
    assert "state_dict()" in str(caught.value)


def test_counters_and_numpy_scalars_are_leaves_and_containers_like_others():
    assert dict(walk({"c": Counter("aab"), "s": np.float32(2)})) == {"c.a": 2, "c.b": 1, "s": np.float32(2)}
    assert digest(Counter("aab")) == digest({"a": 2, "b": 1})  # the leaves count, not what holds them
