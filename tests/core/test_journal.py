"""The journal: a line for everything, exact floats, a torn last line cut off."""

import math

import numpy as np
import pytest

from deeptrain import Batch
from deeptrain.control.journal import Journal, last_iteration, read_journal


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
    assert start == {"kind": "start", "at": 0}
    assert one == {
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
