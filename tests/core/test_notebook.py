"""A notebook, executed with a real kernel: one area for each `fit()`, interrupts, and the bits of a script."""

import os
import re
import subprocess
import sys
import typing

import pytest

import deeptrain as dt
from deeptrain.callbacks import notebook
from deeptrain.callbacks.board import Board, table_of_text
from deeptrain.callbacks.reading import Pace
from tests.support import recipes

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

SETUP = f"""
import os, signal, sys
import torch
sys.path.insert(0, {ROOT!r})
torch.set_num_threads(1)
import deeptrain as dt
from tests.support import recipes

class Stop(dt.Callback):
    def on_train_iter_end(self, trainer, event):
        if event.iteration == 5 and not trainer.history.last("val.loss"):
            trainer.pause("look at this")
        if event.iteration == 13 and Stop.wait:
            Stop.wait = False
            print("ready", flush=True)
            while trainer.interrupts.requested is None:  # until the kernel is interrupted from outside
                pass
Stop.wait = True
t = recipes.trainer(runs="runs", name="r", epochs=4, verbosity=None,
                    callbacks=[recipes.Chain(), recipes.Jitter(), Stop()])
"""
CELLS = [SETUP, "t", "t.fit()", "t", "t.fit()", "t.fit()", "print(dt.digest(t.state_dict()))", "t"]
FIT = [2, 4, 5]


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook after it was executed, and every message that its kernel sent about an area."""
    pytest.importorskip("ipykernel")
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")

    class Client(nbclient.NotebookClient):
        """Interrupts the kernel, as the button does, as soon as the callback says that it waits for that."""

        drawn: typing.ClassVar = []

        def process_message(self, msg, cell, cell_index):
            if msg["msg_type"] in {"display_data", "update_display_data"}:
                self.drawn.append((cell_index, msg["msg_type"], msg["content"]))
            if msg["msg_type"] == "stream" and "ready" in msg["content"]["text"]:
                os.kill(self.km.provisioner.pid, 2)
            return super().process_message(msg, cell, cell_index)

    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    client = Client(made, timeout=120, allow_errors=True, resources=place)
    client.execute()
    return made, client.drawn


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What a script ends with that nobody touched."""
    code = SETUP.replace("Stop()])", "type('Stop', (Stop,), {'on_train_iter_end': lambda *_: None})()])")
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nt.fit()\nprint('digest', dt.digest(t.state_dict()))"],
        cwd=tmp_path_factory.mktemp("script"), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("digest ")[1].strip()


def areas(cell):
    return [out.data for out in cell.outputs if out.output_type == "display_data"]


def test_after_two_interrupts_it_ends_with_a_scripts_bits(executed, expected):
    cells = executed[0].cells
    assert cells[6].outputs[0].text.strip() == expected


def test_an_interrupt_is_one_line(executed):
    cells = executed[0].cells
    errors = [[out for out in cells[i].outputs if out.output_type == "error"] for i in range(len(cells))]
    assert [len(found) for found in errors] == [0, 0, 1, 0, 1, 0, 0, 0]
    first, second = errors[2][0], errors[4][0]
    assert first.traceback == [
        "Interrupted: look at this: epoch 1/4, batch 5/8, iteration 5/32",
    ]
    assert second.traceback == [
        "Interrupted: stopped by SIGINT: epoch 2/4, batch 5/8, iteration 13/32",
    ]


def test_each_fit_has_one_area_of_its_own_that_says_where_it_came_to(executed):
    cells = executed[0].cells
    found = [areas(cells[i]) for i in FIT]
    assert [len(each) for each in found] == [1, 1, 1]
    texts = [each[0]["text/plain"] for each in found]
    assert "M1__r: stopped; fit() goes on" in texts[0]
    assert "epoch 1/4  batch 5/8  iteration 5/32" in texts[0]
    assert "15%" in texts[0]
    assert "M1__r: stopped; fit() goes on" in texts[1]
    assert "iteration 13/32" in texts[1]
    assert "M1__r: done" in texts[2]
    assert "100%" in texts[2]
    htmls = [each[0]["text/html"] for each in found]
    assert [re.search(r'value="(\d+)" max="(\d+)"', html).groups() for html in htmls] == [
        ("5", "32"), ("13", "32"), ("32", "32"),
    ]  # fmt: skip


def test_the_last_validations_are_its_table(executed):
    cells = executed[0].cells
    first, second, third = (areas(cells[i])[0]["text/html"] for i in FIT)
    assert "<table>" not in first  # none yet
    assert re.findall(r"<tr><td>(\d+)</td>", second) == ["7"]
    assert re.findall(r"<tr><td>(\d+)</td>", third) == ["7", "14", "21", "28"]
    assert re.findall(r"<th>([^<]+)</th>", third) == [
        "iteration", "train loss", "train accuracy", "val loss", "val accuracy",
    ]  # fmt: skip


def test_nothing_is_printed_beside_it(executed):
    cells = executed[0].cells
    printed = ["".join(o.text for o in cells[i].outputs if o.output_type == "stream") for i in FIT]
    assert printed[0] == ""
    assert printed[1] == "ready\n"
    assert re.fullmatch(r"done: 4 epochs, 32 iterations(; |\n  )record in runs/M1__r\n", printed[2])


def test_it_is_drawn_by_the_clock_and_in_its_place(executed):
    for cell in FIT:
        kinds = [
            (kind, content["transient"]["display_id"]) for at, kind, content in executed[1] if at == cell
        ]
        assert [kind for kind, _ in kinds][:1] == ["display_data"]
        assert {kind for kind, _ in kinds[1:]} == {"update_display_data"}
        assert len({area for _, area in kinds}) == 1
        assert len(kinds) < 6, "32 iterations and 4 epochs take no more than a second or two"


def test_the_text_is_no_wider_than_a_terminal(executed):
    texts = [content["data"]["text/plain"] for _, _, content in executed[1]]
    assert texts
    assert max(len(line) for text in texts for line in text.splitlines()) <= 80


def test_a_trainer_in_a_cell_says_where_it_stands(executed):
    cells = executed[0].cells
    begun, stopped, done = (cells[i].outputs[0].data for i in (1, 3, 7))
    assert begun["text/plain"] == "Trainer(M1__r: epoch 1/4, batch 0/8, iteration 0/32)"
    assert stopped["text/plain"] == "Trainer(M1__r: epoch 1/4, batch 5/8, iteration 5/32)"
    assert "fit() goes on from here" in stopped["text/html"]
    assert "<th>loss</th>" in stopped["text/html"]
    assert "same bits" in stopped["text/html"]
    assert done["text/plain"] == "Trainer(M1__r: done: 4 epochs, 32 iterations)"
    assert "nothing is left to train" in done["text/html"]


# ---------------------------------------------------------------- in this process


class Handle:
    """Stands for IPython's handle of an area."""

    def __init__(self, boards, fail=False):
        self.boards, self.fail = boards, fail

    def update(self, board):
        if self.fail:
            raise RuntimeError("the browser is gone")
        self.boards.append(board)


@pytest.fixture
def boards(monkeypatch):
    """What is drawn where this process is taken for a notebook."""
    display = pytest.importorskip("IPython.display")
    drawn = []

    def show(board, display_id):
        drawn.append(board)
        return Handle(drawn, fail=getattr(show, "fail", False))

    monkeypatch.setattr(display, "display", show)
    monkeypatch.setattr("deeptrain.callbacks.display.in_notebook", lambda: True)
    show.drawn = drawn
    return show


def test_a_long_run_draws_by_the_clock_alone(boards, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("deeptrain.trainer.monotonic", lambda: now[0])
    monkeypatch.setattr("deeptrain.evaluation.judging.monotonic", lambda: now[0])
    monkeypatch.setattr("deeptrain.callbacks.display.monotonic", lambda: now[0])

    class Tick(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            now[0] += 0.02

    recipes.trainer(epochs=10, verbosity=1, callbacks=[Tick()]).fit()
    states = [board.title.split(": ")[1] for board in boards.drawn]
    assert (
        states.count("training") + states.count("validating") == 4
    )  # 80 iterations of 0.02 s, one each 0.5 s
    assert states[-1] == "done"
    assert any("50/s" in board.pieces for board in boards.drawn[1:])
    assert any(re.fullmatch(r"\d s left", piece) for piece in boards.drawn[1].pieces)


def test_a_front_end_that_fails_does_not_harm_the_run(boards):
    boards.fail = True
    t = recipes.trainer(verbosity=1)
    t.fit()
    assert t.progress.phase is dt.Phase.DONE


def test_a_stream_of_ones_own_is_written_to_in_a_notebook_too(boards, capsys):
    recipes.trainer(verbosity=dt.Display(1, stream=sys.stdout)).fit()
    assert not boards.drawn
    assert "epoch 2/2" in capsys.readouterr().out


def test_nothing_is_drawn_where_nothing_is_to_be_printed(boards, capsys):
    recipes.trainer(verbosity=0).fit()
    assert not boards.drawn
    assert capsys.readouterr().out == ""


def test_without_a_validation_the_epochs_are_the_table(boards):
    t = recipes.trainer(verbosity=1, validate=False, epochs=7)
    t.fit()
    board = boards.drawn[-1]
    assert board.header == ("iteration", "train loss", "train accuracy")
    assert [row[0] for row in board.rows] == ["24", "32", "40", "48", "56"]
    assert board.rows[-1][1] == f"{t.history['train.loss'].values[48:].mean():.4g}"


def test_a_run_that_goes_back_shows_no_row_of_what_it_left(boards, tmp_path):
    t = recipes.trainer(runs=tmp_path, verbosity=1)
    t.fit(until=dt.At(iteration=15))
    assert [row[0] for row in boards.drawn[-1].rows] == ["7", "14"]
    t.rewind(to=dt.At(iteration=12))
    t.step()
    assert [row[0] for row in boards.drawn[-1].rows] == ["7"]
    assert not any(piece.startswith("-") for piece in boards.drawn[-1].pieces)
    t.close()


def test_names_are_escaped_and_a_wide_table_is_cut():
    board = Board("<b>", "here", 3, None, ("<i>",), ("iteration", "<loss>"), (("1", "<2>"),))
    html = board._repr_html_()
    assert "<progress" not in html
    assert not [tag for tag in re.findall(r"<(\w+)", html) if tag in {"i", "loss", "2"}]
    lines = table_of_text([f"figure {n}" for n in range(30)], [["0.1234"] * 30])
    assert max(map(len, lines)) <= 80
    assert all(line.endswith("…") for line in lines)


def test_a_terminals_shell_is_no_notebook(monkeypatch):
    shells = {name: type(name, (), {})() for name in ("TerminalInteractiveShell", "ZMQInteractiveShell")}
    colab = type("Shell", (type(shells["ZMQInteractiveShell"]),), {})()
    for shell, is_one in [*zip(shells.values(), (False, True), strict=True), (colab, True), (None, False)]:
        fake = type("IPython", (), {"get_ipython": staticmethod(lambda shell=shell: shell)})
        monkeypatch.setitem(sys.modules, "IPython", fake)
        assert notebook.in_notebook() is is_one
    monkeypatch.delitem(sys.modules, "IPython")
    assert not notebook.in_notebook()
    assert "IPython" not in sys.modules


def test_a_trainer_that_is_not_made_yet_has_a_repr():
    bare = object.__new__(dt.Trainer)
    assert repr(bare) == "Trainer(not made yet)"
    assert "not made yet" in bare._repr_html_()


def test_a_pace_that_went_back_begins_anew():
    pace = Pace()
    pace.begin(10.0, 100)
    assert pace.rate(12.0, 110) == 5.0
    assert pace.rate(13.0, 90) is None
    pace.begin(13.0, 90)
    assert pace.rate(14.0, 93) == 3.0
