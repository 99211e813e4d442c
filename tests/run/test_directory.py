"""A run's directory: numbers, names, and a lock that is free as soon as its owner is gone."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading

import pytest

from deeptrain.run.directory import RunDirectory, RunInUseError


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def test_runs_are_numbered_across_names(tmp_path):
    runs = tmp_path / "deep" / "runs"
    made = [RunDirectory.create(runs, name) for name in ("mnist", None, "x.y-z_1", "mnist")]
    assert [run.path.name for run in made] == ["M1__mnist", "M2", "M3__x.y-z_1", "M4__mnist"]
    assert [(run.number, run.name) for run in made] == [(1, "mnist"), (2, None), (3, "x.y-z_1"), (4, "mnist")]
    assert entries(runs) == ["M1__mnist", "M2", "M3__x.y-z_1", "M4__mnist"]
    assert RunDirectory(made[2].path).name == "x.y-z_1"


def test_runs_are_found_by_name_newest_first(tmp_path):
    for number, name in [(1, "a"), (2, "b"), (9, "a"), (10, "a"), (11, "a__b")]:
        (tmp_path / f"M{number}__{name}").mkdir()
    (tmp_path / "M12").mkdir()
    (tmp_path / "notes").mkdir()
    assert [path.name for path in RunDirectory.find(tmp_path, "a")] == ["M10__a", "M9__a", "M1__a"]
    assert [path.name for path in RunDirectory.find(tmp_path, None)] == ["M12"]
    assert [path.name for path in RunDirectory.find(tmp_path, "a__b")] == ["M11__a__b"]
    assert RunDirectory.find(tmp_path, "c") == []
    assert RunDirectory.find(tmp_path / "nowhere", "a") == []
    assert RunDirectory.create(tmp_path, "a").path.name == "M13__a"


def test_a_number_belongs_to_one_run_whatever_the_names(tmp_path):
    made, start = [], threading.Barrier(4)

    def make(who):
        start.wait()
        made.extend(RunDirectory.create(tmp_path, f"t{who}").number for _ in range(10))

    threads = [threading.Thread(target=make, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(set(made)) == 40
    assert all(re.fullmatch(r"M\d+__t\d", name) for name in entries(tmp_path))


def test_a_marker_that_a_dead_process_left_costs_its_number_only(tmp_path):
    (tmp_path / ".M1").mkdir()
    assert RunDirectory.create(tmp_path).number == 2


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "a b", "a\n", "é", "..\0", 3, "a:b"])
def test_names_are_checked(tmp_path, name):
    for act in (RunDirectory.create, RunDirectory.find):
        with pytest.raises(ValueError, match=r"name=.*letters \(a-z, A-Z\), digits"):
            act(tmp_path, name)
    assert entries(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for runs in (tmp_path / "file", tmp_path / "file" / "runs"):
        with pytest.raises(OSError, match="no run can be made here") as caught:
            RunDirectory.create(runs, "x")
        assert str(runs) in str(caught.value)
        assert "runs=None" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="no run can be made here"):
        RunDirectory.create(tmp_path, "x")


def test_only_a_run_is_opened(tmp_path):
    with pytest.raises(ValueError, match="named like M3 or M3__name"):
        RunDirectory(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such run"):
        RunDirectory(tmp_path / "M1")


# ---------------------------------------------------------------------- the lock


@pytest.fixture
def run(tmp_path):
    return RunDirectory.create(tmp_path / "runs", "x")


def test_a_run_is_locked_once(run):
    run.lock()
    run.lock()
    assert run.locked
    with pytest.raises(
        RunInUseError, match=r"M1__x: the run is in use by another trainer of this process"
    ) as caught:
        RunDirectory(run.path).lock()
    assert 'resume="new"' in str(caught.value)
    run.release()
    run.release()
    assert not run.locked
    other = RunDirectory(run.path)
    other.lock()
    other.release()


def test_a_lock_that_cannot_be_made_is_named(run):
    (run.path / "lock").mkdir()
    with pytest.raises(OSError, match=r"M1__x/lock: the run cannot be locked"):
        run.lock()


OWNER = """
    import os, sys, subprocess
    from deeptrain.run.directory import RunDirectory
    run = RunDirectory(sys.argv[1])
    run.lock()
    if sys.argv[2] == "fork":
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            # The child's end of stdin stays open until the test closes it: it outlives its parent.
            os.write(tell, b"x" if not run.locked else b"?")
            os.close(1)
            sys.stdin.buffer.read()
            os._exit(0)
        assert os.read(told, 1) == b"x"
    elif sys.argv[2] == "exec":
        child = subprocess.Popen(["cat"], stdout=subprocess.DEVNULL).pid
    else:
        child = 0
    print(child, flush=True)
    sys.stdin.buffer.read()
"""


def start(run, kind):
    code = textwrap.dedent(OWNER)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(run.path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("kind", ["fork", "exec", "alone"])
def test_the_lock_is_free_at_once_when_its_owner_is_killed_though_its_children_live(run, kind):
    with start(run, kind) as owner:
        child = int(owner.stdout.readline())
        with pytest.raises(RunInUseError, match="in use by another process") as caught:
            run.lock()
        assert f"process {owner.pid} on " in str(caught.value)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        assert child == 0 or alive(child)
        run.lock()
        run.release()
        owner.stdin.close()  # which ends the child


# Newer Pythons warn of a fork beside other threads; these children do next to nothing.
forks = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@forks
def test_a_child_that_ends_does_not_free_its_parents_lock(run):
    run.lock()
    pid = os.fork()
    if pid == 0:
        run.release()
        os._exit(0 if not run.locked else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(RunInUseError):
        RunDirectory(run.path).lock()
    run.release()


@forks
def test_a_lock_let_go_in_a_child_closes_no_other_file(run):
    run.lock()
    pid = os.fork()
    if pid == 0:
        mine = os.open(os.devnull, os.O_RDONLY)  # gets the number that the lock had
        run.release()
        os.fstat(mine)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    run.release()
