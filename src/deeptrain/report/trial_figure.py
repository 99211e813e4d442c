"""The picture of a trial: the variants' curves laid over each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.report.demo_figure import FONT, GREY

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from deeptrain.control.trial import Trial

# Okabe and Ito's colours, which people who see fewer colours can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SMOOTH = 20  # so many parts of a curve are told apart in its mean


def draw(trial: Trial, path: str | Path, figure: str) -> None:
    """Draw one figure of each variant: each value faintly, and a running mean over them.

    Raises:
        ValueError: No variant has that figure; the message names those that there are.
        ImportError: matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - a heavy library, only where a picture is drawn
    from matplotlib.figure import Figure  # noqa: PLC0415

    known = sorted({name for found in trial.curves.values() for name in found})
    if figure not in known:
        raise ValueError(f"plot({figure!r}): there is no such figure; there are {known}")
    with mpl.rc_context(FONT):
        picture = Figure(figsize=(9.6, 4.8), dpi=110, layout="constrained")
        axes = picture.subplots()
        for number, (variant, found) in enumerate(trial.curves.items()):
            if figure in found:
                colour = COLOURS[number % len(COLOURS)]
                at, values = found[figure]
                label = variant + (" (kept)" if variant == trial.kept else "")
                several = len(values) > SMOOTH
                axes.plot(at, values, "-" if several else "o-", color=colour, lw=0.7, alpha=0.35 if several else 1, ms=4,
                          label=None if several else label)  # fmt: skip
                if several:
                    axes.plot(at, _running_mean(values), color=colour, lw=2.2, label=label)
        axes.set_xlabel("iteration")
        axes.set_ylabel(figure)
        axes.margins(x=0.01)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=4)
        axes.set_title(f"Tried from iteration {trial.at}", loc="left", fontsize=13, weight="bold", pad=34)
        axes.title.set_color("black")
        axes.tick_params(colors=GREY)
        picture.savefig(path)


def _running_mean(values: np.ndarray[Any, Any]) -> list[float]:
    """The mean of a window that ends at each value."""
    width = max(1, len(values) // SMOOTH)
    return [float(values[max(0, end - width) : end].mean()) for end in range(1, len(values) + 1)]
