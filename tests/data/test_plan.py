"""A plan: edits change what comes and never what came, and settings and edits alone say all of it."""

import itertools
import json
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.data.blocks import joined
from deeptrain.data.edits import BatchSize, Exclude, Repeat, Skip
from deeptrain.data.order import LASTS, SHUFFLES, Order
from deeptrain.data.plan import Plan


def batches(plan, epoch, start=0):
    return [plan.rows(epoch, batch).tolist() for batch in range(start, plan.batches(epoch))]


def served(plan, epoch, start=0):
    """The rows of the epoch's rest, less those that pad."""
    out = []
    for batch in range(start, plan.batches(epoch)):
        rows = plan.rows(epoch, batch).tolist()
        out += rows[: len(rows) - plan.padded(epoch, batch)]
    return out


def restored(plan):
    plain = json.loads(json.dumps({"settings": plan.settings(), "edits": plan.edits}))
    return Plan(sizes_of(plan), **plain["settings"], edits=plain["edits"])


def settled(plan, epoch, batch):
    """The place itself, or the beginning of the next epoch if nothing is left of this one."""
    return (epoch, batch) if batch < plan.batches(epoch) else (epoch + 1, 0)


def sizes_of(plan):
    return plan._orders[0][1].sizes


@st.composite
def plans(draw):
    sizes = draw(st.lists(st.integers(0, 15), min_size=1, max_size=7).filter(any))
    mode, last = draw(st.sampled_from(SHUFFLES)), draw(st.sampled_from(LASTS))
    return Plan(
        sizes,
        batch_size=draw(st.integers(1, sum(sizes) if last == "drop" else 12)),
        shuffle=mode,
        seed=draw(st.integers(0, 99)),
        group=draw(st.integers(1, 4)),
        last=last,
        shuffle_sets=mode == "sets" or draw(st.booleans()),
    )


def edit_of(draw, plan):
    rows = st.lists(st.integers(0, plan.rows_total - 1), min_size=1, max_size=6)
    sets = st.lists(st.integers(0, len(sizes_of(plan)) - 1), max_size=2)
    return draw(
        st.one_of(
            st.builds(Skip, rows=rows, sets=sets),
            st.builds(Skip, batches=st.integers(1, 3)),
            st.builds(Exclude, rows=rows, sets=sets),
            st.builds(Repeat, rows=rows, sets=sets),
            st.builds(Repeat, batches=st.integers(1, 3)),
            st.builds(BatchSize, st.integers(1, 12)),
        )
    )


def named(plan, edit):
    stops = np.cumsum(sizes_of(plan))
    sets = [range(stops[which] - sizes_of(plan)[which], stops[which]) for which in edit.sets]
    return [*itertools.chain(*sets), *edit.rows]


class Walk:
    """Goes through a plan, edits it on the way, and holds each edit against the plan before it."""

    def __init__(self, plan):
        self.plan, self.epoch, self.batch, self.excluded = plan, 0, 0, set()

    def go(self, batches):
        for _ in range(batches):
            self.epoch, self.batch = settled(self.plan, self.epoch, self.batch + 1)
            assert self.batch < self.plan.batches(self.epoch)

    def edit(self, edit):
        before, place = self.plan, (self.epoch, self.batch)
        try:
            after = before.edited(*place, edit)
        except ValueError:
            return  # what is refused, and why, has tests of its own
        for epoch in range(self.epoch):
            assert batches(after, epoch) == batches(before, epoch)
        assert batches(after, self.epoch)[: self.batch] == batches(before, self.epoch)[: self.batch]
        if isinstance(edit, Exclude):
            self.excluded |= set(named(before, edit))
        anew = (
            self.batch == 0 and self.epoch not in before._courses and isinstance(edit, (Exclude, BatchSize))
        )
        if not anew and before.settings()["last"] != "drop":
            assert served(after, *place) == self.rest(before, edit)
        self.plan = after
        self.epoch, self.batch = settled(after, *place)

    def rest(self, before, edit):
        rest = served(before, self.epoch, self.batch)
        if isinstance(edit, BatchSize):
            return rest
        if isinstance(edit, Repeat):
            return [row for row in self.repeated(before, edit) if row not in self.excluded] + rest
        if isinstance(edit, Skip) and edit.batches is not None:
            return served(before, self.epoch, self.batch + edit.batches)
        return [row for row in rest if row not in named(before, edit)]

    def repeated(self, before, edit):
        if edit.batches is None:
            return named(before, edit)
        places = [(e, b) for e in range(self.epoch) for b in range(before.batches(e))]
        places += [(self.epoch, b) for b in range(self.batch)]
        rows = [before.rows(*p)[: len(before.rows(*p)) - before.padded(*p)].tolist() for p in places]
        return list(itertools.chain(*rows[-edit.batches :]))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_edits_change_what_comes_and_never_what_came(data):
    walk = Walk(data.draw(plans()))
    for _ in range(data.draw(st.integers(1, 6))):
        walk.go(data.draw(st.integers(0, 5)))
        walk.edit(edit_of(data.draw, walk.plan))
    plan, epoch = walk.plan, walk.epoch
    kept = [row for row in range(plan.rows_total) if row not in walk.excluded]
    for later in (epoch + 1, epoch + 2):
        found = served(plan, later)
        assert len(set(found)) == len(found)
        if plan.settings()["last"] == "drop":
            assert set(found) <= set(kept)
            assert len(kept) - len(found) < plan.batch_size(later, 0)
        else:
            assert sorted(found) == kept
    again = restored(plan)
    assert again == plan
    for each in range(epoch + 3):
        assert batches(again, each) == batches(plan, each)
        assert [again.padded(each, b) for b in range(plan.batches(each))] == [
            plan.padded(each, b) for b in range(plan.batches(each))
        ]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_what_is_told_of_each_batch(data):
    walk = Walk(data.draw(plans()))
    for _ in range(data.draw(st.integers(0, 3))):
        walk.edit(edit_of(data.draw, walk.plan))
        walk.go(data.draw(st.integers(0, 5)))
    plan, epoch = walk.plan, walk.epoch
    stops, known = np.cumsum(sizes_of(plan)), {}
    for batch in range(plan.batches(epoch)):
        rows, size = plan.rows(epoch, batch), plan.batch_size(epoch, batch)
        assert 1 <= len(rows) <= size
        if plan.settings()["last"] == "pad":
            assert len(rows) == size
        if batch >= walk.batch:
            assert walk.excluded.isdisjoint(rows.tolist())
        span = plan.span(epoch, batch)
        assert span is None or rows.tolist() == list(range(*span))
        stretches = plan.stretches(epoch, batch, 1000)
        assert stretches == () or plan.settings()["shuffle"] == "samples"
        if stretches:
            assert joined(stretches).tolist() == rows[: len(rows) - plan.padded(epoch, batch)].tolist()
            assert plan.stretches(epoch, batch, 0) == ()
        for one in stretches:
            assert known.setdefault(one.name, one.rows.tolist()) == one.rows.tolist()
            assert len(set(np.searchsorted(stops, one.rows, side="right"))) <= plan.settings()["group"]
    # What is read together is served, each row once, however the epoch was edited.
    for one in known.values():
        assert len(set(one)) == len(one)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_without_edits_it_is_the_order(data):
    plan = data.draw(plans())
    order = Order(sizes_of(plan), **plan.settings())
    for epoch in range(2):
        assert plan.batches(epoch) == order.batches
        assert batches(plan, epoch) == [order.rows(epoch, batch).tolist() for batch in range(order.batches)]
        for batch in range(order.batches):
            padded = plan.padded(epoch, batch)
            assert padded == order.padded(epoch, batch)
            if plan.settings()["shuffle"] is None:
                assert plan.span(epoch, batch) == (None if padded else order.span(epoch, batch))


def test_a_batch_size_holds_from_here_on():
    plan = Plan([10], batch_size=4, last="keep").edited(0, 1, BatchSize(3))
    assert batches(plan, 0) == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert batches(plan, 1) == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert [plan.batch_size(*place) for place in [(0, 0), (0, 1), (1, 0), (7, 0)]] == [4, 3, 3, 3]
    assert [plan.span(0, batch) for batch in range(3)] == [(0, 4), (4, 7), (7, 10)]


def test_a_batch_size_at_an_epochs_beginning_shuffles_whole_batches():
    plan = Plan([50] * 8, batch_size=4, shuffle="batches").edited(2, 0, BatchSize(7))
    fresh = Plan([50] * 8, batch_size=7, shuffle="batches")
    assert batches(plan, 2) == batches(fresh, 2)
    assert batches(plan, 1) == batches(Plan([50] * 8, batch_size=4, shuffle="batches"), 1)


def test_skipped_rows_come_back_in_the_next_epoch_and_excluded_ones_do_not():
    plan = Plan([4, 4], batch_size=3).edited(0, 1, Skip(sets=[1])).edited(0, 1, Exclude(rows=[0, 3]))
    assert batches(plan, 0) == [[0, 1, 2]]
    assert plan.batches(0) == 1
    assert batches(plan, 1) == [[1, 2, 4], [5, 6, 7]]
    assert plan.span(1, 0) is None
    assert plan.span(1, 1) == (5, 8)


def test_what_is_repeated_comes_next_and_then_the_order_goes_on():
    plan = Plan([10], batch_size=4).edited(0, 2, Repeat(batches=2))
    assert batches(plan, 0) == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    plan = plan.edited(0, 3, Repeat(rows=[9, 9, 0, 1, 2]))
    assert batches(plan, 0)[3:] == [[9, 9, 0, 1], [2], [4, 5, 6, 7], [8, 9]]
    assert batches(plan, 1) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_last_batches_may_be_of_the_epoch_before():
    plan = Plan([10], batch_size=4, last="pad").edited(1, 1, Repeat(batches=3))
    assert batches(plan, 1)[1:4] == [[4, 5, 6, 7], [8, 9, 0, 1], [2, 3, 4, 5]]
    assert plan.padded(1, 3) == 2  # the list's own beginning; what padded the epoch before is not repeated


def test_skipping_reaches_what_is_still_to_be_repeated():
    plan = Plan([8], batch_size=2).edited(0, 2, Repeat(rows=[0, 6, 1, 7])).edited(0, 2, Skip(rows=[6, 0, 2]))
    assert batches(plan, 0) == [[0, 1], [2, 3], [1, 7], [4, 5], [7]]
    plan = plan.edited(0, 2, Skip(batches=2))
    assert batches(plan, 0) == [[0, 1], [2, 3], [7]]


def test_an_excluded_row_is_not_repeated():
    plan = Plan([8], batch_size=4).edited(0, 1, Exclude(rows=[2])).edited(0, 1, Repeat(batches=1))
    assert batches(plan, 0)[1] == [0, 1, 3]
    with pytest.raises(ValueError, match="no row in it that is not excluded"):
        plan.edited(0, 2, Repeat(rows=[2]))


def test_a_skipped_row_does_not_pad():
    plan = Plan([6], batch_size=4, last="pad").edited(0, 1, Skip(rows=[0, 1]))
    assert batches(plan, 0) == [[0, 1, 2, 3], [4, 5, 2, 3]]
    plan = Plan([6], batch_size=4, last="pad").edited(0, 0, Skip(batches=1))
    assert batches(plan, 0) == [[4, 5, 4, 5]]
    assert plan.padded(0, 0) == 2


def test_an_epoch_may_be_left_empty_and_filled_again():
    plan = Plan([6], batch_size=2).edited(3, 0, Skip(sets=[0]))
    assert plan.batches(3) == 0
    with pytest.raises(IndexError, match="edits left no batch in this epoch; the next one is in epoch 4"):
        plan.rows(3, 0)
    assert batches(plan.edited(3, 0, Repeat(rows=[5, 4, 3])), 3) == [[5, 4], [3]]


def test_what_is_read_together_leaves_out_what_is_served_no_more():
    plan = Plan([4, 0, 4, 4, 4], batch_size=4, shuffle="samples", group=3, shuffle_sets=False)

    def together(plan, epoch, batch):
        return [sorted(one.rows.tolist()) for one in plan.stretches(epoch, batch, 100)]

    assert together(plan, 0, 0) == [list(range(8))]
    assert together(plan, 0, 2) == [list(range(8, 16))]
    served = plan.rows(0, 0).tolist()
    edited = plan.edited(0, 1, Exclude(sets=[3]))
    assert together(edited, 0, 1) == [sorted(set(range(8)) - set(served))]
    assert together(edited, 0, 2) == together(edited, 5, 2) == [list(range(12, 16))]
    assert [row for batch in (0, 1, 2) for row in edited.rows(0, batch)][4:8] == edited.stretches(0, 1, 100)[
        0
    ].rows.tolist()


def test_a_batch_with_a_row_skipped_in_it_is_no_range():
    plan = Plan([10], batch_size=4).edited(0, 1, Skip(rows=[5]))
    assert batches(plan, 0)[1] == [4, 6, 7, 8]
    assert [plan.span(0, batch) for batch in range(3)] == [(0, 4), None, (9, 10)]
    assert Plan([6], batch_size=4, last="pad").span(0, 1) is None


def test_an_edit_leaves_the_plan_as_it_was():
    plan = Plan([20], batch_size=4, shuffle="global").edited(0, 2, Skip(rows=[1]))
    before = (plan.edits, [batches(plan, epoch) for epoch in range(2)])
    for edit in (Exclude(rows=[3]), BatchSize(3), Repeat(batches=1), Skip(batches=1)):
        assert plan.edited(0, 3, edit) != plan
    assert (plan.edits, [batches(plan, epoch) for epoch in range(2)]) == before


def test_what_rows_gives_may_be_changed():
    plan = Plan([20], batch_size=4).edited(0, 1, Repeat(rows=[7, 8])).edited(0, 1, Skip(rows=[9]))
    before = batches(plan, 0)
    for batch in range(plan.batches(0)):
        plan.rows(0, batch)[:] = 0
    assert batches(plan, 0) == before


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (Skip(rows=[10]), r"Skip.*: found row 10, expected 0 to 9: there are 10 rows"),
        (Exclude(sets=[0, 2]), r"Exclude.*: found set 2, expected 0 to 1: there are 2 sets"),
        (
            Exclude(sets=[0, 1]),
            r"epochs that follow would have no batch: no rows to load: all 10 are excluded",
        ),
        (
            Exclude(sets=[1], rows=[0, 1]),
            r"epochs that follow would have no batch.*found 3 rows, fewer than batch_size 4",
        ),
        (BatchSize(11), r"epochs that follow would have no batch.*found 10 rows, fewer than batch_size 11"),
        (Skip(batches=2), r"Skip\(batches=2\): expected at most 1, the batches left in epoch 1"),
        (Repeat(batches=4), r"Repeat\(batches=4\): expected at most 3, as many as were served before"),
    ],
)
def test_what_cannot_be_is_refused(edit, message):
    plan = Plan([5, 5], batch_size=4, last="drop")
    with pytest.raises(ValueError, match=message):
        plan.edited(1, 1, edit)


def test_a_place_that_is_not_there():
    plan = Plan([10], batch_size=4)
    for place in [(0, 4), (0, -1), (-1, 0)]:
        with pytest.raises(IndexError, match="an epoch has the batches 0 to 2"):
            plan.edited(*place, BatchSize(3))
        with pytest.raises(IndexError, match="an epoch has the batches 0 to 2"):
            plan.rows(*place)
    with pytest.raises(IndexError, match="0 to 3"):
        plan.edited(0, 1, BatchSize(2)).rows(0, 4)
    with pytest.raises(TypeError, match="edit: found 3, expected a Skip"):
        plan.edited(0, 0, 3)


def test_an_edit_before_another_is_refused_and_the_way_is_told():
    plan = Plan([10], batch_size=2).edited(0, 1, BatchSize(3)).edited(2, 1, Skip(rows=[9]))
    with pytest.raises(ValueError, match=r"before the last edit's \(epoch 2, batch 1\).*until\(1, 0\)"):
        plan.edited(1, 0, BatchSize(5))
    assert plan.until(1, 0) == Plan([10], batch_size=2).edited(0, 1, BatchSize(3))
    assert plan.until(2, 1) == plan
    assert plan.until(0, 0).edits == []


@pytest.mark.parametrize("plain", [[{"epoch": 0, "batch": 1}], [3], [{"epoch": -1, "batch": 0, "edit": {}}]])
def test_recorded_edits_that_are_none(plain):
    with pytest.raises(ValueError, match="edits: "):
        Plan([10], batch_size=2, edits=plain)


def test_a_shown_edit_is_short():
    with pytest.raises(ValueError, match="found row") as caught:
        Plan([10], batch_size=2).edited(0, 0, Skip(rows=range(100_000)))
    assert len(str(caught.value)) < 300


def seconds(fn):
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


@pytest.mark.parametrize("mode", SHUFFLES)
def test_edits_of_ten_million_rows_cost_what_they_name(mode):
    plan = Plan([100_000] * 100, batch_size=64, shuffle=mode, seed=3)
    tracemalloc.start()
    edits = [
        Skip(rows=range(0, 10_000_000, 20_001)),
        Exclude(rows=range(500)),
        BatchSize(48),
        Repeat(batches=3),
    ]
    for number, edit in enumerate(edits):
        plan = plan.edited(1, 50_000 + number, edit)
    for place in [(1, 50_020), (1, plan.batches(1) - 1), (6, 90_000)]:
        assert 0 < len(plan.rows(*place)) <= 48
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6_000_000  # an array of the rows would take 80 MB
    assert min(seconds(lambda: plan.rows(9, 90_000)), seconds(lambda: plan.rows(10, 90_000))) < 0.01


def test_a_thousand_edits_are_found_at_once():
    plan = Plan([1_000_000], batch_size=10, shuffle="global")
    for number in range(1000):
        plan = plan.edited(0, 2 * number, Repeat(rows=[number]))
    plan.rows(0, 1001)
    assert plan.rows(0, 1000).tolist() == [500]
    assert plan.batches(0) == 101_000
    assert min(seconds(lambda: plan.rows(0, 1001)) for _ in range(5)) < 0.001
