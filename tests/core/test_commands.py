"""Commands of other processes: each answered, each once, whatever dies when; and nothing but commands is taken."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

import deeptrain as dt
from deeptrain.cli import main
from deeptrain.control import changes, journal, mailbox
from deeptrain.control.journal import read_journal
from deeptrain.run.asking import NobodyTrainsError, UnansweredError, _Letter, ask
from deeptrain.run.directory import RunDirectory, find_run, is_held
from tests.support import asking, fresh, recipes
from tests.support.asking import DECAY, Training, interventions

HEAD = r"model.head\.bias"


def kinds(run, *wanted):
    return [entry for entry in read_journal(run / "journal.jsonl") if entry["kind"] in wanted]


def end(training, **recipe):
    """Ask for the end, and see that a run which was left alone and given the same changes has the same bits."""
    assert ask(training.run, {"verb": "stop"}).applied
    found = training.result()
    entries = interventions(training.run)
    assert fresh.run(asking.left_alone, training.run.parent / "alone", entries, **recipe) == found
    return entries


# ------------------------------------------------------------------ every verb


def test_every_verb_of_the_command_line(tmp_path, capsys):
    training = Training(tmp_path)
    run = str(training.run)

    def command(*arguments):
        status = main(list(arguments))
        out, err = capsys.readouterr()
        return status, out + err

    status, said = command("set", run, DECAY, "0.5")
    assert (status, said[:21]) == (0, "applied at iteration ")
    assert command("pause", run)[0] == 0
    assert command("pause", run) == (1, "rejected: the run is paused already\n")
    status, said = command("info", run)
    assert "paused      at iteration" in said
    before = int(kinds(training.run, "paused")[-1]["at"])
    status, said = command("step", run, "3")
    assert (status, said) == (0, f"applied at iteration {before + 3}: the run is held again\n")
    assert command("validate", run)[0] == 0
    assert command("checkpoint", run, "--tag", "kept") == (
        0,
        f"applied at iteration {before + 3}: it is on the disk, and verified\n",
    )
    assert kinds(training.run, "checkpoint")[-1]["at"] == before + 3
    status, said = command("set", run, HEAD, "abc")
    assert status == 1
    assert "no JSON, so it was taken for a string" in said
    status, said = command("set", run, DECAY + "x", "1")
    assert status == 1
    assert said.startswith("rejected: there is nothing at")
    assert command("break", run, "train.loss >")[0] == 1
    assert command("break", run)[0] == 2
    assert command("break", run, "train.loss > -1")[0] == 0
    assert command("unpause", run)[0] == 0
    while len(kinds(training.run, "paused")) < 3:
        pass
    assert "train.loss > -1" in kinds(training.run, "paused")[-1]["why"]
    assert command("break", run, "--remove", "train.loss > 5")[0] == 1
    assert command("break", run, "--remove")[0] == 0
    assert command("unpause", run)[0] == 0
    assert command("unpause", run) == (1, "rejected: the run is not paused\n")
    entries = end(training)
    assert [(entry["origin"], entry["verb"]) for entry in entries] == [
        ("process", "set"),
        ("process", "validation"),
        ("process", "stop"),
    ]
    validated = training.run
    assert before + 3 in dt.open_run(validated).history["val.loss"].iterations
    assert not list((training.run / "inbox").glob("*.*"))
    status, said = command("pause", run)
    assert (status, "no process trains this run: start its script" in said) == (2, True)


def test_as_a_program_with_the_runs_name(tmp_path):
    training = Training(tmp_path / "runs")
    done = subprocess.run(
        [sys.executable, "-m", "deeptrain", "stop", "r"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("applied at iteration")
    training.result()


def test_runs_are_found_by_path_number_and_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPTRAIN_RUNS", raising=False)
    for _ in range(2):
        RunDirectory.create("runs", "x")
    for text in ("x", "M2", "M2__x", "runs/M2__x"):
        assert find_run(text).resolve() == (tmp_path / "runs/M2__x").resolve()
    with pytest.raises(FileNotFoundError, match="there are M2__x, M1__x"):
        find_run("y")


def test_nobody_trains(tmp_path):
    directory = RunDirectory.create(tmp_path, "r")
    with pytest.raises(NobodyTrainsError, match="no process trains this run"):
        ask(directory.path, {"verb": "pause"})
    t = recipes.trainer(runs=tmp_path, name="r")
    assert is_held(t.run.path)
    t.close()
    assert not is_held(t.run.path)
    with pytest.raises(NobodyTrainsError):
        ask(t.run.path, {"verb": "pause"})
    assert not list(mailbox.Mailbox(t.run.path / "inbox")._names())


def test_looking_whether_a_run_is_held_keeps_no_trainer_from_it(tmp_path, monkeypatch):
    import fcntl

    directory = RunDirectory.create(tmp_path, "r")
    directory.lock()
    directory.release()
    looking = open(directory.path / "lock")  # noqa: SIM115 - it is closed while the other one waits
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr("time.sleep", lambda _: looking.close())
    directory.lock()
    assert directory.locked


# ------------------------------------------------------------------ once, whatever dies


def ask_meanwhile(run, content, answers):
    thread = threading.Thread(target=lambda: answers.append(ask(run, content)))
    thread.start()
    return thread


POINTS = ["before its line", "before it is made", "before its answer", "before it is removed"]


@pytest.mark.parametrize("every", [1, 100])
@pytest.mark.parametrize("point", POINTS)
def test_the_process_that_trains_dies_while_it_carries_a_command_out(tmp_path, point, every):
    """Who waits is answered by the next process; the change is made once, at the place that the journal has."""
    more = {"point": point, "mark": tmp_path / "died", "every": every}
    training, answers = Training(tmp_path, **more), []
    thread = ask_meanwhile(training.run, {"verb": "set", "path": DECAY, "value": 0.75}, answers)
    assert training.died()
    again = Training(tmp_path, **more)
    thread.join()
    assert answers[0].applied, answers
    entries = end(again, every=every)  # which iterations a checkpoint coincides with is told to callbacks
    assert [entry["verb"] for entry in entries] == ["set", "stop"]
    assert answers[0].at == entries[0]["at"]
    state = dt.open_run(again.run).state
    assert state["optimizer"]["param_groups"][0]["weight_decay"] == 0.75
    assert not list((again.run / "inbox").glob("*.*"))


def asked_here(runs, contents, at=None, mark=None):
    """Commands at one place of a short run, which dies at an iteration."""
    from tests.core.test_steering import Dies

    posts = asking.Posts(runs.with_suffix(".posted"), contents)
    t = asking.make(runs, more=[posts, Dies(mark, at)], epochs=2, every=4)
    t.fit()
    t.close()
    answers = [letter.answer() for letter in posts.letters]
    return recipes.summary(t), answers, len(interventions(t.run.path))


CONTENTS = [
    {"verb": "set", "path": DECAY, "value": 0.75},
    {"verb": "validate"},
    {"verb": "set", "path": HEAD, "value": [0.5, 0.25, -1]},
    {"verb": "checkpoint"},
    {"verb": "set", "path": "callbacks.Jitter.drawn", "value": []},
]


def test_killed_anywhere_after_commands_the_run_has_the_same_bits(tmp_path):
    from tests.core.test_steering import again_and_again

    expected, answers, made = fresh.run(asked_here, tmp_path / "untouched", CONTENTS)
    assert [answer.applied for answer in answers] == [True] * 5
    assert made == 4
    for at in range(6, 17):
        mark = tmp_path / f"{at}.died"
        found = again_and_again(asked_here, tmp_path / str(at), CONTENTS, at, mark)
        assert (found[0], found[2]) == (expected, made), f"killed after iteration {at}"


def dies_twice(runs, mark=None):
    from tests.core.test_steering import Dies

    class DiesAgain(Dies):
        pass

    contents = [content for content in CONTENTS if content["verb"] != "checkpoint"]
    posts = asking.Posts(runs.with_suffix(".posted"), contents)
    at = (None, None) if mark is None else (8, 9)
    more = [posts, Dies(mark, at[0]), DiesAgain(mark and mark.with_suffix(".again"), at[1]), Writes()]
    t = asking.make(runs, more=more, epochs=2)
    t.fit()
    t.close()
    return recipes.summary(t)


def test_what_was_made_again_is_made_again_after_the_next_crash(tmp_path):
    from tests.core.test_steering import again_and_again

    expected = fresh.run(dies_twice, tmp_path / "untouched")
    assert again_and_again(dies_twice, tmp_path / "r", tmp_path / "died") == expected
    assert (tmp_path / "died.again").exists()


class Looks(dt.Callback):
    """Notes a value and asks for a validation: as much is pending behind it as there was before it."""

    def __init__(self, posts):
        self._posts, self.seen = posts, 0.0

    def on_train_batch_end(self, trainer, event):
        if event.iteration == 6:
            self.seen = trainer.get("optimizer.param_groups.0.weight_decay")
            trainer.request_validation()
            self._posts.on_train_batch_end(trainer, event)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


class After(dt.Callback):
    def on_train_batch_end(self, trainer, event):
        pass


def behind_a_handler(runs, at=None, mark=None):
    from tests.core.test_steering import Dies

    posts = asking.Posts(runs.with_suffix(".posted"), CONTENTS[:1])
    t = asking.make(runs, more=[Looks(posts), After(), Dies(mark, at)], epochs=2)
    t.fit()
    t.close()
    return recipes.summary(t), t.get("callbacks.Looks.seen")


def test_a_change_is_made_again_behind_the_handler_that_it_came_behind(tmp_path):
    from tests.core.test_steering import again_and_again

    expected, seen = fresh.run(behind_a_handler, tmp_path / "untouched")
    assert seen == 0.01
    found = again_and_again(behind_a_handler, tmp_path / "r", 9, tmp_path / "died")
    assert found == (expected, seen)


def test_two_ask_at_once(tmp_path):
    training, answers = Training(tmp_path), []

    def ask_often(path):
        for n in range(10):
            answers.append(ask(training.run, {"verb": "set", "path": path, "value": n / 8}))

    threads = [threading.Thread(target=ask_often, args=(path,)) for path in (DECAY, HEAD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.applied for answer in answers] == [True] * 20
    assert len(end(training)) == 21


def sends_for_ever(run):
    ask(run, {"verb": "set", "path": DECAY, "value": 0.5})


def test_what_is_taken_back_is_never_made(tmp_path):
    """By the limit of time, and by the death of who asked."""
    training = Training(tmp_path, wait=True)  # in the middle of a handler: no safe point comes
    with pytest.raises(UnansweredError, match="nothing will be done"):
        ask(training.run, {"verb": "set", "path": DECAY, "value": 0.5}, timeout=0.05)
    asker, _ = fresh.start(sends_for_ever, training.run)
    while not list((training.run / "inbox").glob("*.command")):
        pass
    os.kill(asker.pid, signal.SIGKILL)
    asker.join()
    training.pipe.send("go on")
    assert [entry["verb"] for entry in end(training)] == ["stop"]
    assert "waits no longer" in kinds(training.run, "refused")[0]["why"]


def test_what_lay_there_when_the_process_died_is_made_only_for_who_waits(tmp_path):
    training = Training(tmp_path, wait=True)
    inbox = training.run / "inbox"
    waiting = _Letter(inbox, mailbox.encode({"verb": "set", "path": DECAY, "value": 0.25}))
    with _Letter(inbox, mailbox.encode({"verb": "set", "path": DECAY, "value": 0.5})) as gone:
        left = (inbox / f"{gone.identity}.command").read_bytes()
    (inbox / f"{gone.identity}.command").write_bytes(left)
    os.kill(training.process.pid, signal.SIGKILL)
    training.process.join()
    again = Training(tmp_path)
    while (answer := waiting.answer()) is None:
        pass
    assert answer.applied
    assert [entry["value"] for entry in end(again)] == [0.25, None]


def test_who_waits_for_a_process_that_ends_is_told(tmp_path):
    training = Training(tmp_path, wait=True)
    raised = []

    def asks():
        try:
            ask(training.run, {"verb": "pause"})
        except NobodyTrainsError as error:
            raised.append(str(error))

    thread = threading.Thread(target=asks)
    thread.start()
    while not list((training.run / "inbox").glob("*.command")):
        pass
    os.kill(training.process.pid, signal.SIGKILL)
    thread.join()
    assert "has ended: nothing was done" in raised[0]


class Writes(dt.Callback):
    def on_train_iter_end(self, trainer, event):
        trainer.run.write_journal(float("inf"))


def slow_replay(runs, pipe, mark):
    from tests.core.test_steering import Dies

    t = asking.make(runs, more=[Writes(), Dies(mark, 12)], epochs=2, every=100)
    if mark.exists():
        letter = _Letter(t.run.mailbox.path, mailbox.encode({"verb": "set", "path": DECAY, "value": 0.5}))
    t.fit()
    t.close()
    return letter.answer().at


def test_a_change_waits_until_what_is_computed_again_is_through(tmp_path):
    from tests.core.test_steering import again_and_again

    at = again_and_again(slow_replay, tmp_path, None, tmp_path / "died")
    verdict = kinds(tmp_path / "M1__r", "replay")[-1]
    assert (verdict["identical"], verdict["compared"]) == (True, 12)
    assert at >= 12


# ------------------------------------------------------------------ the disk


def test_a_persons_change_is_on_the_disk_before_it_is_made(tmp_path, monkeypatch):
    t = recipes.trainer("multistep", runs=tmp_path, name="r")
    t.fit(until=dt.At(iteration=2))
    order, put = [], changes._put
    monkeypatch.setattr(journal, "sync_descriptor", lambda _: order.append("disk"))
    monkeypatch.setattr(changes, "_put", lambda *args: (order.append("made"), put(*args)))
    thread = threading.Thread(target=t.set, args=(DECAY, 0.5))
    thread.start()
    thread.join()
    assert order == ["disk", "made"]
    t.set(DECAY, 0.25)  # a script's, which the script brings back
    assert order == ["disk", "made", "made"]
    t.close()


def test_a_change_that_cannot_be_brought_to_the_disk_is_not_made(tmp_path, monkeypatch):
    t = recipes.trainer("multistep", runs=tmp_path, name="r")
    t.fit(until=dt.At(iteration=2))

    def fails(_):
        raise OSError(5, "planned")

    monkeypatch.setattr(journal, "sync_descriptor", fails)
    raised = []

    def sets():
        try:
            t.set(DECAY, 0.5)
        except OSError as error:
            raised.append(str(error))

    for again in (False, True):
        if again:  # an fsync after one that failed says nothing
            monkeypatch.setattr(journal, "sync_descriptor", lambda _: None)
        thread = threading.Thread(target=sets)
        thread.start()
        thread.join()
    assert ["planned" in text for text in raised] == [True, True]
    t.fit()
    t.close()
    again = recipes.trainer("multistep", runs=tmp_path, name="r", epochs=3)
    again.fit()
    assert set(again.get(DECAY).values()) == {0.01}
    again.close()


# ------------------------------------------------------------------ what is no command


def posted(run, data):
    """The answer to some bytes in a command's place."""
    with _Letter(run / "inbox", data) as letter:
        while (answer := letter.answer()) is None:
            pass
    return answer


@pytest.fixture(scope="module")
def paused(tmp_path_factory):
    training = Training(tmp_path_factory.mktemp("paused"), validate=False)
    assert ask(training.run, {"verb": "pause"}).applied
    yield training
    ask(training.run, {"verb": "unpause"})
    assert [entry["verb"] for entry in end(training, validate=False)] == ["stop"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no JSON"),
        (b"\x80\x04cposix\nsystem\n(S'true'\ntR.", "no JSON"),
        (b"[" * 60000, "no JSON"),
        (b"[1]", "expected a JSON object, found a list"),
        (b"{}", "version None"),
        (b'{"version": true, "verb": "stop"}', "version True"),
        (b'{"version": 2, "verb": "stop"}', "this deeptrain reads 1"),
        (b'{"version": 1, "verb": "stpo"}', "did you mean 'stop'"),
        (b'{"version": 1, "verb": ["stop"]}', "expected one of"),
        (b'{"version": 1, "verb": "__class__"}', "expected one of"),
        (b'{"version": 1, "verb": "stop", "now": 1}', "found ['now']"),
        (b'{"version": 1, "verb": "set", "path": "seed"}', "found no value"),
        (b'{"version": 1, "verb": "set", "path": 1, "value": 1}', "path is 1, expected a str"),
        (b'{"version": 1, "verb": "set", "path": "seed", "value": 1}', "when the run began"),
        (b'{"version": 1, "verb": "set", "path": "optimizer.param_groups.0.lr", "value": 1}', "scheduler"),
        (b'{"version": 1, "verb": "step", "iterations": 0}', "from 1 up"),
        (b'{"version": 1, "verb": "step", "iterations": true}', "expected a int"),
        (b'{"version": 1, "verb": "break", "condition": "__import__(1)"}', "expected an operator"),
        (b'{"version": 1, "verb": "checkpoint", "tag": "%s"}' % (b"x" * 200), "tag"),
    ],
)  # fmt: skip
def test_malformed_commands_are_rejected_by_name(paused, content, message):
    answer = posted(paused.run, content)
    assert not answer.applied
    assert message in answer.text, answer.text


def hostile(inbox):
    """Files that lie in the way, by what is said of them."""
    name = iter(f"{n:032x}.command" for n in range(100))
    made = {}
    (inbox / (link := next(name))).symlink_to("/etc/passwd")
    (inbox / (nowhere := next(name))).symlink_to("/nowhere")
    os.mkfifo(inbox / (pipe := next(name)))
    (inbox / (folder := next(name))).mkdir()
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(inbox)  # a socket's path has to be short
    listening.bind(door := next(name))
    os.chdir(here)
    listening.close()
    (inbox.parent / "large").write_bytes(b" " * (mailbox.MOST_BYTES + 1))
    (inbox.parent / "large").rename(inbox / (large := next(name)))  # whole at once: the watcher is looking
    (inbox / "another").write_bytes(b"")
    (inbox / "é\n.command").write_bytes(b"")
    (inbox / "0.command").write_bytes(b"")
    beside = inbox.parent
    (beside / "linked").write_bytes(b"{}")
    os.link(beside / "linked", inbox / (one := next(name)))
    if os.geteuid() == 0:
        (beside / "theirs").write_bytes(b"{}")
        os.chown(beside / "theirs", 12345, -1)
        (beside / "theirs").rename(inbox / (theirs := next(name)))
        made[theirs] = "belongs to user 12345"
    return made | {
        link: "a link", nowhere: "a link", pipe: "a pipe", folder: "a directory", door: "a socket", large: "are read at most",
        "another": "not the name", r"\xe9\n.command": "not the name", "0.command": "not the name", one: "hard links",
    }  # fmt: skip


def test_hostile_files_are_put_away_and_named(paused):
    inbox = paused.run / "inbox"
    expected = hostile(inbox)
    while len(said := {entry["name"]: entry["why"] for entry in kinds(paused.run, "refused")}) < len(
        expected
    ):
        ask(paused.run, {"verb": "pause"})  # so that the journal's lines are written
    for name, why in expected.items():
        assert why in said[name], name
    assert [place.name for place in inbox.iterdir()] == ["refused"]
    assert os.stat(inbox).st_mode & 0o777 == 0o700


def test_of_many_files_some_are_kept_and_the_others_removed(paused):
    inbox = paused.run / "inbox"
    for n in range(300):
        (inbox / f"junk{n}").touch()
    while any(place.name.startswith("junk") for place in inbox.iterdir()):
        pass
    assert len(list((inbox / "refused").iterdir())) <= mailbox.MOST_REFUSED
    assert ask(paused.run, {"verb": "pause"}).text == "the run is paused already"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_a_mailbox_that_is_none_is_not_used(tmp_path, kind):
    place = RunDirectory.create(tmp_path, "r").path / "inbox"
    (tmp_path / "elsewhere").mkdir()
    if kind == "link":
        place.symlink_to(tmp_path / "elsewhere")
    else:
        place.touch()
    with pytest.warns(UserWarning, match="no commands of other processes are taken"):
        t = recipes.trainer(runs=tmp_path, name="r")
    t.step()
    with pytest.raises((UnansweredError, NotADirectoryError)):
        ask(t.run.path, {"verb": "pause"})
    t.close()


# ------------------------------------------------------------------ paused


def test_a_paused_run_that_is_killed_goes_on_unpaused(tmp_path):
    training = Training(tmp_path)
    assert ask(training.run, {"verb": "pause"}).applied
    os.kill(training.process.pid, signal.SIGKILL)
    training.process.join()
    assert "paused  " not in dt.open_run(training.run).describe()
    again = Training(tmp_path)
    end(again)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_to_a_paused_run_do_what_they_do(tmp_path, name):
    from tests.core.test_signals import QUIET, finish, start

    expected = finish(tmp_path / "untouched" if (tmp_path / "untouched").mkdir() is None else None)
    setup = """
    class Wait(dt.Callback):
        def on_train_iter_end(self, trainer, event):
            if event.iteration == 5:
                print("ready", flush=True)
                sys.stdin.readline()
    callbacks = [Wait()]
    """
    process = start(setup, tmp_path)
    for line in process.stdout:
        if line.strip() == "ready":
            break
    with _Letter(tmp_path / "runs/M1__r/inbox", mailbox.encode({"verb": "pause"})) as letter:
        process.stdin.write("\n")
        process.stdin.flush()
        while (answer := letter.answer()) is None:
            pass
    assert answer.applied
    process.send_signal(number := getattr(signal, name))
    _, err = process.communicate(timeout=120)
    assert process.returncode == -number, err
    assert f"Interrupted: stopped by {name}" in err
    assert dt.open_run(tmp_path / "runs/M1__r").info["iterations"] == answer.at
    assert QUIET
    assert finish(tmp_path) == expected


def test_a_breakpoint_from_outside_that_asks_for_what_there_is_not_ends_no_run(tmp_path):
    t = recipes.trainer(runs=tmp_path, name="r")
    t.breaks.add(t, "train.nothing > 1", outside=True)
    t.fit()
    assert not t.breaks.conditions
    t.close()


# ------------------------------------------------------------------ at rest


def test_the_run_begins_only_when_a_change_at_rest_is_through(monkeypatch):
    t = recipes.trainer("multistep")
    t.fit(until=dt.At(iteration=2))
    put, seen = changes._put, []
    runner = threading.Thread(target=t.fit)

    def slowly(*args):
        monkeypatch.setattr(changes, "_put", put)
        runner.start()
        while not t.interrupts.running:  # it has begun
            pass
        for _ in range(200000):  # and has time enough for some iterations
            seen.append(t.progress.train.iterations)
        put(*args)

    from deeptrain.control import interrupt

    interrupt._said.add("thread")
    monkeypatch.setattr(changes, "_put", slowly)
    asker = threading.Thread(target=t.set, args=(DECAY, 0.5))
    asker.start()
    asker.join()
    runner.join()
    assert set(seen) == {2}
    assert t.progress.phase is dt.Phase.DONE
    assert set(t.get(DECAY).values()) == {0.5}


SETUP = """
import sys, threading, torch
sys.path.insert(0, {root!r})
torch.set_num_threads(1)
import deeptrain as dt
from tests.support import recipes
t = recipes.trainer("multistep", runs="runs", name="r")
t.fit(until=dt.At(iteration=7))
"""
SHOW = "print('watchers', sum(thread.name == 'deeptrain-watcher' for thread in threading.enumerate()))"
FORK = """
import os
if os.fork() == 0:
    os._exit(len([thread for thread in threading.enumerate() if 'watcher' in thread.name]))
print('child', os.waitstatus_to_exitcode(os.wait()[1]))
"""
LAST = (
    f"{SHOW}\nprint('value', *t.get({DECAY!r}).values())\nt.fit()\nprint('digest', dt.digest(t.state_dict()))"
)


def set_by_hand(runs):
    from deeptrain.control import steering

    steering.is_interactive = lambda: True
    t = recipes.trainer("multistep", runs=runs, name="r")
    t.fit(until=dt.At(iteration=7))
    t.set(DECAY, 0.5)
    t.fit()
    t.close()
    return dt.digest(t.state_dict())


def root():
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def test_between_two_cells_of_a_notebook_a_command_is_carried_out_at_once(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    codes = [SETUP.format(root=root()), FORK + SHOW, LAST]
    cells = [nbformat.v4.new_code_cell(code) for code in codes]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}})
    with client.setup_kernel():
        client.execute_cell(cells[0], 0)
        answer = ask(tmp_path / "runs/M1__r", {"verb": "set", "path": DECAY, "value": 0.5})
        assert (answer.applied, answer.at) == (True, 7)
        answer = ask(tmp_path / "runs/M1__r", {"verb": "pause"})
        assert "rests between two fit()" in answer.text
        client.execute_cell(cells[1], 1)
        client.execute_cell(cells[2], 2)
    text = "".join(output.text for cell in cells for output in cell.outputs if output.output_type == "stream")
    assert "child 0" in text
    assert text.count("watchers 0") == 2
    assert "value 0.5" in text
    assert text.split("digest ")[1].strip() == fresh.run(set_by_hand, tmp_path / "by hand")


def test_while_a_prompt_waits_a_command_is_carried_out_at_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-i", "-c", SETUP.format(root=root()) + "print('ready', flush=True)"],
        cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    for line in process.stdout:
        if line.strip() == "ready":
            break
    answer = ask(tmp_path / "runs/M1__r", {"verb": "set", "path": DECAY, "value": 0.5})
    assert (answer.applied, answer.at) == (True, 7)
    out, err = process.communicate(FORK.replace("\nprint", "\n\nprint") + LAST + "\n", timeout=120)
    assert process.returncode == 0, err
    assert "child 0" in out
    assert "watchers 1" in out
    assert out.split("digest ")[1].split()[0] == fresh.run(set_by_hand, tmp_path / "by hand")


def test_the_text_of_a_command_is_json_and_nothing_else():
    assert json.loads(mailbox.encode({"verb": "stop"})) == {"version": 1, "verb": "stop"}
    with pytest.raises(ValueError, match="at most"):
        mailbox.encode({"verb": "set", "path": "x", "value": [0] * 100000})
