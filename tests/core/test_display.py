"""What a run prints: a live line on a terminal, plain lines elsewhere, nothing when asked."""

import io

import pytest

import deeptrain as dt
from tests.support import recipes


class Terminal(io.StringIO):
    def isatty(self):
        return True


def printed(stream, verbosity=1, **more):
    recipes.trainer(verbosity=dt.Display(verbosity, stream=stream, **more)).fit()
    return stream.getvalue()


def test_nothing():
    assert printed(io.StringIO(), 0) == ""
    assert printed(Terminal(), 0) == ""


def test_epochs_and_validations_as_plain_lines():
    lines = printed(io.StringIO()).splitlines()
    assert [line.split("  ")[:3] for line in lines[:4]] == [
        ["epoch 1/2", "batch 7/8", "validation"],
        ["epoch 1/2", "batch 8/8", lines[1].split("  ")[2]],
        ["epoch 2/2", "batch 6/8", "validation"],
        ["epoch 2/2", "batch 8/8", lines[3].split("  ")[2]],
    ]
    assert lines[-1].startswith("done: 2 epochs, 16 iterations")


def test_each_batch_with_its_sets_and_the_epochs_mean():
    lines = printed(io.StringIO(), 2, metrics={"accuracy": "acc"}, digits=2).splitlines()
    batches = [line for line in lines if "acc" in line and "validation" not in line]
    assert len(batches) == 16
    assert all("0[" in line and "(mean " in line for line in batches)
    assert not [line for line in lines if "loss" in line]


def test_a_live_line_on_a_terminal_is_redrawn_and_cleared():
    text = printed(Terminal())
    assert "\r" in text
    assert text.endswith("\n")


def test_a_stream_that_is_gone_does_not_harm_the_run():
    class Broken(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    t = recipes.trainer(verbosity=dt.Display(2, stream=Broken()))
    t.fit()
    assert t.progress.phase is dt.Phase.DONE


def test_verbosity_is_checked():
    with pytest.raises(ValueError, match="verbosity=3"):
        dt.Display(3)
