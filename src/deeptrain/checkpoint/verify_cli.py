"""The command `deeptrain verify RUN|CHECKPOINT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

EXAMPLE = "example: deeptrain verify runs/M1__mnist; the exit status is 1 where the newest is not whole"


def add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the command line's."""
    parser = commands.add_parser(
        "verify",
        help="a run's checkpoints: whether they are whole, bit for bit, where they stand, and when they were saved",
        epilog=EXAMPLE,
    )
    parser.add_argument("path", metavar="RUN|CHECKPOINT", type=Path, help="the directory of either")
    parser.set_defaults(run=run_verify)


def run_verify(parsed: argparse.Namespace) -> int:
    """Print a line for each checkpoint, oldest first.

    Returns:
        The exit status: 0 where the newest is whole, 1 where it is not.
    """
    from deeptrain.checkpoint.verify import verify_all  # noqa: PLC0415 - a command pays for what it uses

    verdicts = verify_all(parsed.path)
    for verdict in verdicts:
        print(verdict)  # noqa: T201 - a command's answer
    return 0 if verdicts[-1].whole else 1
