"""The command line: `deeptrain demo | info | log | diff | prove | replay | evaluate | worst | ensemble | convert | verify`; for what is asked of a run see
`asking_cli`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from deeptrain.checkpoint.verify_cli import add_verify
from deeptrain.data.convert_cli import add_convert
from deeptrain.evaluation.choosing.ensemble_cli import add_ensemble
from deeptrain.evaluation.worst_cli import add_worst
from deeptrain.run.appraisal_cli import add_evaluate
from deeptrain.run.asking_cli import add_asking
from deeptrain.run.replay_cli import add_replay

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        The exit status: 0 where all is well, 1 where what was compared differs, 2 where the command is wrong or
        what it was to read is not there.
    """
    parsed = _parser().parse_args(arguments)
    try:
        _find_runs(parsed)
        return int(parsed.run(parsed))
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"deeptrain {parsed.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"deeptrain {parsed.command}: interrupted", file=sys.stderr)
        return 130


def _find_runs(parsed: argparse.Namespace) -> None:
    """Put directories in place of runs that are given by a name, or by "M3"."""
    for argument in _RUNS.get(parsed.command, ()):
        if not getattr(parsed, argument).is_dir():
            from deeptrain.run.directory import find_run  # noqa: PLC0415 - a command pays for what it uses

            setattr(parsed, argument, find_run(getattr(parsed, argument)))


# Which arguments of which commands say which run; the commands to a run that trains look for it themselves.
_RUNS = {
    "info": ("path",),
    "log": ("path",),
    "verify": ("path",),
    "replay": ("path",),
    "worst": ("path",),
    "evaluate": ("path",),
    "diff": ("one", "two"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="deeptrain", description="Train PyTorch models, stop anywhere, continue to the same bits."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo", help="train on real digits, be killed three times, end with the same bits"
    )
    demo.add_argument("--directory", type=Path, default=Path("demo"), help="where to write (default: demo)")
    demo.add_argument("--kills", type=int, default=3, help="how often to kill it (default: 3)")
    demo.set_defaults(run=_demo)

    info = commands.add_parser("info", help="where a run stands")
    info.add_argument("path", metavar="RUN", type=Path)
    info.set_defaults(run=_info)

    diff = commands.add_parser("diff", help="in which values two runs or checkpoints differ, and by how much")
    diff.add_argument("one", metavar="A", type=Path)
    diff.add_argument("two", metavar="B", type=Path)
    diff.set_defaults(run=_diff)

    prove = commands.add_parser(
        "prove", help="run a training script untouched and killed, and compare the bits"
    )
    prove.add_argument("--kills", type=int, default=3, help="how often to kill it (default: 3)")
    prove.add_argument("--seed", type=int, default=None, help="for the moments of the kills")
    prove.add_argument(
        "--directory", type=Path, default=None, help="where to keep both runs (default: nowhere)"
    )
    prove.add_argument("script", metavar="SCRIPT", type=Path)
    prove.add_argument(
        "arguments", metavar="...", nargs=argparse.REMAINDER, help="the script's own arguments"
    )
    prove.set_defaults(run=_prove)
    log = commands.add_parser("log", help="the tree of a run's branches, with what was done to it")
    log.add_argument("path", metavar="RUN", type=Path)
    log.set_defaults(run=_log)
    add_convert(commands)
    add_verify(commands)
    add_replay(commands)
    add_worst(commands)
    add_evaluate(commands)
    add_ensemble(commands)
    add_asking(commands)
    return parser


def _demo(parsed: argparse.Namespace) -> int:
    from deeptrain.demo import demo  # noqa: PLC0415 - a command pays for what it uses

    return demo(parsed.directory, parsed.kills)


def _info(parsed: argparse.Namespace) -> int:
    from deeptrain.run.reader import open_run  # noqa: PLC0415

    print(open_run(parsed.path).describe())
    return 0


def _log(parsed: argparse.Namespace) -> int:
    from deeptrain.run.log import RunLog  # noqa: PLC0415

    print(RunLog(parsed.path))
    return 0


def _diff(parsed: argparse.Namespace) -> int:
    from deeptrain.introspect.parting import JOURNAL, parting  # noqa: PLC0415
    from deeptrain.run.run import Run  # noqa: PLC0415
    from deeptrain.state import tree  # noqa: PLC0415

    of_runs = all((place / JOURNAL).is_file() for place in (parsed.one, parsed.two))
    parted = parting(parsed.one, parsed.two) if of_runs else None
    if parted is not None:
        print(f"the journals part at iteration {parted.at}: {parted.what}", flush=True)
    one, two = Run.read(parsed.one), Run.read(parsed.two)
    differences = tree.diff(one, two)
    if differences and of_runs and parted is None:
        print("the journals tell of no iteration that differs")
    if differences:
        print(f"found: in {parsed.one}; expected: in {parsed.two}")
    for difference in differences:
        print(difference)
    print(
        f"{len(differences)} of {sum(1 for _ in tree.walk(one))} values differ"
        if differences
        else ("identical" if parted is None else "the newest states are identical")
    )
    return 1 if differences or parted is not None else 0


def _prove(parsed: argparse.Namespace) -> int:
    from deeptrain.prove import prove_script  # noqa: PLC0415

    if not parsed.script.is_file():
        raise FileNotFoundError(f"{parsed.script} is no file: give the path of a training script")
    with tempfile.TemporaryDirectory(prefix="deeptrain-prove-") as scratch:
        proof = prove_script(
            parsed.script,
            parsed.arguments,
            kills=parsed.kills,
            seed=parsed.seed,
            directory=parsed.directory or Path(scratch),
        )
        print(proof)
    return 0 if proof.identical else 1


if __name__ == "__main__":
    sys.exit(main())
