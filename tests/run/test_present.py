"""The present line of history, read from the end, is what a reader from the beginning would keep."""

import random

import numpy as np
import pytest

import deeptrain as dt
from deeptrain.control import present
from deeptrain.control.journal import Journal, is_news, read_journal
from deeptrain.control.present import present_iterations, tail
from deeptrain.introspect.parting import parting


def kept(path):
    """What stays of a journal's iterations, by the rules as they are written down, with all of it in memory."""
    lines = []
    for entry in read_journal(path):
        if entry["kind"] == "load":
            lines = []
        bound = entry["at"] if is_news(entry) else entry.get("cut", float("inf"))
        lines = [line for line in lines if line["at"] < bound]
        if is_news(entry):
            lines.append(entry)
    return lines


def write(path, entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    journal = Journal(path)
    for entry in entries:
        if isinstance(entry, int):
            batch = dt.Batch(None, None, 0, entry - 1, np.arange(1))
            journal.iteration(entry, batch, {"loss": entry / 3})
        else:
            journal.write(**entry)
    journal.close()
    return path


def history(chance):
    """A random history: training, crashes with lines computed again, cuts of every kind, loads."""
    entries, at = [], 0
    for _ in range(chance.randrange(3, 9)):
        for _ in range(chance.randrange(6)):
            at += 1
            entries.append(at)
        back = chance.randrange(at + 1)
        what = chance.choice(["crash", "cut", "branch", "silent", "load", "again", "note"])
        if what == "cut":
            entries.append({"kind": "replay", "at": back + 1, "cut": back + 1})
        elif what == "branch":
            entries.append({"kind": "branch", "at": back, "cut": back + 1, "branch": 2})
        elif what == "load":
            entries.append({"kind": "load", "at": back})
        elif what == "again":
            entries += [
                {"kind": "iteration", "at": n, "batch": [0, n - 1], "figures": {}, "replayed": True}
                for n in (back, at)
            ]
        elif what == "note":
            entries.append({"kind": "checkpoint", "at": at})
        at = at if what in {"again", "note"} else back
    return entries


@pytest.mark.parametrize("seed", range(200))
def test_it_is_read_from_the_end_as_it_would_be_from_the_beginning(tmp_path, monkeypatch, seed):
    path = write(tmp_path / "journal.jsonl", history(random.Random(seed)))
    monkeypatch.setattr(present, "BLOCK", 100)
    found = list(present_iterations(path))
    assert found == kept(path)
    numbers = [entry["at"] for entry in found]
    assert numbers == sorted(set(numbers))


def test_no_journal_has_no_iterations(tmp_path):
    assert list(present_iterations(tmp_path / "journal.jsonl")) == []


def test_of_a_long_journal_one_stretch_is_remembered(tmp_path):
    path = write(tmp_path / "journal.jsonl", list(range(1, 5001)))
    found = tail(path, 0)
    assert (len(found.spans), found.until, len(found.environments)) == (1, 5000, 0)


def changed(line, **more):
    return {"kind": "iteration", "at": line, "batch": [0, line - 1], "figures": {"loss": line / 3}} | more


RUNS = {
    "the same": ([1, 2, 3], [1, 2, 3], None, ""),
    "one goes on": ([1, 2, 3], [1, 2, 3, 4, 5], None, ""),
    "a figure": (
        [1, 2, 3],
        [1, changed(2, figures={"loss": float(np.nextafter(2 / 3, 1))}), 3],
        2,
        f"loss {2 / 3!r} in one, ",
    ),
    "NaN twice": (
        [changed(1, figures={"loss": float("nan")})],
        [changed(1, figures={"loss": float("nan")})],
        None,
        "",
    ),
    "a batch": (
        [1, 2],
        [1, changed(2, batch=[0, 7])],
        2,
        "the batch [0, 1] was fed in one, [0, 7] in the other",
    ),
    "a figure that is missing": ([1], [changed(1, figures={})], 1, "'(absent)' in the other"),
    "one computed twice": (
        [1, 2, 3],
        [1, 2, {"kind": "iteration", "at": 2, "figures": {}, "replayed": True}, 3],
        None,
        "",
    ),
    "one that left a line of history": (
        [1, 2, 3],
        [1, changed(2, batch=[5, 5]), {"kind": "branch", "at": 1, "cut": 2}, 2, 3],
        None,
        "",
    ),
    "lost lines": ([1, 2, 3, 4], [1, 4, 5], None, ""),
    "lost lines, and a difference behind": ([1, 2, 3, 4], [1, changed(4, batch=[9, 9])], 4, "[9, 9]"),
}


@pytest.mark.parametrize("name", RUNS)
def test_where_two_runs_part_is_told_by_their_journals_alone(tmp_path, name):
    one, two, at, words = RUNS[name]
    for place, lines in (("a", one), ("b", two)):
        write(tmp_path / place / "journal.jsonl", lines)
    found = parting(tmp_path / "a", tmp_path / "b")
    assert (None if found is None else found.at) == at
    assert words in str(found)
