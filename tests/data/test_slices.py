"""Slices: each row handed out once, sets let go with their last piece, changes in place that reach nobody else."""

import threading

import numpy as np
import pytest
import torch

from deeptrain import BatchLoader, Files
from deeptrain.data.slices import SETS, Slices

ROWS, WIDTH = 12, 32


class Sets:
    """Reads sets and counts how often each was read."""

    def __init__(self):
        self.reads = []

    def read(self, which):
        self.reads.append(which)
        return torch.arange(ROWS * WIDTH, dtype=torch.float32).reshape(ROWS, WIDTH) + 1000 * which

    def of(self, which):
        return lambda: self.read(which)


def test_a_set_is_read_once_for_all_its_pieces():
    sets = Sets()
    slices = Slices(most=1 << 20)
    pieces = [slices.give(3, start, start + 4, sets.of(3)) for start in (0, 4, 8)]
    assert torch.equal(torch.cat(pieces), Sets().read(3))
    assert sets.reads == [3]
    assert not slices._given  # let go with the last piece


def test_no_row_is_given_twice():
    """Who asks again gets another reading: the first may have been changed by whoever has it."""
    sets = Sets()
    slices = Slices(most=1 << 20)
    first = slices.give(0, 0, 4, sets.of(0))
    first.zero_()
    first.numpy()[...] = -1  # a change that torch does not count
    assert torch.equal(slices.give(0, 2, 6, sets.of(0)), Sets().read(0)[2:6])
    assert sets.reads == [0, 0]


def test_changes_in_one_piece_do_not_count_in_another():
    slices = Slices(most=1 << 20)
    one, other = (slices.give(0, at, at + 4, Sets().of(0)) for at in (0, 4))
    before = other._version
    one.add_(1)
    assert other._version == before
    weight = torch.ones(WIDTH, requires_grad=True)
    loss = (other * weight).sum()
    one.add_(1)  # autograd would refuse to go back through `other` if it took this for a change of it
    loss.backward()


def test_sets_that_are_left_in_the_middle_are_bounded():
    sets = Sets()
    slices = Slices(most=1 << 30)
    for which in range(10 * SETS):
        slices.give(which, 0, 4, sets.of(which))
    assert len(slices._open._held) <= SETS
    assert len(slices._given) <= 2 * SETS
    assert torch.equal(slices.give(0, 4, 8, sets.of(0)), Sets().read(0)[4:8])  # read again
    assert sets.reads.count(0) == 2


def test_an_error_is_the_askers_and_the_next_one_reads_anew():
    sets, broken = Sets(), [True]

    def read():
        if broken.pop():
            raise OSError("gone")
        return sets.read(0)

    slices = Slices(most=1 << 20)
    with pytest.raises(OSError, match="gone"):
        slices.give(0, 0, 4, read)
    broken.append(False)
    assert torch.equal(slices.give(0, 0, 4, read), Sets().read(0)[0:4])


def test_threads_get_every_row_right():
    slices, found, start = Slices(most=1 << 20), {}, threading.Barrier(4)

    def work(place):
        start.wait()
        for which in range(40):
            found[which, place] = slices.give(which, 3 * place, 3 * place + 3, Sets().of(which))

    threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for which in range(40):
        assert torch.equal(torch.cat([found[which, place] for place in range(4)]), Sets().read(which))


@pytest.mark.parametrize("shuffle", [None, "sets", "batches"])
@pytest.mark.parametrize("prefetch", [0, 1 << 20])
def test_a_loader_over_parts_of_sets_whatever_is_done_to_its_batches(tmp_path, shuffle, prefetch):
    rng = np.random.default_rng(0)
    for number in range(6):
        np.save(tmp_path / f"set{number}.npy", rng.normal(size=(100, 2400)).astype(np.float32))
    kinds = [BatchLoader(Files(tmp_path), batch_size=30, shuffle=shuffle, prefetch=p) for p in (0, prefetch)]
    kinds[0].source._columns["inputs"]._is_sliced = lambda *_: False
    for _ in range(3):
        for plain, sliced in zip(*kinds, strict=True):
            assert torch.equal(plain.inputs, sliced.inputs)
            assert sliced.inputs.data_ptr() % 64 == 0
            sliced.inputs.numpy()[...] = 0  # ours now: nobody else's batch may change
