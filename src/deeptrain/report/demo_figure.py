"""The demo's picture: an untouched run and one that was killed, laid over each other iteration by iteration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deeptrain.run.reader import open_run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from matplotlib.axes import Axes

    from deeptrain.prove import RunPair

# Okabe and Ito's colours, which people who see fewer colours can tell apart; the lines differ in width too.
SKY, VERMILION, ORANGE, GREY = "#56B4E9", "#C2410C", "#E69F00", "#555555"
FONT = {"font.family": "sans-serif", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}


@dataclass(frozen=True, slots=True)
class Course:
    """What a run's journal says of its course.

    Attributes:
        loss: The train loss by iteration.
        accuracy: The validation accuracy by iteration.
        lives: For each process that worked on the run, the iteration after which it began and its last one.
    """

    loss: dict[int, float]
    accuracy: dict[int, float]
    lives: list[tuple[int, int]]

    @property
    def twice(self) -> list[tuple[int, int]]:
        """The stretches that were computed again: for each process but the first, from its start to the kill."""
        ends = [end for _, end in self.lives[:-1]]
        starts = [start for start, _ in self.lives[1:]]
        return [(start, end) for start, end in zip(starts, ends, strict=True) if start < end]


def course(journal: Iterable[dict[str, Any]]) -> Course:
    """Read a run's course out of its journal; what was computed twice counts as computed last."""
    found = Course({}, {}, [])
    for entry in journal:
        at = entry.get("at", 0)
        if entry["kind"] == "start":
            found.lives.append((at, at))
        elif entry["kind"] == "iteration":
            found.loss[at] = entry["figures"]["loss"]
            found.lives[-1] = (found.lives[-1][0], at)
        elif entry["kind"] == "validation":
            found.accuracy[at] = entry["figures"]["accuracy"]
    return found


def draw(pair: RunPair, path: Path) -> None:
    """Draw an untouched and a killed run to a file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - a heavy library, only where a picture is drawn
    from matplotlib.figure import Figure  # noqa: PLC0415

    untouched, killed = course(open_run(pair.untouched).journal()), course(open_run(pair.killed).journal())
    with mpl.rc_context(FONT):
        figure = Figure(figsize=(9.6, 6.6), dpi=120, layout="constrained")
        loss, accuracy, lives = figure.subplots(3, 1, sharex=True, height_ratios=[5, 2.6, 1.5])
        _draw_loss(loss, untouched, killed)
        _draw_accuracy(accuracy, untouched, killed)
        _draw_lives(lives, untouched, killed)
        for axes in (loss, accuracy, lives):
            _mark_kills(axes, killed)
        for start, end in killed.twice:
            loss.axvspan(start, end, color=ORANGE, alpha=0.35, lw=0)
        _label(loss, pair, killed)
        figure.savefig(path)


def _draw_loss(axes: Axes, untouched: Course, killed: Course) -> None:
    axes.plot(*_points(untouched.loss), color=SKY, lw=3.2, label="untouched")
    axes.plot(*_points(killed.loss), color=VERMILION, lw=0.7, label="killed and started again")
    axes.fill_between([], [], color=ORANGE, alpha=0.35, lw=0, label="computed twice")
    axes.set_yscale("log")
    axes.set_ylabel("train loss\nof each iteration")
    axes.legend(frameon=False, loc="lower left")
    axes.margins(x=0.01)


def _draw_accuracy(axes: Axes, untouched: Course, killed: Course) -> None:
    axes.plot(*_points(untouched.accuracy), "o", color=SKY, ms=9)
    axes.plot(*_points(killed.accuracy), "o-", color=VERMILION, ms=3.5, lw=0.7)
    axes.set_ylabel("validation\naccuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    at, last = list(killed.accuracy.items())[-1]
    axes.annotate(f"{last:.1%}", (at, last), (0, -9), textcoords="offset points", ha="right", va="top")


def _draw_lives(axes: Axes, untouched: Course, killed: Course) -> None:
    """A bar for each process, from the iteration where it began to its last."""
    rows = [(untouched.lives[0], SKY), *((life, VERMILION) for life in killed.lives)]
    for row, ((start, end), colour) in enumerate(rows):
        axes.barh(row, max(end - start, 1), left=start, height=0.62, color=colour)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks([])
    axes.set_ylabel("processes", rotation=90)
    axes.set_xlabel("iteration")


def _mark_kills(axes: Axes, killed: Course) -> None:
    for _, end in killed.lives[:-1]:
        axes.axvline(end, color=GREY, lw=1, ls=(0, (4, 3)))


def _label(axes: Axes, pair: RunPair, killed: Course) -> None:
    """The title, the digests beneath it, and a word over each kill, on another height where two are near."""
    axes.set_title(_title(len(killed.lives) - 1, pair.identical), loc="left", fontsize=13, weight="bold", pad=44)
    axes.text(0, 1.105, _subtitle(pair), transform=axes.transAxes, color=GREY)
    nearby, last = max(killed.loss) * 0.09, float("-inf")
    for _, end in killed.lives[:-1]:
        height = 1.045 if end - last < nearby else 1.0
        last = end if height == 1.0 else float("-inf")
        axes.annotate(
            f"killed at {end}", (end, height), (0, 2), xycoords=axes.get_xaxis_transform(),
            textcoords="offset points", ha="center", va="bottom", fontsize=8.5,
        )  # fmt: skip


def _title(kills: int, identical: bool) -> str:
    times = "once" if kills == 1 else f"{kills} times"
    ends = "the same bits as the run that nobody touched" if identical else "OTHER bits than the untouched run"
    return f"Killed {times}, started again, and it ends with {ends}"


def _subtitle(pair: RunPair) -> str:
    if pair.identical:
        return f"identical digest of both final states: {pair.digests[0]}"
    return f"NOT identical: {pair.digests[0]} and {pair.digests[1]}"


def _points(values: dict[int, float]) -> tuple[list[int], list[float]]:
    order = sorted(values)
    return order, [values[at] for at in order]
