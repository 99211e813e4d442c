"""What a trainer is made of is seen to go together, before anything is trained."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal

from deeptrain.callbacks.ledger import Ledger
from deeptrain.callbacks.recover import Recover
from deeptrain.checkpoint.settings import Checkpoints
from deeptrain.evaluation.validation import Validation
from deeptrain.state.cadence import Due

if TYPE_CHECKING:
    from deeptrain.callbacks.base import Callback
    from deeptrain.data.feed import Feed
    from deeptrain.state.cadence import Every
    from deeptrain.step.base import Step

    Dues = list[tuple[Literal["validation", "checkpoint"], Due]]


def refuse_misfits(
    train: object, validation: object, epochs: object, config: object, checkpoints: object
) -> None:
    """See that what the constructor of a `Trainer` was given goes together.

    Raises:
        ValueError, TypeError: It does not; the message names it.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"epochs={epochs!r}: expected a whole number of passes from 1 up")
    if config is not None and not isinstance(config, dict):
        raise TypeError(f"config={config!r}: expected a dict of values to keep with the run")
    if validation is not None and not isinstance(validation, Validation):
        raise TypeError(
            f"validation={type(validation).__name__}(...): expected what is validated, how and when: dt.Validation(loader, ...)"
        )
    if checkpoints is not None and not isinstance(checkpoints, Checkpoints):
        raise TypeError(
            f"checkpoints={checkpoints!r}: expected when and what is kept: dt.Checkpoints(every=dt.Every(seconds=60))"
        )
    if validation is not None and any(loader is train for loader in validation.loaders.values()):
        raise ValueError(
            "the train loader is the validation's loader too: make a second one, each has its place"
        )


def begin_at_the_beginning(train: Feed) -> None:
    """A loader that another loop has used goes back; in the middle of an epoch that may not be what is meant."""
    place = train.position
    if place.batch:
        warnings.warn(
            f"the loader stood at {place}; a run begins at the beginning (trainer.train.seek moves it)",
            stacklevel=3,
        )
    if any(place):
        train.seek(epoch=0)


def asked_for(learner: Step, validation: Validation | None) -> list[Callback]:
    """The callbacks that a step's and a validation's settings ask for."""
    watch = getattr(learner, "watch", None)
    found: list[Callback] = [Recover()] if watch is not None and watch.policy == "rewind" else []
    if validation is not None and validation.ledger:
        found.append(Ledger(train=False))
    return found


def dues(validate: Every | None, save: Every | None) -> Dues:
    """What follows from commits by their counts, in the order in which it is done."""
    cadences: list[tuple[Literal["validation", "checkpoint"], Every | None]]
    cadences = [("validation", validate), ("checkpoint", save)]
    return [(kind, Due(every)) for kind, every in cadences if every is not None and every.unit != "seconds"]
