"""SIGKILLs and commands of another process at random moments of one run: the same bits as with the same changes and no kill."""

import collections
import os
import random
import signal
import time

import pytest

import deeptrain as dt
from deeptrain.control.journal import read_journal
from deeptrain.run.asking import NobodyTrainsError, UnansweredError, ask
from tests.support import asking, fresh
from tests.support.asking import DECAY, interventions

EVERY = 3  # batches between two checkpoints, which are written in the background


def command(chosen):
    """Something to ask for: mostly what changes the training, now and then what cannot be done."""
    kinds = [
        lambda: {"verb": "set", "path": DECAY, "value": chosen.random()},
        lambda: {
            "verb": "set",
            "path": r"model.head\.bias",
            "value": [chosen.uniform(-1, 1) for _ in range(3)],
        },
        lambda: {"verb": "set", "path": "callbacks.Jitter.drawn", "value": [chosen.random()]},
        lambda: {"verb": "validate"},
        lambda: {"verb": "checkpoint"},
        lambda: {"verb": "set", "path": DECAY, "value": "nothing"},
        lambda: {"verb": "pause"},
    ]
    return chosen.choices(kinds, weights=[4, 4, 4, 3, 1, 1, 1])[0]()


def ask_for_ever(run, seed, enough):
    """Ask at random moments until there is enough; how often it was answered, and how."""
    chosen, counts = random.Random(seed), collections.Counter()
    while not enough.poll(chosen.expovariate(30)):
        content = command(chosen)
        try:
            counts[content["verb"], "applied" if ask(run, content).applied else "rejected"] += 1
            if content["verb"] == "pause":
                enough.poll(chosen.uniform(0, 0.1))
                ask(run, {"verb": "unpause"})
        except (NobodyTrainsError, UnansweredError, OSError) as error:
            counts[content["verb"], type(error).__name__] += 1
    return dict(counts)


def live(runs, chosen):
    """Start the run, and kill it at a random moment: after some iterations, or after some time, in a start or a pause."""
    ours, theirs = fresh.context.Pipe()
    process, result = fresh.start(asking.train, runs, theirs, every=EVERY, always=True)
    theirs.close()
    try:
        for _ in range(chosen.choice([0, 1, 2, 3, 5, 8, 13])):
            ours.recv()
    except EOFError:
        raise AssertionError(result.recv()) from None
    chosen_wait(ours, chosen)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    for end in (ours, result):
        end.close()


def chosen_wait(pipe, chosen):
    """Wait for a random time below an iteration's, or for a longer one in which no iteration may come."""
    until = time.monotonic() + chosen.choice([0, chosen.uniform(0, 0.004), chosen.uniform(0, 0.3)])
    while time.monotonic() < until:
        if pipe.poll(max(0.0, until - time.monotonic())):
            pipe.recv()


def torture(place, kills, seed):
    """Kill a run so many times while another process steers it, let it come to its end, and compare."""
    began, chosen, run = time.monotonic(), random.Random(seed), place / "M1__r"
    first = asking.Training(place, every=EVERY)  # so that there is a run to be steered
    enough, theirs = fresh.context.Pipe()
    asker, answers = fresh.start(ask_for_ever, run, seed, theirs)
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.join()
    for _ in range(kills - 1):
        live(place, chosen)
    last = asking.Training(place, every=EVERY)
    enough.send("enough")
    kind, counts = answers.recv()
    asker.join()
    assert kind == "ok", counts
    assert ask(run, {"verb": "stop"}).applied
    found = last.result()
    seconds = time.monotonic() - began
    made = interventions(run)
    assert fresh.run(asking.left_alone, place / "alone", made, every=EVERY) == found
    check_answers(counts, made)
    return report(run, counts, made, (kills, seconds), found[0])


def check_answers(counts, made):
    """Each change that was answered is in the journal once; more are only where the answer did not come."""
    assert len({entry["id"] for entry in made}) == len(made)
    for verb, name in (("set", "set"), ("validate", "validation")):
        count = sum(entry["verb"] == name for entry in made)
        applied = counts.get((verb, "applied"), 0)
        lost = counts.get((verb, "UnansweredError"), 0)
        assert applied <= count <= applied + lost, (verb, counts, count)


def report(run, counts, made, took, digest):
    kills, seconds = took
    entries = collections.Counter(entry["kind"] for entry in read_journal(run / "journal.jsonl"))
    verdicts = [entry for entry in read_journal(run / "journal.jsonl") if entry["kind"] == "replay"]
    assert all(entry["identical"] for entry in verdicts)
    by_verb = collections.Counter(entry["verb"] for entry in made)
    answered = collections.Counter()
    for (_, outcome), count in counts.items():
        answered[outcome] += count
    return (
        f"{kills} SIGKILLs in {seconds:.0f} s over one run of {dt.open_run(run).info['iterations']} iterations, "
        f"{entries['start']} starts, {entries['checkpoint']} checkpoints noted, {entries['validation']} validations noted; "
        f"{len(made)} interventions {dict(by_verb)}, {entries['again']} times made again after a crash; commands answered "
        f"{dict(answered)}; {len(verdicts)} replays came to their verdict, all identical; left alone with the same "
        f"interventions the run has the same digest {digest}"
    )


def test_ten_kills_with_commands(tmp_path):
    assert "same digest" in torture(tmp_path, 10, seed=1)


@pytest.mark.torture
def test_a_thousand_kills_with_commands(tmp_path):
    kills = int(os.environ.get("DEEPTRAIN_TORTURE_KILLS", "1000"))
    print(f"\n{torture(tmp_path, kills, seed=int(os.environ.get('DEEPTRAIN_TORTURE_SEED', '1')))}")
