"""Columns of sets: rows come as they are stored, however they are asked for; memory that is lent is not pulled away."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.data.blocks import Stretch, joined
from deeptrain.data.buffers import SMALL, Buffers
from deeptrain.data.column import Column
from deeptrain.data.errors import DataError
from deeptrain.data.formats.base import Part
from deeptrain.data.residents import Residents


class Values(Part):
    """A part over an array, which counts how often it is read."""

    def __init__(self, values, whole=False, name="set.bin"):
        self.values, self.path = values, __import__("pathlib").Path(name)
        self.rows, self.shape, self.dtype = len(values), values.shape[1:], values.dtype
        self.whole = whole
        self.reads = 0

    def read_into(self, out, start):
        self.reads += 1
        out[...] = self.values[start : start + len(out)]


def parts(sizes, whole=False):
    values = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    cuts = np.cumsum(sizes)[:-1]
    return [Values(piece, whole) for piece in np.split(values, cuts)], values


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from([None, "float64"]),
    st.sampled_from([0, 1 << 20]),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_rows_are_those_asked_for(sizes, whole, dtype, few, data):
    made, values = parts(sizes, whole)
    column = Column(made, dtype=None if dtype is None else np.dtype(dtype), few=few)
    if data.draw(st.booleans()):
        column.keep(range(len(sizes)))
    rows = np.array(data.draw(st.lists(st.integers(0, sum(sizes) - 1), min_size=1, max_size=20)), np.int64)
    assert np.array_equal(column.read(rows).numpy(), values[rows].astype(column.dtype))
    start = data.draw(st.integers(0, sum(sizes) - 1))
    stop = data.draw(st.integers(start + 1, sum(sizes)))
    assert np.array_equal(column.read_range(start, stop).numpy(), values[start:stop])
    mixed = np.array(data.draw(st.permutations(range(sum(sizes)))), np.int64)
    cut = data.draw(st.integers(0, sum(sizes)))
    halves = [half for half in (mixed[:cut], mixed[cut:]) if len(half)]
    # The end of one and the beginning of the next, as a batch between two groups has them, and rows that pad it.
    first = data.draw(st.integers(0, len(halves[0]) - 1))
    stretches = [Stretch("one", halves[0], first, len(halves[0]))]
    if len(halves) > 1:
        stretches.append(Stretch("two", halves[1], 0, data.draw(st.integers(1, len(halves[1])))))
    for _ in range(2):
        asked = np.concatenate([joined(stretches), rows])
        assert np.array_equal(column.read(asked, stretches=tuple(stretches)).numpy(), values[asked])
        asked = joined(stretches[:1])
        assert np.array_equal(column.read(asked, stretches=tuple(stretches[:1])).numpy(), values[asked])


def test_what_must_be_read_whole_is_read_once():
    made, _ = parts([6, 6], whole=True)
    column = Column(made, few=0)
    for start in range(0, 12, 2):
        column.read_range(start, start + 2)
    assert [part.reads for part in made] == [1, 1]


def stretches(rows, size, name="group"):
    """Cut some rows into batches."""
    return [(Stretch(name, rows, at, at + size),) for at in range(0, len(rows), size)]


def test_a_group_is_read_once_for_all_of_its_batches():
    made, values = parts([6, 6, 6])
    column = Column(made, few=0)
    for some in stretches(np.random.default_rng(0).permutation(18), 3):
        assert np.array_equal(column.read(joined(some), stretches=some).numpy(), values[joined(some)])
    assert [part.reads for part in made] == [1, 1, 1]


def test_no_batch_of_a_group_shares_memory_with_another():
    made, values = parts([6, 6])
    column = Column(made, few=0)
    found = []
    for some in stretches(np.random.default_rng(0).permutation(12), 3):
        batch = column.read(joined(some), stretches=some)
        assert np.array_equal(batch.numpy(), values[joined(some)])
        assert batch._version == 0
        assert batch.data_ptr() % 64 == 0
        found.append(batch.fill_(-1))
    again = stretches(np.arange(12), 12)[0]
    assert np.array_equal(column.read(joined(again), stretches=again).numpy(), values)


def test_a_group_without_room_in_memory_is_picked_from_row_by_row():
    made, values = parts([6, 6])
    column = Column(made, memory=64, few=0)
    rows = np.array([11, 0, 5])
    some = (Stretch("group", np.array([1, 11, 0, 5, 2]), 1, 4),)
    assert np.array_equal(column.read(rows, stretches=some).numpy(), values[rows])
    assert max(part.reads for part in made) > 1


def test_sets_that_are_kept_are_read_once():
    made, _ = parts([4, 4])
    column = Column(made, few=0)
    column.keep([1])
    for _ in range(3):
        column.read_range(0, 8)
    assert [part.reads for part in made] == [3, 1]


def test_a_small_column_is_read_once_and_not_shared():
    made, values = parts([4, 4])
    column = Column(made)
    column.read_range(0, 8).zero_()
    column.read(np.array([3, 1])).zero_()
    assert np.array_equal(column.read_range(2, 6).numpy(), values[2:6])
    assert [part.reads for part in made] == [1, 1]


def test_few_groups_are_kept():
    made, _ = parts([6, 6, 6, 6, 6])
    column = Column(made, few=0)
    for group in (0, 1, 2, 3, 4, 0):
        some = stretches(np.arange(6 * group, 6 * group + 6), 2, group)[group == 0 and made[0].reads]
        column.read(joined(some), stretches=some)
    assert [part.reads for part in made] == [2, 1, 1, 1, 1]


def test_of_sets_that_are_kept_groups_are_made_without_reading():
    made, values = parts([6, 6])
    column = Column(made, few=0)
    column.keep([0, 1])
    for name in range(3):
        for some in stretches(np.random.default_rng(name).permutation(12), 4, name):
            assert np.array_equal(column.read(joined(some), stretches=some).numpy(), values[joined(some)])
    assert [part.reads for part in made] == [1, 1]


def test_other_shapes_and_dtypes_are_refused():
    first, other = Values(np.zeros((2, 3))), Values(np.zeros((2, 4)), name="odd.bin")
    with pytest.raises(
        DataError, match=r"odd.bin: found rows of float64\[4\]; expected rows of float64\[3\]"
    ):
        Column([first, other])


# ---------------------------------------------------------------------- memory


def test_memory_is_used_again_only_once_nobody_holds_it():
    take = Buffers().take
    first = take((SMALL,), torch.float32)
    place = first.data_ptr()
    view = first[5:]
    del first
    assert place not in {t.data_ptr() for t in [take((SMALL,), torch.float32) for _ in range(4)]}
    array = view.numpy()
    del view
    assert place not in {t.data_ptr() for t in [take((SMALL,), torch.float32) for _ in range(4)]}
    del array
    assert place in {t.data_ptr() for t in [take((SMALL,), torch.float32) for _ in range(12)]}


def test_memory_that_autograd_holds_is_not_used_again():
    take = Buffers().take
    x = take((128, 128), torch.float32)
    x.fill_(2)
    weight = torch.ones(128, 4, requires_grad=True)
    out = (x @ weight).sum()
    del x
    for _ in range(5):
        take((128, 128), torch.float32).fill_(7)
    out.backward()
    assert (weight.grad == 256).all()


def test_sizes_that_are_nearly_equal_share_memory():
    take = Buffers().take
    first = take((1000, 1000), torch.uint8)
    place = first.data_ptr()
    del first
    again = take((990, 1001), torch.uint8)
    assert again.data_ptr() == place
    assert again.shape == (990, 1001)


def test_standing_memory_is_bounded():
    buffers = Buffers(most=4 * SMALL)
    held = [buffers.take((SMALL,), torch.uint8) for _ in range(9)]
    assert len({tensor.data_ptr() for tensor in held}) == 9
    assert buffers._bytes <= 4 * SMALL
    big = buffers.take((4 * SMALL,), torch.uint8)
    assert buffers._bytes <= 4 * SMALL
    assert big.data_ptr() % 64 == 0


# ---------------------------------------------------------------------- what is kept whole


def test_two_threads_read_a_set_once():
    residents, reads, gate = Residents(1 << 20), [], threading.Event()

    def read():
        reads.append(1)
        gate.wait(10)
        return torch.ones(3)

    found = []
    threads = [threading.Thread(target=lambda: found.append(residents.get((1,), read))) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(10)
    assert len(reads) == 1
    assert len({id(tensor) for tensor in found}) == 1
    assert len(found) == 4


def test_an_error_is_its_readers_own_and_the_next_one_reads_again():
    residents, begun, gate = Residents(1 << 20), threading.Event(), threading.Event()
    outcome = {}

    def fail():
        begun.set()
        gate.wait(10)
        raise OSError("gone")

    def first():
        try:
            residents.get((1,), fail)
        except OSError as error:
            outcome["first"] = str(error)

    def second():
        outcome["second"] = residents.get((1,), lambda: torch.ones(2))

    one = threading.Thread(target=first)
    one.start()
    begun.wait(10)
    two = threading.Thread(target=second)
    two.start()
    gate.set()
    one.join(10)
    two.join(10)
    assert outcome["first"] == "gone"
    assert outcome["second"].tolist() == [1, 1]


def test_an_interrupted_read_leaves_nobody_waiting():
    residents = Residents(1 << 20)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        residents.get((1,), interrupted)
    assert residents.get((1,), lambda: torch.ones(1)).item() == 1


def test_those_asked_for_longest_ago_go_first_and_those_kept_never():
    residents = Residents(100)
    residents.keep({(0,)})
    reads = []

    def get(key, size=40):
        def read():
            reads.append(key)
            return torch.zeros(size, dtype=torch.uint8)

        residents.get((key,), read)

    for key in (0, 1, 2, 1, 3, 1, 0, 2):
        get(key)
    assert reads == [0, 1, 2, 3, 2]


# ---------------------------------------------------------------------- casts


@pytest.mark.parametrize(
    ("stored", "wanted", "odd"),
    [
        ([1.0, np.nan], "int32", "nan"),
        ([1.0, 1.5], "int64", "1.5"),
        ([1, 300], "uint8", "300"),
        ([0, 2], "bool", "2"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_cast_that_would_change_whole_numbers_is_refused(stored, wanted, odd, whole):
    column = Column([Values(np.array(stored), whole)], dtype=np.dtype(wanted), few=0)
    with pytest.raises(
        DataError, match=f"found {odd} among the .* values; expected values that {wanted} holds"
    ):
        column.read_range(0, 2)


def test_floats_may_be_rounded_by_a_cast():
    column = Column([Values(np.array([0.1, np.nan]))], dtype=np.dtype("float16"), few=0)
    assert column.read_range(0, 1).item() == np.float16(0.1)
    assert Column([Values(np.array([3, 4]))], dtype=np.dtype("float32")).read_range(0, 2).tolist() == [3, 4]
