"""`LearningRateLog`: the learning rates of the optimizer's groups, in the history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeptrain.callbacks.cadenced import Cadenced
from deeptrain.state.cadence import Every

if TYPE_CHECKING:
    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer


class LearningRateLog(Cadenced):
    """Puts each group's learning rate into the history: as "lr" where there is one group, else as "lr.0", "lr.1" and so on.

    The value at iteration n is the rate that stands after it, with which the next update is made: a scheduler that goes
    by updates has stepped by then, and a group's `lr_scale` counts. The first update's rate is there as that of iteration 0.

    Args:
        every: When; by default after each update.

    Raises:
        TypeError, ValueError: The cadence is none by a count.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> step = SupervisedStep(model, loss=torch.nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters(), 0.1))
        >>> train = BatchLoader(Arrays(torch.rand(8, 2), torch.rand(8, 1)), batch_size=4)
        >>> trainer = Trainer(step, train, callbacks=[LearningRateLog()], runs=None, verbosity=0)
        >>> trainer.fit()
        >>> trainer.history["lr"]
        Series(iterations=array([0, 1, 2]), values=array([0.1, 0.1, 0.1]))
    """

    def __init__(self, every: Every | None = None) -> None:
        super().__init__(every or Every(updates=1))

    def on_train_begin(self, trainer: Trainer, event: Event) -> None:
        """Record the rates that the run begins with."""
        self.act(trainer, event)

    def act(self, trainer: Trainer, event: Event) -> None:
        """Record the rates of now."""
        del event
        rates = [
            group["lr"] * group.get("lr_scale", 1)
            for optimizer in trainer.learner.optimizers()
            for group in optimizer.param_groups
        ]
        names = ["lr"] if len(rates) == 1 else [f"lr.{number}" for number in range(len(rates))]
        trainer.record(dict(zip(names, rates, strict=True)))
