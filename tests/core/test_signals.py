"""Real signals to real processes: how they end, what they say, what runs after `fit()`, what is put back."""

import os
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

import deeptrain as dt
from tests.support import recipes

SCRIPT = """
import os, signal, sys
import torch
sys.path.insert(0, {root!r})
torch.set_num_threads(1)
import deeptrain as dt
from tests.support import recipes

{setup}
t = recipes.trainer(runs="runs", name="r", epochs=4, callbacks=[recipes.Chain(), recipes.Jitter(), *callbacks])
before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
try:
    t.fit()
finally:
    print("handlers put back:", (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before)
print("after fit")
print("digest", dt.digest(t.state_dict()))
"""

# A callback that says when it got to an iteration and waits there until the parent has sent its signal.
WAIT = """
class Wait(dt.Callback):
    def on_train_iter_end(self, trainer, event):
        if event.iteration == {at} and not os.path.exists("waited"):
            open("waited", "w").close()
            print("ready", flush=True)
            {wait}
callbacks = [Wait()]
"""
QUIET = (
    "callbacks = [type('Wait', (dt.Callback,), {'on_train_iter_end': lambda self, trainer, event: None})()]"
)
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def script(setup):
    return textwrap.dedent(SCRIPT).format(root=ROOT, setup=textwrap.dedent(setup))


def start(setup, cwd):
    return subprocess.Popen(
        [sys.executable, "-u", "-c", script(setup)],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.PIPE, text=True,
    )  # fmt: skip


def until_ready(process):
    for line in process.stdout:
        if line.strip() == "ready":
            return
    raise AssertionError(process.stderr.read())


def finish(cwd):
    process = start(QUIET, cwd)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.split("digest ")[1].strip()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("untouched"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_script_saves_and_ends_by_the_signal(name, tmp_path, expected):
    number = getattr(signal, name)
    process = start(WAIT.format(at=13, wait="sys.stdin.readline()"), tmp_path)
    until_ready(process)
    process.send_signal(number)
    out, err = process.communicate("go\n", timeout=120)
    assert process.returncode == -number
    assert "handlers put back: True" in out
    assert "after fit" not in out
    assert f"Interrupted: stopped by {name}: epoch 2/4, batch 5/8, iteration 13/32" in err
    assert "Traceback" not in err
    assert ("Ctrl-C again" in err) == (name == "SIGINT")
    assert dt.open_run(tmp_path / "runs" / "M1__r").info["iterations"] == 13
    assert finish(tmp_path) == expected


def test_a_second_ctrl_c_aborts_within_a_long_iteration(tmp_path, expected):
    setup = (
        """
    class Slow(torch.nn.Module):
        def forward(self, x):
            if self.training and Slow.calls == 12 and not os.path.exists("waited"):
                open("waited", "w").close()
                print("ready", flush=True)
                torch.rand(5)
                while True:  # an iteration without end: only an abort gets out
                    signal.pause()
            Slow.calls += self.training
            return x
    Slow.calls = 0
    forward = recipes.Net.forward
    recipes.Net.forward = lambda self, x: forward(self, Slow.forward(self, x))
    """
        + QUIET
    )
    process = start(textwrap.dedent(setup), tmp_path)
    until_ready(process)
    process.send_signal(signal.SIGINT)
    assert "Ctrl-C again" in process.stderr.readline() + process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert "aborted and rolled back" in err
    assert "after fit" not in out
    assert dt.open_run(tmp_path / "runs" / "M1__r").info["iterations"] == 12
    assert finish(tmp_path) == expected


def test_caught_in_a_script_the_rest_of_it_runs(tmp_path):
    code = script(WAIT.format(at=2, wait="os.kill(os.getpid(), signal.SIGINT)")).replace(
        "    t.fit()", "    t.fit()\nexcept dt.Interrupted as stop:\n    print('caught', stop.signal)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "caught 2" in done.stdout
    assert "after fit" in done.stdout


def test_an_ignored_signal_stays_ignored(tmp_path):
    setup = "signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + WAIT.format(
        at=2, wait="os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script(setup)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "after fit" in done.stdout


def test_an_exception_in_a_script_saves_too(tmp_path, expected):
    setup = WAIT.format(at=11, wait="raise RuntimeError('planned')")
    done = subprocess.run(
        [sys.executable, "-c", script(setup)], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "RuntimeError: planned" in done.stderr
    run = dt.open_run(tmp_path / "runs" / "M1__r")
    assert run.info["iterations"] == 11
    assert run.state["progress"]["pending"][0]["callback"] == "Wait"
    assert finish(tmp_path) == expected


def test_at_a_prompt_it_is_one_line_and_fit_goes_on(tmp_path, expected):
    lines = script(WAIT.format(at=7, wait="os.kill(os.getpid(), signal.SIGINT)")).replace(
        "    t.fit()", "    pass"
    )
    (tmp_path / "setup.py").write_text(lines.split('print("after fit")')[0])
    process = subprocess.run(
        [sys.executable, "-i", "setup.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        input="t.fit()\nprint('prompt again at', t.progress.train.iterations)\nt.fit()\nprint(dt.digest(t.state_dict()))\n",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "prompt again at 7" in process.stdout
    assert "Interrupted: stopped by SIGINT" in process.stderr
    assert "Traceback" not in process.stderr
    assert expected in process.stdout


def test_in_a_notebook(tmp_path, expected):
    import nbformat
    from nbclient import NotebookClient

    setup = script(WAIT.format(at=7, wait="os.kill(os.getpid(), signal.SIGINT)")).split("before = ")[0]
    cells = [setup, "t.fit()", "t.info()", "t.fit()", "print(dt.digest(t.state_dict()))"]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    client = NotebookClient(
        notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [cell.outputs for cell in notebook.cells]
    errors = [o for o in outputs[1] if o.output_type == "error"]
    assert [o.ename for o in errors] == ["Interrupted"]
    assert len(errors[0].traceback) == 1
    assert "iteration 7/32" in outputs[2][0].data["text/plain"]
    assert not [o for o in outputs[3] if o.output_type == "error"]
    assert expected in outputs[4][0].text


# ---------------------------------------------------------------- in this process


def test_pause_from_another_thread():
    class Ask(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            if event.iteration == 3:
                thread = threading.Thread(target=trainer.pause)
                thread.start()
                thread.join()

    t = recipes.trainer(callbacks=[Ask()])
    assert not t.pause()
    with pytest.raises(dt.Interrupted, match="a pause was requested: epoch 1/2, batch 3/8"):
        t.fit()
    assert t.progress.train.iterations == 3
    t.fit()


def test_outside_the_main_thread_it_says_once_that_there_are_no_signals():
    from deeptrain.control import interrupt

    interrupt._said.clear()
    t = recipes.trainer()

    def run():
        with pytest.warns(UserWarning, match="outside the main thread"):
            t.fit()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert t.progress.phase is dt.Phase.DONE


def test_between_the_steps_of_a_for_loop_the_handlers_are_those_of_before():
    t = recipes.trainer()
    before = signal.getsignal(signal.SIGINT)
    for event in t:
        assert signal.getsignal(signal.SIGINT) is before
        if event.iteration == 3:
            break
    with pytest.raises(KeyboardInterrupt):
        for event in t:
            if event.iteration == 5:
                signal.raise_signal(signal.SIGINT)
    assert t.progress.train.iterations == 5
    t.fit()
    untouched = recipes.trainer()
    untouched.fit()
    assert dt.digest(t.state_dict()) == dt.digest(untouched.state_dict())


def test_an_abort_that_user_code_swallows_is_an_abort_all_the_same():
    t = recipes.trainer()

    def swallow(module, inputs, outputs):
        if t.progress.train.iterations == 4 and not swallow.done:
            swallow.done = True
            torch_noise()
            try:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            except BaseException:
                pass

    def torch_noise():
        import torch

        torch.rand(7)

    swallow.done = False
    t.learner.model.head.register_forward_hook(swallow)
    with pytest.raises(dt.Interrupted, match="rolled back"):
        t.fit()
    assert t.progress.train.iterations == 4
    t.fit()
    untouched = recipes.trainer()
    untouched.fit()
    assert dt.digest(t.state_dict()) == dt.digest(untouched.state_dict())
