"""Training that leaves nothing behind: a block in which a trainer may be driven anywhere, and from which it comes back."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.snapshot import copied
from deeptrain.control.trial import put_back

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeptrain.step.base import Outcome
    from deeptrain.trainer import Trainer


@contextmanager
def aside(trainer: Trainer, what: str) -> Iterator[dict[str, Any]]:
    """Around something that is tried out: nothing is recorded, saved or shown, and whatever happens everything is put back.

    Args:
        trainer: At rest.
        what: What is tried, for messages.

    Yields:
        The state as it is, in memory of its own; `trainer.load_state_dict(copied(state))` goes back to it on the way.

    Raises:
        TornStateError: The state is not whole.
        RuntimeError: The trainer runs, or a handler asks.
    """
    trainer.refuse_torn()
    if trainer.delivery.handling is not None:
        raise RuntimeError(
            f"{what} was called in a handler of {trainer.delivery.handling[0]}: let the handler call trainer.pause(), and call it once "
            "fit() has raised Interrupted"
        )
    breaks, state = trainer.breaks.conditions, copied(trainer.state_dict())
    try:
        with trainer.interrupts, trainer.run.aside(trainer), put_back(trainer, state):
            trainer.breaks.conditions = []
            with trainer.steering.unrecorded():
                yield state
    finally:
        trainer.breaks.conditions = breaks


@contextmanager
def schedule_held(trainer: Trainer) -> Iterator[None]:
    """While somebody else sets the learning rates: the step's scheduler, where it has one, makes no step."""
    scheduler = getattr(trainer.learner, "scheduler", None)
    if scheduler is None:
        yield
        return
    scheduler.step = lambda *_, **__: None
    try:
        yield
    finally:
        del scheduler.step  # the class has its own


def iterate(trainer: Trainer) -> Outcome:
    """Make one iteration and go on to the next piece; no counter moves, no handler is called.

    Raises:
        Interrupted: A signal asked for it.
    """
    if trainer.interrupts.requested is not None:
        raise trainer.interrupts.exception("everything is as it was before it was tried out")
    batch = trainer.train.fetch()
    outcome = trainer.interrupts.abortably(lambda: trainer.learner.compute(batch), lambda _: None)
    ends_batch = trainer.train.ends_batch(outcome)
    trainer.learner.apply()
    trainer.train.advance(whole=ends_batch)
    if ends_batch:
        trainer.learner.end_batch()
    return outcome
