"""A run that was killed computes its last iterations again, and holds them against its journal."""

import copy
import io
import json
import math
import os
import signal
import warnings

import numpy as np
import pytest
import torch
from tests.support import fresh, recipes
from torch import nn

import deeptrain as dt
from deeptrain.control import present
from deeptrain.control.journal import Journal, last_iteration, read_journal
from deeptrain.run.replay import Replay, ReplayMismatch
from deeptrain.run.standing import Standing

ITERATIONS = 16  # of the recipe's run
SELDOM = dt.Checkpoints(every=dt.Every(epochs=50))
STOPPING = dt.Checkpoints(every=dt.Every(epochs=50), on_replay_mismatch="stop")


class Kill(dt.Callback):
    """Kills the process after an iteration, its lines all written; or interrupts it there."""

    def __init__(self, after=None, pause=None):
        self._after, self._pause = after, pause

    def on_train_iter_end(self, trainer, event):
        if event.iteration == self._pause:
            trainer.pause("that is enough")
        if event.iteration == self._after:
            trainer.run.journalling.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)


class Told(dt.Callback):
    """Which iterations were told of as a replay."""

    def __init__(self):
        self._replaying = []

    def on_train_iter_end(self, trainer, event):
        if event.replaying:
            self._replaying.append(event.iteration)


def whole(runs, *, after=None, pause=None, checkpoints=SELDOM, told=None, **more):
    """The recipe with everything in it."""
    return recipes.trainer(
        runs=runs,
        name="r",
        callbacks=[recipes.Chain(), recipes.Jitter(), told or Told(), Kill(after, pause)],
        checkpoints=checkpoints,
        **more,
    )


def noisy(runs, *, after=None, pause=None, checkpoints=SELDOM, seed=0, scale=0.0, bad=(), **more):
    """A function step that draws from a generator which nobody registered; NaN where it is told to."""
    torch.manual_seed(0)
    model, generator = nn.Linear(6, 3), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = recipes.data()

    def step(batch):
        noise = scale * torch.randn(batch.inputs.shape, generator=generator)
        loss = nn.functional.cross_entropy(model(batch.inputs + noise), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss.item(), "other": math.nan if batch.index in bad else -0.0}

    train = dt.BatchLoader(dt.Arrays(x, y), batch_size=8, shuffle="global", seed=5)
    return dt.Trainer(
        step,
        train,
        epochs=2,
        runs=runs,
        name="r",
        callbacks=[Kill(after, pause)],
        checkpoints=checkpoints,
        **more,
    )


def life(make, runs, **more):
    """One process's work on a run; gives what it printed and the state's digest."""
    told, printed = io.StringIO(), Told()
    if make is whole:
        more["told"] = printed
    trainer = make(runs, verbosity=dt.Display(1, stream=told), **more)
    trainer.fit()
    trainer.close()
    return told.getvalue(), dt.digest(trainer.state_dict()), printed._replaying


def killed(make, runs, after, **more):
    """A process that is killed after an iteration."""
    process, _ = fresh.start(life, make, runs, after=after, **more)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def journal_of(runs):
    return next(runs.glob("M*")) / "journal.jsonl"


def entries(runs, kind):
    return [entry for entry in read_journal(journal_of(runs)) if entry["kind"] == kind]


def news(runs):
    return [entry["at"] for entry in entries(runs, "iteration") if "replayed" not in entry]


def repeated(runs):
    return [entry["at"] for entry in entries(runs, "iteration") if "replayed" in entry]


def assert_numbered(runs):
    numbers = [entry["seq"] for entry in read_journal(journal_of(runs))]
    assert numbers == list(range(len(numbers)))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the fresh processes have
    dt.reproducible(seed=0)  # likewise
    yield
    torch.set_num_threads(before)


def test_a_killed_run_is_found_identical(tmp_path):
    killed(whole, tmp_path / "a", 12)
    assert last_iteration(journal_of(tmp_path / "a")) == 12
    said, digest, told = life(whole, tmp_path / "a")
    assert "replayed 12 iterations, all identical\n" in said
    assert told == list(range(1, 13))
    assert digest == life(whole, tmp_path / "b")[1]
    (verdict,) = entries(tmp_path / "a", "replay")
    verdict.pop("seq")
    assert verdict == {"branch": 0, "kind": "replay", "at": 12, "compared": 12, "identical": True}
    assert news(tmp_path / "a") == list(range(1, ITERATIONS + 1))
    assert repeated(tmp_path / "a") == list(range(1, 13))
    assert last_iteration(journal_of(tmp_path / "a")) == ITERATIONS
    assert_numbered(tmp_path / "a")


def test_a_run_that_nobody_killed_has_no_verdict(tmp_path):
    said, _, told = life(whole, tmp_path)
    assert "replayed" not in said
    assert not told
    assert entries(tmp_path, "replay") == []
    assert repeated(tmp_path) == []


def test_only_what_no_checkpoint_holds_is_computed_again(tmp_path):
    often = dt.Checkpoints(every=dt.Every(batches=5))
    killed(whole, tmp_path, 12, checkpoints=often)
    said, _, told = life(whole, tmp_path, checkpoints=often)
    began = entries(tmp_path, "start")[-1]["at"]
    assert began in {5, 10}  # the second one may not have been on the disk yet
    assert f"replayed {12 - began} iterations, all identical" in said
    assert told == list(range(began + 1, 13))


def test_a_generator_that_is_not_registered_is_found_at_its_first_iteration(tmp_path):
    killed(noisy, tmp_path, 6, scale=0.1)
    first = entries(tmp_path, "iteration")[0]["figures"]["loss"]
    with pytest.warns(
        UserWarning, match="the replay is not identical, at once: iteration 1: loss was"
    ) as caught:
        said, _, _ = life(noisy, tmp_path, scale=0.1, seed=1)
    assert len(caught) == 1
    (verdict,) = entries(tmp_path, "replay")
    assert (verdict["at"], verdict["cut"], verdict["compared"], verdict["identical"]) == (1, 1, 1, False)
    assert verdict["difference"]["what"] == "loss"
    assert verdict["difference"]["recorded"] == first
    present = verdict["difference"]["present"]
    assert present != first
    for text in (said, str(caught[0].message)):
        assert f"loss was {first!r} before, and now {present!r}" in text
        assert "the environment is the same" in text
    again = [entry["figures"]["loss"] for entry in entries(tmp_path, "iteration") if entry["at"] == 1]
    assert again == [first, present]
    assert repeated(tmp_path) == []
    assert last_iteration(journal_of(tmp_path)) == ITERATIONS
    assert_numbered(tmp_path)


def test_another_bit_in_the_data_is_found_where_it_is_first_fed(tmp_path):
    files = recipes.write_files(tmp_path / "data")
    killed(whole, tmp_path / "runs", 12, files=files)
    changed = np.load(files / "set3.npy")
    changed[5, 2] = np.nextafter(changed[5, 2], np.inf) + 1
    np.save(files / "set3.npy", changed)
    with pytest.warns(
        UserWarning, match=r"the replay is not identical, (at once|after \d+ iterations? that)"
    ):
        life(whole, tmp_path / "runs", files=files)
    (verdict,) = entries(tmp_path / "runs", "replay")
    row, epoch = (
        7 + 12 + 9 + 5,
        dt.BatchLoader(dt.Files(files), batch_size=8, shuffle="global", seed=5, last="drop"),
    )
    fed = next(batch.index for batch in epoch if row in batch.rows)
    assert verdict["at"] == fed + 1
    assert verdict["cut"] == fed + 1
    assert repeated(tmp_path / "runs") == list(range(1, fed + 1))
    assert verdict["difference"]["what"] == "loss"


def test_after_a_difference_the_new_figures_are_the_ones_to_come_to(tmp_path):
    killed(noisy, tmp_path, 9, scale=0.1)
    process, _ = fresh.start(warned_life, noisy, tmp_path, after=4, scale=0.1, seed=1)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert last_iteration(journal_of(tmp_path)) == 4
    said, _, _ = life(noisy, tmp_path, scale=0.1, seed=1)
    assert "replayed 4 iterations, all identical" in said
    assert news(tmp_path) == [*range(1, 10), *range(1, 5), *range(5, 17)]
    assert_numbered(tmp_path)


def warned_life(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return life(*args, **kwargs)


def test_a_run_that_is_to_stop_stops_whole_and_saves_nothing(tmp_path):
    killed(noisy, tmp_path, 6, scale=0.1)
    checkpoints = sorted((journal_of(tmp_path).parent / "checkpoints").iterdir())
    for _ in range(2):  # the same comparison each time
        with noisy(tmp_path, scale=0.1, seed=1, checkpoints=STOPPING, verbosity=0) as t:
            with pytest.raises(ReplayMismatch, match="iteration 1: loss was") as caught:
                t.fit()
            assert caught.value.verdict.difference.at == 1
            assert t.progress.torn is None
            assert t.progress.train.iterations == 1
        assert sorted((journal_of(tmp_path).parent / "checkpoints").iterdir()) == checkpoints
        assert last_iteration(journal_of(tmp_path)) == 6
    said, _, _ = life(noisy, tmp_path, scale=0.1, seed=0, checkpoints=STOPPING)
    assert "replayed 6 iterations, all identical" in said
    assert [entry["identical"] for entry in entries(tmp_path, "replay")] == [False, False, True]


def test_a_run_that_was_stopped_goes_on_where_it_is_told_to(tmp_path):
    killed(noisy, tmp_path, 6, scale=0.1)
    t = noisy(tmp_path, scale=0.1, seed=1, checkpoints=STOPPING, verbosity=0)
    with pytest.raises(ReplayMismatch):
        t.fit()
    t.step(2)
    assert last_iteration(journal_of(tmp_path)) == 3
    t.close()
    assert news(tmp_path) == [*range(1, 7), 1, 2, 3]
    stopped, accepted = entries(tmp_path, "replay")
    assert (stopped["stopped"], "cut" in stopped) == (True, False)
    assert (accepted["accepted"], accepted["cut"]) == (True, 1)
    said, _, _ = life(noisy, tmp_path, scale=0.1, seed=7)
    assert "replay" not in said  # what was trained was saved by `close`


def test_a_torn_last_line_is_not_compared(tmp_path):
    killed(whole, tmp_path, 12)
    path = journal_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])
    said, _, _ = life(whole, tmp_path)
    assert "replayed 11 iterations, all identical" in said
    assert news(tmp_path) == list(range(1, ITERATIONS + 1))
    assert_numbered(tmp_path)


def test_two_crashes_the_second_later(tmp_path):
    killed(whole, tmp_path, 5)
    killed(whole, tmp_path, 9)
    said, _, _ = life(whole, tmp_path)
    assert "replayed 9 iterations, all identical" in said
    assert news(tmp_path) == list(range(1, ITERATIONS + 1))
    assert repeated(tmp_path) == [*range(1, 6), *range(1, 10)]
    assert_numbered(tmp_path)


def test_two_crashes_the_second_in_the_middle_of_the_replay(tmp_path):
    killed(whole, tmp_path, 9)
    killed(whole, tmp_path, 4)
    assert last_iteration(journal_of(tmp_path)) == 9
    said, digest, told = life(whole, tmp_path)
    assert "replayed 9 iterations, all identical" in said
    assert told == list(range(1, 10))
    assert news(tmp_path) == list(range(1, ITERATIONS + 1))
    assert digest == life(whole, tmp_path / "other")[1]


def test_an_interrupt_in_the_middle_of_a_replay_says_how_far_it_came(tmp_path):
    killed(whole, tmp_path, 9)
    printed = io.StringIO()
    t = whole(tmp_path, pause=4, verbosity=dt.Display(1, stream=printed))
    with pytest.raises(dt.Interrupted):
        t.fit()
    assert "replayed 4 of 9 iterations, all identical so far; the rest is compared" in printed.getvalue()
    t.close()
    (partial,) = entries(tmp_path, "replay")
    assert (partial["at"], partial["compared"], partial["left"]) == (4, 4, 5)
    assert last_iteration(journal_of(tmp_path)) == 9
    said, digest, told = life(whole, tmp_path)
    assert "replayed 5 iterations, all identical\n" in said
    assert told == list(range(5, 10))
    assert digest == life(whole, tmp_path / "other")[1]


def test_an_interrupted_replay_goes_on_in_the_same_process(tmp_path):
    killed(whole, tmp_path, 9)
    printed = io.StringIO()
    t = whole(tmp_path, pause=4, verbosity=dt.Display(1, stream=printed))
    with pytest.raises(dt.Interrupted):
        t.fit()
    t.step(2)  # no exception ends this, and it is not said again
    assert printed.getvalue().count("replayed") == 1
    t.fit()
    assert "replayed 9 iterations, all identical\n" in printed.getvalue()
    t.close()


def test_a_difference_behind_an_interrupted_replay_is_found(tmp_path):
    killed(noisy, tmp_path, 12, bad=(1, 2))
    with noisy(tmp_path, pause=4, bad=(1, 2), verbosity=0) as t, pytest.raises(dt.Interrupted):
        t.fit()
    with pytest.warns(UserWarning, match="after 4 iterations that came out the same: iteration 9: other"):
        life(noisy, tmp_path, bad=(0,))


def test_nan_is_equal_to_nan_and_minus_zero_is_not_zero(tmp_path):
    killed(noisy, tmp_path, 6, bad=(1, 3))
    path = journal_of(tmp_path)
    said, _, _ = life(noisy, tmp_path / "copy", bad=(1, 3), after=None)
    assert "replayed" not in said
    replay = Replay(path, after=0)
    lines = {entry["at"]: entry["figures"] for entry in entries(tmp_path, "iteration")}
    assert math.isnan(lines[2]["other"])
    found = [replay.compare(at, fed(at - 1), lines[at]) for at in range(1, 6)]
    assert found == [None] * 5
    verdict = replay.compare(6, fed(5), {**lines[6], "other": 0.0})
    assert (verdict.difference.what, verdict.difference.recorded) == ("other", -0.0)


def fed(index, epoch=0, iteration=0):
    return dt.Batch(None, None, epoch, index, np.arange(1), iteration=iteration)


def journal(path, *lines):
    """A journal of iterations, given by their numbers, and of entries."""
    out = Journal(path)
    for line in lines:
        if isinstance(line, int):
            out.iteration(line, fed(line - 1), {"loss": line / 3})
        else:
            out.write(**line)
    out.close()
    return path


def replayed(at):
    return {
        "kind": "iteration",
        "at": at,
        "batch": [0, at - 1],
        "figures": {"loss": at / 3},
        "replayed": True,
    }


LOAD, CUT, START = (
    {"kind": "load", "at": 3},
    {"kind": "replay", "at": 4, "cut": 4},
    {"kind": "start", "at": 2},
)

HISTORIES = {
    "plain": ([1, 2, 3, 4], 2, [3, 4], 4),
    "nothing later": ([1, 2], 2, [], 2),
    "empty": ([], 2, [], 0),
    "all": ([1, 2, 3], 0, [1, 2, 3], 3),
    "a load cuts": ([1, 2, 3, 4, 5, LOAD, 4], 2, [4], 4),
    "a load and nothing after it": ([1, 2, 3, 4, 5, LOAD], 2, [], 2),
    "half replayed": ([1, 2, 3, 4, 5, START, replayed(3), replayed(4)], 2, [3, 4, 5], 5),
    "half replayed and saved": ([1, 2, 3, 4, 5, START, replayed(3), replayed(4)], 4, [5], 5),
    "replayed and gone on": ([1, 2, 3, START, replayed(3), 4, 5], 2, [3, 4, 5], 5),
    "a difference cuts": ([1, 2, 3, 4, 5, 6, START, replayed(3), CUT, 4, 5], 2, [3, 4, 5], 5),
    "a difference and nothing after it": ([1, 2, 3, 4, 5, 6, START, replayed(3), CUT], 2, [3], 3),
    "news without a word": ([1, 2, 3, 4, 5, 6, START, 4, 5], 2, [3, 4, 5], 5),
    "cut twice": ([1, 2, 3, 4, 5, 6, CUT, 4, 5, {"kind": "replay", "at": 3, "cut": 3}, 3], 1, [2, 3], 3),
    "lines that were lost": ([1, 2, 3, START, 6, 7], 1, [2, 3, 6, 7], 7),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_the_present_line_of_history_is_found_from_the_end(tmp_path, name, monkeypatch):
    lines, after, expected, until = HISTORIES[name]
    path = journal(tmp_path / "journal.jsonl", *lines)
    monkeypatch.setattr(present, "BLOCK", 100)
    replay = Replay(path, after=after)
    assert replay.until == until
    found = []
    while not replay.done:
        found.append(replay._next[1]["at"])
        verdict = replay.compare(found[-1], fed(found[-1] - 1), {"loss": found[-1] / 3})
        assert (verdict is not None) == (len(found) == len(expected))
    assert found == expected
    if expected:
        assert str(verdict) == f"replayed {len(expected)} iteration{'s' * (len(expected) > 1)}, all identical"


def test_iterations_whose_lines_were_lost_are_counted(tmp_path):
    path = journal(tmp_path / "journal.jsonl", 1, 2, START, 5)
    replay = Replay(path, after=1)
    verdicts = [replay.compare(at, fed(at - 1), {"loss": at / 3}) for at in (2, 3, 4, 5)]
    assert verdicts[:3] == [None] * 3
    assert str(verdicts[3]) == "replayed 2 iterations, all identical (2 more had no line in the journal)"


@pytest.mark.parametrize(
    ("batch", "figures", "what"),
    [
        (fed(0), {"loss": 1 / 3}, None),
        (fed(1), {"loss": 1 / 3}, "batch"),
        (fed(0, epoch=1), {"loss": 1 / 3}, "batch"),
        (fed(0, iteration=1), {"loss": 1 / 3}, "batch"),
        (fed(0), {"loss": math.nextafter(1 / 3, 1)}, "loss"),
        (fed(0), {"loss": torch.tensor(1 / 3, dtype=torch.float64)}, None),
        (fed(0), {}, "loss"),
        (fed(0), {"loss": 1 / 3, "more": 0.5}, "more"),
    ],
)
def test_place_and_figures_are_compared_exactly(tmp_path, batch, figures, what):
    replay = Replay(journal(tmp_path / "journal.jsonl", 1), after=0)
    standing = Standing()
    standing.environment = {"threads": 2}
    replay.prepare({"threads": 1}, standing)
    verdict = replay.compare(1, batch, figures)
    assert (None if verdict.identical else verdict.difference.what) == what
    json.dumps(verdict.entry())
    assert ("threads: 1 -> 2" in str(verdict)) == (what is not None)


def test_what_a_start_reads_does_not_grow_with_the_run(tmp_path, monkeypatch):
    path = journal(tmp_path / "journal.jsonl", *range(1, 3001))
    parsed = []
    real = present.read_backwards
    monkeypatch.setattr(
        present,
        "read_backwards",
        lambda path: (parsed.append(entry) or (place, entry) for place, entry in real(path)),
    )
    replay = Replay(path, after=2990)
    assert replay.until == 3000
    assert len(parsed) == 11
    assert len(replay._tail.spans) == 1


@pytest.mark.parametrize("steps", [0, 3])
def test_a_load_ends_a_replay(tmp_path, steps):
    killed(whole, tmp_path, 9)
    printed = io.StringIO()
    t = whole(tmp_path, verbosity=dt.Display(1, stream=printed))
    t.step(steps)
    t.load(journal_of(tmp_path).parent)
    assert t.progress.train.iterations == 0
    t.fit()
    t.close()
    assert "all identical" not in printed.getvalue()
    assert entries(tmp_path, "replay") == []
    assert repeated(tmp_path) == list(range(1, steps + 1))
    assert news(tmp_path) == [*range(1, 10), *range(1, 17)]


def test_a_state_that_was_loaded_past_the_trainers_load_ends_it_too(tmp_path):
    killed(whole, tmp_path, 9)
    t = whole(tmp_path)
    t.step(1)
    state = copy.deepcopy(t.state_dict())
    t.step(2)
    t.load_state_dict(state)
    t.fit()
    t.close()
    assert entries(tmp_path, "replay") == []
    assert repeated(tmp_path) == [1, 2, 3]
    assert news(tmp_path) == [*range(1, 10), *range(2, 17)]


def test_taking_the_scripts_values_is_no_replay(tmp_path):
    killed(whole, tmp_path, 9)
    t = whole(tmp_path, resume="take", config={"lr": 2})
    t.fit()
    t.close()
    assert entries(tmp_path, "replay") == []
    assert news(tmp_path) == [*range(1, 10), *range(1, 17)]


HOSTILE = {
    "deep": (b'{"kind": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not a line"),
    "no object": (b"[1, 2]", "expected an object"),
    "count": (b'{"kind": "iteration", "at": "nine", "batch": [], "figures": {}}', "'at' is 'nine'"),
    "bool": (b'{"kind": "iteration", "at": true}', "'at' is True"),
    "number": (b'{"seq": 1.5, "kind": "start"}', "'seq' is 1.5"),
    "bytes": (b"\xff\x00\xfe", "not a line"),
    "huge": (b" " * (1 << 24), "bytes or more"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_is_refused_by_name(tmp_path, name):
    path = tmp_path / "journal.jsonl"
    line, words = HOSTILE[name]
    path.write_bytes(b'{"seq": 0, "kind": "start", "at": 0}\n' + line + b"\n")
    for read in (
        Journal,
        last_iteration,
        lambda path: list(read_journal(path)),
        lambda path: Replay(path, after=0),
    ):
        with pytest.raises(ValueError, match=rf"journal\.jsonl.*{words}"):
            read(path)


def test_a_line_with_other_things_in_it_is_a_difference_and_no_error(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"seq": 0, "kind": "iteration", "at": 1, "batch": [0, 0], "figures": [[]]}\n')
    verdict = Replay(path, after=0).compare(1, fed(0), {"loss": 0.5})
    assert verdict.difference.what == "loss"
    assert "'(absent)'" in str(verdict)


# ---------------------------------------------------------------- the environment of the process that died


def threaded(threads, *args, **more):
    torch.set_num_threads(threads)
    return warned_life(*args, **more)


@pytest.mark.parametrize(
    ("bad", "at", "words"), [(3, 4, "threads: 2 -> 1"), (0, 1, "the environment is the same")]
)
def test_the_environment_is_held_against_that_of_the_process_that_wrote_the_line(tmp_path, bad, at, words):
    killed(noisy, tmp_path, 3)  # one thread; the checkpoint is its too
    process, _ = fresh.start(threaded, 2, noisy, tmp_path, after=6)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (news(tmp_path), repeated(tmp_path)) == ([1, 2, 3, 4, 5, 6], [1, 2, 3])
    with pytest.warns(UserWarning, match=f"iteration {at}: other was") as caught:
        life(noisy, tmp_path, bad=(bad,))
    assert words in str(caught[0].message)
    (verdict,) = (entry for entry in entries(tmp_path, "replay") if not entry["identical"])
    assert len(verdict["environment"]) == ("threads" in words)


def late_threads(runs):
    with noisy(runs, after=6, verbosity=0) as t:
        torch.set_num_threads(2)
        t.fit()


def test_threads_that_were_set_before_training_are_the_ones_that_count(tmp_path):
    process, _ = fresh.start(late_threads, tmp_path)
    process.join()
    with pytest.warns(UserWarning, match=r"threads: 2 -> 1") as caught:
        life(noisy, tmp_path, bad=(3,))
    assert "threads: 1 -> 2" not in str(caught[0].message)


# ---------------------------------------------------------------- validations


class KillAfterValidation(dt.Callback):
    def __init__(self, after):
        self._after = after

    def on_val_end(self, trainer, event):
        if event.iteration == self._after:
            trainer.run.journalling.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)


def judged(runs, *, after=None, judged_after=None, more=0.0, checkpoints=SELDOM, **rest):
    """A run whose validation finds figures that are `more` than they should be from a place on."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    step = dt.SupervisedStep(
        model,
        loss=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), 0.1),
        device="cpu",
    )
    metrics = {"accuracy": lambda p, t: float(recipes.accuracy(p, t)) + more}
    val = dt.BatchLoader(dt.Arrays(*recipes.data(20, seed=2)), batch_size=7)
    return dt.Trainer(
        step,
        dt.BatchLoader(dt.Arrays(*recipes.data()), batch_size=8, shuffle="global", seed=5),
        validation=dt.Validation(val, metrics=metrics, every=dt.Every(batches=3)),
        epochs=2,
        runs=runs,
        name="r",
        callbacks=[Kill(after), KillAfterValidation(judged_after)],
        checkpoints=checkpoints,
        **rest,
    )


def validations(runs):
    return [(entry["at"], entry["pass"], "replayed" in entry) for entry in entries(runs, "validation")]


ALL = [(at, at // 3) for at in (3, 6, 9, 12, 15)]


def test_validations_that_come_out_the_same_are_repetitions(tmp_path):
    killed(judged, tmp_path, 8)
    assert validations(tmp_path) == [(3, 1, False), (6, 2, False)]
    said, _, _ = life(judged, tmp_path)
    assert "replayed 8 iterations, all identical" in said
    assert "not identical" not in said
    assert validations(tmp_path)[2:4] == [(3, 1, True), (6, 2, True)]
    assert [line[:2] for line in validations(tmp_path) if not line[2]] == ALL
    assert_numbered(tmp_path)


def test_a_validation_behind_the_last_iteration_is_compared_too(tmp_path):
    killed(judged, tmp_path, None, judged_after=6)
    assert validations(tmp_path)[-1] == (6, 2, False)
    assert last_iteration(journal_of(tmp_path)) == 6
    with pytest.warns(UserWarning, match="the validation after iteration") as caught:
        life(judged, tmp_path, more=1e-9)
    assert len(caught) == 2
    assert "after iteration 6:" in str(caught[1].message)
    assert len(entries(tmp_path, "replay")) == 3


def test_a_validation_that_differs_is_said_and_the_iterations_are_compared_on(tmp_path):
    killed(judged, tmp_path, 5)
    before = entries(tmp_path, "validation")[0]["figures"]["accuracy"]
    with pytest.warns(
        UserWarning, match="not identical, after 3 iterations that came out the same: the valid"
    ) as caught:
        said, _, _ = life(judged, tmp_path, more=1e-9)
    assert len(caught) == 1
    for text in (said, str(caught[0].message)):
        assert f"after iteration 3: accuracy was {before!r} before, and now {before + 1e-9!r}" in text
        assert "the environment is the same" in text
    assert "replayed 5 iterations, all identical" in said
    differs, identical = entries(tmp_path, "replay")
    assert (differs["at"], differs["identical"], "cut" in differs) == (3, False, False)
    assert (differs["difference"]["what"], differs["difference"]["validation"]) == ("accuracy", True)
    assert identical["identical"]
    assert repeated(tmp_path) == [1, 2, 3, 4, 5]
    assert validations(tmp_path)[:2] == [(3, 1, False), (3, 1, False)]
    assert_numbered(tmp_path)


def test_what_was_found_anew_is_what_the_next_replay_compares_with(tmp_path):
    killed(judged, tmp_path, 5)
    process, _ = fresh.start(warned_life, judged, tmp_path, after=8, more=1e-9)
    process.join()
    said, _, _ = life(judged, tmp_path, more=1e-9)  # a warning would be an error
    assert "replayed 8 iterations, all identical" in said


def test_a_run_that_is_to_stop_stops_at_a_validation_whole_and_saves_nothing(tmp_path):
    killed(judged, tmp_path, 5)
    checkpoints = sorted((journal_of(tmp_path).parent / "checkpoints").iterdir())
    for _ in range(2):  # the same comparison each time
        with judged(tmp_path, more=1e-9, checkpoints=STOPPING, verbosity=0) as t:
            with pytest.raises(ReplayMismatch, match="the validation after iteration 3: accuracy was"):
                t.fit()
            assert (t.progress.torn, t.progress.validation.passes) == (None, 1)
        assert sorted((journal_of(tmp_path).parent / "checkpoints").iterdir()) == checkpoints
    assert validations(tmp_path) == [(3, 1, False)]
    with judged(tmp_path, more=1e-9, checkpoints=STOPPING, verbosity=0) as t:
        with pytest.raises(ReplayMismatch):
            t.fit()
        t.fit()
    assert validations(tmp_path)[:2] == [(3, 1, False), (3, 1, False)]
    stopped = [entry for entry in entries(tmp_path, "replay") if entry.get("stopped")]
    assert len(stopped) == 3
    assert [entry["at"] for entry in entries(tmp_path, "replay") if entry.get("accepted")] == [3]
    assert news(tmp_path) == list(range(1, ITERATIONS + 1))
    assert_numbered(tmp_path)


def test_validations_of_history_that_was_left_are_not_compared(tmp_path):
    killed(judged, tmp_path, 8)
    t = judged(tmp_path, more=1e-9, verbosity=0)
    t.load(journal_of(tmp_path).parent)
    t.fit()
    t.close()
    assert entries(tmp_path, "replay") == []
    assert all(not again for *_, again in validations(tmp_path))
