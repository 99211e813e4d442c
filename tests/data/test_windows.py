"""`Windows`: where windows lie, what is in them, what they weigh, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deeptrain.data import Arrays, BatchLoader
from deeptrain.data.batch import Batch, SetTable
from deeptrain.data.series import Series, WithLengths, WithMask
from deeptrain.data.windows import Windows
from deeptrain.step.stateful import Stateful


def make(time=10, size=4, epoch=0, features=3, **more):
    """A batch whose values tell row, time step and feature."""
    rows, steps, kinds = torch.meshgrid(
        torch.arange(size), torch.arange(time), torch.arange(features), indexing="ij"
    )
    x = (rows * 10_000 + steps * 10 + kinds).float()
    return Batch(x, torch.arange(size), epoch, 0, np.arange(size), SetTable(["7"], [size]), **more)


def from_series(steps, by_step=False, **settings):
    """A batch of series of these lengths, whose values count time steps from 1."""
    series = [torch.arange(1.0, n + 1)[:, None] for n in steps]
    targets = [torch.arange(n) for n in steps] if by_step else torch.arange(len(steps))
    source = Series(series, targets, **settings)
    rows = np.arange(source.n_rows)
    return Batch(*source.read(rows), 0, 0, rows, SetTable(source.set_names, source.set_sizes))


def pieces(windows, batch, phase="train"):
    found, count = [], windows.count(batch, phase)
    while not found or not windows.is_done(batch, len(found), None, phase):
        found.append(windows.piece(batch, len(found), phase))
    assert len(found) == count
    return found


def spans(windows, batch, phase="train"):
    """The first and last time step of each window."""
    first = [piece.inputs[0, :, 0] / 10 for piece in pieces(windows, batch, phase)]
    return [(int(steps[0]), int(steps[-1])) for steps in first]


# ---------------------------------------------------------------- where windows lie


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (Windows(3), [(0, 2), (3, 5), (6, 8)]),
        (Windows(5), [(0, 4), (5, 9)]),
        (Windows(10), [(0, 9)]),
        (Windows(4, 2), [(0, 3), (2, 5), (4, 7), (6, 9)]),
        (Windows(4, 3), [(0, 3), (3, 6), (6, 9)]),
        (Windows(2, 4), [(0, 1), (4, 5), (8, 9)]),
        (Windows(3, starts=(2,)), [(2, 4), (5, 7)]),
        (Windows(3, tail="overlap"), [(0, 2), (3, 5), (6, 8), (7, 9)]),
        (Windows(5, tail="overlap"), [(0, 4), (5, 9)]),
        (Windows(2, 5, tail="overlap"), [(0, 1), (5, 6), (8, 9)]),
        (Windows(6, starts=(7,)), [(4, 9)]),
        (Windows(6, starts=(99,)), [(4, 9)]),
    ],
)
def test_windows_lie_where_they_should(windows, expected):
    assert spans(windows, make()) == expected
    assert windows.pieces_in_total((10, 3), 0) == len(expected)


def test_a_last_window_is_padded():
    last = pieces(Windows(4, tail="pad"), make())[-1].inputs
    assert last.shape == (4, 4, 3)
    assert torch.equal(last[:, :2], make().inputs[:, 8:])
    assert last[:, 2:].abs().sum() == 0
    assert Windows(4, tail="pad").count(make(), "train") == 3
    assert Windows(3, 8, tail="pad").count(make(), "train") == 2  # (0, 2) and what is left of (8, 10)
    assert Windows(3, 12, tail="pad").count(make(), "train") == 1  # the next one would begin behind the end


def test_starts_change_with_the_epoch_and_in_validation_they_do_not():
    windows = Windows(3, starts=(0, 1, 2))
    assert [spans(windows, make(epoch=e))[0] for e in range(4)] == [(0, 2), (1, 3), (2, 4), (0, 2)]
    assert [spans(windows, make(epoch=e), "val")[0] for e in range(3)] == [(0, 2)] * 3
    assert [windows.pieces_in_total((10, 3), e) for e in range(3)] == [3, 3, 2]
    asked = Windows(3, starts=(0, 1), validation_starts=(2, 3))
    assert [spans(asked, make(epoch=e), "val")[0] for e in range(3)] == [(2, 4), (3, 5), (2, 4)]


@settings(max_examples=150, deadline=None)
@given(
    time=st.integers(1, 40),
    size=st.integers(1, 12),
    stride=st.integers(1, 14),
    start=st.integers(0, 15),
    tail=st.sampled_from(["drop", "overlap", "pad"]),
)
def test_windows_cover_what_they_should(time, size, stride, start, tail):
    windows = Windows(size, stride, (start,), tail=tail, short="pad")
    batch = make(time, size=2)
    found = pieces(windows, batch)
    seen = torch.zeros(time, dtype=torch.bool)
    for number, piece in enumerate(found):
        assert piece.iteration == number
        assert piece.inputs.shape == (2, size, 3)
        steps = (piece.inputs[1, :, 0] - 10_000) / 10
        real = steps[steps >= 0].long()
        assert torch.equal(real, torch.arange(int(real[0]), int(real[0]) + len(real)))
        assert torch.equal(piece.inputs[:, : len(real)], batch.inputs[:, real])
        assert len(real) == size or (tail == "pad" and number == len(found) - 1) or time < size
        seen[real] = True
    first = min(start, max(0, time - size))
    if stride <= size and tail != "drop":
        assert seen[first:].all()
    if stride <= size and tail == "drop" and time >= size:
        assert int((~seen[first:]).sum()) < stride
    assert windows.pieces_in_total((time, 3), 0) == len(found)


def test_each_window_is_a_function_of_its_number_alone_and_the_batch_stays():
    windows, batch = Windows(4, 3), make()
    expected = [piece.inputs.clone() for piece in pieces(windows, batch)]
    version = batch.inputs._version
    for k in (2, 0, 1, 2):
        piece = windows.piece(batch, k, "train")
        assert torch.equal(piece.inputs, expected[k])
        piece.inputs.zero_()
    assert batch.inputs._version == version
    assert (piece.epoch, piece.index, piece.rows.tolist()) == (0, 0, [0, 1, 2, 3])


@pytest.mark.parametrize("features", [1, 3, 7])
def test_windows_are_contiguous_and_aligned(features):
    whole = make(11, features=features)
    odd = whole.replaced(inputs=torch.cat([torch.zeros(1), whole.inputs.flatten()])[1:].view_as(whole.inputs))
    assert odd.inputs.data_ptr() % 64
    for batch in (
        whole,
        odd,
        whole.replaced(inputs=whole.inputs.transpose(0, 1).contiguous().transpose(0, 1)),
    ):
        for windows in (Windows(3, 2), Windows(11), Windows(4, tail="pad"), Windows(20, short="keep")):
            for piece in pieces(windows, batch):
                assert piece.inputs.is_contiguous()
                assert piece.inputs.data_ptr() % 64 == 0


def test_nested_inputs_are_cut_alike_and_what_has_no_time_axis_is_kept():
    batch = make()
    nested = batch.replaced(inputs={"x": batch.inputs, "more": (batch.inputs[..., 0], torch.arange(4))})
    piece = Windows(4, 3).piece(nested, 1, "train").inputs
    assert torch.equal(piece["x"], batch.inputs[:, 3:7])
    assert torch.equal(piece["more"][0], batch.inputs[:, 3:7, 0])
    assert piece["more"][1].tolist() == [0, 1, 2, 3]


def test_another_axis():
    batch = make()
    turned = batch.replaced(inputs=batch.inputs.transpose(1, 2))
    windows = Windows(4, 3, axis=2)
    assert windows.count(turned, "train") == windows.pieces_in_total((3, 10), 0) == 3
    piece = windows.piece(turned, 1, "train").inputs
    assert torch.equal(piece.transpose(1, 2), batch.inputs[:, 3:7])


# ---------------------------------------------------------------- labels and weights


def test_labels_of_the_whole_series_or_windowed_alike():
    batch = make()
    assert Windows(4).piece(batch, 1, "train").targets is batch.targets
    steps = batch.replaced(targets=torch.arange(10).expand(4, 10))
    windows = Windows(4, label="windows", tail="pad")
    assert [piece.targets[2].tolist() for piece in pieces(windows, steps)] == [
        [0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -100, -100],
    ]  # fmt: skip
    padded = Windows(4, label="windows", tail="pad", pad_target=-1).piece(steps, 2, "train")
    assert padded.targets[0].tolist() == [8, 9, -1, -1]
    assert Windows(4, label="windows").piece(batch.replaced(targets=None), 0, "train").targets is None


def test_labels_without_the_time_axis_cannot_be_windowed():
    with pytest.raises(ValueError, match=r"targets of shape \(4,\).*expected 10 time steps along axis 1"):
        Windows(4, label="windows").piece(make(), 0, "train")
    with pytest.raises(ValueError, match=r"targets of shape \(4, 9\)"):
        Windows(4, label="windows").piece(make().replaced(targets=torch.zeros(4, 9)), 0, "train")


def test_weights_grow_from_the_first_window_to_the_last():
    batch = make()
    assert all(piece.weights is None for piece in pieces(Windows(2), batch))
    found = pieces(Windows(2, weights=(0.2, 1.0)), batch)
    torch.testing.assert_close(
        torch.stack([p.weights for p in found])[:, 3], torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0])
    )
    assert pieces(Windows(10, weights=(0.2, 1.0)), batch)[0].weights.tolist() == [1.0] * 4
    by_number = pieces(Windows(5, weights=lambda k, n: 10 * k + n), batch)
    assert [piece.weights.tolist() for piece in by_number] == [[2.0] * 4, [12.0] * 4]


def test_weights_multiply_those_of_the_batch():
    given = torch.tensor([1.0, 2.0, 0.0, 4.0])
    found = pieces(Windows(5, weights=(0.5, 1.0)), make(weights=given))
    assert [piece.weights.tolist() for piece in found] == [[0.5, 1.0, 0.0, 2.0], [1.0, 2.0, 0.0, 4.0]]
    assert given.tolist() == [1, 2, 0, 4]
    assert pieces(Windows(5), make(weights=given))[0].weights is given


# ---------------------------------------------------------------- series of different lengths


def test_series_that_ended_are_masked_and_weigh_nothing():
    batch = from_series([7, 3, 10], by_step=True)
    found = pieces(Windows(3, label="windows", short="keep", tail="pad"), batch)
    assert len(found) == 4
    assert [piece.inputs.mask.sum(1).tolist() for piece in found] == [
        [3, 3, 3],
        [3, 0, 3],
        [1, 0, 3],
        [0, 0, 1],
    ]
    assert [None if p.weights is None else p.weights.tolist() for p in found] == [
        None, [1, 0, 1], [1, 0, 1], [0, 0, 1],
    ]  # fmt: skip
    assert found[2].targets.tolist() == [[6, -100, -100], [-100] * 3, [6, 7, 8]]
    assert found[2].inputs.values[0, :, 0].tolist() == [7, 0, 0]
    assert isinstance(found[0].inputs, WithMask)
    assert all(piece.inputs.values.shape == (3, 3, 1) for piece in found)


def test_lengths_are_told_within_the_window():
    found = pieces(Windows(3, tail="pad"), from_series([7, 3, 10], lengths="lengths"))
    assert [piece.inputs.lengths.tolist() for piece in found] == [[3, 3, 3], [3, 0, 3], [1, 0, 3], [0, 0, 1]]
    assert isinstance(found[0].inputs, WithLengths)
    assert found[1].weights.tolist() == [1, 0, 1]


def test_the_number_of_windows_varies_with_the_longest_series():
    windows = Windows(3)
    assert [windows.count(from_series([n, 3]), "train") for n in (3, 5, 6, 11)] == [1, 1, 2, 3]
    assert windows.pieces_in_total(None, 0) is None
    assert windows.pieces_in_total((), 0) is None


def test_a_window_longer_than_a_series_is_an_error_that_names_both():
    with pytest.raises(
        ValueError, match=r"size=12 is longer than a series: row 0 \(7\[0\]\) of batch 0 .* 10 time steps"
    ):
        Windows(12).piece(make(), 0, "train")
    with pytest.raises(
        ValueError, match=r"size=5 .* row 1 \(0\[1\]\) of batch 0 in epoch 0 has 3 time steps"
    ):
        Windows(5).count(from_series([7, 3, 10]), "train")
    with pytest.raises(ValueError, match=r"size=12 .* the series have 10 time steps along axis 1"):
        Windows(12).pieces_in_total((10, 3), 0)


@pytest.mark.parametrize(("short", "steps"), [("keep", 10), ("pad", 12)])
def test_short_series_are_kept_or_padded(short, steps):
    (piece,) = pieces(Windows(12, short=short), make())
    assert piece.inputs.shape == (4, steps, 3)
    assert torch.equal(piece.inputs[:, :10], make().inputs)
    assert Windows(12, short=short).pieces_in_total((10, 3), 0) == 1
    (piece,) = pieces(Windows(12, short=short), from_series([4, 10]))
    assert piece.inputs.mask.shape == (2, steps)
    assert piece.inputs.mask.sum(1).tolist() == [4, 10]
    assert piece.weights is None


def test_short_series_are_dropped():
    batch = from_series([7, 3, 10, 2]).replaced(weights=torch.arange(4.0), padded=2)
    found = pieces(Windows(5, short="drop"), batch)
    assert len(found) == 2
    for piece in found:
        assert piece.rows.tolist() == [0, 2]
        assert piece.targets.tolist() == [0, 2]
        assert (piece.size, piece.padded) == (2, 1)
        assert piece.inputs.values.shape == (2, 5, 1)
    assert [piece.weights.tolist() for piece in found] == [[0, 2], [0, 2]]
    assert (
        Windows(12, short="drop").count(make(), "train")
        == Windows(12, short="drop").pieces_in_total((10, 3), 0)
        == 0
    )
    with pytest.raises(IndexError, match=r"longest series has 10 time steps, size=12 .*min_length=12"):
        Windows(12, short="drop").piece(make(), 0, "train")


# ---------------------------------------------------------------- state from window to window


@pytest.mark.parametrize("module", [nn.LSTM, nn.GRU])
def test_stateful_over_windows_is_the_whole_series(module):
    torch.manual_seed(0)
    stateful, batch = Stateful(module(3, 6, batch_first=True)), make(12)
    batch = batch.replaced(inputs=batch.inputs / 10_000)
    whole = stateful.module(batch.inputs)[0]
    found = torch.cat([stateful(piece.inputs) for piece in pieces(Windows(4), batch)], dim=1)
    torch.testing.assert_close(found, whole)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size=0: expected a whole number from 1 up"),
        ({"size": 2.5}, "size=2.5"),
        ({"size": 3, "stride": 0}, "stride=0"),
        ({"size": 3, "starts": ()}, r"starts=\(\), expected one or more"),
        ({"size": 3, "starts": (0, -1)}, "starts=-1"),
        ({"size": 3, "starts": 2}, "starts=2, expected one or more"),
        ({"size": 3, "validation_starts": (-2,)}, "validation_starts=-2"),
        ({"size": 3, "axis": 0}, "axis=0: expected a whole number from 1 up"),
        ({"size": 3, "label": "window"}, "label='window', expected one of 'series', 'windows'"),
        ({"size": 3, "short": None}, "short=None, expected one of 'error', 'keep', 'pad', 'drop'"),
        ({"size": 3, "tail": "keep"}, "tail='keep', expected one of 'drop', 'overlap', 'pad'"),
        ({"size": 3, "weights": (0.1, float("nan"))}, "weights=.*two finite numbers from 0 up"),
        ({"size": 3, "weights": (-1, 1)}, "weights="),
    ],
)
def test_settings_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        Windows(**arguments)


def test_inputs_that_do_not_fit():
    with pytest.raises(ValueError, match=r"found \[9, 10\] time steps along axis 1"):
        Windows(3).count(make().replaced(inputs=(torch.zeros(4, 10), torch.zeros(4, 9))), "train")
    with pytest.raises(ValueError, match="found no time steps along axis 1"):
        Windows(3).count(make().replaced(inputs=torch.zeros(4)), "train")
    with pytest.raises(IndexError, match="no window 3 of batch 0: there are the windows 0 to 2"):
        Windows(3).piece(make(), 3, "train")


def test_float_targets_are_not_padded_unasked():
    series = torch.randn(4, 10, 2)
    loader = BatchLoader(
        Arrays(series, series[..., 0].clone()),
        batch_size=4,
        preprocess=Windows(6, label="windows", tail="pad"),
    )
    with pytest.raises(ValueError, match=r"targets of float32 would be padded, .* give pad_target="):
        list(loader)
    loader.preprocess = Windows(6, label="windows", tail="pad", pad_target=0.0)
    loader.seek(epoch=0)
    assert [batch.targets.shape[1] for batch in loader] == [6, 6]
