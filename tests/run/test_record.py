"""A run's record, and the comparison of a script with the run that it means."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from deeptrain.run import record
from deeptrain.run.environment import environment
from deeptrain.run.fingerprint import ABSENT, FingerprintMismatch, Mismatch, compare
from deeptrain.run.record import git_state, main_script, plain, write_start


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def git(where, *arguments):
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=where, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path):
    where = tmp_path / "repository"
    where.mkdir()
    git(where, "init", "-q")
    (where / "a.txt").write_text("one\n")
    git(where, "add", ".")
    return where


def test_the_environment_is_plain_and_says_what_decides_over_bits():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["deterministic"] is torch.are_deterministic_algorithms_enabled()
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"platform", "numpy", "deeptrain", "device", "device_name", "cuda", "cudnn"} <= set(found)


def test_git_before_the_first_commit_after_it_and_with_changes(repository):
    assert git_state(repository)["commit"] is None
    git(repository, "commit", "-q", "-m", "x")
    clean = git_state(repository)
    assert len(clean["commit"]) == 40
    assert (clean["dirty"], clean["diff"]) == (False, "")
    (repository / "a.txt").write_text("two\n")
    (repository / "sub").mkdir()
    changed = git_state(repository / "sub")
    assert changed["dirty"]
    assert "-one\n+two\n" in changed["diff"]


def test_git_goes_by_the_place_also_inside_a_hook(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert git_state(tmp_path) is None


def test_no_repository_no_git_or_a_slow_one_is_fine(tmp_path, monkeypatch):
    assert git_state(tmp_path) is None
    assert git_state(tmp_path / "nowhere") is None
    (tmp_path / "git").write_text(
        f"#!{sys.executable}\nimport sys; sys.stdin = open('/dev/zero'); sys.stdin.read()\n"
    )
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(record, "_GIT_SECONDS", 0.1)
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert git_state(tmp_path) is None


def test_the_main_script(monkeypatch, tmp_path):
    main = sys.modules["__main__"]
    (tmp_path / "s.py").write_text("")
    monkeypatch.setattr(main, "__file__", str(tmp_path / "s.py"), raising=False)
    assert main_script() == tmp_path / "s.py"
    monkeypatch.setattr(main, "__file__", "<stdin>", raising=False)
    assert main_script() is None
    monkeypatch.delattr(main, "__file__")
    assert main_script() is None


class Odd:
    def __repr__(self):
        raise RuntimeError


def test_values_that_are_no_json_are_recorded_by_repr():
    loop = {}
    loop["again"] = loop
    values = {
        "a": (1, [2.5, math.inf]), 3: np.float32(0.5), "n": np.int64(4), "b": np.bool_(True), "p": Path("x"), "f": plain,
        "o": Odd(), "t": torch.Size([2]), "nan": np.float64("nan"), "none": None,
    }  # fmt: skip
    expected = {
        "a": [1, [2.5, "inf"]], "3": 0.5, "n": 4, "b": True, "p": repr(Path("x")), "f": "<function plain>",
        "o": "<Odd, whose repr raised RuntimeError>", "t": [2], "nan": "nan", "none": None,
    }  # fmt: skip
    assert plain(values) == expected
    assert plain(plain(values)) == expected
    assert json.loads(json.dumps(plain(values))) == expected
    assert len(json.dumps(plain(loop))) < 10_000
    assert len(plain("x" * 10 + "y") + plain(range(10))) < 100
    assert plain([object()]) == ["<object object>"]


def test_a_start_is_recorded_with_script_and_diff(repository, tmp_path, monkeypatch):
    git(repository, "commit", "-q", "-m", "x")
    (repository / "a.txt").write_text("two\n")
    script = repository / "train.py"
    script.write_text("print('é')\n", encoding="utf-8")
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    run = tmp_path / "M1__x"
    run.mkdir()
    first = write_start(run, settings={"seed": 0}, config={"lr": 0.1, "f": len}, origin={"parent": None})
    second = write_start(run, {"seed": 1}, {}, None)
    assert (first.name, second.name) == ("start-0001.json", "start-0002.json")
    assert entries(run / "record") == [
        "git-0001.diff", "git-0002.diff", "script-0001.py", "script-0002.py", "start-0001.json", "start-0002.json",
    ]  # fmt: skip
    start = json.loads(first.read_text())
    assert start["settings"] == {"seed": 0}
    assert start["config"] == {"lr": 0.1, "f": "<built-in function len>"}
    assert start["origin"] == {"parent": None}
    assert start["script"] == {"path": str(script), "copy": "script-0001.py"}
    assert start["git"]["diff"] == "git-0001.diff"
    assert start["git"]["dirty"]
    assert start["environment"]["torch"] == torch.__version__
    assert (run / "record" / "script-0001.py").read_bytes() == script.read_bytes()
    assert "+two" in (run / "record" / "git-0001.diff").read_text()


def test_a_start_at_a_prompt_without_git_is_recorded_too(tmp_path, monkeypatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    start = json.loads(write_start(tmp_path, {}, {}, "here").read_text())
    assert start["script"] is None
    assert start["git"] is None
    assert entries(tmp_path / "record") == ["start-0001.json"]


# ---------------------------------------------------------------------- the fingerprint


SETTINGS = {
    "step": {"model": {"conv.weight": "torch.float32 [3, 4]", "b": [3]}, "optimizer": {"param_groups": [{"lr": 0.1}]}},
    "data": {"train": {"batch_size": 64, "shuffle": "global", "shape": (2, 3)}},
    "config": {},
}  # fmt: skip


def changed(**changes):
    settings = json.loads(json.dumps(SETTINGS))
    for path, value in changes.items():
        *way, last = path.split("__")
        node = settings
        for key in way:
            node = node[int(key) if isinstance(node, list) else key]
        node[last] = value
    return settings


def test_equal_settings_have_no_mismatch_also_after_json():
    assert compare(json.loads(json.dumps(SETTINGS)), SETTINGS) == []


def test_mismatches_have_paths_and_both_values():
    present = changed(
        data__train__batch_size=128, step__optimizer__param_groups__0__lr=0.2, config__new=(1, 2)
    )
    present["data"]["train"]["shape"] = [2, 4]
    del present["data"]["train"]["shuffle"]
    assert compare(SETTINGS, present) == [
        Mismatch("step.optimizer.param_groups.0.lr", 0.1, 0.2),
        Mismatch("data.train.batch_size", 64, 128),
        Mismatch("data.train.shuffle", "global", ABSENT),
        Mismatch("data.train.shape", [2, 3], [2, 4]),
        Mismatch("config.new", ABSENT, [1, 2]),
    ]


@pytest.mark.parametrize(
    ("a", "b"), [(1, True), (1, 1.0), (0.0, -0.0), ("1", 1), (None, "None"), ([1], [True])]
)
def test_values_of_other_types_are_no_match(a, b):
    assert len(compare({"x": a}, {"x": b})) == 1


def test_nan_and_infinity_match_themselves():
    assert compare({"x": [math.nan, math.inf]}, {"x": (math.nan, math.inf)}) == []


def test_the_message_lists_the_differences_and_the_choices():
    present = changed(data__train__batch_size=128, step__model__b=[5], step__model__extra="x")
    present["step"]["model"].pop("conv.weight")
    error = FingerprintMismatch(compare(SETTINGS, present), run="runs/M3__mnist")
    assert isinstance(error, ValueError)
    assert len(error.mismatches) == 4
    assert str(error) == (
        "the run runs/M3__mnist was started with other settings than this script's (the run's -> the script's):\n"
        "  step.model.conv.weight: missing in the script's model (the run has 'torch.float32 [3, 4]')\n"
        "  step.model.b: [3] in the run, [5] in the script\n"
        "  data.train.batch_size: 64 -> 128\n"
        "  step.model.extra: unexpected: only the script's model has it ('x')\n"
        'choose: resume="new" starts another run; resume="keep" goes on with the run\'s values; resume="take" goes '
        "on with the script's. A model with other parameters needs a new run."
    )


def test_a_long_list_is_cut():
    error = FingerprintMismatch(compare({}, {f"x{n}": n for n in range(100)}))
    assert "and 70 more" in str(error)
    assert str(error).startswith("the run was started")
