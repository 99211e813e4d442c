"""`Repeat`: each batch is fed several times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.data.preprocess import Phase, Preprocessor, name_of, whole_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.data.batch import Batch
    from deeptrain.step.base import Outcome

MOST = 10


class Repeat(Preprocessor):
    """Feeds each batch a number of times, or until its outcome is good enough. In validation each is fed once.

    Args:
        times: How often.
        until: Called after each iteration with its `Outcome` (`loss`, `predictions`, `metrics`): once it gives True,
            the next batch is due. It must be a function of the outcome alone, or a continued run may count otherwise.
        most: The bound with `until`: after so many iterations the next batch is due anyway.

    Raises:
        ValueError: Neither or both of `times` and `until` are given, or a number is below 1.
        TypeError: `until` cannot be called.

    Example:
        >>> Repeat(3).count(None, "train")
        3
        >>> Repeat(until=lambda outcome: outcome.loss < 0.1, most=5).count(None, "train") is None
        True
    """

    def __init__(
        self,
        times: int | None = None,
        *,
        until: Callable[[Outcome], Any] | None = None,
        most: int = MOST,
    ) -> None:
        if (times is None) == (until is None):
            found = "neither" if times is None else "both"
            raise ValueError(
                f"Repeat: found {found} of times and until, expected one: Repeat(3), or Repeat(until=fn)"
            )
        if until is not None and not callable(until):
            raise TypeError(
                f"Repeat: until={until!r} is a {type(until).__name__}, expected a function of an Outcome; "
                f"a number of times is given as Repeat(times)"
            )
        self.times = None if times is None else whole_number("Repeat: times", times, 1)
        self.until = until
        self.most = whole_number("Repeat: most", most, 1)

    def count(self, batch: Batch, phase: Phase) -> int | None:  # noqa: ARG002 - of any batch as many
        """Give `times`, or None with `until`; 1 in validation."""
        return 1 if phase == "val" else self.times

    def piece(self, batch: Batch, iteration: int, phase: Phase) -> Batch:  # noqa: ARG002
        """Give the batch with its iteration."""
        return batch.replaced(iteration=iteration)

    def is_done(self, batch: Batch, iterations: int, outcome: Outcome | None, phase: Phase) -> bool:
        """Say whether the batch was fed often enough."""
        if self.until is None or phase == "val":
            return super().is_done(batch, iterations, outcome, phase)
        return iterations >= self.most or (outcome is not None and bool(self.until(outcome)))

    def pieces_in_total(self, row_shape: tuple[int, ...] | None, epoch: int) -> int | None:  # noqa: ARG002
        """Give `times`; None with `until`."""
        return self.times

    def settings(self) -> dict[str, Any]:
        """Describe it in plain values."""
        if self.until is None:
            return super().settings() | {"times": self.times}
        return super().settings() | {"until": name_of(self.until), "most": self.most}
