"""The codec: what goes in comes out, with every type; what cannot is refused by its path."""

import copy
import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from deeptrain.checkpoint.codec import CodecError, DecodeError, decode, encode
from deeptrain.state.tree import MAX_DEPTH, diff, digest


def through_json(tree):
    encoded = encode(tree)
    return decode(json.loads(json.dumps(encoded.json, allow_nan=False)), encoded.tensors)


def assert_same_types(a, b):
    """The same types all the way down, containers and keys and their order included."""
    if isinstance(a, torch.nn.Parameter):
        assert type(b) is torch.Tensor
        return
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert [(type(k), k) for k in a] == [(type(k), k) for k in b]
        for key in a:
            assert_same_types(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same_types(x, y)
    elif isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
    elif isinstance(a, (np.ndarray, np.generic)):
        assert (a.dtype, a.dtype.type, a.shape) == (b.dtype, b.dtype.type, b.shape)


def assert_round_trip(tree):
    again = through_json(tree)
    assert_same_types(tree, again)
    assert diff(again, tree, volatile=True) == []
    assert digest(again) == digest(tree)


floats = st.floats() | st.builds(
    lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0], st.integers(0, 2**64 - 1)
)
words = st.text(st.characters(), max_size=6) | st.sampled_from(
    ["$tensor", "$", "", "__metadata__", "a.b", "\\", "volatile"]
)
valid_words = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["$tensor", "$", "", "a.b"]
)
plain = st.none() | st.booleans() | st.integers() | st.integers(-(2**80), 2**80) | floats | words
number_dtypes = (
    hnp.boolean_dtypes() | hnp.integer_dtypes(endianness="?") | hnp.unsigned_integer_dtypes(endianness="?")
    | hnp.floating_dtypes(endianness="?") | hnp.complex_number_dtypes(endianness="?")
)  # fmt: skip
simple_dtypes = (
    number_dtypes | hnp.datetime64_dtypes(endianness="?") | hnp.timedelta64_dtypes(endianness="?")
    | hnp.unicode_string_dtypes() | hnp.byte_string_dtypes() | st.sampled_from([np.dtype("V5"), np.dtype("g"), np.dtype("q")])
)  # fmt: skip
untitled = hnp.array_dtypes(simple_dtypes, allow_subarrays=True).filter(
    lambda dtype: all(len(field) == 2 for field in dtype.fields.values())
)
dtypes = simple_dtypes | untitled


@st.composite
def arrays(draw):
    """An array of any dtype with arbitrary bytes, perhaps no contiguous one."""
    dtype = draw(dtypes)
    shape = draw(hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3))
    size = int(np.prod(shape)) * dtype.itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype.kind == "b":
        data = bytes(byte & 1 for byte in data)
    if dtype.kind == "U" or dtype.names:
        return np.zeros(shape, dtype)
    array = np.frombuffer(data, dtype).reshape(shape) if size else np.zeros(shape, dtype)
    return array.T if draw(st.booleans()) else array


TENSOR_DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu, torch.complex64, torch.complex128, torch.int64, torch.int8, torch.uint8, torch.uint16,
    torch.uint64, torch.bool,
]  # fmt: skip


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(TENSOR_DTYPES))
    shape = draw(hnp.array_shapes(min_dims=0, min_side=0, max_dims=3, max_side=3))
    size = math.prod(shape) * dtype.itemsize
    data = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        data = bytearray(byte & 1 for byte in data)
    raw = torch.frombuffer(data, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
    tensor = raw.view(dtype).reshape(shape)
    choice = draw(st.sampled_from(["plain", "transposed", "parameter"]))
    if choice == "parameter" and (dtype.is_floating_point or dtype.is_complex):
        return torch.nn.Parameter(tensor)
    return tensor.movedim(0, -1) if choice == "transposed" and tensor.dim() else tensor


scalars = (
    hnp.arrays(number_dtypes, (1,)).map(lambda a: a[0])
    | words.map(np.str_)
    | st.binary(max_size=4).map(np.bytes_)
)


def mappings(children):
    keys = valid_words | st.integers(-5, 5)
    plain_dicts = st.dictionaries(keys, children, max_size=4)
    unambiguous = plain_dicts.filter(lambda d: len({str(k) for k in d}) == len(d))
    return unambiguous | unambiguous.map(OrderedDict) | unambiguous.map(lambda d: Counter(dict(d)))


trees = st.recursive(
    plain
    | scalars
    | arrays()
    | tensors()
    | st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(torch.Size),
    lambda children: (
        st.lists(children, max_size=4) | st.lists(children, max_size=4).map(tuple) | mappings(children)
    ),
    max_leaves=10,
)


@given(trees)
@settings(max_examples=400, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_any_tree_comes_back_with_the_same_types_and_the_same_digest(tree):
    assert_round_trip(tree)


@pytest.mark.parametrize(
    "value",
    [
        math.nan, -math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, True, 0, 2**63, -(2**63), 2**5000, "\ud83d\ude00",
        "\ud800", (), (1,), [], {}, {3: 1}, {-3: (1, [2, ()])}, {"$tensor": 1}, {"": {"": 1}}, OrderedDict(b=1, a=2),
        Counter({5: 3, "x": 1.5}), torch.Size([2, 3]), torch.Size([]), torch.tensor(2.0), torch.zeros(0, 4), np.array(3),
        np.zeros((0, 2), "U3"), np.float32("nan"), np.bool_(True), np.datetime64("NaT"), np.timedelta64(3, "s"),
        np.str_("a\0"), np.bytes_(b"a\0"), np.str_(""), np.void(b"abc"), np.longdouble("0.1"), np.longlong(3),
        np.zeros(2, [("a", "<i4", (2,)), ("b", [("c", ">f8")])])[0], np.array([1, 2])[::-1], np.asfortranarray(np.eye(3)),
        {"__metadata__": torch.ones(1)}, torch.ones(2, 3).t(), torch.ones(1).expand(4), torch.tensor([1 + 1j]).conj(),
        torch.arange(4.0)[::2][:1], torch.tensor([1j, 2], dtype=torch.complex128)[::2],
    ],
)  # fmt: skip
def test_awkward_values_come_back(value):
    assert_round_trip(value)
    assert_round_trip({"x": [value, value]})


def test_what_a_run_is_made_of_comes_back():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5, 5])
    model(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    assert_round_trip({
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
        "random": {"torch": torch.get_rng_state(), "numpy": np.random.get_state()},
    })  # fmt: skip
    again = through_json(scheduler.state_dict())
    assert again["milestones"] == Counter({5: 2, 2: 1})
    assert type(next(iter(again["milestones"]))) is int


def test_tied_weights_are_stored_once_and_come_back_as_one():
    w = torch.nn.Parameter(torch.randn(3, 2))
    tree = {
        "embed": w,
        "head": w.detach(),
        "view": w[:2],
        "transposed": w.t(),
        "same numbers": w.detach().clone(),
    }
    encoded = encode(tree)
    assert list(encoded.tensors) == ["embed", "view", "transposed", "same numbers"]
    again = through_json(tree)
    assert again["embed"] is again["head"]
    assert again["same numbers"] is not again["embed"]
    assert not again["embed"].requires_grad
    a = np.arange(3)
    again = through_json([a, a, a.copy(), torch.from_numpy(a)])
    assert again[0] is again[1]
    assert again[2] is not again[0]
    assert type(again[3]) is torch.Tensor


def test_empty_tensors_are_one_only_where_they_are_one_object():
    a, b = torch.zeros(0), torch.zeros(0)
    again = through_json([a, b, a])
    assert again[0] is again[2]
    assert again[0] is not again[1]


def test_tensors_are_not_copied_and_are_named_by_their_paths():
    w, n = torch.randn(3), np.arange(3.0)
    encoded = encode({"model": {"conv.weight": w}, "list": [n], "c": torch.ones(1, dtype=torch.complex128)})
    assert list(encoded.tensors) == [r"model.conv\.weight", "list.0", "c"]
    assert encoded.tensors[r"model.conv\.weight"].data_ptr() == w.data_ptr()
    assert encoded.tensors["list.0"].data_ptr() == n.ctypes.data
    assert encoded.tensors["c"].dtype is torch.uint8


def test_the_json_is_pinned():
    encoded = encode(
        {"a": (1, -0.0), "w": torch.zeros(2), 3: OrderedDict(x=math.inf), "n": np.zeros(2, ">f4")}
    )
    assert encoded.json == {
        "$dict": [
            ["a", {"$tuple": [1, -0.0]}],
            ["w", {"$tensor": "w", "dtype": "float32", "shape": [2]}],
            [3, {"$ordered": [["x", {"$float": "inf"}]]}],
            ["n", {"$array": "n", "dtype": ">f4", "shape": [2]}],
        ]
    }


class Pair(NamedTuple):
    a: int
    b: int


class Odd:
    pass


def nested(depth):
    tree = []
    for _ in range(depth):
        tree = [tree]
    return tree


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Odd(), "Odd"), ({1}, "set"), (b"x", "bytes"), (1j, "complex"), (Pair(1, 2), "Pair"), (lambda: 0, "function"),
        (defaultdict(int), "defaultdict"), (np.array([None]), "object"), (np.array(["a"], np.dtypes.StringDType()), "StringDType"),
        (np.ma.zeros(2), "MaskedArray"), (torch.eye(2).to_sparse(), "sparse"), (torch.zeros(1, device="meta"), "meta"),
        ({1.5: 0}, "the key 1.5 of the type float"), ({True: 0}, "bool"), ({"\ud800": 0}, "no valid Unicode"),
        ({2**70: 0}, "key"), ({1: 0, "1": 0}, "written alike"), (range(3), "range"), (torch.float32, "dtype"),
        (np.zeros(1, np.dtype({"names": ["a"], "formats": ["i4"], "offsets": [4], "itemsize": 12})), "plain fields"),
        (np.zeros(1, [(("title", "a"), "i4")]), "titles"),
        (np.zeros(1, np.dtype((np.record, [("a", "i4")]))), "plain fields"), (torch.Generator(), "Generator"),
        (torch.empty(1, dtype=torch.bits8), "bits8"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)  # fmt: skip
def test_anything_else_is_refused_by_path_with_the_remedy(value, named):
    with pytest.raises(CodecError) as caught:
        encode({"callbacks": [{"x": value}]})
    message = str(caught.value)
    assert message.startswith("callbacks.0.x: ")
    assert named in message
    assert "state_dict()" in message or "written alike" in message
    assert isinstance(caught.value, TypeError)


def test_depth_is_bounded_both_ways_and_a_cycle_ends_in_an_error():
    assert_round_trip(nested(MAX_DEPTH))
    with pytest.raises(CodecError, match="contain itself"):
        encode(nested(MAX_DEPTH + 1))
    loop = []
    loop.append(loop)
    with pytest.raises(CodecError, match="contain itself"):
        encode(loop)
    with pytest.raises(DecodeError, match="deeper than 200"):
        decode(nested(MAX_DEPTH + 1), {})


W = torch.arange(4.0)
RAW = torch.zeros(16, dtype=torch.uint8)
HUGE = 2**62


@pytest.mark.parametrize(
    "hostile",
    [
        {"$eval": "1"}, {"$tuple": 3}, {"$tuple": [], "x": 1}, {"a": 1, "$tuple": []}, {"$float": "one"}, {"$float": 1.0},
        {"$float": "00"}, {"$int": "x"}, {"$int": 5}, {"$str": "zz"}, {"$str": "ff"}, {"$dict": {}}, {"$dict": [[1]]},
        {"$dict": [[1, 2], [1, 3]]}, {"$dict": [[True, 1]]}, {"$dict": [[[], 1]]}, {"$counter": [["a"]]}, {"$size": ["a"]},
        {"$size": [2.0]}, {"$size": [{"$int": "0xffffffffffffffffff"}]}, math.nan, math.inf, b"bytes", {1: 2}, object(),
        {"$tensor": "w"}, {"$tensor": "w", "dtype": "float32"}, {"$tensor": "w", "dtype": "float32", "shape": [5]},
        {"$tensor": "w", "dtype": "float64", "shape": [4]}, {"$tensor": "w", "dtype": "os.system", "shape": [4]},
        {"$tensor": "w", "dtype": ["float32"], "shape": [4]}, {"$tensor": "v", "dtype": "float32", "shape": [4]},
        {"$tensor": ["w"], "dtype": "float32", "shape": [4]}, {"$tensor": "w", "dtype": "float32", "shape": [-4]},
        {"$tensor": "w", "dtype": "complex128", "shape": [1]}, {"$tensor": "w", "shape": [4], "dtype": "float32", "x": 1},
        {"$tensor": "raw", "dtype": "complex128", "shape": [2]}, {"$tensor": "raw", "dtype": "complex128", "shape": [HUGE]},
        {"$tensor": "raw", "dtype": "uint8", "shape": [True] * 16},
        {"$array": "w", "dtype": "O", "shape": [4]}, {"$array": "w", "dtype": "float32", "shape": [4]},
        {"$array": "raw", "dtype": "|V0", "shape": [HUGE]}, {"$array": "raw", "dtype": "<U", "shape": [HUGE]},
        {"$array": "raw", "dtype": ">f4", "shape": [HUGE, HUGE]}, {"$array": "raw", "dtype": ">f4", "shape": [5]},
        {"$array": "raw", "dtype": [["a", "O", []]], "shape": [2]}, {"$array": "raw", "dtype": [["a", "i4"]], "shape": [4]},
        {"$array": "raw", "dtype": [["a", "<i4", []], ["a", "<i4", []]], "shape": [2]}, {"$array": "raw", "dtype": "T", "shape": [1]},
        {"$array": "raw", "dtype": [["a", "|u1", [HUGE, HUGE]]], "shape": [0]}, {"$array": "raw", "dtype": [], "shape": [16]},
        {"$array": "raw", "dtype": "|V" + "9" * 30, "shape": [1]}, {"$array": "raw", "dtype": "i4,O", "shape": [1]},
        {"$scalar": "zz", "dtype": "<f4"}, {"$scalar": "00", "dtype": "<f4"}, {"$scalar": 5, "dtype": "<f4"},
        {"$scalar": "00", "dtype": "|O"}, {"$scalar": "ff", "dtype": "str"}, {"$scalar": "", "dtype": "|V0"},
        [{"$tensor": "w", "dtype": "float32", "shape": [4]}, {"$array": "w", "dtype": "<f4", "shape": [4]}],
    ],
)  # fmt: skip
def test_what_encode_does_not_write_is_refused_by_path(hostile):
    before = copy.deepcopy((W, RAW))
    with pytest.raises(DecodeError, match=r"^a\.b"):
        decode({"a": {"b": hostile}}, {"w": W, "raw": RAW})
    assert digest((W, RAW)) == digest(before)


def test_tensors_that_nothing_mentions_are_refused():
    with pytest.raises(DecodeError, match="does not mention these tensors: w"):
        decode({"a": 1}, {"w": W})


def test_arrays_that_may_not_be_written_are_taken_without_a_warning():
    array = np.arange(3.0)
    array.flags.writeable = False
    again = through_json([array])[0]
    assert again.flags.writeable
    assert (again == array).all()
