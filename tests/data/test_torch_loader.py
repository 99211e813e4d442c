"""A plain torch `DataLoader`: same bits with any number of workers, from any position, and after any exception."""

import os
import random
import signal

import numpy as np
import pytest
import torch
from tests.support import samples
from tests.support.samples import noisy_collate, streams
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    get_worker_info,
    random_split,
)

from deeptrain.data import Arrays, BatchLoader, Feed
from deeptrain.integrations.torch_loader import TorchFeed, as_feed


class Augmented(samples.Augmented):
    def __init__(self, rows=20):
        super().__init__(rows)


class Bulk(Augmented, samples.Bulk):
    pass


def loader(dataset=None, workers=0, **settings):
    settings = {"batch_size": 3, "shuffle": True} | settings
    context = "fork" if workers else None
    return DataLoader(
        dataset or Augmented(), num_workers=workers, multiprocessing_context=context, **settings
    )


def seen(feed, epochs=1):
    """The rest of this epoch and all of the following ones, as plain values."""
    return samples.seen(feed, feed.position.epoch + epochs)


def test_an_epoch_has_each_row_once_and_epochs_and_seeds_differ():
    first, second = seen(TorchFeed(loader(), 0), 2), seen(TorchFeed(loader(), 1), 2)
    for run in (first, second):
        for epoch in (0, 1):
            assert sorted(row for batch in run if batch[0] == epoch for row in batch[2]) == list(range(20))
    orders = [
        [row for b in run if b[0] == epoch for row in b[2]] for run in (first, second) for epoch in (0, 1)
    ]
    assert len(set(map(tuple, orders))) == 4
    for batch in first:
        assert [int(sample[0]) for sample in batch[3]] == batch[2] == batch[4]
    assert first == seen(TorchFeed(loader(), 0), 2)


def test_the_number_of_workers_does_not_matter_and_no_stream_moves():
    before = streams()
    wanted = seen(TorchFeed(loader(collate_fn=noisy_collate), 5), 2)
    assert streams() == before
    for workers in (1, 2):
        feed = TorchFeed(loader(workers=workers, collate_fn=noisy_collate), 5)
        assert seen(feed, 2) == wanted
    assert streams() == before
    feed = TorchFeed(loader(workers=2, collate_fn=noisy_collate), 5)
    feed.seek(epoch=1, batch=4)
    assert seen(feed) == wanted[7 + 4 :]


@pytest.mark.parametrize("dataset", [Augmented(), Bulk()])
def test_resuming_at_every_position(dataset):
    feed = TorchFeed(loader(dataset, collate_fn=noisy_collate), 2)
    states, batches = [], []
    while feed.position.epoch < 2:
        states.append(feed.state_dict())
        batch = feed.fetch()
        assert feed.fetch() is batch
        assert feed.state_dict() == states[-1]
        batches.append(
            (batch.epoch, batch.index, batch.rows.tolist(), batch.inputs.tolist(), batch.targets.tolist())
        )
        feed.advance()
    for place, state in enumerate(states):
        random.seed(place)
        torch.manual_seed(place)
        other = TorchFeed(loader(dataset, collate_fn=noisy_collate), 2)
        other.load_state_dict(state)
        assert seen(other, 2 - state["cursor"]["epoch"]) == batches[place:]


@pytest.mark.parametrize(
    ("workers", "error"),
    [(0, OSError("unreadable")), (0, StopIteration()), (0, KeyboardInterrupt()), (2, OSError("unreadable"))],
)
def test_after_an_exception_it_goes_on_at_the_cursor(workers, error):
    wanted = seen(TorchFeed(loader(), 3))
    dataset = Augmented()
    feed = TorchFeed(loader(dataset, workers), 3)
    dataset.fail_at, dataset.error = wanted[2][2][1], error
    found = []
    for _ in range(2):
        batch = feed.fetch()
        found.append(batch.rows.tolist())
        feed.advance()
    before = streams()
    for _ in range(2):
        with pytest.raises(RuntimeError if isinstance(error, StopIteration) else type(error)):
            feed.fetch()
        assert feed.position == (0, 2, 0)
    assert streams() == before
    dataset.fail_at = None
    assert found == [batch[2] for batch in wanted[:2]]
    assert seen(feed) == wanted[2:]


def test_a_held_batch_changed_in_place_is_made_again():
    feed = TorchFeed(loader(), 0)
    feed.advance()
    kept = feed.fetch().inputs.clone()
    feed.fetch().inputs.zero_()
    assert torch.equal(feed.fetch().inputs, kept)
    feed.advance()
    assert feed.fetch().index == 2


def test_a_weighted_sampler_repeats_rows_and_augments_them_differently():
    feed = TorchFeed(
        DataLoader(Augmented(), 5, sampler=WeightedRandomSampler([1.0] * 19 + [40.0], 20)),
        0,
    )
    batches = seen(feed)
    drawn = [sample[1] for batch in batches for sample in batch[3] if sample[0] == 19]
    assert len(drawn) > 5
    assert len(set(drawn)) == len(drawn)
    feed.seek(epoch=0, batch=2)
    assert seen(feed) == batches[2:]


def test_the_sample_alone_decides_its_randomness():
    small = seen(TorchFeed(loader(batch_size=2, shuffle=False), 0))
    large = seen(TorchFeed(loader(batch_size=7, shuffle=False), 0))
    assert [s for b in small for s in b[3]] == [s for b in large for s in b[3]]


def test_a_part_of_a_data_set_is_seeded_by_sample_too():
    part, _ = random_split(Augmented(), [10, 10])
    small, large = (seen(TorchFeed(loader(part, batch_size=size, shuffle=False), 0)) for size in (1, 10))
    assert [s for b in small for s in b[3]] == [s for b in large for s in b[3]]


def test_generators_are_put_back_and_set_epoch_is_called():
    class Sampler(RandomSampler):
        epochs = ()

        def set_epoch(self, epoch):
            self.epochs = (*self.epochs, epoch)

    generator = torch.Generator().manual_seed(3)
    dataset = Augmented()
    sampler = Sampler(dataset, generator=generator)
    before = generator.get_state()
    feed = TorchFeed(
        DataLoader(dataset, batch_sampler=BatchSampler(sampler, 4, drop_last=True), generator=generator), 0
    )
    runs = seen(feed, 2)
    assert torch.equal(generator.get_state(), before)
    assert set(sampler.epochs) == {0, 1}
    feed.seek(epoch=0)
    assert seen(feed, 2) == runs
    indices = SubsetRandomSampler(torch.tensor([4, 5, 6]), generator=generator)
    assert sorted(r for b in seen(TorchFeed(DataLoader(dataset, 2, sampler=indices), 0)) for r in b[2]) == [
        4,
        5,
        6,
    ]


def test_what_a_batch_is():
    one = as_feed(DataLoader(TensorDataset(torch.zeros(4, 2)), 2), 0)
    assert isinstance(one, Feed)
    assert isinstance(one.fetch().inputs, list)
    assert one.fetch().targets is None
    pair = TorchFeed(DataLoader(TensorDataset(torch.zeros(4, 2), torch.arange(4)), 2), 0).fetch()
    assert pair.targets.tolist() == [0, 1]
    assert repr(pair) == "Batch(epoch=0, index=0, size=2, sources=dataset[0:2])"
    whole = TorchFeed(DataLoader([{"x": 1.0, "y": 2}] * 4, 2), 0).fetch()
    assert set(whole.inputs) == {"x", "y"}
    assert whole.targets is None


def test_unaligned_memory_is_copied():
    def collate(samples):
        return torch.from_numpy(np.zeros(1000, np.float32))[1 : 1 + len(samples)], torch.zeros(len(samples))

    feed = TorchFeed(loader(collate_fn=collate), 0)
    assert feed.fetch().inputs.data_ptr() % 64 == 0


def test_a_worker_shows_the_users_data_set_and_outlives_ctrl_c():
    dataset = Augmented(4)
    dataset.mark = 0

    def init(worker):
        get_worker_info().dataset.mark = 7 + worker

    def collate(samples):
        return torch.tensor([get_worker_info().dataset.mark] * len(samples)), torch.zeros(len(samples))

    feed = TorchFeed(loader(dataset, 1, worker_init_fn=init, collate_fn=collate), 0)
    assert feed.fetch().inputs.tolist() == [7, 7, 7]
    os.kill(feed._running.iterator.processes[0].pid, signal.SIGINT)  # Ctrl-C reaches the whole process group
    feed.advance()
    assert feed.fetch().inputs.tolist() == [7]
    feed.seek(epoch=0)
    processes = feed._running.iterator.processes
    feed.close()
    assert not any(process.is_alive() for process in processes)
    assert feed.fetch().inputs.tolist() == [7, 7, 7]
    feed.close()


def test_states_that_do_not_fit_are_refused():
    feed = TorchFeed(loader(), 1)
    feed.seek(epoch=1, batch=2)
    state = feed.state_dict()
    assert state["version"] == 1
    with pytest.raises(ValueError, match="TorchFeed state has version 2"):
        feed.load_state_dict(state | {"version": 2})
    with pytest.raises(ValueError, match=r"source\.rows: recorded 20, found 21"):
        TorchFeed(loader(Augmented(21)), 1).load_state_dict(state)
    with pytest.raises(ValueError, match=r"batch_size: recorded 3, found 4"):
        TorchFeed(loader(batch_size=4), 1).load_state_dict(state)
    with pytest.raises(ValueError, match="draws another order for epoch 1"):
        feed.load_state_dict(state | {"order": "0"})
    other = TorchFeed(loader(), 9)
    other.load_state_dict(state)
    assert seen(other) == seen(feed)
    with pytest.raises(IndexError, match="0 to 6"):
        feed.seek(epoch=0, batch=7)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


class Own(DataLoader):
    def __iter__(self):
        return iter(())


class Moody:
    """A sampler whose order comes from a generator of its own."""

    def __init__(self):
        self.random = random.Random(0)

    def __len__(self):
        return 20

    def __iter__(self):
        return iter(self.random.sample(range(20), 20))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: TorchFeed(DataLoader(Stream()), 0),
            TypeError,
            "found DataLoader, expected a plain .* map-style",
        ),
        (lambda: DataLoader(Augmented(), batch_size=None), ValueError, "batch_size=None turns batching off"),
        (
            lambda: DataLoader(Augmented(2), batch_size=3, drop_last=True),
            ValueError,
            "no rows in epoch 0.*drop_last",
        ),
        (lambda: DataLoader([]), ValueError, "no rows"),
        (
            lambda: DataLoader({"a": 1}, sampler=["a"]),
            TypeError,
            "something other than lists of whole numbers",
        ),
        (
            lambda: DataLoader(Augmented(), sampler=Moody()),
            ValueError,
            "BatchSampler over Moody gave another order",
        ),
        (lambda: TorchFeed(Own(Augmented()), 0), TypeError, "found Own, expected a plain torch"),
        (lambda: [1, 2], TypeError, r"data: found list; expected dt\.BatchLoader.*torch DataLoader"),
    ],
)
def test_what_cannot_be_taken_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        as_feed(make(), 0)


def test_feeds_are_given_back_as_they_are():
    batches = BatchLoader(Arrays(torch.zeros(4)), batch_size=2)
    assert as_feed(batches, 7) is batches
    feed = as_feed(loader(), 7)
    assert feed.state_dict()["seed"] == 7
    assert feed.rows_total == 20
    assert as_feed(feed, 8) is feed
