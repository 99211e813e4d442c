"""Stateful and plain iterables: the same bits from any position, an end known by itself, and errors at their batch."""

import copy
import json
import random
import warnings
from contextlib import contextmanager

import pytest
import torch
from tests.support import samples
from tests.support.samples import drawn, plain, seen, streams
from torch.utils.data import DataLoader, IterableDataset, Sampler, get_worker_info

from deeptrain.data import Arrays, BatchLoader, Feed
from deeptrain.data.progress import progress_bar
from deeptrain.integrations.iterable_loader import IterableFeed
from deeptrain.integrations.stateful_loader import StatefulFeed
from deeptrain.integrations.torch_loader import TorchFeed, as_feed
from deeptrain.state.tree import digest

pytestmark = [
    # torch says so where there are fewer cores than workers.
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    # torchdata calls a function that torch has come to deprecate.
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning"),
]


class Augmented(samples.Augmented):
    def __init__(self, rows=10):
        super().__init__(rows)


class Calm(Augmented):
    def __getitem__(self, index):
        return torch.tensor([float(index)]), index


class Resumable:
    """Batches in a shuffled order, as many as the epoch has, with a state; it reads ahead by one."""

    def __init__(self, sizes=(4, 2, 3)):
        self.sizes = sizes
        self.epoch = self.at = 0
        self.order = None
        self.fail_at = None
        self.loads = 0

    def __iter__(self):
        if self.order is None:
            self.order = random.sample(range(9), 9)
        while self.at < self.sizes[self.epoch % len(self.sizes)]:
            if (self.epoch, self.at) == self.fail_at:
                raise OSError("unreadable")
            at, self.at = self.at, self.at + 1
            yield torch.tensor([[self.order[at], *drawn()]] * 2, dtype=torch.float64), torch.tensor([at, at])
        self.epoch, self.at, self.order = self.epoch + 1, 0, None

    def state_dict(self):
        return {"epoch": self.epoch, "at": self.at, "order": self.order}

    def load_state_dict(self, state):
        self.loads += 1
        self.epoch, self.at, self.order = state["epoch"], state["at"], state["order"]


class Ended(Resumable):
    """One whose state at an epoch's end first gives an epoch with nothing in it."""

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.empty = state["at"] == 0 and state["epoch"] > 0

    def __iter__(self):
        if getattr(self, "empty", False):
            self.empty = False
            return iter(())
        return super().__iter__()


class Stream(IterableDataset):
    """Samples in an order that is drawn; each worker gives those of its own."""

    def __init__(self, rows=10):
        self.rows = rows
        self.fail_at = None
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        info = get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        for index in range(first, self.rows, step):
            if index == self.fail_at:
                raise OSError("unreadable")
            yield torch.tensor([self.epoch, index, *drawn()], dtype=torch.float64), index


class StatefulStream(Stream):
    """A stream that knows where it stands."""

    at = 0

    def __iter__(self):
        while self.at < self.rows:
            self.at += 1
            yield torch.tensor([self.at, *drawn()], dtype=torch.float64), self.at
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Wrapping(DataLoader):
    def __iter__(self):
        for inputs, targets in super().__iter__():
            yield inputs + torch.rand(()), targets


def function():
    order = torch.randperm(5)
    for index in order.tolist():
        yield torch.tensor([[index, *drawn()]], dtype=torch.float64), torch.tensor([index])


def stateful(workers=0, dataset=None, **settings):
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    torch.manual_seed(1)  # its sampler's seed is drawn when it is made
    context = "fork" if workers else None
    settings = {"batch_size": 3, "shuffle": True} | settings
    return torchdata.StatefulDataLoader(
        Augmented() if dataset is None else dataset,
        num_workers=workers,
        multiprocessing_context=context,
        **settings,
    )


def iterable(workers=0):
    return DataLoader(Stream(), 3, num_workers=workers, multiprocessing_context="fork" if workers else None)


STATEFUL = {
    "StatefulDataLoader": stateful,
    "StatefulDataLoader, 2 workers": lambda: stateful(2, Calm()),
    "StatefulDataLoader over a stream": lambda: stateful(0, StatefulStream(), shuffle=False),
    "persistent workers": lambda: stateful(1, Calm(), persistent_workers=True),
    "custom": Resumable,
    "empty after the end": Ended,
}
PLAIN = {
    "IterableDataset": iterable,
    "IterableDataset, 2 workers": lambda: iterable(2),
    "function": lambda: function,
    "StatefulDataLoader without state": lambda: stateful(0, Stream(), shuffle=False),
    "own __iter__, persistent workers": lambda: Wrapping(
        Stream(), 3, num_workers=1, persistent_workers=True, multiprocessing_context="fork"
    ),
}
ALL = STATEFUL | PLAIN


@contextmanager
def walking():
    """Walking is warned of; nothing else is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* is walked through .* batches", category=UserWarning)
        yield


@pytest.mark.parametrize("kind", ALL)
def test_resuming_at_every_position_of_two_epochs(kind):
    feed = as_feed(ALL[kind](), 7)
    assert isinstance(feed, Feed)
    assert isinstance(feed, StatefulFeed if kind in STATEFUL else IterableFeed)
    before, states, batches, ends = streams(), [], [], []
    while feed.position.epoch < 2:
        states.append(copy.deepcopy(feed.state_dict()))
        batch = feed.fetch()
        assert feed.fetch() is batch
        assert digest(feed.state_dict()) == digest(states[-1])
        batches.append(plain(batch))
        ends.append(feed.advance())
    end = feed.state_dict()
    feed.close()
    assert streams() == before
    assert [batch[:2] for batch in batches] == [
        (state["cursor"]["epoch"], state["cursor"]["batch"]) for state in states
    ]
    assert sum(ends) == 2
    for epoch in (0, 1):
        rows = [row for batch in batches if batch[0] == epoch for row in batch[2]]
        assert rows == list(range(len(rows)))
    for place, state in enumerate(states):
        other = as_feed(ALL[kind](), 0)
        random.seed(place)
        torch.manual_seed(place)
        with walking():
            other.load_state_dict(copy.deepcopy(state))
            assert other.position == tuple(state["cursor"].values())
            for batch, wanted in zip(batches[place:], states[place:], strict=True):
                # The state is the place's alone, however it was reached.
                assert digest(other.state_dict()) == digest(wanted)
                assert plain(other.fetch()) == batch
                other.advance()
        assert digest(other.state_dict()) == digest(end)
        other.close()


@pytest.mark.parametrize("kind", ALL)
def test_twice_in_one_epoch_and_at_its_end(kind):
    wanted = seen(as_feed(ALL[kind](), 7))
    in_first = sum(batch[0] == 0 for batch in wanted)
    feed = as_feed(ALL[kind](), 7)
    found, state = [], feed.state_dict()
    feed.close()
    for batches in (2, 1, in_first - 3, len(wanted) - in_first):
        feed = as_feed(ALL[kind](), 7)
        with walking():
            feed.load_state_dict(state)
            for _ in range(batches):
                found.append(plain(feed.fetch()))
                feed.advance()
            feed.fetch()  # read ahead, and not consumed
            state = copy.deepcopy(feed.state_dict())
        feed.close()
    assert found == wanted


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_stateful_iterable_is_not_walked(kind):
    wanted = seen(as_feed(STATEFUL[kind](), 7))
    feed = as_feed(STATEFUL[kind](), 7)
    for _ in range(3):
        feed.fetch()
        feed.advance()
    state = feed.state_dict()
    feed.close()
    other = as_feed(STATEFUL[kind](), 7)
    other.load_state_dict(state)
    # What is pending after a resume asks for the last consumed batch again.
    assert plain(other.batch(0, 2)) == wanted[2]
    assert other.position == (0, 3, 0)
    assert plain(other.fetch()) == wanted[3]
    assert plain(other.batch(0, 2)) == wanted[2]
    assert seen(other) == wanted[3:]


def test_what_is_pending_costs_no_second_load():
    feed = StatefulFeed(Resumable(), 7)
    for _ in range(2):
        feed.advance()
    other = StatefulFeed(loader := Resumable(), 7)
    other.load_state_dict(feed.state_dict())
    other.batch(0, 1)
    other.fetch()
    assert loader.loads == 1


def test_states_are_json_like_and_numbers_depend_on_the_seed():
    feed = StatefulFeed(Resumable(), 7)
    feed.advance()
    state = json.loads(json.dumps(feed.state_dict()))
    other = StatefulFeed(Resumable(), 0)
    other.load_state_dict(state)
    assert seen(other) == seen(StatefulFeed(Resumable(), 7))[1:]
    assert seen(StatefulFeed(Resumable(), 0)) != seen(StatefulFeed(Resumable(), 7))


def test_a_stateful_loader_gives_its_own_order():
    for workers in (0, 2):
        loader = stateful(workers, Calm())
        wanted = [targets.tolist() for _ in range(2) for _, targets in loader]
        assert [batch[4] for batch in seen(StatefulFeed(stateful(workers, Calm()), 3))] == wanted


@pytest.mark.parametrize("kind", ["StatefulDataLoader", "persistent workers", "custom", *PLAIN])
def test_a_pass_can_begin_anew(kind):
    """As validation does: from the first epoch's start, over and over."""
    feed = as_feed(ALL[kind](), 7)
    first = seen(feed, 1)
    for _ in range(2):
        feed.seek(epoch=0)
        assert seen(feed, 1) == first
    feed.seek(epoch=0)
    feed.fetch()
    feed.seek(epoch=0)
    assert seen(feed, 1) == first


def test_seeking_walks_forward_and_says_so_once():
    wanted = seen(StatefulFeed(Resumable(), 7), 3)
    feed = StatefulFeed(Resumable(), 7)
    feed.seek(epoch=1, batch=1)
    with pytest.warns(UserWarning, match="Resumable is walked through"):
        found = feed.fetch()
    assert plain(found) == wanted[5]
    feed.seek(epoch=2, batch=2)
    assert plain(feed.fetch()) == wanted[8]
    feed.seek(epoch=2, batch=3)
    with pytest.raises(IndexError, match="no batch 3 in epoch 2: it ended after 3 batches"):
        feed.fetch()
    with pytest.raises(IndexError, match="no batch -1 in epoch 0"):
        feed.seek(epoch=0, batch=-1)
    state = feed_after(StatefulFeed(Resumable(), 7), 5).state_dict()
    later = StatefulFeed(Resumable(), 7)
    later.load_state_dict(state)
    later.fetch()
    with pytest.raises(IndexError, match="cannot go back to epoch 0, batch 2: the earliest place"):
        later.seek(epoch=0, batch=2)


def feed_after(feed, batches):
    for _ in range(batches):
        feed.advance()
    return feed


def test_a_plain_iterable_is_walked_with_a_warning_and_a_bar(monkeypatch, capsys):
    state = feed_after(IterableFeed(function, 7), 3).state_dict()
    feed = IterableFeed(function, 7)
    feed.load_state_dict(state)
    with pytest.warns(UserWarning, match="function is walked through 3 batches .* give it state_dict"):
        feed.fetch()
    assert capsys.readouterr().err == ""

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("walking to the position", 2, "batches") as moved:
        moved(1)
    assert "walking to the position" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ALL)
def test_the_number_of_batches(kind):
    feed = as_feed(ALL[kind](), 7)
    hint = (
        4 if kind in {"StatefulDataLoader", "StatefulDataLoader, 2 workers", "persistent workers"} else None
    )
    assert feed.batches == hint
    assert feed.iterations(2) == (None if hint is None else 8)
    while feed.position.epoch == 0:
        index = feed.fetch().index
        if feed.advance():
            break
    feed.close()
    assert feed.batches == hint
    assert index + 1 == (5 if kind == "function" else 4)


def test_an_epoch_may_be_of_any_length_and_its_length_is_known_at_its_last_batch():
    feed = StatefulFeed(Resumable(), 7)
    lengths = []
    for _ in range(9):
        feed.fetch()
        known = feed.batches
        if feed.advance():
            lengths.append(known)
        else:
            assert known is None
    assert lengths == [4, 2, 3]


class Claims(Resumable):
    def __len__(self):
        return 4


def test_a_length_that_was_not_so_is_believed_no_more():
    feed = StatefulFeed(Claims(), 7)
    found = []
    for _ in range(7):
        feed.fetch()
        found.append(feed.batches)
        feed.advance()
    assert found[:5] == [4, 4, 4, 4, 4]
    assert found[5:] == [2, None]
    assert feed.position == (2, 1, 0)


@pytest.mark.parametrize("make", [Resumable, iterable, lambda: iterable(1)])
def test_an_error_surfaces_at_its_batch_and_the_feed_goes_on(make):
    wanted = seen(as_feed(make(), 7))
    feed = as_feed(source := make(), 7)
    flawed = source if isinstance(source, Resumable) else source.dataset
    flawed.fail_at = (0, 2) if flawed is source else 7
    found = []
    with walking():
        for _ in range(2):
            found.append(plain(feed.fetch()))
            assert not feed.advance()
        before = streams()
        for _ in range(2):
            with pytest.raises(OSError, match="unreadable") as caught:
                feed.fetch()
            trace = str(caught.value) + "".join(str(entry.path) for entry in caught.traceback)
            assert "test_iterable_loader.py" in trace
            assert feed.position == (0, 2, 0)
            assert feed.state_dict()["cursor"]["batch"] == 2
        assert streams() == before
        flawed.fail_at = None
        assert found + seen(feed) == wanted


class Broken:
    """A generator method that fails once, and never again."""

    def __init__(self, error):
        self.error = error

    def __iter__(self):
        yield torch.zeros(1)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        yield torch.ones(1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("once")])
def test_a_generator_that_was_cut_short_is_begun_anew(error):
    feed = IterableFeed(Broken(error), 7)
    if isinstance(error, KeyboardInterrupt):  # it is for whoever waits, whichever batch was being read
        with pytest.raises(KeyboardInterrupt):
            feed.fetch()
        assert feed.position == (0, 0, 0)
    assert feed.fetch().inputs.tolist() == [0]
    assert not feed.advance()
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError, match="once"):
            feed.fetch()
    with walking():
        assert feed.fetch().inputs.tolist() == [1]
    assert feed.advance()


def test_the_end_of_an_error_is_not_the_end_of_the_epoch_after_a_save():
    feed = IterableFeed(Broken(RuntimeError("once")), 7)
    feed.fetch()
    feed.advance()
    state = feed.state_dict()
    other = IterableFeed(Broken(None), 7)
    other.load_state_dict(state)
    with walking():
        assert other.fetch().inputs.tolist() == [1]


class Moody:
    """Batches that depend on how often it was iterated over."""

    def __init__(self):
        self.times = 0

    def __iter__(self):
        self.times += 1
        return iter([torch.full((1,), float(self.times)) for _ in range(3)])


def test_another_batch_than_before_is_said():
    feed = IterableFeed(Moody(), 7)
    feed.fetch()
    feed.advance()
    other = IterableFeed(moody := Moody(), 7)
    moody.times = 1
    other.load_state_dict(feed.state_dict())
    with walking(), pytest.warns(UserWarning, match="Moody gave another batch 1 in epoch 0 than before"):
        other.fetch()


def test_random_numbers_of_stateful_workers_begin_anew_which_is_said():
    feed = StatefulFeed(stateful(1), 7)
    feed.fetch()
    feed.advance()
    state = feed.state_dict()
    feed.close()
    other = StatefulFeed(stateful(1), 7)
    other.load_state_dict(state)
    with pytest.warns(UserWarning, match="StatefulDataLoader gave another batch 1 .* worker processes"):
        other.fetch()
    other.close()


def test_random_numbers_of_stateful_workers_are_the_same_from_an_epochs_start():
    feed = StatefulFeed(stateful(2), 7)
    state, batches = None, []
    for _ in range(8):
        state = feed.state_dict() if feed.position == (1, 0, 0) else state
        batches.append(plain(feed.fetch()))
        feed.advance()
    feed.close()
    other = StatefulFeed(stateful(2), 7)
    other.load_state_dict(state)
    assert seen(other) == batches[4:]


class Holder(Resumable):
    def state_dict(self):
        return super().state_dict() | {"seen": [1, {2}]}


class Empty(Resumable):
    def __iter__(self):
        return iter(())


class Wrong(Resumable):
    def load_state_dict(self, state):
        raise AssertionError("two workers")


def test_states_that_cannot_be_kept_or_taken_are_refused():
    with pytest.raises(
        TypeError, match=r"Holder\.state_dict\(\) gave what cannot be kept: seen\.1: found a builtins\.set"
    ):
        StatefulFeed(Holder(), 7).state_dict()
    with pytest.raises(TypeError, match=r"seen\.1"):
        StatefulFeed(Holder(), 7).fetch()
    with pytest.raises(ValueError, match="Empty gave no batch in epoch 0, asked twice"):
        StatefulFeed(Empty(), 7).fetch()
    with pytest.raises(ValueError, match="gave no batch in epoch 0"):
        IterableFeed(lambda: iter(()), 7).fetch()
    state = feed_after(StatefulFeed(Resumable(), 7), 1).state_dict()
    with pytest.raises(ValueError, match=r"source\.loader: recorded 'Resumable', found 'Wrong'"):
        StatefulFeed(Wrong(), 7).load_state_dict(state)
    wrong = StatefulFeed(Wrong(), 7)
    state["settings"]["source"]["loader"] = "Wrong"
    wrong.load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"refused its state of epoch 0, batch 1 \(AssertionError: two workers\)"
    ):
        wrong.fetch()
    with pytest.raises(ValueError, match="version 2"):
        wrong.load_state_dict(state | {"version": 2})
    with pytest.raises(ValueError, match="expected here and before"):
        wrong.load_state_dict({name: part for name, part in state.items() if name != "here"})


def test_another_number_of_workers_is_refused_in_the_middle():
    state = feed_after(IterableFeed(iterable(), 7), 1).state_dict()
    with pytest.raises(ValueError, match="workers: recorded 0, found 1"):
        IterableFeed(iterable(1), 7).load_state_dict(state)


class Itself:
    """An iterator that begins anew when it is asked to."""

    def __iter__(self):
        self.left = 3
        return self

    def __next__(self):
        if not self.left:
            raise StopIteration
        self.left -= 1
        return torch.zeros(2)


class Own(DataLoader):
    def __iter__(self):
        return iter([(torch.zeros(1), torch.ones(1))])


def test_what_is_taken_as_what():
    loader = BatchLoader(Arrays(torch.zeros(4)), batch_size=2)
    assert as_feed(loader, 0) is loader
    for made in (Itself(), Own([1]), Stream(), lambda: iter([torch.zeros(2)])):
        feed = as_feed(made, 0)
        assert isinstance(feed, IterableFeed)
        assert feed.rows_total == 0
        assert all(feed.fetch() is not None for _ in range(4) if feed.advance() is not None)
    assert isinstance(as_feed(DataLoader([1, 2]), 0), TorchFeed)
    batch = as_feed(Own([1]), 0).fetch()
    assert batch.targets.tolist() == [1]
    assert str(batch.sources[0]) == "stream[0]"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (function, "found a generator, which can be gone through only once.*give the function"),
        (lambda: map(int, "12"), "found a map, which can be gone through only once"),
        (lambda: zip("12"), "found a zip"),
        (lambda: [torch.zeros(1)], r"found list; expected dt\.BatchLoader"),
        (lambda: {"x": 1}, "found dict"),
        (lambda: torch.zeros(3), "found Tensor"),
        (lambda: torch.nn.Sequential(), "found Sequential"),
        (lambda: Calm(), r"found Calm; .* for a torch Dataset: dt\.BatchLoader\(dt\.FromDataset"),
        (lambda: Stream, "found ABCMeta"),
        (lambda: 3, "found int"),
    ],
)
def test_what_cannot_be_taken_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        as_feed(make(), 0)


class Shuffled(Sampler):
    """A sampler with a generator of its own and a state that says where in the epoch it stands."""

    def __init__(self, rows=10):
        self.random = random.Random(4)
        self.rows, self.at, self.order = rows, 0, None

    def __len__(self):
        return self.rows

    def __iter__(self):
        if self.order is None:
            self.order = self.random.sample(range(self.rows), self.rows)
        while self.at < self.rows:
            self.at += 1
            yield self.order[self.at - 1]
        self.at, self.order = 0, None

    def state_dict(self):
        return {"random": self.random.getstate(), "at": self.at, "order": self.order}

    def load_state_dict(self, state):
        version, words, gauss = state["random"]
        self.random.setstate((version, tuple(words), gauss))
        self.at, self.order = state["at"], state["order"]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sampler_with_a_state_is_resumed_through_it(workers):
    def make():
        context = "fork" if workers else None
        return DataLoader(
            Augmented(), 3, sampler=Shuffled(), num_workers=workers, multiprocessing_context=context
        )

    feed = as_feed(loader := make(), 7)
    assert isinstance(feed, TorchFeed)
    before = loader.sampler.state_dict()
    states, batches = [], []
    while feed.position.epoch < 3:
        states.append(json.loads(json.dumps(feed.state_dict())))
        batches.append(plain(feed.fetch()))
        feed.advance()
    feed.close()
    assert loader.sampler.state_dict() == before
    own_loader = DataLoader(Calm(), 3, sampler=Shuffled())
    own = [targets.tolist() for _ in range(3) for _, targets in own_loader]
    assert [batch[4] for batch in batches] == own
    for place, state in enumerate(states if not workers else states[1::4]):
        other = as_feed(make(), 0)
        other.load_state_dict(state)
        assert seen(other, 3) == batches[place if not workers else 1 + 4 * place :]
    feed.seek(epoch=2, batch=1)
    assert plain(feed.fetch()) == batches[9]
    feed.seek(epoch=0)
    assert plain(feed.fetch()) == batches[0]
    feed.close()
    with pytest.raises(ValueError, match="the states of 0 samplers, and 1"):
        feed.load_state_dict({name: part for name, part in states[1].items() if name != "samplers"})


def test_an_endless_sampler_is_refused(monkeypatch):
    monkeypatch.setattr("deeptrain.integrations.orders.MOST_ROWS", 100)

    class Endless(Sampler):
        def __iter__(self):
            while True:
                yield 0

    class Batches(Sampler):
        def __iter__(self):
            while True:
                yield [0, 1]

    for loader in (DataLoader([1], sampler=Endless()), DataLoader([1, 2], batch_sampler=Batches())):
        with pytest.raises(ValueError, match=r"has no length and gave more than [12]000 rows"):
            as_feed(loader, 0)
