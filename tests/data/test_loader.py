"""`BatchLoader` over `Arrays`: the cursor, its state, what batches name, and what is refused."""

import json
import random
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deeptrain.data import (
    Arrays,
    Batch,
    BatchLoader,
    Feed,
    Files,
    Order,
    Position,
    Repeat,
    Rows,
    Source,
    describe,
    map_tensors,
)
from deeptrain.data.source import table_of_contents


class Sets:
    """A source of several sets in memory, without any fast path: what the protocol alone asks for."""

    def __init__(self, sizes):
        self.n_rows = sum(sizes)
        self.set_sizes = tuple(sizes)
        self.set_names = tuple(str(3 * number + 1) for number in range(len(sizes)))
        self.inputs = torch.arange(self.n_rows).float()[:, None] * 10
        self.reads = 0

    def describe(self):
        return table_of_contents(self.set_names, self.set_sizes) | {"inputs": "float32[1]"}

    def read(self, rows):
        self.reads += 1
        index = torch.from_numpy(rows)
        return self.inputs[index], index * 7


def arrays(rows=10):
    return Arrays(torch.arange(rows * 16.0).reshape(rows, 16), torch.arange(rows))


LOADERS = st.builds(
    BatchLoader,
    st.builds(Sets, st.lists(st.integers(1, 20), min_size=1, max_size=8))
    | st.builds(arrays, st.integers(1, 60)),
    batch_size=st.integers(1, 25),
    shuffle=st.sampled_from([None, "batches", "samples", "global", True]),
    seed=st.integers(),
    group=st.integers(1, 4),
    shuffle_sets=st.booleans(),
    last=st.sampled_from(["keep", "pad"]),
)
SETS_IN_ORDER = st.builds(
    BatchLoader,
    st.builds(Sets, st.lists(st.integers(1, 20), min_size=1, max_size=8)),
    batch_size=st.integers(1, 25),
    shuffle=st.just("sets"),
    seed=st.integers(),
)
LOADERS = LOADERS | SETS_IN_ORDER


def seen(loader):
    """What the rest of the epoch gives, as plain values."""
    return [
        (b.epoch, b.index, b.rows.tolist(), b.inputs.tolist(), b.targets.tolist(), b.sources) for b in loader
    ]


@settings(max_examples=100, deadline=None)
@given(loader=LOADERS)
def test_an_epoch_serves_each_row_once_with_its_label(loader):
    everything = loader.source.read(np.arange(loader.rows_total))
    for _ in range(2):
        batches = list(loader)
        rows = np.concatenate([batch.rows for batch in batches])
        padded = sum(batch.padded for batch in batches)
        assert sorted(rows[: len(rows) - padded].tolist()) == list(range(loader.rows_total))
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), everything[0][rows])
        assert torch.equal(torch.cat([batch.targets for batch in batches]), everything[1][rows])


@settings(max_examples=100, deadline=None)
@given(loader=LOADERS)
def test_sources_name_exactly_the_rows(loader):
    starts = dict(
        zip(loader.source.set_names, np.cumsum((0, *loader.source.set_sizes)).tolist(), strict=False)
    )
    for batch in loader:
        named = [starts[part.set_name] + row for part in batch.sources for row in part.rows]
        assert sorted(named) == sorted(batch.rows.tolist())
        assert len({part.set_name for part in batch.sources}) == len(batch.sources)
        assert describe(batch.sources)


EDITS = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from(["skip", "exclude", "repeat", "size"]), st.integers(0, 19)),
    max_size=4,
)


def edit(loader, kind, number):
    """Edit the order, where that leaves something."""
    row = number % loader.rows_total
    try:
        if kind == "size":
            loader.set_batch_size(1 + number)
        else:
            getattr(loader, kind)(rows=[row])
    except ValueError as error:
        if not any(word in str(error).lower() for word in ("leave", "repeat", "no batch")):
            raise


@settings(max_examples=80, deadline=None)
@given(loader=LOADERS, edits=EDITS, seed=st.integers(), pieces=st.integers(1, 3))
def test_restoring_at_every_position_gives_the_rest_whatever_was_edited(loader, edits, seed, pieces):
    """Also in the middle of a batch that is fed several times, and from a state that went through JSON."""
    made = {k: v for k, v in loader.settings().items() if k not in {"source", "preprocess"}}
    loader = BatchLoader(loader.source, preprocess=Repeat(pieces), **made)
    due = sorted(edits)
    states, fed = [], []
    for step in range(14 * pieces):
        while due and due[0][0] * pieces <= step and not loader.position.iteration:
            edit(loader, *due.pop(0)[1:])
        states.append(json.loads(json.dumps(loader.state_dict())))
        batch = loader.fetch()
        fed.append((batch.epoch, batch.index, batch.iteration, batch.rows.tolist(), batch.inputs.tolist()))
        loader.advance(whole=loader.ends_batch(None))
    last_edit = next(
        (i for i in reversed(range(len(states))) if i and states[i]["edits"] != states[i - 1]["edits"]), 0
    )
    for place in random.Random(seed).sample(range(last_edit, len(states)), min(6, len(states) - last_edit)):
        other = BatchLoader(loader.source, preprocess=Repeat(pieces), **made)
        other.load_state_dict(states[place])
        for expected in fed[place:]:
            batch = other.fetch()
            found = (batch.epoch, batch.index, batch.iteration, batch.rows.tolist(), batch.inputs.tolist())
            assert found == expected
            other.advance(whole=other.ends_batch(None))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    batch_size=st.integers(1, 12),
    shuffle=st.sampled_from([None, "sets", "batches", "samples", "global"]),
    last=st.sampled_from(["keep", "pad"]),
    prefetch=st.sampled_from([0, 1, 1 << 20]),
    cache=st.sampled_from([None, "all", 100]),
    seed=st.integers(),
)
def test_files_give_what_arrays_give(  # noqa: PLR0917 - one for each strategy
    sizes, batch_size, shuffle, last, prefetch, cache, seed, tmp_path_factory
):
    """Whatever is read ahead or kept."""
    place, total = tmp_path_factory.mktemp("sets"), sum(sizes)
    x, y = np.arange(total * 3.0).reshape(total, 3), np.arange(total)
    for number, stop in enumerate(np.cumsum(sizes)):
        np.save(place / f"s{number}.npy", x[stop - sizes[number] : stop])
    np.save(place / "labels.npy", y)
    order = {"batch_size": batch_size, "shuffle": shuffle, "last": last, "seed": seed}
    stored = BatchLoader(Files(place), prefetch=prefetch, cache=cache, **order)
    if stored._ahead is not None:
        stored._ahead._is_worth_it = lambda: True
    for _ in range(2):
        for batch in stored:
            assert np.array_equal(batch.inputs, x[batch.rows])
            assert np.array_equal(batch.targets, y[batch.rows])
    stored.close()


@settings(max_examples=60, deadline=None)
@given(loader=LOADERS, seed=st.integers())
def test_restoring_at_every_position_gives_the_remaining_batches(loader, seed):
    states, batches = [], []
    for _ in range(2):
        for _ in range(len(loader)):
            states.append(loader.state_dict())
            batch = loader.fetch()
            assert loader.fetch() is batch
            assert loader.state_dict() == states[-1]
            batches.append((batch.epoch, batch.index, batch.rows.tolist(), batch.inputs.tolist()))
            loader.advance()
    places = list(range(len(states)))
    random.Random(seed).shuffle(places)
    for place in places:
        other = BatchLoader(
            loader.source, **{k: v for k, v in states[place]["settings"].items() if k != "source"}
        )
        other.load_state_dict(states[place])
        rest = [(b.epoch, b.index, b.rows.tolist(), b.inputs.tolist()) for b in other]
        assert rest == batches[place : len(loader) * (place // len(loader) + 1)]
        assert rest
        assert other.position == Position(batches[place][0] + 1, 0)


def test_the_cursor_counts_what_was_consumed():
    loader = BatchLoader(arrays(), batch_size=4)
    assert isinstance(loader, Feed)
    assert (len(loader), loader.batches, loader.rows_total, loader.position) == (3, 3, 10, (0, 0, 0))
    assert not loader.advance()
    assert loader.position == (0, 1, 0)
    for batch in loader:
        assert batch.index == 1
        assert loader.position == (0, 2, 0)
        break
    assert [batch.index for batch in loader] == [2]
    assert loader.position == (1, 0, 0)
    loader.seek(epoch=5, batch=2)
    assert loader.advance()
    assert loader.position == (6, 0, 0)


def test_a_batch_is_read_once_and_held():
    loader = BatchLoader(Sets([4, 6]), batch_size=5)
    assert loader.fetch() is loader.fetch()
    assert loader.source.reads == 1
    loader.batch(0, 1)
    assert loader.fetch().index == 0
    assert loader.source.reads == 2
    loader.close()
    loader.fetch()
    assert loader.source.reads == 3


def test_a_held_batch_that_was_changed_in_place_is_read_again():
    loader = BatchLoader(arrays(), batch_size=4, shuffle=True)
    kept = loader.fetch().inputs.clone()
    loader.fetch().inputs.mul_(2)
    assert torch.equal(loader.fetch().inputs, kept)


def test_data_changed_through_a_slice_is_refused():
    loader = BatchLoader(arrays(), batch_size=4)
    loader.fetch().inputs.relu_()
    with pytest.raises(ValueError, match=r"changed in place.*x\.clone\(\)"):
        loader.fetch()


def test_an_error_while_reading_leaves_the_cursor_and_the_iterator_usable():
    source = Sets([10])
    loader = BatchLoader(source, batch_size=4)
    read, source.read = source.read, lambda rows: (_ for _ in ()).throw(OSError("gone"))
    rest = iter(loader)
    with pytest.raises(OSError, match="gone"):
        next(rest)
    assert loader.position == (0, 0, 0)
    source.read = read
    assert [batch.index for batch in rest] == [0, 1, 2]


def test_rows_and_batch_at_any_place():
    loader = BatchLoader(arrays(100), batch_size=8, shuffle="global", seed=3)
    batch = loader.batch(7, 5)
    assert (batch.epoch, batch.index, batch.size) == (7, 5, 8)
    assert np.array_equal(batch.rows, loader.rows(7, 5))
    assert loader.rows(7, 5).dtype == np.int64
    assert torch.equal(batch.targets, torch.from_numpy(batch.rows))
    assert loader.position == (0, 0, 0)
    for bad in (loader.batch, loader.rows):
        with pytest.raises(IndexError, match="no batch 13 in epoch 0: an epoch has the batches 0 to 12"):
            bad(0, 13)
    with pytest.raises(IndexError, match="0 to 12"):
        loader.seek(epoch=0, batch=13)
    with pytest.raises(IndexError, match="epochs count from 0"):
        loader.seek(epoch=-1)


def test_state_of_another_version_source_or_order_is_refused():
    loader = BatchLoader(arrays(), batch_size=4, seed=1)
    loader.seek(epoch=2, batch=1)
    state = loader.state_dict()
    assert state["cursor"] == {"epoch": 2, "batch": 1, "iteration": 0}
    with pytest.raises(ValueError, match="BatchLoader state has version 7, this deeptrain reads 1"):
        loader.load_state_dict(state | {"version": 7})
    with pytest.raises(ValueError, match="incomplete"):
        loader.load_state_dict({"version": 1})
    with pytest.raises(ValueError, match=r"another source: source\.rows: recorded 10, found 12"):
        BatchLoader(arrays(12), batch_size=4, seed=1).load_state_dict(state)
    other = BatchLoader(arrays(), batch_size=5, seed=2)
    with pytest.raises(ValueError, match="batch_size: recorded 4, found 5; seed: recorded 1, found 2"):
        other.load_state_dict(state)
    assert other.position == (0, 0, 0)
    with pytest.raises(ValueError, match="does not fit: no batch 9"):
        loader.load_state_dict(state | {"cursor": {"epoch": 0, "batch": 9, "iteration": 0}})


def test_at_an_epochs_start_other_settings_are_taken_as_they_are():
    loader = BatchLoader(arrays(), batch_size=4)
    loader.seek(epoch=2)
    other = BatchLoader(arrays(), batch_size=5)
    other.load_state_dict(loader.state_dict())
    assert other.position == (2, 0, 0)
    assert other.settings()["batch_size"] == 5


def test_adopt_takes_the_recorded_order():
    loader = BatchLoader(arrays(), batch_size=4, shuffle="samples", seed=9, group=3, last="drop")
    loader.seek(epoch=1, batch=1)
    other = BatchLoader(arrays(), batch_size=2)
    other.seek(epoch=3, batch=4)
    other.adopt(loader.settings())
    assert other.position == (3, 0, 0)
    other.load_state_dict(loader.state_dict())
    assert other.settings() == loader.settings()
    assert seen(other) == seen(loader)
    other.seek(epoch=1, batch=1)
    other.adopt(loader.settings())
    assert other.position == (1, 1, 0)


def test_no_random_stream_is_touched():
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    list(BatchLoader(arrays(50), batch_size=4, shuffle="global"))
    assert before[0] == random.getstate()
    assert before[1] == np.random.get_state()[1].tolist()
    assert torch.equal(before[2], torch.get_rng_state())


def test_slices_share_memory_but_only_where_aligned():
    inputs = torch.arange(60.0).reshape(20, 3)  # 12 bytes a row
    loader = BatchLoader(Arrays(inputs), batch_size=4)
    batches = list(loader)
    assert all(batch.inputs.data_ptr() % 64 == 0 for batch in batches)
    shared = [batch.inputs.data_ptr() == inputs[4 * batch.index :].data_ptr() for batch in batches]
    assert shared == [True, False, False, False, True]
    assert torch.equal(torch.cat([batch.inputs for batch in batches]), inputs)
    assert batches[0].targets is None


def test_rows_that_follow_each_other_under_a_shuffle_are_slices():
    source = arrays(64)
    inputs, targets = source.read(np.arange(32, 48))
    assert inputs.data_ptr() == source._columns["inputs"].tensor[32].data_ptr()
    assert torch.equal(targets, torch.arange(32, 48))
    assert source.read(np.array([3, 2, 1]))[1].tolist() == [3, 2, 1]
    assert source.read(np.array([1, 1, 3]))[1].tolist() == [1, 1, 3]
    for rows in (np.arange(60, 70), np.array([99, 0])):
        with pytest.raises(IndexError):
            source.read(rows)


def test_odd_arrays_are_read_as_they_are():
    base = np.arange(48.0).reshape(6, 8)
    for array in (base.T, base[::-1].copy(), np.asfortranarray(base), base[:, ::2]):
        batch = next(iter(BatchLoader(Arrays(array), batch_size=4)))
        assert np.array_equal(batch.inputs.numpy(), array[:4])
        assert batch.inputs.is_contiguous()
    with torch.inference_mode():
        made = torch.ones(4, 2)
    assert not next(iter(BatchLoader(Arrays(made), batch_size=2))).inputs.is_inference()
    assert not Arrays(torch.ones(3, 2, requires_grad=True)).read(np.arange(2))[0].requires_grad


def test_read_only_arrays_are_copied():
    array = np.arange(32.0).reshape(4, 8)
    array.flags.writeable = False
    next(iter(BatchLoader(Arrays(array), batch_size=4))).inputs.zero_()
    assert array[1, 1] == 9


def test_nested_inputs():
    source = Arrays(
        {"a": torch.zeros(6, 2), "b": (np.ones((6, 3), np.float32), torch.arange(6))}, [torch.ones(6)]
    )
    assert source.describe() == table_of_contents(("0",), (6,)) | {
        "inputs.a": "float32[2]",
        "inputs.b.0": "float32[3]",
        "inputs.b.1": "int64[]",
        "targets.0": "float32[]",
    }
    batch = BatchLoader(source, batch_size=4, shuffle=True).fetch()
    assert batch.inputs["b"][0].shape == (4, 3)
    assert batch.inputs["b"][1].tolist() == batch.rows.tolist()
    assert isinstance(batch.targets, list)


@pytest.mark.parametrize(
    ("inputs", "targets", "error", "message"),
    [
        (torch.zeros(6, 2), torch.zeros(5), ValueError, "numbers of rows differ: found inputs 6, targets 5"),
        ({"a": torch.zeros(6), "b": torch.zeros(4)}, None, ValueError, r"inputs\.a 6, inputs\.b 4"),
        (torch.tensor(3.0), None, ValueError, "inputs has no axis"),
        ({}, None, ValueError, "found no array"),
        ([[1.0, 2.0]], None, TypeError, r"inputs\.0\.0 is float; expected a torch\.Tensor"),
        (np.array(["a"]), None, TypeError, "inputs is an array of <U1"),
        (np.array([None]), None, TypeError, "inputs is an array of object"),
        (np.zeros(3, ">f4"), None, TypeError, "ascontiguousarray"),
        (np.zeros(3)[::-1], None, TypeError, "strides"),
    ],
)
def test_bad_arrays_are_named(inputs, targets, error, message):
    with pytest.raises(error, match=message):
        Arrays(inputs, targets)


def test_bad_loaders_are_named():
    with pytest.raises(ValueError, match="batch_size: found 0"):
        BatchLoader(arrays(), batch_size=0)
    with pytest.raises(ValueError, match="no rows"):
        BatchLoader(Arrays(torch.zeros(0, 3)), batch_size=2)
    with pytest.raises(ValueError, match="did you mean 'samples'"):
        BatchLoader(arrays(), batch_size=2, shuffle="sample")
    with pytest.raises(TypeError, match=r"found Tensor as source.*dt\.Arrays"):
        BatchLoader(torch.zeros(5), batch_size=2)


def test_describing_sources():
    def rows(*numbers):
        return tuple(numbers)

    assert describe([Rows("1", range(64, 128), 128)]) == "1[64:128]"
    assert describe([Rows("1", range(128), 128), Rows("2", range(128), 128)]) == "1+2"
    assert describe([Rows("3", range(10), 40), Rows("7", range(4, 5), 40)]) == "3[0:10]+7[4]"
    assert describe([Rows("3", rows(2, 0, 1), 3)]) == "3"
    assert describe([Rows("3", rows(2, 2, 1), 3)]) == "3[2,2,1]"
    assert describe([Rows("3", rows(*range(0, 80, 2)), 128)]) == "3[40 rows]"
    assert describe([Rows(str(i), range(5), 9) for i in range(12)]) == "12 sets, 60 rows"
    assert describe(()) == ""


def test_batches_say_what_they_are():
    batch = BatchLoader(Sets([4, 6]), batch_size=6).fetch()
    assert repr(batch) == "Batch(epoch=0, index=0, size=6, sources=1+4[0:2])"
    assert batch.sources is batch.sources
    assert Batch(None, None, 0, 0, np.arange(3)).sources == ()
    assert isinstance(arrays(), Source)


def test_map_tensors_keeps_the_nesting():
    pair = namedtuple("pair", "a b")
    tree = {
        "x": [torch.ones(2), 3],
        "y": pair(torch.ones(1), "text"),
        "z": OrderedDict(k=(torch.ones(3),)),
        "n": None,
    }
    out = map_tensors(tree, lambda tensor: tensor.numel())
    assert out == {"x": [2, 3], "y": pair(1, "text"), "z": OrderedDict(k=(3,)), "n": None}
    assert type(out["z"]) is OrderedDict
    assert type(out["y"]) is pair


def test_the_loader_follows_the_order():
    loader = BatchLoader(Sets([7, 2, 9]), batch_size=4, shuffle="samples", seed=5, group=2)
    order = Order([7, 2, 9], 4, "samples", 5, group=2)
    assert all(np.array_equal(loader.rows(3, batch), order.rows(3, batch)) for batch in range(order.batches))


@pytest.fixture
def stored(tmp_path):
    """A loader that reads ahead, whatever the clock says."""
    for number in range(6):
        np.save(tmp_path / f"s{number}.npy", np.full((4, 3000), number + 1.0))
    loader = BatchLoader(Files(tmp_path), batch_size=4)
    loader._ahead._is_worth_it = lambda: True
    yield loader
    loader.close()


def test_a_batch_that_was_changed_in_place_is_read_again(stored):
    for number in range(6):
        stored.fetch().inputs.zero_()
        assert (stored.fetch().inputs == number + 1).all()
        stored.advance()


def test_looking_at_a_batch_is_without_effect(stored):
    stored.fetch()
    stored.batch(0, 2).inputs.zero_()
    assert [int(batch.inputs[0, 0]) for batch in stored] == [1, 2, 3, 4, 5, 6]


def test_batches_that_are_kept_stay_as_they_are(stored):
    kept = list(stored)
    arrays = [batch.inputs.numpy() for batch in kept]
    storages = [batch.inputs.untyped_storage() for batch in kept]
    del kept
    for _ in range(3):
        list(stored)
    assert [int(array[0, 0]) for array in arrays] == [1, 2, 3, 4, 5, 6]
    del arrays
    for _ in range(3):
        list(stored)
    held = [torch.empty(0, dtype=torch.float64).set_(storage, 0, (1,)).item() for storage in storages]
    assert held == [1, 2, 3, 4, 5, 6]


def test_an_edit_that_would_leave_nothing_of_the_epoch_is_refused(stored):
    stored.seek(epoch=0, batch=4)
    with pytest.raises(ValueError, match="would leave no batch of epoch 0 behind batch 4"):
        stored.skip(batches=2)
    assert stored.position == (0, 4, 0)
    assert not stored.edits
    stored.skip(batches=1)
    assert [int(batch.inputs[0, 0]) for batch in stored] == [6]


@pytest.mark.parametrize("rows", [[True, False], np.array([True]), torch.tensor([False]), "12", [2.7]])
def test_rows_of_an_edit_are_numbers(stored, rows):
    with pytest.raises(TypeError):
        stored.exclude(rows=rows)


def test_a_name_is_one_set(stored):
    stored.exclude(sets="3")
    assert [int(batch.inputs[0, 0]) for batch in stored] == [1, 2, 3, 5, 6]


def test_a_bad_set_of_a_small_column_can_be_excluded(tmp_path):
    for number in range(3):
        np.save(tmp_path / f"s{number}.npy", np.full((4, 2), number + 1.0))
    loader = BatchLoader(Files(tmp_path, check_finite=True), batch_size=4)
    (tmp_path / "s1.npy").write_bytes((tmp_path / "s1.npy").read_bytes()[:-8])
    assert loader.fetch().inputs[0, 0] == 1
    loader.exclude(sets=["1"])
    assert [int(batch.inputs[0, 0]) for batch in loader] == [1, 3]
