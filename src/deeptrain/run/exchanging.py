"""The trainer's verb that goes on with other parts. See `replacing` for how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.control.part import TrainerPart
from deeptrain.step.exchange import KEPT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deeptrain.callbacks.base import Callback
    from deeptrain.evaluation.validation import Validation
    from deeptrain.step.supervised import Unit


class ReplacingVerbs(TrainerPart):
    """The part of a `Trainer` by which its parts are replaced."""

    def replace(
        self,
        *,
        loss: Any = KEPT,
        optimizer: Any = KEPT,
        scheduler: Any = KEPT,
        scheduler_by: Unit | None = None,
        train: Any = KEPT,
        validation: Validation | None = KEPT,
        callbacks: Sequence[Callback | Mapping[Any, Any]] = KEPT,
    ) -> str:
        """Go on with other parts, between two `fit()` or at a prompt. Counters and history go on, and a checkpoint is saved.

        All or nothing: where it fails, everything is as it was. From then on the run is continued by a script that makes its
        trainer with the new parts; one with the old parts is told what was replaced, and when.

        Args:
            loss: Another loss.
            optimizer: Another optimizer over the model's parameters. It begins anew, also where it is of the old one's class.
                Where the old one is under a scheduler, one has to be given too.
            scheduler: A function of (optimizer, totals), which is told the totals of the rest of the run; None for none. It
                begins from the rates that the optimizer was made with; without one they stay as they are.
            scheduler_by: When the new scheduler steps, see `SupervisedStep`.
            train: Another train loader. With the old one's settings it goes on at its place, else it begins the epoch under
                way at its first batch.
            validation: Another validation; None for none. Where a pass is due or under way, as after a metric that raised, the new one makes
                it, over the same data; None leaves it out.
            callbacks: All callbacks from here on.

        Returns:
            What was replaced by what, in words.

        Raises:
            TypeError, ValueError: The parts do not go together; something is still to be done with the old ones; or the step
                is a function, of which only train, validation and callbacks can be replaced.
            RuntimeError: The trainer runs.
            TornStateError: The state is not whole.
            CheckpointError: It could not be saved.

        Example:
            `trainer.replace(optimizer=torch.optim.SGD(model.parameters(), 0.1), scheduler=None)`
        """
        from deeptrain.run.replacing import replace  # noqa: PLC0415 - few do, and it stands on much

        given = {
            "loss": loss, "optimizer": optimizer, "scheduler": scheduler, "train": train, "validation": validation,
            "callbacks": callbacks,
        }  # fmt: skip
        parts = {name: part for name, part in given.items() if part is not KEPT}
        return replace(self._trainer, parts, scheduler_by)
