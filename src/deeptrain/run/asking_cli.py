"""The commands `deeptrain pause | unpause | step | stop | set | validate | checkpoint | break RUN`, to a run in another process."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Content = Callable[[argparse.Namespace], dict[str, Any]]

EPILOG = (
    "RUN is a run's directory, or its name within runs/. It is answered when the run has come to its next safe point. The exit "
    "status is 0 where it was applied, 1 where it was rejected, 2 where no process trains the run or none answered in time."
)


def add_asking(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the command line's."""
    _add(commands, "pause", "hold a run at its next safe point; its process lives on and answers")
    _add(commands, "unpause", "let a run that is paused go on")
    step = _add(commands, "step", "let a run that is paused make some iterations", _step)
    step.add_argument("iterations", metavar="N", type=int, nargs="?", default=1, help="how many (default: 1)")
    _add(commands, "stop", "end a run where it is: fit() returns, and the run is done")
    change = _add(commands, "set", "set a value of a run's state by its path", _set)
    change.add_argument("place", metavar="PATH", help="for example optimizer.param_groups.*.weight_decay")
    change.add_argument("value", metavar="VALUE", help="as JSON: 0.1, true, [0.9, 0.99]; else it is a string")
    _add(commands, "validate", "have a validation made and recorded")
    checkpoint = _add(
        commands, "checkpoint", "commit a checkpoint and wait until it is on the disk", _checkpoint
    )
    checkpoint.add_argument("--tag", help="a name for it; then it is kept for good")
    stop = _add(commands, "break", "hold a run after the first iteration for which a condition holds", _break)
    stop.add_argument("condition", metavar="CONDITION", nargs="?", help='for example "train.loss > 10"')
    stop.add_argument(
        "--remove",
        metavar="CONDITION",
        nargs="?",
        const="",
        help="remove one; all of them where none is given",
    )


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    verb: str,
    what: str,
    content: Content | None = None,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(verb, help=what, epilog=EPILOG)
    parser.add_argument("path", metavar="RUN", help="its directory, or its name within runs/")
    parser.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS",
        help="how long to wait for the answer; then the command is taken back (default: 60)",
    )  # fmt: skip
    parser.set_defaults(run=run_asking, content=content or (lambda _: {"verb": verb}))
    return parser


def run_asking(parsed: argparse.Namespace) -> int:
    """Ask, and print the answer.

    Returns:
        The exit status: 0 where it was applied, 1 where it was rejected.
    """
    from deeptrain.run.asking import ask  # noqa: PLC0415 - a command pays for what it uses
    from deeptrain.run.directory import find_run  # noqa: PLC0415

    answer = ask(find_run(parsed.path), parsed.content(parsed), timeout=parsed.timeout)
    print(answer, file=sys.stdout if answer.applied else sys.stderr)
    if not answer.applied and parsed.command == "set" and not _is_json(parsed.value):
        note = f"({parsed.value} is no JSON, so it was taken for a string; numbers, true, false, null and [..] are JSON)"
        print(note, file=sys.stderr)  # noqa: T201
    return 0 if answer.applied else 1


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _set(parsed: argparse.Namespace) -> dict[str, Any]:
    value = json.loads(parsed.value) if _is_json(parsed.value) else parsed.value
    return {"verb": "set", "path": parsed.place, "value": value}


def _step(parsed: argparse.Namespace) -> dict[str, Any]:
    return {"verb": "step", "iterations": parsed.iterations}


def _checkpoint(parsed: argparse.Namespace) -> dict[str, Any]:
    return {"verb": "checkpoint"} | ({} if parsed.tag is None else {"tag": parsed.tag})


def _break(parsed: argparse.Namespace) -> dict[str, Any]:
    if parsed.remove is not None and parsed.condition is None:
        return {"verb": "unbreak"} | ({"condition": parsed.remove} if parsed.remove else {})
    if parsed.condition is None or parsed.remove is not None:
        raise ValueError("expected a condition, as in deeptrain break RUN 'train.loss > 10', or --remove")
    return {"verb": "break", "condition": parsed.condition}
