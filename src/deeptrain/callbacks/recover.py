"""`Recover`: goes back before an iteration whose loss or gradient was not finite, and passes its batch over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeptrain.callbacks.base import Callback
from deeptrain.step.updating import LEFT_OUT

if TYPE_CHECKING:
    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer


class Recover(Callback):
    """What `SupervisedStep(on_nonfinite="rewind")` adds to a trainer.

    Going further back than before the iteration would change nothing: the way there is the same again, to the bit.
    """

    def on_train_batch_end(self, trainer: Trainer, event: Event) -> None:
        """Go back, where no update was made of what the batch gave."""
        if LEFT_OUT in event.figures and event.batch is not None:
            trainer.rewind(batches=1, skip=event.batch)
