"""`Throughput`: how fast a run trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeptrain.callbacks.gauge import Gauge

if TYPE_CHECKING:
    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer


class Throughput(Gauge):
    """Reads rows and iterations per second, over the time since the reading before.

    That is the time on the clock: what validations, checkpoints and other callbacks took in it counts. Rows that fill a
    short batch (`last="pad"`) do not count; where a preprocessor makes several iterations of a batch, each counts its rows.
    On an accelerator the work that waits in its queue is counted as done, which evens out over the readings.

    Args:
        every: When to read; by default every 30 seconds.
        sink: Called with each reading, `{"iterations_per_second": ..., "rows_per_second": ...}`; by default it is printed.

    Attributes:
        last: The newest reading; empty before the first. It is no part of the state.

    Example:
        >>> Throughput(Every(iterations=100)).last
        {}
    """

    def begin(self) -> None:
        """Begin a stretch: the clock, and the counts."""
        super().begin()
        self._iterations = self._rows = 0

    def count(self, event: Event) -> None:
        """Take an iteration in."""
        self._iterations += 1
        if event.batch is not None:
            self._rows += event.batch.size - event.batch.padded

    def read(self, trainer: Trainer, seconds: float) -> dict[str, float]:
        """What was counted, by the time that it took."""
        del trainer
        counted, self._iterations, self._rows = (self._iterations, self._rows), 0, 0
        iterations, rows = (count / seconds if seconds > 0 else float("inf") for count in counted)
        return {"iterations_per_second": iterations, "rows_per_second": rows}

    def in_words(self) -> str:
        """Both rates."""
        return f"{self.last['iterations_per_second']:.4g} iterations/s  {self.last['rows_per_second']:.4g} rows/s"
