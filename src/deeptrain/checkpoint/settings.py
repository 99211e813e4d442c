"""`Checkpoints`: when to save, and how many to keep."""

from __future__ import annotations

from dataclasses import dataclass, field

from deeptrain.state.cadence import Every


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When a run is saved, and how many checkpoints are kept.

    Besides these, a run is saved before its first iteration, when a script is interrupted, and at its end.

    Attributes:
        every: By a count or by the clock.
        keep: How many of the newest are kept; older ones go once a newer one is on disk and verified.

    Example:
        >>> Checkpoints(every=Every(epochs=1), keep=3)
        Checkpoints(every=Every(epochs=1), keep=3)
    """

    every: Every = field(default_factory=lambda: Every(seconds=60))
    keep: int = 2

    def __post_init__(self) -> None:
        if isinstance(self.keep, bool) or not isinstance(self.keep, int) or self.keep < 1:
            raise ValueError(f"Checkpoints(keep={self.keep!r}): expected a whole number from 1 up")
        if not isinstance(self.every, Every):
            raise TypeError(
                f"Checkpoints(every={self.every!r}): expected an Every, such as Every(seconds=60)"
            )
