"""The order of rows: a permutation in every mode, unrelated between epochs and seeds, the same for ever, and cheap."""

import json
import random
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.data.order import SHUFFLES, Order, permute
from deeptrain.state.hashing import mix, mix_many

GOLDEN = Path(__file__).with_name("golden_order.json")
SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)
ORDERS = st.builds(
    Order,
    SIZES,
    st.integers(1, 50),
    st.sampled_from(SHUFFLES),
    st.integers(-5, 2**64),
    group=st.integers(1, 5),
)


def keys(*parts):
    return np.array(mix_many(8, *parts), np.uint64)


def whole(order, epoch=0):
    return np.concatenate([order.rows(epoch, batch) for batch in range(order.batches)])


def chi_square(counts, cells):
    counts = [counts.get(cell, 0) for cell in cells]
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 700), seed=st.integers())
def test_permute_is_a_permutation(size, seed):
    images = permute(np.arange(size, dtype=np.uint64), size, keys(seed))
    assert sorted(images.tolist()) == list(range(size))


@pytest.mark.parametrize("size", [2**31 + 11, 2**40 + 1, 2**62])
def test_permute_works_on_large_domains(size):
    values = np.array([0, 1, size // 2, size - 1], np.uint64)
    images = permute(values, size, keys("large")).tolist()
    assert len(set(images)) == 4
    assert max(images) < size


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7, 9, 12, 30])
def test_each_row_is_as_often_in_each_place(size):
    trials = 4000
    tables = np.array([permute(np.arange(size, dtype=np.uint64), size, keys("u", t)) for t in range(trials)])
    for place in range(size):
        value = chi_square(Counter(tables[:, place].tolist()), range(size))
        freedom = size - 1
        assert value < freedom + 5 * (2 * freedom) ** 0.5 + 5, (place, value)


@pytest.mark.parametrize("size", [3, 4])
def test_each_order_of_few_rows_is_as_frequent(size):
    found = Counter(
        tuple(permute(np.arange(size, dtype=np.uint64), size, keys("o", t)).tolist()) for t in range(6000)
    )
    freedom = {3: 6, 4: 24}[size] - 1
    assert len(found) == freedom + 1
    assert chi_square(found, list(found)) < freedom + 5 * (2 * freedom) ** 0.5


def test_odd_orders_occur_where_both_halves_would_be_odd():
    # All 3 x 3 rounds would be even permutations; a plain square root makes half of all orders unreachable.
    def parity(order):
        return sum(order[i] > order[j] for i in range(9) for j in range(i + 1, 9)) % 2

    odd = sum(parity(permute(np.arange(9, dtype=np.uint64), 9, keys("p", t)).tolist()) for t in range(400))
    assert 140 < odd < 260


def test_neighbours_do_not_stay_neighbours():
    rows = permute(np.arange(10_000, dtype=np.uint64), 10_000, keys("n")).astype(np.int64)
    assert abs(np.corrcoef(np.arange(10_000), rows)[0, 1]) < 0.05
    assert (np.abs(np.diff(rows)) <= 3).mean() < 0.003


@settings(max_examples=150, deadline=None)
@given(order=ORDERS, epoch=st.integers(0, 5))
def test_an_epoch_holds_each_row_once(order, epoch):
    assert sorted(whole(order, epoch).tolist()) == list(range(order.rows_total))


@settings(max_examples=100, deadline=None)
@given(order=ORDERS, seed=st.integers())
def test_random_access_equals_sequential(order, seed):
    places = [(epoch, batch) for epoch in range(3) for batch in range(order.batches)]
    sequential = {place: order.rows(*place).tolist() for place in places}
    random.Random(seed).shuffle(places)
    assert {place: order.rows(*place).tolist() for place in places} == sequential


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, batch_size=st.integers(1, 20), group=st.integers(1, 5), seed=st.integers())
def test_samples_stay_within_their_group_of_sets(sizes, batch_size, group, seed):
    order = Order(sizes, batch_size, "samples", seed, group=group)
    by_sets = whole(Order(sizes, batch_size, "sets", seed), 2)
    names = np.repeat(np.arange(len(sizes)), sizes)
    sets = list(dict.fromkeys(names[by_sets].tolist()))
    for which in sets:  # each set's rows follow each other, in order, under "sets"
        assert np.array_equal(by_sets[names[by_sets] == which], np.flatnonzero(names == which))
    position, rows = 0, whole(order, 2)
    counts = np.diff(np.append(order._layout(2).starts, order.rows_total))
    for start in range(0, len(sizes), group):
        count = int(counts[start : start + group].sum())
        assert len(set(names[rows[position : position + count]].tolist())) <= group
        position += count
    assert position == order.rows_total


def test_blocks_do_not_show():
    for mode in ("global", "samples", "sets"):
        small, large = (
            Order([9000, 9000, 7001], 100, mode, 3, group=2),
            Order([9000, 9000, 7001], 25_001, mode, 3, group=2),
        )
        assert np.array_equal(whole(small), large.rows(0, 0))


@pytest.mark.parametrize("mode", ["sets", "samples", "global"])
def test_seeds_and_epochs_are_not_added(mode):
    sizes = [5] * 40
    first, second = Order(sizes, 200, mode, 0), Order(sizes, 200, mode, 1)
    for one, other in [(first.rows(1, 0), second.rows(0, 0)), (first.rows(0, 0), first.rows(1, 0))]:
        assert (one == other).mean() < 0.1


def test_last_batch():
    assert [len(Order([10], 4).rows(0, b)) for b in range(3)] == [4, 4, 2]
    assert Order([10], 4, last="drop").batches == 2
    assert Order([8], 4, last="drop").batches == Order([8], 4).batches == 2


def test_what_rows_gives_may_be_changed():
    order = Order([100], 10, "global")
    before = order.rows(0, 3)
    order.rows(0, 3)[:] = 0
    assert np.array_equal(order.rows(0, 3), before)


def test_ten_million_rows_in_constant_memory():
    order = Order([10_000_000], 64, "global", 7)
    tracemalloc.start()
    for epoch, batch in [(0, 0), (9, order.batches - 1), (3, 77_777)]:
        rows = order.rows(epoch, batch)
        assert 0 <= rows.min() <= rows.max() < 10_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # an array of the rows would take 80 MB
    assert sys.getsizeof(order._cached_block[2]) < 100_000


def golden():
    cases = [
        ([10], 4, None, 0, 8),
        ([10], 4, "global", 0, 8),
        ([1000], 16, "global", 2**63, 8),
        ([10_000_000], 5, "global", -1, 8),
        ([3, 5, 2, 7, 1], 6, "sets", 11, 8),
        ([3, 5, 2, 7, 1], 6, "samples", 11, 2),
        ([128] * 40, 8, "samples", 5, 8),
    ]
    out = []
    for sizes, batch_size, mode, seed, group in cases:
        order = Order(sizes, batch_size, mode, seed, group=group)
        rows = {
            f"{epoch}.{batch}": order.rows(epoch, batch).tolist()
            for epoch in (0, 1, 40)
            for batch in sorted({0, 1, order.batches - 1})
        }
        out.append(
            {
                "sizes": sizes,
                "batch_size": batch_size,
                "shuffle": mode,
                "seed": seed,
                "group": group,
                "rows": rows,
            }
        )
    return out


def test_the_order_is_the_same_in_every_version():
    # If this fails, every run in the world loses its order on an upgrade. Do not write the file anew: mend the order.
    assert json.loads(GOLDEN.read_text()) == golden()


def test_mix_keeps_types_and_borders_apart():
    values = [
        mix(1),
        mix("1"),
        mix(b"1"),
        mix(1, 0),
        mix(0, 1),
        mix("a", "bc"),
        mix("ab", "c"),
        mix(-1),
        mix(255),
        mix(),
    ]
    assert len(set(values)) == len(values)
    assert mix(np.int64(3)) == mix(3) < 2**64
    assert len(set(mix_many(20, "x"))) == 20
    assert mix_many(20, "x")[:9] == mix_many(9, "x")
    with pytest.raises(TypeError, match=r"cannot mix 1\.5: found float, expected int, str or bytes"):
        mix(1.5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([10], 0), ValueError, "batch_size: found 0, expected a whole number of at least 1"),
        (([10], -3), ValueError, "batch_size: found -3"),
        (([10], True), ValueError, "batch_size: found True"),
        (([10], 2.0), TypeError, r"batch_size: found 2\.0, expected a whole number"),
        (([0, 0], 4), ValueError, "no rows to load: found 2 sets with 0 rows"),
        (([], 4), ValueError, "no rows to load"),
        (([10], 4, "smaples"), ValueError, "shuffle: found 'smaples'.*did you mean 'samples'"),
        (([10], 4, "Global"), ValueError, "did you mean 'global'"),
        (([10], 4, None, "x"), TypeError, "seed: found 'x'"),
    ],
)
def test_bad_settings_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Order(*arguments)


def test_more_bad_settings():
    with pytest.raises(ValueError, match="group: found 0"):
        Order([10], 4, group=0)
    with pytest.raises(
        ValueError, match="last: found 'dorp', expected one of 'keep', 'drop'; did you mean 'drop'"
    ):
        Order([10], 4, last="dorp")
    with pytest.raises(ValueError, match=r"found 3 rows, fewer than batch_size 4.*last='keep'"):
        Order([3], 4, last="drop")


@pytest.mark.parametrize("place", [(0, 3), (0, -1), (-1, 0)])
def test_a_place_that_is_not_there(place):
    with pytest.raises(IndexError, match="an epoch has the batches 0 to 2"):
        Order([10], 4).rows(*place)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden()) + "\n")
