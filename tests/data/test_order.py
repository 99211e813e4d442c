"""The order of rows: a permutation in every mode, unrelated between epochs and seeds, the same for ever, and cheap."""

import json
import random
import time
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.data.edits import BatchSize, Exclude, Repeat, Skip
from deeptrain.data.order import LASTS, SHUFFLES, Order, shard
from deeptrain.data.permute import invert, permute
from deeptrain.data.plan import Plan
from deeptrain.state.hashing import mix, mix_many

GOLDEN = Path(__file__).with_name("golden_order.json")
SIZES = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(any)


@st.composite
def orders(draw, lasts=LASTS):
    sizes, mode, last = draw(SIZES), draw(st.sampled_from(SHUFFLES)), draw(st.sampled_from(lasts))
    rows = st.sets(st.integers(0, sum(sizes) - 1), max_size=min(sum(sizes) - 1, 12))
    excluded = np.array(sorted(draw(rows)), np.int64)
    return Order(
        sizes,
        draw(st.integers(1, sum(sizes) - len(excluded) if last == "drop" else 50)),
        mode,
        draw(st.integers(-5, 2**64)),
        group=draw(st.integers(1, 5)),
        last=last,
        shuffle_sets=mode == "sets" or draw(st.booleans()),
        excluded=excluded,
    )


def keys(*parts):
    return np.array(mix_many(8, *parts), np.uint64)


def whole(order, epoch=0):
    return np.concatenate([order.rows(epoch, batch) for batch in range(order.batches)])


def unpadded(order, epoch, batch):
    rows = order.rows(epoch, batch)
    return rows[: len(rows) - order.padded(epoch, batch)]


def kept(order):
    return np.setdiff1d(np.arange(order.rows_total), order.excluded)


def chi_square(counts, cells):
    counts = [counts.get(cell, 0) for cell in cells]
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 for count in counts) / expected


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 700), seed=st.integers())
def test_permute_is_a_permutation(size, seed):
    values = np.arange(size, dtype=np.uint64)
    images = permute(values, size, keys(seed))
    assert sorted(images.tolist()) == list(range(size))
    assert np.array_equal(invert(images, size, keys(seed)), values)


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=20), seed=st.integers())
def test_several_permutations_are_looked_up_at_once(sizes, seed):
    table = np.stack([keys(seed, which) for which in range(len(sizes))], axis=1)
    values = np.array([size // 2 for size in sizes], np.uint64)
    images = permute(values, np.array(sizes, np.uint64), table)
    assert np.array_equal(invert(images, np.array(sizes, np.uint64), table), values)
    for which, size in enumerate(sizes):
        assert images[which] == permute(values[which : which + 1], size, table[:, which])[0]


@pytest.mark.parametrize("size", [2**31 + 11, 2**40 + 1, 2**62])
def test_permute_works_on_large_domains(size):
    values = np.array([0, 1, size // 2, size - 1], np.uint64)
    images = permute(values, size, keys("large"))
    assert len(set(images.tolist())) == 4
    assert max(images.tolist()) < size
    assert np.array_equal(invert(images, size, keys("large")), values)


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


@settings(max_examples=200, deadline=None)
@given(order=orders(), epoch=st.integers(0, 5))
def test_an_epoch_holds_each_row_once(order, epoch):
    served = np.concatenate([unpadded(order, epoch, batch) for batch in range(order.batches)])
    rows = kept(order)
    if order.last == "drop":
        assert len(rows) - len(served) == len(rows) % order.batch_size
        assert len(np.unique(served)) == len(served)
        assert np.isin(served, rows).all()
    else:
        assert np.array_equal(np.sort(served), rows)


@settings(max_examples=100, deadline=None)
@given(order=orders(lasts=["pad"]), epoch=st.integers(0, 5))
def test_padding_is_the_epoch_s_beginning(order, epoch):
    sequence = order.at(epoch, np.arange(order.rows_kept)).tolist()
    for batch in range(order.batches):
        rows, padded = order.rows(epoch, batch), order.padded(epoch, batch)
        assert len(rows) == order.batch_size
        assert padded == 0 or batch == order.batches - 1
        assert rows[len(rows) - padded :].tolist() == [
            sequence[k % len(sequence)] for k in range(padded)
        ]  # where the batch is larger than the epoch, round again


@settings(max_examples=150, deadline=None)
@given(order=orders(), epoch=st.integers(0, 5))
def test_positions_are_the_way_back(order, epoch):
    positions = np.arange(order.rows_kept)
    rows = order.at(epoch, positions)
    assert np.array_equal(np.sort(rows), kept(order))
    assert np.array_equal(order.positions(epoch, rows), positions)
    for batch in range(order.batches):
        assert np.array_equal(unpadded(order, epoch, batch), rows[slice(*order.span(epoch, batch))])


@settings(max_examples=100, deadline=None)
@given(order=orders(), seed=st.integers())
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
    counts = np.diff(np.append(order._shuffling.layout(2).starts, order.rows_total))
    for start in range(0, len(sizes), group):
        count = int(counts[start : start + group].sum())
        assert len(set(names[rows[position : position + count]].tolist())) <= group
        position += count
    assert position == order.rows_total


@settings(max_examples=150, deadline=None)
@given(
    sizes=SIZES,
    batch_size=st.integers(1, 20),
    group=st.integers(1, 5),
    seed=st.integers(),
    shuffle_sets=st.booleans(),
)
def test_batches_are_shuffled_whole_among_those_that_begin_in_their_group(
    sizes, batch_size, group, seed, shuffle_sets
):
    order = Order(sizes, batch_size, "batches", seed, group=group, shuffle_sets=shuffle_sets)
    layout = whole(Order(sizes, batch_size, "sets" if shuffle_sets else None, seed), 2)
    cuts = [layout[start : start + batch_size].tolist() for start in range(0, len(layout), batch_size)]
    served = [order.rows(2, batch).tolist() for batch in range(order.batches)]
    if len(cuts[-1]) < batch_size:
        assert served.pop() == cuts.pop()  # what is short stays last
    sets = np.repeat(np.arange(len(sizes)), sizes)[layout]
    present = list(dict.fromkeys(sets.tolist()))
    starts = {which: int(np.flatnonzero(sets == which)[0]) for which in present}
    places = order._shuffling.layout(2).sets.tolist()
    groups = {which: places.index(which) // group for which in present}

    def begins_in(batch):
        return groups[max((s for s in present if starts[s] <= batch * batch_size), key=starts.get)]

    assert sorted(served) == sorted(cuts)
    by_group = [begins_in(cuts.index(rows)) for rows in served]
    assert by_group == sorted(by_group)  # no batch leaves its group's stretch


def test_batches_are_shuffled_at_all():
    order = Order([100] * 4, 5, "batches", 0, group=2, shuffle_sets=False)
    firsts = [int(order.rows(0, batch)[0]) for batch in range(80)]
    assert firsts[:40] != sorted(firsts[:40]) == list(range(0, 200, 5))
    assert firsts[40:] != sorted(firsts[40:]) == list(range(200, 400, 5))


@pytest.mark.parametrize("mode", ["batches", "samples"])
def test_the_sets_keep_their_order_if_asked_to(mode):
    order = Order([10] * 12, 5, mode, 3, group=1, shuffle_sets=False)
    for epoch in range(3):
        assert (whole(order, epoch) // 10).tolist() == np.repeat(np.arange(12), 10).tolist()
    shuffled = Order([10] * 12, 5, mode, 3, group=1)
    assert (whole(shuffled) // 10).tolist() != np.repeat(np.arange(12), 10).tolist()


@settings(max_examples=50, deadline=None)
@given(order=orders(), epoch=st.integers(0, 3))
def test_excluded_rows_are_missing_and_the_rest_keeps_its_order(order, epoch):
    everything = order.replaced(excluded=np.arange(0))
    if order.shuffle != "batches":  # there, batches are cut from what is left
        sequence = everything.at(epoch, np.arange(order.rows_total))
        expected = sequence[~np.isin(sequence, order.excluded)]
        assert np.array_equal(order.at(epoch, np.arange(order.rows_kept)), expected)


@settings(max_examples=100, deadline=None)
@given(order=orders(), epoch=st.integers(0, 3))
def test_a_range_of_rows_is_told_only_where_it_is_one(order, epoch):
    for batch in range(order.batches):
        start, stop = order.span(epoch, batch)
        found = order.row_span(epoch, start, stop)
        rows = order.at(epoch, np.arange(start, stop))
        joined = rows.tolist() == list(range(rows[0], rows[0] + len(rows)))
        assert found == ((rows[0], rows[-1] + 1) if joined and order.shuffle is None else None)


@settings(max_examples=100, deadline=None)
@given(order=orders(), world=st.integers(1, 9))
def test_the_ranks_serve_together_the_batches_of_one_process(order, world):
    for batch in range(order.batches):
        rows = order.rows(1, batch)
        parts = [shard(rows, rank, world) for rank in range(world)]
        assert np.array_equal(np.concatenate(parts), rows)
        sizes = [len(part) for part in parts]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] - sizes[-1] <= 1


@pytest.mark.parametrize(("rank", "world"), [(-1, 2), (2, 2), (0, 0)])
def test_a_rank_that_is_not_there(rank, world):
    with pytest.raises(ValueError, match=r"rank: found|world: found"):
        shard(np.arange(4), rank, world)


def test_blocks_do_not_show():
    for mode in ("global", "samples", "sets"):
        small, large = (
            Order([9000, 9000, 7001], 100, mode, 3, group=2),
            Order([9000, 9000, 7001], 25_001, mode, 3, group=2),
        )
        assert np.array_equal(whole(small), large.rows(0, 0))


@pytest.mark.parametrize("mode", ["sets", "batches", "samples", "global"])
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


def best(fn, times=5):
    took = []
    for _ in range(times):
        start = time.perf_counter()
        fn()
        took.append(time.perf_counter() - start)
    return min(took)


@pytest.mark.parametrize("mode", SHUFFLES)
def test_ten_million_rows_in_constant_memory(mode):
    order = Order([100_000] * 100, 64, mode, 7)
    tracemalloc.start()
    for epoch, batch in [(0, 0), (9, order.batches - 1), (3, 77_777)]:
        rows = order.rows(epoch, batch)
        assert 0 <= rows.min() <= rows.max() < 10_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000  # an array of the rows would take 80 MB
    held = sum(block.nbytes for _, block in order._blocks._held)
    assert held < 1_000_000


@pytest.mark.parametrize("mode", SHUFFLES)
def test_a_random_access_costs_the_same_among_many_rows(mode):
    def access(rows):
        order = Order([rows // 100] * 100, 64, mode, 7)
        epochs = iter(range(1, 100))
        return best(lambda: order.rows(next(epochs), order.batches // 2), 9)

    # Four times: cycle walking and the caches differ a little. Walking there would take a thousand times as long.
    assert access(10_000_000) < 4 * access(10_000)


@pytest.mark.parametrize("mode", SHUFFLES)
@pytest.mark.parametrize("batch", [100, 90_000])
def test_the_first_batch_of_a_fresh_order_comes_at_once(mode, batch):
    assert (
        best(lambda: Order([64_000] * 100, 64, mode, 5).rows(2, batch)) < 0.010
    )  # seconds, for 6.4 million rows


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
        rows = places(order.rows, lambda _, order=order: order.batches)
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
    return out + golden_plans()


def places(rows, batches):
    return {
        f"{epoch}.{batch}": rows(epoch, batch).tolist()
        for epoch in (0, 1, 40)
        for batch in sorted({0, 1, batches(epoch) - 1})
    }


def golden_plans():
    plain = [
        ([10], {"batch_size": 4, "last": "pad"}),
        ([3, 5, 2, 7, 1], {"batch_size": 2, "shuffle": "batches", "seed": 11, "group": 2}),
        ([128] * 40, {"batch_size": 24, "shuffle": "batches", "seed": -3}),
        (
            [3, 5, 2, 7, 1],
            {"batch_size": 2, "shuffle": "batches", "seed": 11, "group": 2, "shuffle_sets": False},
        ),
        (
            [3, 5, 2, 7, 1],
            {"batch_size": 6, "shuffle": "samples", "seed": 11, "group": 2, "shuffle_sets": False},
        ),
        ([1000], {"batch_size": 7, "shuffle": "global", "seed": 2, "last": "pad"}),
        ([1000], {"batch_size": 7, "shuffle": "global", "seed": 2, "last": "drop"}),
    ]
    plans = [Plan(sizes, **arguments) for sizes, arguments in plain]
    entries = [(plan, places(plan.rows, plan.batches)) for plan in plans]
    entries += [(plan, every_batch(plan)) for plan in map(edited, SHUFFLES)]
    return [
        {
            "sizes": plan._orders[0][1].sizes.tolist(),
            **plan.settings(),
            "edits": plan.edits,
            "rows": rows,
        }
        for plan, rows in entries
    ]


def every_batch(plan):
    return {
        f"{epoch}.{batch}": plan.rows(epoch, batch).tolist()
        for epoch in range(3)
        for batch in range(plan.batches(epoch))
    }


def edited(mode):
    """One of each edit, among so few rows that the golden file shows what each of them does."""
    plan = Plan([9, 4, 0, 8, 6], batch_size=4, shuffle=mode, seed=5, group=2, last="pad")
    plan = (
        plan.edited(0, 1, Skip(rows=[2, 11, 20])).edited(0, 2, Repeat(batches=1)).edited(0, 3, BatchSize(5))
    )
    plan = plan.edited(0, 4, Exclude(sets=[1], rows=[0, 26])).edited(1, 0, Skip(batches=1))
    return plan.edited(1, 1, Repeat(sets=[3], rows=[7, 7]))


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
        (([10], 4, "batch"), ValueError, "did you mean 'batches'"),
    ],
)
def test_bad_settings_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        Order(*arguments)


def test_more_bad_settings():
    with pytest.raises(ValueError, match="group: found 0"):
        Order([10], 4, group=0)
    with pytest.raises(
        ValueError, match="last: found 'dorp', expected one of 'keep', 'drop', 'pad'; did you mean 'drop'"
    ):
        Order([10], 4, last="dorp")
    with pytest.raises(ValueError, match=r"found 3 rows, fewer than batch_size 4.*last='keep'"):
        Order([3], 4, last="drop")
    with pytest.raises(ValueError, match=r"'sets' with shuffle_sets=False is a contradiction.*shuffle=None"):
        Order([3], 4, "sets", shuffle_sets=False)
    with pytest.raises(TypeError, match="shuffle_sets: found 0, expected True or False"):
        Order([3], 4, "samples", shuffle_sets=0)
    with pytest.raises(ValueError, match="all 3 are excluded"):
        Order([3], 4, excluded=np.arange(3))


@pytest.mark.parametrize("place", [(0, 3), (0, -1), (-1, 0)])
def test_a_place_that_is_not_there(place):
    with pytest.raises(IndexError, match="an epoch has the batches 0 to 2"):
        Order([10], 4).rows(*place)


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden()) + "\n")
