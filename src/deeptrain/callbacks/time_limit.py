"""`TimeLimit`: pauses a run that has trained for its time."""

from __future__ import annotations

import re
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from deeptrain.callbacks.base import Callback

if TYPE_CHECKING:
    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer

_TEXT = re.compile(r"([0-9]+):([0-5]?[0-9]):([0-5]?[0-9])")


class TimeLimit(Callback):
    """Pauses the run once it has trained for so long: `fit()` raises `dt.Interrupted`, and the run can be continued.

    It looks after each iteration, and after each batch of a validation, so it is late by one of them at most; a run whose
    last iteration is through is not paused there. Only the time in which the trainer runs counts, not that between two
    `fit()` or at a prompt.

    The time is no part of the state's digest: it is saved beside it, with each checkpoint. Of a process that was killed
    the time since its last checkpoint is not counted; a run that goes back has used what it has used.

    Args:
        limit: Seconds, "HH:MM:SS", or a `timedelta`.
        per: "run" counts on over restarts, so that the run goes on only with a larger limit; "start" gives each process (a
            job's slot) the whole limit.

    Attributes:
        seconds: The limit in seconds; may be set to another one.

    Raises:
        TypeError, ValueError: The limit is none of these, or not above 0.

    Example:
        >>> TimeLimit("01:30:00").seconds
        5400.0
    """

    def __init__(self, limit: float | str | timedelta, *, per: Literal["run", "start"] = "run") -> None:
        if per not in {"run", "start"}:
            raise ValueError(f'TimeLimit(per={per!r}): expected "run" or "start"')
        self.seconds, self.per = _seconds(limit), per
        self._used = 0.0
        self._since: float | None = None

    @property
    def used(self) -> float:
        """For how many seconds it has trained."""
        return self._used + (0.0 if self._since is None else monotonic() - self._since)

    def on_start(self, trainer: Trainer, event: Event) -> None:
        """The clock goes on."""
        self._since = monotonic()
        self._look(trainer, event)

    def on_stop(self, trainer: Trainer, event: Event) -> None:
        """The clock rests."""
        del trainer, event
        self._used, self._since = self.used, None

    def _look(self, trainer: Trainer, event: Event) -> None:
        ends = trainer.progress.train.epochs >= trainer.epochs and event.name != "val_batch_end"
        if self.used >= self.seconds and not ends:
            counted = "over all starts" if self.per == "run" else "in this process"
            trainer.request_pause(
                f"TimeLimit: trained for {_clock(self.used)} {counted}, the limit is {_clock(self.seconds)}; give a larger one "
                "to go on"
            )

    on_train_iter_end = on_val_batch_end = _look

    def state_dict(self) -> dict[str, Any]:
        """Nothing: said here, so that `deeptrain prove` does not take a clock for what makes runs differ."""
        return {}

    def on_save(self, trainer: Trainer, event: Event) -> None:
        """Save the time beside the state."""
        del trainer
        if self.per == "run":
            event.extra["seconds"] = self.used

    def on_load(self, trainer: Trainer, event: Event) -> None:
        """Count on from the saved time; in a process that has counted more, the run went back."""
        del trainer
        if self.per == "run":
            self._used += max(0.0, float(event.extra.get("seconds", 0.0)) - self.used)


def _seconds(limit: float | str | timedelta) -> float:
    if isinstance(limit, timedelta):
        seconds = limit.total_seconds()
    elif isinstance(limit, str):
        found = _TEXT.fullmatch(limit)
        if found is None:
            raise ValueError(f"TimeLimit({limit!r}): expected hours, minutes and seconds, such as '01:30:00'")
        seconds = float(int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3]))
    elif isinstance(limit, bool) or not isinstance(limit, int | float):
        raise TypeError(f"TimeLimit({limit!r}): expected seconds, 'HH:MM:SS' or a timedelta")
    else:
        seconds = float(limit)
    if not seconds > 0:
        raise ValueError(f"TimeLimit({limit!r}): expected more than 0 seconds")
    return seconds


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"
