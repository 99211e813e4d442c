"""The picture of a range test: losses over learning rates, and where they fall most steeply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deeptrain.report.demo_figure import FONT, GREY
from deeptrain.report.trial_figure import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from deeptrain.tuning.rate import RateTest

ROOM = 0.15  # of the curve's height, above and below it


def draw(test: RateTest) -> Figure:
    """Draw a range test.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - a heavy library, only where a picture is drawn
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(FONT):
        picture = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
        axes = picture.subplots()
        axes.plot(test.rates, test.losses, "-", color=COLOURS[0], lw=0.8, alpha=0.4, label="each iteration")
        shown = _explodes_at(test)
        axes.plot(test.rates[:shown], test.smoothed[:shown], color=COLOURS[0], lw=2.2, label="smoothed")
        axes.set_xscale("log")
        axes.set_ylim(*_limits(test))
        axes.set_xlim(test.rates[0], test.rates[-1])
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss")
        axes.set_title("Learning-rate range test", loc="left", fontsize=13, weight="bold", pad=34)
        axes.tick_params(colors=GREY)
        if test.suggestion is not None:
            _mark(axes, test)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.015, 0.99), ncols=3)
    return picture


def _mark(axes: Axes, test: RateTest) -> None:
    """Show the suggestion: where the loss falls most steeply."""
    assert test.suggestion is not None
    height = float(np.interp(np.log(test.suggestion), np.log(test.rates), test.smoothed))
    axes.axvline(test.suggestion, color=COLOURS[1], lw=1, ls=(0, (4, 3)), zorder=1)
    label = f"steepest fall, at {_in_words(test.suggestion)}"
    axes.plot([test.suggestion], [height], "o", color=COLOURS[1], ms=8, mec="white", mew=1.5, label=label)


def _in_words(rate: float) -> str:
    digits, exponent = f"{rate:.1e}".split("e")
    return f"{rate:.2g}" if rate >= 0.01 else rf"${digits} \times 10^{{{int(exponent)}}}$"  # noqa: PLR2004 - as people write it


def _explodes_at(test: RateTest) -> int:
    """Where losses begin behind the lowest that are above all before it, so that their means say nothing."""
    lowest = int(test.losses.argmin())
    above = np.flatnonzero(test.losses[lowest:] > test.losses[: lowest + 1].max())
    return lowest + int(above[0]) if lowest and len(above) else len(test.losses)


def _limits(test: RateTest) -> tuple[float, float]:
    """The curve's part that matters: what explodes behind its lowest point is cut off."""
    lowest = int(test.smoothed.argmin())
    low, high = float(test.losses.min()), float(test.losses[: lowest + 1].max())
    room = ROOM * (high - low) or 1.0
    return low - room, high + 2 * room
