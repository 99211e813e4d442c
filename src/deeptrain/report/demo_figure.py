"""The demo's picture: an untouched run and one that was killed, laid over each other iteration by iteration."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from deeptrain.run.reader import open_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from matplotlib.axes import Axes

    from deeptrain.prove import RunPair

# Okabe and Ito's colours, which people who see fewer colours can tell apart; the lines differ in width too.
SKY, VERMILION, ORANGE, GREY = "#56B4E9", "#C2410C", "#E69F00", "#555555"
FONT: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


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
    def twice(self) -> set[int]:
        """The iterations that were computed again, because a process died after them and before it saved."""
        again = (range(start + 1, end + 1) for start, end in self._lost())
        return {at for stretch in again for at in stretch}

    def _lost(self) -> Iterator[tuple[int, int]]:
        """For each process that died, where its successor began and how far it had come itself."""
        return ((after[0], before[1]) for before, after in pairwise(self.lives))


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
        figure = Figure(figsize=(9.6, 6.6), dpi=110, layout="constrained")
        loss, accuracy, lives = figure.subplots(3, 1, sharex=True, height_ratios=[5, 2.6, 1.5])
        _draw_loss(loss, untouched, killed)
        _draw_accuracy(accuracy, untouched, killed)
        _draw_lives(lives, untouched, killed)
        for axes in (loss, accuracy):
            _mark(axes, killed)
        loss.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=4)
        title = _title(len(killed.lives) - 1, pair.identical)
        loss.set_title(title, loc="left", fontsize=13, weight="bold", pad=48)
        subtitle = {"xy": (0, 1), "xytext": (0, 32), "textcoords": "offset points", "color": GREY}
        loss.annotate(_subtitle(pair), xycoords="axes fraction", **subtitle)
        figure.savefig(path)


def _draw_loss(axes: Axes, untouched: Course, killed: Course) -> None:
    axes.plot(*_points(untouched.loss), color=SKY, lw=3.2, label="untouched")
    axes.plot(*_points(killed.loss), color=VERMILION, lw=0.7, label="killed, started again")
    axes.set_yscale("log")
    axes.set_ylabel("train loss\nof each iteration")
    axes.set_xlim(0, max(untouched.loss) * 1.005)


def _draw_accuracy(axes: Axes, untouched: Course, killed: Course) -> None:
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    axes.plot(*_points(untouched.accuracy, 100), "o", color=SKY, ms=9, clip_on=False)
    axes.plot(*_points(killed.accuracy, 100), "o-", color=VERMILION, ms=3.5, lw=0.7, clip_on=False)
    axes.set_ylabel("validation\naccuracy")
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.4g}%")
    at, last = max(killed.accuracy.items())
    axes.annotate(f"{last:.2%}", (at, 100 * last), (0, -9), textcoords="offset points", ha="right", va="top")


def _draw_lives(axes: Axes, untouched: Course, killed: Course) -> None:
    """A bar for each process, from the iteration where it began to its last, and how it ended."""
    fates = ["untouched", *(f"killed after {end}" for _, end in killed.lives[:-1]), "finished"]
    rows = [untouched.lives[-1], *killed.lives]
    for row, ((start, end), fate) in enumerate(zip(rows, fates, strict=True)):
        axes.barh(row, max(end - start, 1), left=start, height=0.74, color=SKY if row == 0 else VERMILION)
        inside = end - start > max(killed.loss) * 0.2
        place = ((-5, 0), "right", "black" if row == 0 else "white") if inside else ((5, 0), "left", "black")
        axes.annotate(
            fate, (end, row), place[0], textcoords="offset points", ha=place[1], va="center_baseline",
            color=place[2], fontsize=8.5,
        )  # fmt: skip
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks([])
    axes.set_ylabel("processes")
    axes.set_xlabel("iteration")


def _mark(axes: Axes, killed: Course) -> None:
    """Shade what was computed twice, and mark the kills."""
    twice = sorted(killed.twice)
    for first, last in _stretches(twice):
        label = "computed twice" if first == twice[0] else None
        axes.axvspan(first - 1, last, color=ORANGE, alpha=0.35, lw=0, label=label)
    for _, end in killed.lives[:-1]:
        label = "killed" if end == killed.lives[0][1] else None
        axes.axvline(end, color=GREY, lw=1, ls=(0, (4, 3)), label=label)


def _stretches(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """The stretches of numbers without a gap, each as its first and last."""
    starts = [n for n in numbers if n - 1 not in set(numbers)]
    ends = [n for n in numbers if n + 1 not in set(numbers)]
    return zip(starts, ends, strict=True)


def _title(kills: int, identical: bool) -> str:
    times = "once" if kills == 1 else f"{kills} times"
    end = "the same bits as a run that nobody touched" if identical else "OTHER bits than the untouched run"
    return f"Killed {times} and started again: {end}"


def _subtitle(pair: RunPair) -> str:
    if pair.identical:
        return f"identical digest of both final states: {pair.digests[0]}"
    return f"NOT identical: {pair.digests[0]} and {pair.digests[1]}"


def _points(values: dict[int, float], scale: float = 1) -> tuple[list[int], list[float]]:
    order = sorted(values)
    return order, [scale * values[at] for at in order]
