"""When something happens: `Every` n of a unit, and `At` a point counted from the run's beginning.

Both look at completed counts, after each commit, so that a resumed run decides as an untouched one does.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeptrain.state.progress import TrainCount

# What one commit may bring to completion; a cadence looks only at the counters that moved.
PIECE: tuple[str, ...] = ("iterations", "updates")
BATCH_END: tuple[str, ...] = (*PIECE, "batches")
EPOCH_END: tuple[str, ...] = (*BATCH_END, "epochs")
# The same where no update was made, as in the middle of those that one is made of.
WITHOUT_UPDATE = {
    moved: tuple(unit for unit in moved if unit != "updates") for moved in (PIECE, BATCH_END, EPOCH_END)
}


def _only_one(cadence: object, example: str) -> tuple[str, float]:
    given = [(f.name, getattr(cadence, f.name)) for f in fields(cadence)]  # type: ignore[arg-type]
    given = [(name, value) for name, value in given if value is not None]
    kind = type(cadence).__name__
    if len(given) != 1:
        names = ", ".join(name for name, _ in given) or "none"
        raise ValueError(f"{kind} takes exactly one unit, got {names}: write for example {example}")
    name, value = given[0]
    if name != "seconds" and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{kind}({name}=...) takes a whole number, got {value!r}")
    return name, value


@dataclass(frozen=True, kw_only=True)
class Every:
    """Every n completed units of one kind, by the run's global counts.

    `seconds` depends on the clock and may therefore trigger only what does not change the training: saving,
    printing, reports.

    Example:
        >>> Every(batches=100)
        Every(batches=100)
    """

    iterations: int | None = None
    batches: int | None = None
    updates: int | None = None
    epochs: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        unit, n = _only_one(self, "Every(epochs=1)")
        if not n > 0:
            raise ValueError(f"Every({unit}={n}) would never come: give a number above 0")

    def __repr__(self) -> str:
        return f"Every({self.unit}={self.n})"

    @property
    def unit(self) -> str:
        """The unit that is counted, for example "batches"."""
        return _only_one(self, "")[0]

    @property
    def n(self) -> float:
        """How many of the unit lie between two occasions."""
        return _only_one(self, "")[1]


@dataclass(frozen=True, kw_only=True)
class At:
    """A point of a run: that many completed units, counted from the run's beginning.

    Example:
        >>> At(epoch=2)
        At(epoch=2)
    """

    iteration: int | None = None
    batch: int | None = None
    update: int | None = None
    epoch: int | None = None

    def __post_init__(self) -> None:
        unit, n = _only_one(self, "At(epoch=2)")
        if n < 0:
            raise ValueError(f"At({unit}={n}) lies before the run's beginning: give 0 or more")

    def __repr__(self) -> str:
        unit, n = _only_one(self, "")
        return f"At({unit}={n})"

    @property
    def target(self) -> tuple[str, int]:
        """The counter that is looked at and the count that it must have come to."""
        unit, n = _only_one(self, "")
        return "batches" if unit == "batch" else unit + "s", int(n)


class Due:
    """One `Every`, prepared to be asked after each commit at the cost of a dictionary look-up.

    Args:
        every: The cadence, by a count. One in seconds has its own clock.
    """

    __slots__ = ("n", "unit")

    def __init__(self, every: Every) -> None:
        self.unit, self.n = every.unit, int(every.n)

    def __call__(self, done: TrainCount, moved: tuple[str, ...], passed: int = 1) -> bool:
        """Whether the commit that moved these counters brought the occasion.

        Args:
            done: The counters after it.
            moved: Which of them it moved.
            passed: By how much it moved that of the batches.
        """
        step = passed if self.unit == "batches" else 1
        return self.unit in moved and getattr(done, self.unit) % self.n < step


class Turn:
    """One cadence of a callback, with a state: it is asked at the callback's own events.

    These may be rarer than what is counted: then it is its turn at the first event behind an occasion.

    Args:
        cadence: By a count; one in seconds is nothing that a rerun could repeat.

    Attributes:
        seen: The count when it was asked last, or joined the run; None before.

    Example:
        >>> from deeptrain.state.progress import TrainCount
        >>> turn = Turn(Every(batches=10))
        >>> turn.seen = 8
        >>> [turn(TrainCount(batches=n)) for n in (9, 12, 19)]
        [False, True, False]
    """

    def __init__(self, cadence: Every | At) -> None:
        self._at = isinstance(cadence, At)
        self.unit, self.n = cadence.target if isinstance(cadence, At) else (cadence.unit, int(cadence.n))
        self.seen: int | None = None

    def __call__(self, done: TrainCount) -> bool:
        """Whether an occasion has come since it was asked last."""
        now: int = getattr(done, self.unit)
        before = now if self.seen is None else self.seen
        self.seen = now
        if self._at:
            return before < self.n <= now
        return before // self.n < now // self.n

    def join(self, done: TrainCount) -> None:
        """Begin with the present count: 0 in a new run, and more where a callback comes into one on the way.

        To be called whenever the trainer starts. Where it was asked before, this changes nothing.
        """
        if self.seen is None:
            self.seen = getattr(done, self.unit)

    def state_dict(self) -> dict[str, int | None]:
        """The count when it was asked last."""
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        """Take it over."""
        self.seen = state["seen"]
