"""Batches that are read at once: the same as one by one, whatever is done to them, and nothing lost where a read fails."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deeptrain.data import BatchLoader, DataError, Files
from deeptrain.data.order import Order
from deeptrain.data.together import cut

SHUFFLES = [None, "sets", "samples"]


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number, rows in enumerate((100, 37, 250, 100)):
        np.save(tmp_path / f"set{number}.npy", rng.normal(size=(rows, 16, 75)).astype(np.float32))
    np.save(tmp_path / "labels.npy", np.arange(487))
    return tmp_path


def pair(folder, shuffle, last="keep", batch_size=30, **options):
    """Give a loader that reads each batch by itself, and one that may read several at once."""
    made = [
        BatchLoader(
            Files(folder, **options), batch_size=batch_size, shuffle=shuffle, last=last, prefetch=most
        )
        for most in (0, 1 << 26)
    ]
    made[1]._ahead._is_worth_it = lambda: False  # never by threads: here and now
    return made


def at_once(loader):
    """Note how many batches each read brings."""
    counts, read = [], loader._ahead._read_together

    def counted(epoch, batch):
        found = read(epoch, batch)
        counts.append(len(found))
        return found

    loader._ahead._read_together = counted
    return counts


def same(one, other):
    assert (one.epoch, one.index, one.padded) == (other.epoch, other.index, other.padded)
    assert np.array_equal(one.rows, other.rows)
    assert torch.equal(one.inputs, other.inputs)
    assert torch.equal(one.targets, other.targets)
    assert other.inputs.data_ptr() % 64 == 0


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("last", ["keep", "drop", "pad"])
@pytest.mark.parametrize("batch_size", [1, 30, 64, 300])
def test_the_same_batches_as_one_by_one(folder, shuffle, last, batch_size):
    plain, together = pair(folder, shuffle, last, batch_size)
    counts = at_once(together)
    for _ in range(2):
        for one, other in zip(plain, together, strict=True):
            same(one, other)
    assert max(counts) > 1 or batch_size == 300


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_batch_that_is_changed_changes_no_other_and_is_read_again(folder, shuffle):
    plain, together = pair(folder, shuffle)
    for one in plain:
        batch = together.fetch()
        for tensor in (batch.inputs, batch.targets):
            assert tensor._version == 0
            tensor.zero_()
        same(one, together.fetch())  # noticed by the count of changes
        together.fetch().inputs.numpy()[...] = 0  # not noticed, and its neighbours' all the same
        together.advance()


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_an_edit_a_jump_and_a_loaded_state_forget_what_was_read_with_a_batch(folder, shuffle):
    plain, together = pair(folder, shuffle)
    for loader in (plain, together):
        loader.fetch()
        loader.advance()
        loader.skip(rows=[5, 90])
    same(plain.fetch(), together.fetch())
    for loader in (plain, together):
        loader.set_batch_size(7)
        loader.seek(epoch=1, batch=2)
    same(plain.fetch(), together.fetch())
    for loader in (plain, together):
        state = loader.state_dict()
        loader.fetch()
        loader.advance()
        loader.load_state_dict(state)
    for one, other in zip(plain, together, strict=True):
        same(one, other)


def test_an_error_comes_with_its_own_batch(folder):
    values = np.load(folder / "set0.npy")
    values[65] = np.nan
    np.save(folder / "set0.npy", values)
    _, loader = pair(folder, None, check_finite=True)
    good = [next(iter(loader)).index for _ in range(2)]
    assert good == [0, 1]
    for _ in range(2):
        with pytest.raises(DataError, match="row 65"):
            loader.fetch()
    loader.advance()
    assert loader.fetch().index == 3


def test_inputs_that_are_the_targets_stay_the_same_memory(folder):
    for one, other in zip(*pair(folder, None, labels="inputs"), strict=True):
        assert other.inputs is other.targets
        assert torch.equal(one.inputs, other.inputs)


def test_cutting_counts_changes_piece_by_piece():
    whole = torch.arange(40.0).reshape(10, 4)
    pieces = cut({"a": whole, "b": (whole,)}, 4, 3)
    assert [len(piece["a"]) for piece in pieces] == [4, 4, 2]
    assert all(piece["b"][0] is piece["a"] for piece in pieces)
    pieces[0]["a"].zero_()
    assert [piece["a"]._version for piece in pieces] == [1, 0, 0]


@st.composite
def orders(draw):
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda sizes: sum(sizes) > 1))
    size = draw(st.integers(1, min(12, sum(sizes) - 1)))
    shuffle = draw(st.sampled_from([None, "sets", "batches", "samples", "global"]))
    last = draw(st.sampled_from(["keep", "pad", "drop"]))
    excluded = draw(st.sampled_from([None, np.array([0])]))
    return Order(sizes, size, shuffle, seed=3, last=last, excluded=excluded)


@given(order=orders(), epoch=st.integers(0, 3), most=st.integers(0, 60))
def test_a_run_is_the_rows_of_whole_batches(order, epoch, most):
    for batch in range(order.batches):
        run = order.run(epoch, batch, most)
        indices = range(batch, batch - (-len(run) // order.batch_size))
        assert list(run) == [row for index in indices for row in order.rows(epoch, index)]
        assert len(run) <= most
        assert not any(order.padded(epoch, index) for index in indices)
        assert not run or (order.shuffle in {None, "sets"} and len(order.excluded) == 0)
