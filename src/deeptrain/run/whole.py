"""The whole of a trainer as one state tree, and back."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from deeptrain.callbacks.base import Event
from deeptrain.state.progress import Phase, Progress, check_version

if TYPE_CHECKING:
    from deeptrain.data.batch import Batch
    from deeptrain.trainer import Trainer

VERSION = 1


def gather(trainer: Trainer, history: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything that decides how a run goes on. See `Trainer.state_dict`.

    Args:
        trainer: Whose state.
        history: What stands in place of its history, which is copied where this is None.
    """
    callbacks, place, progress = trainer.handlers.state_dict(), None, trainer.progress.state_dict()
    if trainer.delivery.handling is not None:
        # Inside a handler: the state in which it has not been called yet, so that it will be.
        name, state, place = trainer.delivery.handling
        if state is not None:
            callbacks[name] = state
    return {
        "version": VERSION,
        "seed": trainer.seed,
        "progress": progress,
        **trainer.learner.state_dict(),
        "data": {"train": trainer.train.state_dict(), **trainer.judging.data_state()},
        "random": trainer.streams.state_dict(place),
        "history": trainer.history.state_dict() if history is None else history,
        "callbacks": callbacks,
        "steering": trainer.steering.state_dict(),
        **trainer.judging.state_dict(),
        **({"replaced": copy.deepcopy(trainer.replaced)} if trainer.replaced else {}),
        **trainer.handlers.extra_state(),
    }


def restore(trainer: Trainer, state: dict[str, Any]) -> None:
    """Put a trainer where a tree says. See `Trainer.load_state_dict`."""
    check_version("Trainer", state, VERSION)
    trainer.handlers.check(state["callbacks"])
    trainer.progress.torn = "a load was cut short"
    trainer.learner.load_state_dict(state)
    trainer.handlers.load_state_dict(state["callbacks"])
    trainer.history.load_state_dict(state["history"])
    trainer.train.load_state_dict(state["data"]["train"])
    trainer.seed = state["seed"]
    trainer.replaced = copy.deepcopy(state.get("replaced", []))
    trainer.judging.load_state_dict(state)
    trainer.steering.load_state_dict(state["steering"])
    progress = _progress(trainer, state["progress"])
    # After all that may draw from them is built.
    trainer.streams.load_state_dict(state["random"])
    # Last: only now is the state whole.
    trainer.progress = progress
    trainer.handlers.load_extra(state)
    trainer.delivery.tell("load")


def _progress(trainer: Trainer, state: dict[str, Any]) -> Progress:
    progress = Progress()
    progress.load_state_dict(state)

    def find(event: str, epoch: int, index: int, iteration: int) -> Batch:
        feed = trainer.judging.feed if event.startswith("val_") else None
        return (feed or trainer.train).fed(epoch, index, iteration)

    for task in progress.pending:
        if task.event is not None:
            task.event = Event.from_state(task.event, find)
    asked = progress.train.epochs if progress.stopped_short_of is None else progress.stopped_short_of
    if progress.phase is Phase.DONE and asked < trainer.epochs:
        progress.phase, progress.stopped_short_of = Phase.TRAIN, None  # more epochs were asked for
    return progress
