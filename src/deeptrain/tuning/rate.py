"""`find_lr`: a learning-rate range test. The rate rises from iteration to iteration, and the loss tells which ones learn.

The idea is Leslie N. Smith's (Cyclical Learning Rates for Training Neural Networks, 2015, arXiv:1506.01186).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.step.nonfinite import NonFiniteError
from deeptrain.tuning.aside import aside, iterate, schedule_held

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from matplotlib.figure import Figure

    from deeptrain.trainer import Trainer

    Values = np.ndarray[Any, np.dtype[np.float64]]

FEWEST = 10  # losses from which a slope can be told
RECENT = 5  # of the last losses the median is looked at for when to stop: one bad batch is no reason


@dataclass(frozen=True, eq=False, repr=False)
class RateTest:
    """What a range test found.

    Attributes:
        rates: The rate of each iteration, ascending; float64, shape (n,).
        losses: The loss that each iteration had before its update, so that of the rates before; float64, shape (n,).
        smoothed: The losses, smoothed along the logarithm of the rate; shape (n,).
        suggestion: The rate at which the smoothed loss falls most steeply; None where it does not fall.
        stopped: Why the test ended before the highest rate, or None.
    """

    rates: Values
    losses: Values
    smoothed: Values
    suggestion: float | None
    stopped: str | None = None

    def __repr__(self) -> str:
        found = (
            "no suggestion: the loss does not fall"
            if self.suggestion is None
            else f"suggestion {self.suggestion:.2g}"
        )
        end = "" if self.stopped is None else f"; {self.stopped}"
        return f"RateTest({found}; {len(self.rates)} rates from {self.rates[0]:.2g} to {self.rates[-1]:.2g}{end})"

    def figure(self) -> Figure:
        """The picture: losses over rates, with the suggestion.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from deeptrain.report.rate_figure import draw  # noqa: PLC0415 - only where a picture is drawn

        return draw(self)

    def plot(self, path: str | PathLike[str]) -> None:
        """Write the picture to a file, such as "rates.png".

        Raises:
            ImportError: matplotlib is not installed.
        """
        self.figure().savefig(path)


def find_lr(
    trainer: Trainer,
    *,
    lowest: float = 1e-7,
    highest: float = 1.0,
    iterations: int = 100,
    smooth: float = 0.02,
    stop_above: float = 4.0,
) -> RateTest:
    """Train with a rate that rises geometrically, and see where the loss falls most steeply; then put everything back.

    Model, optimizer, schedule, random streams, loader and history are as they were when this returns or raises, also on Ctrl-C,
    and nothing is written. It goes on from where the trainer stands, usually the run's beginning. Handlers are not called.
    The suggestion is a rate to begin from (with a schedule, its peak), not an optimum: look at the picture.

    Args:
        trainer: At rest.
        lowest: The first rate. Of several parameter groups this is the one with the highest rate; the others keep their ratio
            to it.
        highest: The last one.
        iterations: How many rates are tried, one iteration each; from 10 up.
        smooth: How far the losses are smoothed before slopes are taken: the width (one standard deviation) of a window around each,
            as a part of all iterations. 0 does not smooth.
        stop_above: The test ends where the loss is this many times as far above zero as it was at first, or is not finite.

    Raises:
        ValueError: An argument is out of range, or the step has no optimizer or no loss.
        TornStateError: The state is not whole.
        RuntimeError: The trainer runs.
        Interrupted: A signal stopped it; everything is as it was.

    Example:
        >>> import deeptrain as dt
        >>> x = torch.randn(256, 4)
        >>> model = torch.nn.Linear(4, 1)
        >>> step = dt.SupervisedStep(model, loss=torch.nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1))
        >>> train = dt.BatchLoader(dt.Arrays(x, x.sum(1, keepdim=True)), batch_size=16, shuffle=True)
        >>> trainer = dt.Trainer(step, train, epochs=2, runs=None, verbosity=0)
        >>> 1e-4 < find_lr(trainer, highest=10).suggestion < 10
        True
    """
    _refuse(lowest, highest, iterations, smooth, stop_above)
    if not trainer.learner.optimizers():
        raise ValueError("find_lr: the step tells of no optimizer, so that there is no rate to set")
    rates = np.geomspace(lowest, highest, iterations)
    with aside(trainer, "find_lr"), schedule_held(trainer):
        losses, stopped = _losses(_tried(trainer, rates), stop_above)
    return summary(rates[: len(losses)], np.array(losses), smooth * iterations, stopped)


def _refuse(lowest: float, highest: float, iterations: int, smooth: float, stop_above: float) -> None:
    if not 0 < lowest < highest < math.inf:
        raise ValueError(
            f"find_lr(lowest={lowest!r}, highest={highest!r}): expected two rates above 0, the lower one first"
        )
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < FEWEST:
        raise ValueError(f"find_lr(iterations={iterations!r}): expected a whole number from {FEWEST} up")
    if not 0 <= smooth < 1:
        raise ValueError(
            f"find_lr(smooth={smooth!r}): expected a part of all iterations, from 0 to below 1, such as 0.02"
        )
    if not stop_above > 1:
        raise ValueError(f"find_lr(stop_above={stop_above!r}): expected a factor above 1")


def _tried(trainer: Trainer, rates: Values) -> Iterator[tuple[float, float]]:
    """The rate and the loss of each iteration, as they come."""
    groups = [group for optimizer in trainer.learner.optimizers() for group in optimizer.param_groups]
    parts = _parts(groups)
    for rate in rates.tolist():
        for group, part in zip(groups, parts, strict=True):
            _set_rate(group, rate * part)
        try:
            loss = iterate(trainer).loss
        except NonFiniteError:  # the step looks for itself
            yield rate, math.nan
            return
        if loss is None:
            raise ValueError("find_lr: the step gave no loss: let it return one, such as {'loss': loss}")
        yield rate, float(loss)


def _parts(groups: Sequence[dict[str, Any]]) -> list[float]:
    """Each group's rate as a part of the highest one; of a schedule that begins at 0, by the rates that it starts from."""
    rates = [float(group.get("initial_lr", group["lr"])) for group in groups]
    return [rate / max(rates) for rate in rates] if max(rates) > 0 else [1.0] * len(rates)


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], torch.Tensor):  # of a compiled or captured step, which holds on to it
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _losses(tried: Iterator[tuple[float, float]], stop_above: float) -> tuple[list[float], str | None]:
    """The losses up to where they are too high, and why there were no more."""
    losses: list[float] = []
    for rate, loss in tried:
        if not math.isfinite(loss):
            return losses, f"the loss or a gradient was not finite at {rate:.2g}"
        losses.append(loss)
        begin, recent = float(np.median(losses[:RECENT])), float(np.median(losses[-RECENT:]))
        if recent > begin + (stop_above - 1) * abs(begin):
            return losses, f"the loss was {recent:.3g} at {rate:.2g}, and {begin:.3g} at first"
    return losses, None


def summary(rates: Values, losses: Values, width: float, stopped: str | None = None) -> RateTest:
    """What a range test's figures say.

    Args:
        rates: Ascending; shape (n,).
        losses: Of each; shape (n,).
        width: Of the smoothing window, in iterations.
        stopped: Why there are no more.

    Raises:
        ValueError: There are too few.
    """
    if len(losses) < FEWEST:
        raise ValueError(
            f"find_lr: {len(losses)} losses could be had, expected at least {FEWEST}: {stopped}; begin with a lower rate, or look "
            "for the cause with trainer.step(1)"
        )
    smoothed = _smoothed(losses, width)
    return RateTest(rates, losses, smoothed, _steepest(rates, smoothed), stopped)


def _smoothed(losses: Values, width: float) -> Values:
    """Mean losses under a bell around each one, cut off at the ends.

    It looks both ways, so that a fall is not found later than it is, as a running mean would have it. What explodes behind the
    lowest loss counts no more than the highest before it, or it would be seen in the means long before it is there.
    """
    if lowest := int(losses.argmin()):
        losses = np.minimum(losses, losses[: lowest + 1].max())
    if width == 0:
        return losses.copy()
    at = np.arange(len(losses))
    weights = np.exp(-0.5 * ((at[:, None] - at[None, :]) / width) ** 2)
    found: Values = weights @ losses / weights.sum(axis=1)
    return found


def _steepest(rates: Values, smoothed: Values) -> float | None:
    """The rate of the steepest fall on the way to the lowest loss, by the logarithm of the rate."""
    lowest = int(smoothed.argmin())
    slopes = np.gradient(smoothed, np.log(rates))[: lowest + 1]
    best = int(slopes.argmin())
    return float(rates[best]) if slopes[best] < 0 else None
