"""`deeptrain evaluate RUN`: a run's script judges a checkpoint of it on its validation data, in place of training."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.run.appraisal import Appraisal
from deeptrain.run.directory import RunDirectory
from deeptrain.run.replay_cli import recorded_command

if TYPE_CHECKING:
    from collections.abc import Iterator


def add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    evaluate = commands.add_parser(
        "evaluate",
        help="judge a checkpoint of a run on the validation data of its script; the run is only read",
    )
    evaluate.add_argument("path", metavar="RUN", type=Path)
    evaluate.add_argument(
        "--which", choices=("newest", "best"), default="newest", help="which checkpoint (default: newest)"
    )
    evaluate.add_argument(
        "--predictions",
        metavar="DIRECTORY",
        type=Path,
        help="write the rows there, as predictions.parquet; it is made where it is not there",
    )
    evaluate.add_argument(
        "--script",
        metavar="SCRIPT ...",
        nargs=argparse.REMAINDER,
        help="the script with its arguments, where it is another than the run's record says; comes last",
    )
    evaluate.set_defaults(run=_evaluate)


def _evaluate(parsed: argparse.Namespace) -> int:
    run = RunDirectory(parsed.path)
    if parsed.predictions is not None:
        parsed.predictions.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="deeptrain-") as place:
        report = Path(place) / "report.json"
        rows = "" if parsed.predictions is None else str(parsed.predictions.resolve())
        asked = Appraisal(str(run.path.resolve()), parsed.which, str(report), rows)
        command = [sys.executable, *(parsed.script or recorded_command(run.path))]
        ended = subprocess.run(command, env={**os.environ, **asked.as_variable()}, check=False)  # noqa: S603 - the user's own
        if not report.is_file():
            raise RuntimeError(
                f"{' '.join(command)} ended with exit status {ended.returncode} and evaluated nothing: it is to make a trainer of the name "
                f"{run.name!r} with a validation, and to train it"
            )
        found = json.loads(report.read_text(encoding="utf-8"))
    for line in _lines(run.path, found):
        print(line)  # noqa: T201 - a command's answer
    return 0


def _lines(run: Path, found: dict[str, Any]) -> Iterator[str]:
    yield f"{run}: checkpoint {found['checkpoint']}, iteration {found['iterations']}, epoch {found['epochs']}"
    for name, value in found["figures"].items():
        yield f"  {name} {float(value):.6g}"
    for file in found["files"]:
        yield f"  {file}"
