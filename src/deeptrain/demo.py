"""`deeptrain demo`: real digits, a training script that is killed and started again, and the same bits at its end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from deeptrain.demo_data import ensure_data
from deeptrain.prove import prove_script
from deeptrain.run.reader import open_run

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from deeptrain.prove import RunPair, ScriptProof

SCRIPT = Path(__file__).with_name("demo_script.py")
STOPPED = 130  # what shells report of a command that Ctrl-C ended


def demo(directory: Path, kills: int) -> int:
    """Train on real digits untouched and killed, compare the bits, and draw both.

    Args:
        directory: Where data, runs and the picture are written. What is there already is kept.
        kills: How often to kill the training.

    Returns:
        The exit status: 0 where both runs ended with the same bits, 1 where not.

    Raises:
        FileNotFoundError: The digits are not there; the message says what to install.
        ValueError: Something else is where the data should be, or `kills` is below 1.
    """
    from rich.console import Console  # noqa: PLC0415 - only a command pays for it

    console = Console(highlight=False)
    try:
        return _demo(console, directory, kills)
    except KeyboardInterrupt:
        console.print("\nThe demo was stopped; what it started is stopped too.")
        return STOPPED


def _demo(console: Console, directory: Path, kills: int) -> int:
    _check(kills)
    _prepare_data(console, directory / "data")
    here = _new_directory(directory)
    # A copy: it lies beside what it made, and Python puts a script's own directory first on its path.
    script = Path(shutil.copy(SCRIPT, here / "train_digits.py"))
    console.print(f"The training script, an ordinary one, is {script}.", soft_wrap=True)
    proof = prove_script(
        script, [str(directory / "data")], kills=kills, directory=here, say=lambda line: _say(console, line)
    )
    _say(console, "Comparing the two final states, value by value.")
    picture = _draw(console, proof.pairs[0], directory / "demo.png")
    console.print(_table(proof, picture))
    console.print(f"\nLook around: deeptrain info {proof.pairs[0].killed}", soft_wrap=True)
    return 0 if proof.identical else 1


def _check(kills: int) -> None:
    if kills < 1:
        raise ValueError(f"--kills {kills}: expected 1 or more, else there is nothing to show")


def _say(console: Console, line: str) -> None:
    """A line of the demo's own. The blank one before it also ends a live line that a kill left behind."""
    console.print(f"\n[bold]{line}[/bold]", soft_wrap=True)


def _prepare_data(console: Console, data: Path) -> None:
    if ensure_data(data):
        console.print(f"5,000 handwritten digits were written to {data}, as .npy sets of 128 images.")
    else:
        console.print(f"The digits are in {data} already.")


def _new_directory(directory: Path) -> Path:
    """Make `runs-1`, or the next number that is free: a demo leaves the earlier ones alone."""
    number = 1
    while True:
        path = directory / f"runs-{number}"
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path


def _draw(console: Console, pair: RunPair, path: Path) -> Path | None:
    from deeptrain.report.demo_figure import draw  # noqa: PLC0415

    try:
        draw(pair, path)
    except ImportError:
        console.print("No picture was drawn: it needs matplotlib (pip install matplotlib).")
        return None
    return path


def _table(proof: ScriptProof, picture: Path | None) -> Table:
    from rich.table import Table  # noqa: PLC0415

    pair = proof.pairs[0]
    untouched, killed = open_run(pair.untouched), open_run(pair.killed)
    verdict = "[bold green]identical[/]" if proof.identical else "[bold red]NOT identical[/]"
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("untouched", pair.digests[0])
    table.add_row(f"killed {_times(proof.kills)}", pair.digests[1])
    table.add_row("digests", verdict)
    table.add_row("validation accuracy", f"{untouched.history['val.accuracy'].values[-1]:.2%}")
    table.add_row("computed twice", f"{pair.computed_twice} of {killed.info['iterations']} iterations")
    if picture is not None:
        table.add_row("picture", str(picture))
    table.add_row("records", f"{pair.untouched}\n{pair.killed}")
    for line in _why(pair):
        table.add_row("", line)
    return table


def _times(kills: int) -> str:
    return "once" if kills == 1 else f"{kills} times"


def _why(pair: RunPair) -> list[str]:
    """Where two runs that differ part, and what could have caused it."""
    if pair.identical:
        return []
    return [f"first difference: {pair.first or 'only in the final state'}", *pair.differences, *pair.suspects]
