"""`EarlyStopping`: finishes a run whose validation gets no better."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from deeptrain.callbacks.base import Callback

if TYPE_CHECKING:
    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer


class EarlyStopping(Callback):
    """Ends the run once so many validations in a row brought nothing better: `fit()` returns, and the run is done.

    The first value counts as the best, whatever it is. NaN is never better than anything, and counts as a validation that
    brought nothing. A run that was ended so can be continued with more epochs, and is given its whole patience again.

    Args:
        monitor: The figure of the validation: "loss", or the name of one of its metrics.
        patience: After how many validations without a better value.
        mode: Whether smaller ("min") or larger ("max") values are better. Known of "loss", and of the key metric of a
            `Validation` that was given its mode; to be given for any other.
        min_delta: By how much a value has to be better than the best to count.
        baseline: A value that has to be surpassed: as long as none is better, validations count as bringing nothing.

    Attributes:
        best: The best value so far; None before the first.
        best_at: At how many completed iterations it came; None before the first.
        waited: How many validations have brought nothing better since.
        stopped_at: At how many iterations the run was ended, or None.

    Raises:
        TypeError, ValueError: A setting is of another kind. At the start of training: there is no validation, it has no such
            figure, or the mode is not known.

    Example:
        >>> EarlyStopping("loss", patience=5).mode
        'min'
    """

    def __init__(
        self,
        monitor: str = "loss",
        *,
        patience: int,
        mode: Literal["min", "max"] | None = None,
        min_delta: float = 0.0,
        baseline: float | None = None,
    ) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ValueError(
                f"EarlyStopping(patience={patience!r}): expected a whole number of validations from 1 up"
            )
        if mode not in {None, "min", "max"}:
            raise ValueError(f'EarlyStopping(mode={mode!r}): expected "min" or "max", whichever is better')
        if not min_delta >= 0:
            raise ValueError(f"EarlyStopping(min_delta={min_delta!r}): expected 0 or more")
        self.monitor, self.patience, self.min_delta, self.baseline = monitor, patience, min_delta, baseline
        self.mode: str | None = "min" if mode is None and monitor == "loss" else mode
        self.best: float | None = None
        self.best_at: int | None = None
        self.waited = 0
        self.stopped_at: int | None = None

    def on_start(self, trainer: Trainer, event: Event) -> None:
        """See that there is something to go by, before anything is trained."""
        del event
        validation = trainer.judging.validation
        if validation is None:
            raise ValueError(
                "EarlyStopping: this trainer has no validation: give it validation=dt.Validation(loader, ...)"
            )
        known = validation.names()
        if self.monitor not in known:
            raise ValueError(
                f"EarlyStopping(monitor={self.monitor!r}) is none of the validation's figures {known}"
            )
        if self.mode is None and self.monitor == validation.key_metric:
            self.mode = validation.mode
        if self.mode is None:
            raise ValueError(
                f'EarlyStopping(monitor={self.monitor!r}): which values are better is not known: give mode="max" or mode="min"'
            )

    def on_val_end(self, trainer: Trainer, event: Event) -> None:
        """Compare a validation with the best; ask for the end where the patience is over."""
        value = event.metrics[self.monitor]
        surpasses = self.baseline is None or self._is_better(value, self.baseline)
        if value == value and (self.best is None or self._is_better(value, self.best)):  # noqa: PLR0124 - not NaN
            self.best, self.best_at = value, event.iteration
            self.waited = 0 if surpasses else self.waited + 1
        else:
            self.waited += 1
        if self.waited >= self.patience:
            self._stop(trainer, event)

    def _is_better(self, value: float, than: float) -> bool:
        return value > than + self.min_delta if self.mode == "max" else value < than - self.min_delta

    def _stop(self, trainer: Trainer, event: Event) -> None:
        best = "none" if self.best is None else f"{self.best:.6g} at iteration {self.best_at}"
        unmet = "" if self.baseline is None else f", the baseline is {self.baseline:.6g}"
        reason = (
            f"EarlyStopping: {self.waited} validations brought no better {self.monitor} (best: {best}{unmet})"
        )
        self.waited, self.stopped_at = 0, event.iteration
        trainer.request_stop(reason)
        trainer.display.say(reason)

    def state_dict(self) -> dict[str, Any]:
        """The best value, and how long it has been waited for a better one."""
        return {
            "best": self.best,
            "best_at": self.best_at,
            "waited": self.waited,
            "stopped_at": self.stopped_at,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it over."""
        self.best, self.best_at = state["best"], state["best_at"]
        self.waited, self.stopped_at = state["waited"], state["stopped_at"]
