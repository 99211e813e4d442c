"""Streams: captured cheaply, put back exactly, seeded aside."""

import random

import numpy as np
import pytest
import torch

from deeptrain.state.hashing import mix
from deeptrain.state.randomness import NumpyLegacyStream, PythonStream, Streams, TorchStream


def draw():
    return [
        random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item(),
        torch.randn(3).tolist(), random.getrandbits(8), np.random.randint(9),
    ]  # fmt: skip


@pytest.mark.parametrize("before", range(5))
def test_captured_and_put_back_from_any_place(before):
    streams = Streams()
    for _ in range(before):
        draw()
        np.random.randn()
        random.gauss(0, 1)
    place = streams.capture()
    expected = draw()
    draw()
    streams.restore(place)
    assert draw() == expected
    streams.restore(place)
    assert draw() == expected


def test_the_second_of_a_pair_of_normal_numbers_is_part_of_the_place():
    stream = NumpyLegacyStream()
    np.random.randn()
    stream.capture()
    place = stream.capture()
    cached = np.random.randn()  # does not touch the twister's memory
    after = stream.capture()
    fresh = np.random.randn()
    stream.restore(place)
    assert np.random.randn() == cached
    stream.restore(after)
    assert np.random.randn() == fresh


def test_python_is_read_from_its_memory_where_that_is_right():
    stream = PythonStream()
    assert stream._peeks  # on CPython; elsewhere getstate is used
    for _ in range(700):
        random.random()
        assert stream._decode(stream.capture()) == random.getstate()

    class Own(random.Random):
        pass

    own = PythonStream(Own(3))
    assert not own._peeks
    place = own.capture()
    value = own.generator.random()
    own.restore(place)
    assert own.generator.random() == value


def test_state_and_back_through_plain_values():
    streams = Streams()
    draw()
    np.random.randn()
    state = streams.state_dict()
    expected = draw()
    Streams().load_state_dict(state)
    assert draw() == expected


def test_seeding_by_a_key_depends_on_the_key_alone():
    streams = Streams()
    streams.seed(1, "validation")
    first = draw()
    draw()
    streams.seed(1, "validation")
    assert draw() == first
    streams.seed(1, "other")
    assert draw() != first


TORCH_DRAWS = {
    "uniform": lambda: torch.rand(()),
    "many": lambda: torch.rand(1000),
    "normal": lambda: torch.randn(()),
    "normals": lambda: torch.randn(64),
    "double": lambda: torch.randn((), dtype=torch.float64),
    "of a tensor": lambda: torch.empty(()).normal_(),
    "half": lambda: torch.rand((), dtype=torch.float16),
    "integers": lambda: torch.randint(9, ()),
    "permutation": lambda: torch.randperm(5),
    "dropout": lambda: torch.nn.functional.dropout(torch.ones(7)),
    "bernoulli": lambda: torch.bernoulli(torch.full((3,), 0.5)),
    "exponential": lambda: torch.empty(()).exponential_(),
    "multinomial": lambda: torch.multinomial(torch.ones(4), 2),
    "a round": lambda: torch.empty(624, dtype=torch.int32).random_(),
    "seeded": lambda: torch.manual_seed(5),
    "seeded alike": lambda: torch.manual_seed(torch.initial_seed()),
}


@pytest.mark.parametrize("name", TORCH_DRAWS)
def test_torch_is_read_from_its_memory_and_every_draw_shows(name):
    """Captured from the memory or from `get_state`, the place is the same, after any draw and any number of them."""
    stream = TorchStream(torch.default_generator)
    assert stream._watched is not None  # with the torch that is tested; elsewhere get_state is used
    torch.manual_seed(3)
    for _ in range(4):
        assert torch.equal(stream.capture(), torch.get_rng_state())
        TORCH_DRAWS[name]()
        assert torch.equal(stream.capture(), torch.get_rng_state())
        assert stream.capture() is stream.capture()
    own = TorchStream(torch.Generator().manual_seed(1))
    assert torch.equal(own.capture(), own.generator.get_state())
    torch.rand(3, generator=own.generator)
    assert torch.equal(own.capture(), own.generator.get_state())


@pytest.mark.parametrize("name", ["python", "numpy"])
def test_a_draw_of_any_length_is_noticed(name):
    """A twister whose index came round to where it was has other words."""
    streams = Streams()
    streams.seed(3)
    place = streams.capture()
    if name == "python":
        for _ in range(624):
            random.getrandbits(32)
    else:
        np.random.randint(0, 2**32, 624, dtype=np.uint32)
    moved = streams.capture()
    after = draw()
    streams.restore(place)
    assert draw() != after
    streams.restore(moved)
    assert draw() == after


def test_registered_generators():
    streams = Streams()
    generators = {"a": np.random.default_rng(1), "b": torch.Generator().manual_seed(2), "c": random.Random(3)}
    for name, generator in generators.items():
        streams.register(name, generator)

    def draw_own():
        return [
            generators["a"].random(),
            torch.rand((), generator=generators["b"]).item(),
            generators["c"].random(),
        ]

    place, state = streams.capture(), streams.state_dict()
    expected = draw_own()
    streams.restore(place)
    assert draw_own() == expected
    streams.load_state_dict(state)
    assert draw_own() == expected
    with pytest.raises(ValueError, match="registered already"):
        streams.register("a", generators["a"])
    with pytest.raises(TypeError, match="cannot register a int"):
        streams.register("d", 3)


def test_a_state_of_a_generator_waits_until_it_is_registered():
    one = Streams()
    one.register("a", np.random.default_rng(1))
    state = one.state_dict()
    expected = one.generators[-1].random()
    two = Streams()
    two.load_state_dict(state)
    assert two.unclaimed == ["a"]
    late = np.random.default_rng(9)
    two.register("a", late)
    assert two.unclaimed == []
    assert late.random() == expected


def test_seeds_are_mixed_and_not_added():
    assert mix(0, "order", 1) != mix(1, "order", 0)
    assert mix(1, 2) != mix("1", 2)
    assert mix("ab", "c") != mix("a", "bc")
