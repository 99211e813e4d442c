"""`Gauge`: the base of callbacks that read clocks and meters. What they read is no part of the state."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from deeptrain.callbacks.base import Callback
from deeptrain.state.cadence import Every, Turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer


class Gauge(Callback):
    """Reads something at a cadence and gives it to a sink. It keeps no state, and each process begins anew.

    What it reads is another value in each process. So it never comes into the history or the digest: it is in `last`, and
    is printed, or given to a function.

    Args:
        every: When; by the clock or by a count.
        sink: Called with each reading, a dict of numbers; by default it is printed as the run's other lines are.

    Attributes:
        last: The newest reading; empty before the first.
    """

    def __init__(
        self, every: Every | None = None, sink: Callable[[dict[str, float]], object] | None = None
    ) -> None:
        self.every = every or Every(seconds=30)
        if not isinstance(self.every, Every):
            raise TypeError(
                f"{type(self).__name__}(every={every!r}): expected a cadence, such as dt.Every(seconds=30)"
            )
        self.last: dict[str, float] = {}
        self._sink = sink
        self._turn = None if self.every.unit == "seconds" else Turn(self.every)
        self.begin()

    def begin(self) -> None:
        """Begin a stretch that is measured."""
        self._since = monotonic()

    def on_start(self, trainer: Trainer, event: Event) -> None:
        """No time of before counts."""
        del event
        if self._turn is not None:
            self._turn.join(trainer.progress.train)
        self.begin()

    def on_train_iter_end(self, trainer: Trainer, event: Event) -> None:
        """Take an iteration in, and read where it is time."""
        self.count(event)
        now = monotonic()
        due = now - self._since >= self.every.n if self._turn is None else self._turn(trainer.progress.train)
        if due:
            self.last = self.read(trainer, now - self._since)
            self._since = now
            self._give(trainer, event)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: said here, so that `deeptrain prove` does not take a clock for what makes runs differ."""
        return {}

    def count(self, event: Event) -> None:
        """Take an iteration in."""

    def read(self, trainer: Trainer, seconds: float) -> dict[str, float]:
        """Read what there is to read, so many seconds after the reading before it."""
        raise NotImplementedError

    def in_words(self) -> str:
        """The newest reading as it is printed."""
        return "  ".join(f"{name} {value:.4g}" for name, value in self.last.items())

    def _give(self, trainer: Trainer, event: Event) -> None:
        if event.replaying:  # sinks were told of this iteration before
            return
        if self._sink is None:
            trainer.display.say(self.in_words())
        else:
            self._sink(dict(self.last))
