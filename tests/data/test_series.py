"""`Series`: padding, masks and lengths, targets, buckets, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain.data import BatchLoader, Source, map_tensors
from deeptrain.data.series import Series, WithLengths, WithMask

LENGTHS = [5, 2, 9, 4, 4, 7, 1, 8]


def some(lengths=LENGTHS):
    """Series whose values tell their number and the time step."""
    return [
        torch.arange(n)[:, None] + torch.tensor([100.0 * i, 100.0 * i + 0.5]) for i, n in enumerate(lengths)
    ]


def rows(*ids):
    return np.array(ids, np.int64)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=12),
    bucket=st.none() | st.integers(1, 5),
    min_length=st.integers(1, 4),
    by_step=st.booleans(),
    data=st.data(),
)
def test_each_row_is_its_series_padded_to_the_longest(lengths, bucket, min_length, by_step, data):
    if max(lengths) < min_length:
        return
    series = some(lengths)
    targets = [s[:, 0].long() for s in series] if by_step else torch.arange(len(lengths))
    source = Series(series, targets, bucket=bucket, min_length=min_length)
    chosen = np.array(
        data.draw(st.lists(st.integers(0, source.n_rows - 1), min_size=1, max_size=8)), np.int64
    )
    (values, mask), found = source.read(chosen)
    longest = int(source.steps[chosen].max())
    assert values.shape == (len(chosen), longest, 2)
    assert mask.shape == (len(chosen), longest)
    assert mask.dtype == torch.bool
    for place, which in enumerate(source.order[chosen]):
        n = lengths[which]
        assert torch.equal(values[place, :n], series[which])
        assert values[place, n:].abs().sum() == 0
        assert mask[place].tolist() == [True] * n + [False] * (longest - n)
        if by_step:
            assert found[place].tolist() == targets[which].tolist() + [-100] * (longest - n)
        else:
            assert found[place] == which
    assert sorted(source.order.tolist()) == [i for i, n in enumerate(lengths) if n >= min_length]
    assert source.left_out == sum(n < min_length for n in lengths)
    assert sum(source.set_sizes) == source.n_rows
    assert len(set(source.set_names)) == len(source.set_sizes)


def test_it_is_a_source_and_a_loader_takes_it():
    source = Series(some(), torch.arange(8))
    assert isinstance(source, Source)
    loader = BatchLoader(source, batch_size=3, shuffle=True, seed=1)
    for epoch in range(2):
        seen = [int(t) for batch in loader for t in batch.targets]
        assert sorted(seen) == list(range(8)), epoch
    batch = loader.batch(0, 1)
    again = loader.batch(0, 1)
    assert torch.equal(batch.inputs.values, again.inputs.values)
    assert isinstance(map_tensors(batch.inputs, torch.clone), WithMask)
    assert loader.settings()["source"]["inputs"] == "float32[*, 2]"


def test_lengths_in_place_of_a_mask_or_neither():
    told = Series(some(), lengths="lengths").read(rows(0, 2))
    assert isinstance(told[0], WithLengths)
    assert told[0].lengths.tolist() == [5, 9]
    assert told[0].lengths.dtype == torch.int64
    plain, targets = Series(some(), lengths=None).read(rows(0, 2))
    assert torch.equal(plain, told[0].values)
    assert targets is None


def test_buckets_are_sets_of_series_of_like_length():
    source = Series(some(), torch.arange(8), bucket=3)
    assert source.set_sizes == (3, 3, 2)
    assert source.set_names == ("0", "1", "2")
    assert source.steps.tolist() == sorted(LENGTHS)
    assert source.order.tolist() == [6, 1, 3, 4, 0, 5, 7, 2]
    (values, _), targets = source.read(np.arange(3))
    assert values.shape[1] == 4
    assert targets.tolist() == [6, 1, 3]


def padding(source, **settings):
    loader = BatchLoader(source, batch_size=4, **settings)
    return sum(int((~batch.inputs.mask).sum()) for batch in loader)


def test_buckets_need_less_padding_than_the_order_given():
    series = [torch.zeros(1 + 37 * i % 64) for i in range(64)]
    in_buckets = padding(Series(series, bucket=4), shuffle="samples", group=1, seed=0)
    assert in_buckets < 0.2 * padding(Series(series), shuffle=True)


def test_the_data_is_copied():
    series = some()
    source = Series(series, torch.arange(8))
    before = source.read(rows(0))[0].values.clone()
    series[0].zero_()
    batch = source.read(rows(0))[0].values
    batch.zero_()
    assert torch.equal(source.read(rows(0))[0].values, before)


def test_arrays_numbers_and_other_types():
    source = Series([np.arange(3, dtype=np.int16), np.arange(2, dtype=np.int16)], [0.5, 1.5], lengths=None)
    values, targets = source.read(rows(1, 0))
    assert values.dtype == torch.int16
    assert values.tolist() == [[0, 1, 0], [0, 1, 2]]
    assert targets.tolist() == [1.5, 0.5]
    one_hot = Series([np.zeros((3, 1))] * 2, np.eye(2)).read(rows(1))[1]
    assert one_hot.tolist() == [[0, 1]]
    by_step = Series([np.zeros(3), np.zeros(2)], [np.ones((3, 2)), np.ones((2, 2))], pad_target=-1)
    assert by_step.read(rows(0, 1))[1][1].tolist() == [[1, 1], [1, 1], [-1, -1]]


def test_descriptions_differ_where_batches_would():
    made = [
        Series(some()), Series(some(), [0] * 8), Series(some(), lengths=None), Series(some(), bucket=2),
        Series(some(), min_length=2), Series(some(), some(), pad_target=1), Series([s.double() for s in some()]),
        Series(some(), some(), pad_target=0), Series(some()[:-1]), Series([*some()[:-1], torch.zeros(7, 2)]),
    ]  # fmt: skip
    texts = [repr(source.describe()) for source in made]
    assert len(set(texts)) == len(texts)
    assert repr(Series(some()).describe()) == texts[0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"series": []}, ValueError, "found no series"),
        ({"series": [torch.zeros(3), torch.zeros(0)]}, ValueError, r"series\[1\] has no time steps"),
        ({"series": [torch.zeros(3), torch.zeros(3, 2)]}, ValueError, r"series\[1\] is float32\[\*, 2\] and series\[0\] float32\[\*\]"),
        ({"series": [torch.zeros(3), torch.zeros(3).double()]}, ValueError, r"series\[1\] is float64\[\*\]"),
        ({"series": [torch.zeros(())]}, ValueError, r"series\[0\] has no axis"),
        ({"series": [np.array(["a"])]}, TypeError, r"series\[0\] is a ndarray that torch cannot hold"),
        ({"series": some(), "targets": [1, 2]}, ValueError, "found 2 targets for 8 series"),
        ({"series": some(), "targets": [torch.zeros(5)] * 8}, ValueError, r"targets\[1\] has 5 time steps and its series 2"),
        ({"series": some(), "lengths": "masks"}, ValueError, "lengths='masks', expected 'mask', 'lengths' or None"),
        ({"series": some(), "bucket": 0}, ValueError, "bucket=0"),
        ({"series": some(), "min_length": 10}, ValueError, "no series of at least min_length=10 .* longest has 9"),
        (
            {"series": some(), "targets": [torch.zeros(n, dtype=torch.bool) for n in LENGTHS]},
            ValueError,
            "pad_target=-100 does not fit targets of bool",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Series(**arguments)


@pytest.mark.parametrize("row", [-1, 8])
def test_rows_out_of_range(row):
    with pytest.raises(IndexError, match=f"no row {row}"):
        Series(some()).read(rows(0, row))
