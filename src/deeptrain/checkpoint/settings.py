"""`Checkpoints`: when to save, and what is kept."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from deeptrain.checkpoint.keeping import Keeping
from deeptrain.state.cadence import Every

BUSY = ("wait", "skip")
MISMATCH = ("warn", "stop")


@dataclass(frozen=True, kw_only=True, repr=False)
class Checkpoints:
    """When a run is saved, and which checkpoints are kept.

    Besides these, a run is saved before its first iteration, when a script is interrupted, and at its end. Older
    checkpoints go once a newer one is on disk and verified. The newest never goes, nor one that was given a tag,
    nor one whose manifest cannot be read any more (it may have a tag: `deeptrain verify` names it).

    Attributes:
        every: By a count or by the clock.
        keep: How many of the newest are kept.
        best: How many of the best by the key metric are kept besides. NaN is never best; of equal ones the earliest is.
            A validation that gives a new best is followed by a checkpoint, before an older one goes.
        each: Which are kept for good besides: of each stretch of that length the first. `10` counts checkpoints,
            `Every(epochs=10)` and the like what was completed, `Every(seconds=3600)` the hours of the clock.
        most_bytes: What all of them may take together on disk once the newest is there (while it is written it comes
            on top). The oldest that are neither newest, best nor tagged go first, also those of `each`; where that is
            not enough, a warning says so.
        when_busy: What happens when one is due while the last is still being written: "wait" for it, or "skip" this one.
        on_replay_mismatch: What happens when iterations that are computed again after a crash differ from the
            journal: "warn", or "stop".

    Raises:
        ValueError, TypeError: When it is made; the message names the value and says what was expected.

    Example:
        >>> Checkpoints(every=Every(epochs=1), keep=3, best=1)
        Checkpoints(every=Every(epochs=1), keep=3, best=1)
    """

    every: Every = field(default_factory=lambda: Every(seconds=60))
    keep: int = 2
    best: int = 0
    each: int | Every | None = None
    most_bytes: float | None = None
    when_busy: str = "wait"
    on_replay_mismatch: str = "warn"

    def __post_init__(self) -> None:
        _ = self.keeping  # checks the values
        if not isinstance(self.every, Every):
            raise TypeError(
                f"Checkpoints(every={self.every!r}): expected an Every, such as Every(seconds=60)"
            )
        _require_one_of("when_busy", self.when_busy, BUSY)
        _require_one_of("on_replay_mismatch", self.on_replay_mismatch, MISMATCH)

    @property
    def keeping(self) -> Keeping:
        """The rules by which checkpoints are kept, for a `CheckpointStore`."""
        return Keeping(keep=self.keep, best=self.best, each=self.each, most_bytes=self.most_bytes)

    def __repr__(self) -> str:
        values = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}
        shown = [
            f"{name}={value!r}"
            for name, (value, standard) in values.items()
            if name in ("every", "keep") or value != standard
        ]
        return f"Checkpoints({', '.join(shown)})"


def _require_one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        expected = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(f"Checkpoints({name}={value!r}): expected {expected}")
