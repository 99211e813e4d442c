"""The journal: a line for everything, exact floats, a torn last line cut off."""

import json
import math
import os

import numpy as np
import pytest

from deeptrain import Batch
from deeptrain.control import journal as module
from deeptrain.control.journal import Journal, last_iteration, read_backwards, read_journal


def fed(epoch, index, iteration=0):
    """A batch, or a piece of one."""
    return Batch(None, None, epoch, index, np.arange(1), iteration=iteration)


def test_lines_come_back_exactly(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.write("start", at=0)
    journal.iteration(1, fed(0, 5), {"loss": 0.1 + 0.2, 'odd"name': math.inf})
    journal.iteration(2, fed(0, 6), {"loss": math.nan})
    journal.close()
    start, one, two = read_journal(tmp_path / "journal.jsonl")
    assert start == {"seq": 0, "branch": 0, "kind": "start", "at": 0}
    assert one == {
        "seq": 1,
        "branch": 0,
        "kind": "iteration",
        "at": 1,
        "batch": [0, 5],
        "figures": {"loss": 0.1 + 0.2, 'odd"name': math.inf},
    }
    assert math.isnan(two["figures"]["loss"])
    assert last_iteration(tmp_path / "journal.jsonl") == 2


@pytest.mark.parametrize("whole", [0, 1, 3])
def test_a_torn_last_line_is_cut_off_before_the_next_append(tmp_path, whole):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for i in range(whole):
        journal.iteration(i + 1, fed(0, i), {"loss": 0.5})
    journal.close()
    path.write_bytes(path.read_bytes() + b'{"kind": "iteration", "at"' + b" " * 100_000)
    assert len(list(read_journal(path))) == whole
    journal = Journal(path)
    journal.iteration(9, fed(0, 8), {"loss": 0.5})
    journal.close()
    assert [entry["at"] for entry in read_journal(path)] == [*range(1, whole + 1), 9]


def test_a_garbled_line_is_named(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"kind": "start", "at": 0}\n{"kind"\n{"kind": "start", "at": 0}\n')
    with pytest.raises(ValueError, match=r"journal\.jsonl, line 2"):
        list(read_journal(path))
    assert list(read_journal(tmp_path / "none")) == []


def test_lines_are_numbered_through_restarts_and_failures(tmp_path, monkeypatch):
    path = tmp_path / "journal.jsonl"
    for start in (0, 300, 600):
        journal = Journal(path)
        assert journal.seq == start
        for i in range(299):
            journal.iteration(start + i + 1, fed(0, i), {"loss": i / 7})
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda *_: 0)
            with pytest.raises(OSError, match="could not be written whole"):
                journal.write("checkpoint", at=1)
        journal.close()
    assert [entry["seq"] for entry in read_journal(path)] == list(range(900))


def test_a_journal_of_before_lines_had_numbers_goes_on(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text('{"kind": "iteration", "at": 1, "batch": [0, 0], "figures": {"loss": 0.5}}\n')
    journal = Journal(path)
    journal.iteration(2, fed(0, 1), {"loss": 0.5})
    journal.close()
    assert [entry.get("seq") for entry in read_journal(path)] == [None, 0]
    assert last_iteration(path) == 2


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 16])
@pytest.mark.parametrize("torn", ["", "x", "x" * 150])
def test_lines_are_read_backwards_with_their_places(tmp_path, monkeypatch, block, torn):
    path = tmp_path / "journal.jsonl"
    lines = [json.dumps({"kind": "note", "text": "y" * size}) + "\n" for size in (0, 3, 200, 1, 64, 0)]
    path.write_text("".join(lines) + torn)
    monkeypatch.setattr(module, "TAIL", block)
    places = [sum(map(len, lines[:i])) for i in range(len(lines))]
    expected = list(zip(places, map(json.loads, lines), strict=True))
    assert list(read_backwards(path)) == expected[::-1]
    assert list(read_backwards(tmp_path / "none")) == []
    path.write_text(torn)
    assert list(read_backwards(path)) == []


def test_an_iteration_that_was_computed_again_is_marked(tmp_path):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.iteration(1, fed(0, 0), {"loss": 0.1})
    journal.iteration(2, fed(0, 1, 2), {"loss": 0.1 + 0.2})
    journal.again(1, fed(0, 0), {"loss": 0.1})
    journal.again(2, fed(0, 1, 2), {"loss": 0.1 + 0.2})
    journal.flush()
    assert last_iteration(path) == 2
    one, two, again, too = [{**entry, "seq": 0} for entry in read_journal(path)]
    assert {**one, "replayed": True} == again
    assert {**two, "replayed": True} == too
    journal.write("replay", at=2, cut=2)
    assert last_iteration(path) == 1
    journal.write("load", at=0)
    assert last_iteration(path) == 0
    journal.close()
