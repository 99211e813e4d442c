"""Whatever the sizes, the mode and the edits: a batch holds the rows that the order names, first reading or second."""

import contextlib
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deeptrain import BatchLoader, Files
from deeptrain.data.buffers import Buffers
from deeptrain.data.order import LASTS, SHUFFLES


def stored(place, sizes):
    values = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    for number, piece in enumerate(np.split(values, np.cumsum(sizes)[:-1])):
        np.save(place / f"set{number}.npy", piece)
    np.save(place / "labels.npy", values[:, 0])
    return values


def loader(place, **options):
    files = Files(place)
    for column in files._columns.values():
        column._small = False  # read as large data are
    return BatchLoader(files, prefetch=0, **options)


EDITS = st.one_of(
    st.tuples(st.just("skip"), st.integers(1, 2).map(lambda n: {"batches": n})),
    st.tuples(st.sampled_from(["skip", "exclude", "repeat"]), st.integers(0, 9).map(lambda n: {"rows": [n]})),
    st.tuples(st.just("exclude"), st.just({"sets": ["0"]})),
    st.tuples(st.just("set_batch_size"), st.integers(1, 9).map(lambda n: {"batch_size": n})),
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=6).filter(lambda sizes: sum(sizes) > 10),
    st.sampled_from(SHUFFLES),
    st.sampled_from(LASTS),
    st.integers(1, 12),
    st.integers(1, 3),
    st.dictionaries(st.integers(0, 12), EDITS, max_size=3),
    st.integers(0, 20),
)
def test_a_batch_holds_the_rows_that_the_order_names(  # noqa: PLR0917 - one for each strategy
    sizes, shuffle, last, batch_size, group, edits, stop
):
    options = {"batch_size": min(batch_size, sum(sizes)), "shuffle": shuffle, "last": last, "group": group}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        values = stored(Path(folder), sizes)
        whole, found = loader(folder, **options), []
        for count in range(60):
            if whole.position.epoch == 2:
                break
            if count == stop:
                state = whole.state_dict()
                whole = loader(folder, **options)
                whole.load_state_dict(state)
            if count in edits:
                edit, named = edits[count]
                with contextlib.suppress(ValueError):  # it would leave nothing
                    getattr(whole, edit)(**named)
            rows = whole.rows(*whole.position[:2])
            batch = whole.fetch()
            assert np.array_equal(batch.rows, rows)
            assert np.array_equal(batch.inputs.numpy(), values[rows])
            assert np.array_equal(batch.targets.numpy(), values[rows, 0])
            found += rows[: batch.size - batch.padded].tolist()
            batch.inputs.numpy()[...] = -1  # ours: nobody else's rows may change
            whole.advance()
        if not edits and last != "drop" and whole.position.epoch == 2:
            assert sorted(found) == sorted([*range(len(values))] * 2)
        whole.close()


class Locked(Buffers):
    """Stands in for page-locked memory where there is no device: remembers what it lent."""

    def __init__(self):
        super().__init__()
        self.lent = []

    def take(self, shape, dtype):
        self.lent.append(torch.empty(shape, dtype=dtype))
        return self.lent[-1]


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_batch_lies_in_locked_memory_where_that_is_wanted(tmp_path, shuffle):
    values = stored(tmp_path, [8, 8, 8, 8])
    pinning = loader(tmp_path, batch_size=4, shuffle=shuffle, group=2)
    pinning._buffers = Locked()
    pinning._buffers.pin = True
    for batch in pinning:
        lent = {tensor.data_ptr() for tensor in pinning._buffers.lent}
        assert {batch.inputs.data_ptr(), batch.targets.data_ptr()} <= lent
        assert np.array_equal(batch.inputs.numpy(), values[batch.rows])
