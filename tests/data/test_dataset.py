"""`FromDataset`: rows in the loader's order, and the same bits with any number of workers, from any position."""

import gc
import json
import os
import random
import signal

import numpy as np
import pytest
import torch
from tests.support import samples
from tests.support.samples import noisy_collate, plain, seen, streams
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Subset,
    TensorDataset,
)

from deeptrain.data.batch import Batch
from deeptrain.data.cursor import CursorFeed
from deeptrain.data.dataset import FromDataset, StreamingSource, inputs_and_targets
from deeptrain.data.feed import Position
from deeptrain.data.loader import BatchLoader
from deeptrain.data.running import Running
from deeptrain.data.seeded import Work
from deeptrain.data.source import Source
from deeptrain.integrations.torch_loader import TorchFeed

ROWS = 11
# torch says so where there are fewer cores than workers, and the bits do not depend on cores.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")


class Augmented(samples.Augmented):
    def __init__(self, rows=ROWS):
        super().__init__(rows)


class Bulk(Augmented, samples.Bulk):
    pass


class Streaming(CursorFeed):
    """What a loader does with a streaming source, over an order of its own: `Running`, and single batches aside."""

    def __init__(self, source, size=3, seed=5):
        super().__init__()
        self.source, self.size, self.seed = source, size, seed
        self.running = Running(self.start)

    rows_total = property(lambda self: self.source.n_rows)

    def settings(self):
        return {"source": self.source.describe()}

    def adopt(self, settings):
        del settings

    def _batches_in(self, epoch):
        return -(-self.rows_total // self.size)

    def rows(self, epoch, batch):
        order = np.random.default_rng(epoch).permutation(self.rows_total)
        return order[batch * self.size : (batch + 1) * self.size]

    def work(self, position):
        return [
            Work.of(position.epoch, batch, self.rows(position.epoch, batch))
            for batch in range(position.batch, self._batches_in(position.epoch))
        ]

    def start(self, position):
        return self.source.open(self.seed, position.epoch, self.work(position))

    def _read(self, epoch, batch):
        return Batch(*self.running.take(Position(epoch, batch)), epoch, batch, self.rows(epoch, batch))

    def batch(self, epoch, batch, iteration=0):
        work = Work.of(epoch, batch, self.rows(epoch, batch))
        return Batch(*self.source.read_batch(self.seed, work), epoch, batch, self.rows(epoch, batch))

    def close(self):
        super().close()
        self.running.close()


def source(dataset=None, workers=0, **settings):
    context = "fork" if workers else None
    return FromDataset(dataset or Augmented(), workers=workers, context=context, **settings)


def test_it_is_a_source_that_streams():
    found = source(Subset(Augmented(), [3, 1, 7]))
    assert isinstance(found, Source)
    assert isinstance(found, StreamingSource)
    assert (found.n_rows, found.set_names, found.set_sizes) == (3, ("dataset",), (3,))
    assert found.describe()["dataset"] == "Subset"
    json.dumps(found.describe())


def test_nothing_is_read_to_describe_it():
    dataset = Augmented()
    dataset.__class__ = type("Untouchable", (Augmented,), {"__getitem__": lambda *_: pytest.fail("was read")})
    assert source(dataset).describe()["rows"] == ROWS


@pytest.mark.parametrize("dataset", [Augmented(), Bulk()])
def test_any_number_of_workers_gives_the_same_bits_and_moves_no_stream(dataset):
    before = streams()
    wanted = seen(Streaming(source(dataset, collate=noisy_collate)))
    drawn = [number for batch in wanted for sample in batch[3] for number in sample]
    assert len(set(drawn)) == len(drawn)
    for workers in (1, 4):
        assert seen(Streaming(source(dataset, workers, collate=noisy_collate))) == wanted
    assert streams() == before


def test_resuming_at_every_position_of_two_epochs():
    feed = Streaming(source(collate=noisy_collate))
    states, batches = [], []
    while feed.position.epoch < 2:
        states.append(json.loads(json.dumps(feed.state_dict())))
        batches.append(plain(feed.fetch()))
        assert feed.fetch() is feed.fetch()
        feed.advance()
    assert len(states) == 8
    for place, state in enumerate(states):
        random.seed(place)
        torch.manual_seed(place)
        other = Streaming(source(collate=noisy_collate))
        other.load_state_dict(state)
        assert seen(other) == batches[place:]


def test_twice_in_one_epoch_with_workers():
    wanted = seen(Streaming(source()))
    found, state = [], Streaming(source()).state_dict()
    for batches in (2, 1, 5):
        feed = Streaming(source(workers=2))
        feed.load_state_dict(state)
        for _ in range(batches):
            found.append(plain(feed.fetch()))
            feed.advance()
        feed.fetch()  # read ahead, and not consumed
        state = json.loads(json.dumps(feed.state_dict()))
        feed.close()
    assert found == wanted


def test_any_batch_can_be_read_aside():
    wanted = seen(Streaming(source()))
    for workers in (0, 1):
        feed = Streaming(source(workers=workers))
        feed.fetch()
        running = feed.running.iterator
        assert [plain(feed.batch(*batch[:2])) for batch in wanted[::3]] == wanted[::3]
        assert feed.running.iterator is running
        feed.close()


def test_a_sample_has_the_same_numbers_at_any_batch_size():
    by_row = [
        {
            (b[0], row): sample
            for b in seen(Streaming(source(), size))
            for row, sample in zip(b[2], b[3], strict=True)
        }
        for size in (1, 4)
    ]
    assert by_row[0] == by_row[1]
    other = seen(Streaming(source(), seed=6))
    assert other[0][2] == seen(Streaming(source()))[0][2]
    assert other[0][3] != seen(Streaming(source()))[0][3]


def test_a_row_that_comes_twice_in_a_batch_is_augmented_twice():
    inputs, targets = source().read(np.array([4, 2, 4]))
    assert targets.tolist() == [4, 2, 4]
    assert inputs[0].tolist() != inputs[2].tolist()


def test_rows_of_parts_keep_their_meaning():
    joined = ConcatDataset([TensorDataset(torch.arange(3)), TensorDataset(torch.arange(10, 14))])
    part = Subset(joined, [6, 0, 3])
    for dataset, wanted in ((joined, [13, 0, 10]), (part, [10, 13, 0])):
        rows = np.array([6, 0, 3] if dataset is joined else [2, 0, 1])
        inputs, targets = FromDataset(dataset).read(rows)
        assert inputs[0].tolist() == wanted
        assert targets is None


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_surfaces_at_its_batch_and_the_feed_goes_on(workers):
    wanted = seen(Streaming(source()))
    dataset = Augmented()
    feed = Streaming(source(dataset, workers))
    dataset.fail_at = wanted[2][2][1]
    found = []
    for _ in range(2):
        found.append(plain(feed.fetch()))
        feed.advance()
    before = streams()
    for _ in range(2):
        with pytest.raises(OSError, match="unreadable") as caught:
            feed.fetch()
        trace = str(caught.value) + "".join(str(entry.path) for entry in caught.traceback)
        assert "test_dataset.py" in trace
        assert feed.position == (0, 2, 0)
    assert streams() == before
    dataset.fail_at = None
    assert found + seen(feed) == wanted


def test_a_stop_iteration_is_no_end_of_an_epoch():
    dataset = Augmented()
    dataset.fail_at, dataset.error = 4, StopIteration()
    feed = Streaming(source(dataset))
    with pytest.raises(RuntimeError, match="raised StopIteration in Position"):
        while True:
            feed.fetch()
            feed.advance()


def test_workers_outlive_ctrl_c_and_end_with_the_feed():
    wanted = seen(Streaming(source()))
    feed = Streaming(source(workers=1))
    found = [plain(feed.fetch())]
    processes = feed.running.iterator.processes
    os.kill(processes[0].pid, signal.SIGINT)  # it reaches the whole process group
    feed.advance()
    found.append(plain(feed.fetch()))
    assert found == wanted[:2]
    feed.close()
    assert not any(process.is_alive() for process in processes)


def test_moving_the_cursor_ends_what_ran_ahead():
    wanted = seen(Streaming(source()))
    feed = Streaming(source(workers=1))
    feed.fetch()
    processes = feed.running.iterator.processes
    feed.seek(epoch=1, batch=2)
    assert plain(feed.fetch()) == wanted[6]
    assert not any(process.is_alive() for process in processes)
    feed.close()


def shuffled(workers=0, **settings):
    settings = {"batch_size": 3, "shuffle": "global", "seed": 5} | settings
    return BatchLoader(source(workers=workers, collate=noisy_collate), **settings)


def test_a_batch_loader_has_the_same_bits_with_any_number_of_workers_from_any_position():
    before = streams()
    feed = shuffled()
    states, batches = [], []
    while feed.position.epoch < 2:
        states.append(json.loads(json.dumps(feed.state_dict())))
        batches.append(plain(feed.fetch()))
        feed.advance()
    assert sorted(row for batch in batches[:4] for row in batch[2]) == list(range(ROWS))
    assert batches[0][2] != batches[4][2]
    for workers in (1, 4):
        assert seen(shuffled(workers)) == batches
    for place, state in enumerate(states):
        other = shuffled(workers=place % 2, seed=0)
        other.adopt(state["settings"])
        other.load_state_dict(state)
        assert seen(other) == batches[place:]
    feed = shuffled(workers=1)
    feed.fetch()
    assert plain(feed.batch(1, 2)) == batches[6]
    assert seen(feed) == batches
    assert streams() == before


def test_a_batch_loader_reads_from_it():
    loader = BatchLoader(FromDataset(TensorDataset(torch.arange(5.0), torch.arange(5))), batch_size=2)
    assert [batch.targets.tolist() for batch in loader] == [[0, 1], [2, 3], [4]]
    loader.close()


def test_what_a_collated_batch_is():
    inputs, targets = torch.zeros(2, 3), torch.zeros(2)
    assert inputs_and_targets([inputs, targets])[1] is targets
    assert inputs_and_targets({"x": inputs})[1] is None
    assert inputs_and_targets((inputs,))[0][0] is inputs
    assert inputs_and_targets((inputs, targets, targets))[1] is None
    memory = torch.from_numpy(np.zeros(1000, np.float32))[1:9]
    assert inputs_and_targets(memory)[0].data_ptr() % 64 == 0


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: FromDataset(Stream()), TypeError, "Stream is an IterableDataset.*map-style"),
        (lambda: FromDataset(3), TypeError, "found int, which has no length"),
        (lambda: FromDataset({1}), TypeError, "found set without __getitem__"),
        (
            lambda: FromDataset([1], workers=-1),
            ValueError,
            "workers=-1, expected a whole number of at least 0",
        ),
        (lambda: FromDataset([1], workers=2.0), ValueError, r"workers=2\.0"),
        (lambda: FromDataset([1], prefetch_factor=0), ValueError, "prefetch_factor=0"),
        (
            lambda: FromDataset([1, 2]).read(np.array([0, -1])),
            IndexError,
            "no row -1; there are the rows 0 to 1",
        ),
        (lambda: FromDataset([1, 2]).read(np.array([2, 0])), IndexError, "no row 2"),
    ],
)
def test_what_cannot_be_taken_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_feed_that_is_dropped_takes_its_workers_along():
    workers_of_torch = DataLoader(Augmented(), 3, num_workers=1, multiprocessing_context="fork")
    processes = []
    gc.disable()  # not only when cycles happen to be looked for, in whichever process
    try:
        for feed in (Streaming(source(workers=1)), TorchFeed(workers_of_torch, 0)):
            feed.fetch()
            running = getattr(feed, "running", None) or feed._running
            processes.extend(running.iterator.processes)
            del running
        del feed
        assert len(processes) == 2
        assert not any(process.is_alive() for process in processes)
    finally:
        gc.enable()
