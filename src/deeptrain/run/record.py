"""What a start of a run leaves behind: settings, the script, the git commit with its diff, the environment."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.checkpoint.files import make_directory, replace_bytes, write_json
from deeptrain.preferences import defaults
from deeptrain.run.environment import environment

if TYPE_CHECKING:
    from deeptrain.trainer import Trainer

VERSION = 1
_GIT_SECONDS = 10.0
_GIT_BYTES = 4_000_000  # of a diff; what is longer is data in the working tree rather than code
_REPR = 2000  # characters of a value that is no JSON
_DEPTH = 50
_START = re.compile(r"start-([0-9]+)\.json")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Set inside git's own hooks, where they would lead to another repository than the script's.
_GIT_VARIABLES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY")


def git_state(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The commit and the uncommitted changes of the repository that a directory is in.

    Returns:
        `commit` (None before the first), `dirty`, and `diff`: the text of the changes against the commit, cut
        at 4 MB. None where there is no repository or no git, or it takes longer than 10 seconds.
    """
    try:
        if _git(path, "rev-parse", "--is-inside-work-tree") is None:
            return None
        commit = _git(path, "rev-parse", "--verify", "-q", "HEAD")
        status = _git(path, "status", "--porcelain") or ""
        against = () if commit is None else ("HEAD",)
        diff = _git(path, "diff", "--no-color", "--no-ext-diff", "--no-textconv", *against) or ""
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": None if commit is None else commit.strip(), "dirty": bool(status), "diff": diff}


def _git(path: str | os.PathLike[str], *arguments: str) -> str | None:
    """What git printed, or None where it refused."""
    variables = {key: value for key, value in os.environ.items() if key not in _GIT_VARIABLES}
    done = subprocess.run(  # noqa: S603 - no shell, and the arguments are ours
        ["git", "-c", "core.fsmonitor=false", *arguments],  # noqa: S607 - the user's git, wherever it is
        cwd=path,
        env=variables | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_GIT_SECONDS,
        check=False,
    )
    return done.stdout[:_GIT_BYTES].decode(errors="replace") if done.returncode == 0 else None


def main_script() -> Path | None:
    """The file that Python was started with; None in a notebook or at a prompt."""
    name = getattr(sys.modules.get("__main__"), "__file__", None)
    path = None if name is None else Path(name)
    return path if path is not None and path.is_file() else None


def plain(value: Any) -> Any:
    """A value as JSON holds it: tuples as lists, keys as str, whatever JSON has not by its repr.

    Addresses in memory are left out of a repr, so that it is the same in each process.

    Example:
        >>> plain({"lr": (0.1, float("inf")), 3: None})
        {'lr': [0.1, 'inf'], '3': None}
    """
    return _plain(value, 0)


def _plain(value: Any, depth: int) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        value = value.item()
    if type(value) in (bool, int):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else repr(value)
    if isinstance(value, dict) and depth < _DEPTH:
        return {key if type(key) is str else str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)  # their own order differs from process to process
    if isinstance(value, list | tuple) and depth < _DEPTH:
        return [_plain(item, depth + 1) for item in value]
    return _repr(value)


def _repr(value: Any) -> str:
    try:
        text = _ADDRESS.sub("", repr(value))
    except Exception as error:  # noqa: BLE001 - a user's repr may raise anything, and a record is no reason to stop
        text = f"<{type(value).__qualname__}, whose repr raised {type(error).__name__}>"
    return text if len(text) <= _REPR else f"{text[:_REPR]}..."


def write_start(
    directory: str | os.PathLike[str],
    settings: dict[str, Any],
    config: dict[str, Any],
    origin: Any,
    surroundings: dict[str, Any] | None = None,
    *,
    used: dict[str, Any] | None = None,
) -> Path:
    """Write `record/start-0001.json` into a run's directory, with `script-0001.py` and `git-0001.diff` beside.

    Numbers go upward with each start. The JSON file comes last, so that where it is, the others are.

    Args:
        directory: The run's directory.
        settings: How the run's parts were made.
        config: The user's own values.
        origin: Where the state came from.
        surroundings: What `environment` gave; by default it is asked.
        used: What is used of `dt.defaults`, where the script says otherwise. No part of what must match later.

    Returns:
        The JSON file.
    """
    record = Path(directory) / "record"
    make_directory(record)
    number = f"{_next_number(record):04d}"
    script = main_script()
    start = {
        "version": VERSION,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "origin": plain(origin),
        "command": list(sys.argv),
        "script": _keep_script(record / f"script-{number}.py", script),
        "git": _keep_git(record / f"git-{number}.diff", Path.cwd() if script is None else script.parent),
        "environment": environment() if surroundings is None else surroundings,
        "settings": plain(settings),
        "config": plain(config),
        "defaults": plain(defaults.in_force(**(used or {}))),
    }
    path = record / f"start-{number}.json"
    write_json(path, start)
    return path


def used_of(trainer: Trainer, run: Path) -> dict[str, Any]:
    """What a trainer uses of that for which a user may have defaults."""
    shown = trainer.display
    return {"verbosity": shown.verbosity, "digits": shown.digits, "runs": str(run.parent)}


def newest_start(run: str | os.PathLike[str]) -> dict[str, Any] | None:
    """How the newest start of a run was made; None where its record cannot be read."""
    with suppress(OSError):
        return _start(run, _next_number(Path(run) / "record") - 1)
    return None


def first_start(run: str | os.PathLike[str]) -> dict[str, Any] | None:
    """How the first start of a run was made; None where its record cannot be read."""
    return _start(run, 1)


def origin_in(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Where a run began, as its first start has it; empty where its record cannot be read."""
    origin = (first_start(run) or {}).get("origin")
    return origin if isinstance(origin, dict) else {}


def _start(run: str | os.PathLike[str], number: int) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        text = (Path(run) / "record" / f"start-{number:04d}.json").read_text(encoding="utf-8")
        found = json.loads(text)
        return found if isinstance(found, dict) else None
    return None


def _next_number(record: Path) -> int:
    matches = [_START.fullmatch(path.name) for path in record.iterdir()]
    return max((int(match[1]) for match in matches if match is not None), default=0) + 1


def _keep_script(copy: Path, script: Path | None) -> dict[str, str] | None:
    if script is None:
        return None
    try:
        replace_bytes(copy, script.read_bytes())
    except OSError as error:
        return {"path": str(script), "copy": f"could not be copied: {error}"}
    return {"path": str(script), "copy": copy.name}


def _keep_git(copy: Path, place: Path) -> dict[str, Any] | None:
    state = git_state(place)
    if state is None:
        return None
    diff = state.pop("diff")
    if diff:
        replace_bytes(copy, diff.encode())
    return state | {"diff": copy.name if diff else None}
