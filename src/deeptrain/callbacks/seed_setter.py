"""`SeedSetter`: random streams that begin anew at a cadence, so that a stretch of a run can be computed alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeptrain.callbacks.cadenced import Cadenced
from deeptrain.state.randomness import Streams
from deeptrain.step.parts import default_device

if TYPE_CHECKING:
    from deeptrain.callbacks.base import Event
    from deeptrain.state.cadence import Every
    from deeptrain.trainer import Trainer


class SeedSetter(Cadenced):
    """Seeds all random streams anew from (seed, unit, count), at the run's beginning and every n units.

    By default streams run on from the run's beginning, and what they give in epoch 30 depends on every draw before. With
    a `SeedSetter` it depends on the count alone: dropout, augmentation and whatever else draws from the streams can be
    had again at any of those points, from its checkpoint or from nothing but weights and the count (`seed_at`).
    The seeds are mixed by hashing, so that seed 0 in epoch 1 has nothing to do with seed 1 in epoch 0.

    Put it last among the callbacks: what those behind it draw comes after the seed. The order of the data is none of
    its affairs: that of a `BatchLoader` is a function of its own seed and the epoch in any case.

    Args:
        every: When: `Every(iterations=)`, `Every(batches=)`, `Every(updates=)` or `Every(epochs=)`.
        seed: Any whole number.

    Raises:
        TypeError, ValueError: The cadence is none by a count, or the seed is no whole number.

    Example:
        >>> from deeptrain import Every
        >>> setter = SeedSetter(Every(epochs=1), seed=7)
        >>> setter.seed_at(3)
        >>> drawn = torch.rand(2)
        >>> setter.seed_at(3)
        >>> bool((torch.rand(2) == drawn).all())
        True
    """

    def __init__(self, every: Every, seed: int = 0) -> None:
        super().__init__(every)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"SeedSetter(seed={seed!r}): expected a whole number")
        self.seed = seed

    def seed_at(self, count: int, streams: Streams | None = None) -> None:
        """Seed the streams as they are seeded in a run at a count of the cadence's unit.

        Args:
            count: Completed units, such as 3 for the point after the third epoch; 0 is the run's beginning.
            streams: Which ones: a trainer's, `trainer.streams`, with the generators that were registered there; by default
                those of the process.

        Example:
            `dt.load_weights("runs/M3__mnist", model); setter.seed_at(3, trainer.streams)`
        """
        chosen = Streams(default_device()) if streams is None else streams
        chosen.seed(self.seed, "SeedSetter", self.every.unit, count)

    def on_train_begin(self, trainer: Trainer, event: Event) -> None:
        """Seed the streams of the run's beginning."""
        del event
        self.seed_at(0, trainer.streams)

    def act(self, trainer: Trainer, event: Event) -> None:
        """Seed the streams of the present count."""
        del event
        self.seed_at(getattr(trainer.progress.train, self.every.unit), trainer.streams)
