"""`deeptrain replay RUN --to-batch N`: a run's script comes to a point of it again, in a new run."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from deeptrain.run.directory import RunDirectory
from deeptrain.run.record import newest_start
from deeptrain.run.travel import REPORT, Travel

POINTS = {"iteration": "iterations", "batch": "batches", "update": "updates", "epoch": "epochs"}


def add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    replay = commands.add_parser(
        "replay",
        help="come to a point of a run again, from the nearest checkpoint, and hold it against the journal",
    )
    replay.add_argument("path", metavar="RUN", type=Path)
    point = replay.add_mutually_exclusive_group(required=True)
    for name, counter in POINTS.items():
        point.add_argument(f"--to-{name}", dest=counter, metavar="N", type=int)
    replay.add_argument(
        "--without-interventions",
        action="store_true",
        help="leave out what was changed from outside between the checkpoint and the point",
    )
    replay.add_argument("--name", help="the new run's name (default: the run's name and -replay)")
    replay.add_argument(
        "--script",
        metavar="SCRIPT ...",
        nargs=argparse.REMAINDER,
        help="the script with its arguments, where it is another than the run's record says; comes last",
    )
    replay.set_defaults(run=_replay)


def _replay(parsed: argparse.Namespace) -> int:
    run = RunDirectory(parsed.path)
    counter, count = next((c, n) for c in POINTS.values() if (n := getattr(parsed, c)) is not None)
    into = parsed.name or f"{run.name or run.path.name}-replay"
    travel = Travel(str(run.path.resolve()), counter, count, not parsed.without_interventions, into)
    travel.start()  # what cannot be come to is said before a script is started
    before = RunDirectory.find(run.path.parent, into)
    command = [sys.executable, *(parsed.script or recorded_command(run.path))]
    ended = subprocess.run(command, env={**os.environ, **travel.as_variable()}, check=False)  # noqa: S603 - the user's own
    made = [path for path in RunDirectory.find(run.path.parent, into) if path not in before]
    if not made or not (made[0] / "record" / REPORT).is_file():
        raise RuntimeError(
            f"{' '.join(command)} ended with exit status {ended.returncode} and did not come to {counter}={count}: it is to make "
            f"a trainer of the name {run.name!r}, and to train it"
        )
    report: dict[str, Any] = json.loads((made[0] / "record" / REPORT).read_text(encoding="utf-8"))
    where = f"{counter}={count}, iteration {report['at']}"
    print(f"{made[0]}: {where}, digest {report['digest']}\n{report['verdict']}")  # noqa: T201 - a command's answer
    return 0 if report["identical"] or parsed.without_interventions else 1


def recorded_command(run: Path) -> list[str]:
    """How the run's newest start was made.

    Raises:
        ValueError: The record has no script that is still there.
    """
    start = newest_start(run)
    script = None if start is None else start.get("script")
    if start is None or script is None or not Path(script["path"]).is_file():
        found = "no script" if script is None else f"{script['path']}, which is not there"
        raise ValueError(
            f"{run}: its record has {found}: give the script, deeptrain replay RUN --to-batch N --script SCRIPT"
        )
    return [script["path"], *start["command"][1:]]
