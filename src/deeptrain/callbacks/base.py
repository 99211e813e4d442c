"""`Callback` and `Event`: how one's own code takes part in a run.

A handler is called at a safe point after the commit that raised its event. It is taken off the list of pending
calls only once it returned, and that list is saved: in a run that is paused, interrupted or stopped by an
exception, each handler sees each event exactly once. After a process death the iterations since the last
checkpoint are computed again, and their handlers are called again: at least once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deeptrain.data.batch import Batch, Rows
    from deeptrain.trainer import Trainer

# The events that a handler may wait for, in the order in which one commit's events are delivered.
DELIVERED = (
    "train_begin",
    "train_iter_end",
    "train_batch_end",
    "train_epoch_end",
    "val_iter_end",
    "val_batch_end",
    "val_end",
)
IMMEDIATE = ("save", "load", "start", "stop")


@dataclass(slots=True, repr=False)
class Event:
    """What happened, as a handler is told.

    Attributes:
        name: Such as "train_iter_end"; the handler's name without `on_`.
        iteration: Completed train iterations.
        epoch: The epoch that the batch belongs to, from 0; for events without a batch, completed epochs.
        batch: The batch as it was fed; None for events without one.
        outputs: The model's predictions, detached; None for events without a batch.
        figures: The event's figures, each a number or a tensor of one element that may still be on a device.
        coincides: Every event that the same commit raised, this one among them, and "validation" and
            "checkpoint" where they follow from it.
        replaying: Whether this iteration was computed before, by a process that died.
        extra: In `on_save` an empty dict: what a handler puts there is saved beside the state, at
            `volatile.callbacks.<name>`, and counts in no digest. In `on_load` what was saved so. Values that a state
            may hold, see `Callback`.
        metrics: The figures as floats.
        sources: Which rows of which sets the batch came from.
    """

    name: str
    iteration: int = 0
    epoch: int = 0
    batch: Batch | None = None
    outputs: Any = None
    figures: dict[str, Any] = field(default_factory=dict)
    coincides: tuple[str, ...] = ()
    replaying: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def named(self, name: str) -> Event:
        """The same event under another of its names."""
        return self if name == self.name else replace(self, name=name)

    @property
    def metrics(self) -> dict[str, float]:
        """The figures as floats, such as {"loss": 0.3}. On an accelerator reading them waits for it."""
        return {k: v.item() if isinstance(v, torch.Tensor) else float(v) for k, v in self.figures.items()}

    @property
    def sources(self) -> Sequence[Rows]:
        """Which rows of which sets the batch came from; empty for events without a batch."""
        return () if self.batch is None else self.batch.sources

    def __repr__(self) -> str:
        fed = "" if self.batch is None else f", {self.batch!r}"
        return f"Event({self.name!r}, iteration={self.iteration}, metrics={self.metrics}{fed})"

    def state_dict(self) -> dict[str, Any]:
        """Everything but the batch itself, which is read again by its place in the order."""
        return {
            "name": self.name,
            "iteration": self.iteration,
            "epoch": self.epoch,
            "batch": None
            if self.batch is None
            else [self.batch.epoch, self.batch.index, self.batch.iteration],
            "outputs": _as_plain(self.outputs),
            "figures": self.metrics,
            "coincides": list(self.coincides),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any], find: Callable[[str, int, int, int], Batch]) -> Event:
        """Make a saved event whole again.

        Args:
            state: What `state_dict` gave.
            find: Gives the batch of an (event name, epoch, index, iteration).
        """
        rest = {key: state[key] for key in ("name", "iteration", "epoch", "outputs", "figures")}
        batch = None if state["batch"] is None else find(state["name"], *state["batch"])
        return cls(**rest, batch=batch, coincides=tuple(state["coincides"]))


def _as_plain(tree: Any) -> Any:
    """Nested outputs with named tuples and the like as the plain containers that a state tree holds."""
    if isinstance(tree, dict):
        return {key: _as_plain(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_as_plain(value) for value in tree] if isinstance(tree, list) else tuple(map(_as_plain, tree))
    return tree


class Callback:
    """Base class: override the handlers that you want, and the state if you keep any.

    What a handler changes of itself must be in `state_dict`, else a resumed run differs from an untouched one
    (`deeptrain prove` finds that). When a handler raises or is aborted, its declared state and the random
    streams are put back and it is called again when the run goes on. Its state is asked for before each call,
    so keep it small. `on_save`, `on_load`, `on_start` and `on_stop` happen at the user's times rather than the
    run's, and must leave training and declared state alone. What depends on the clock or on the machine is no part
    of the state, and goes into `event.extra` in `on_save` and comes back in `on_load`.

    Example:
        >>> class Count(Callback):
        ...     def __init__(self):
        ...         self.batches = 0
        ...     def on_train_batch_end(self, trainer, event):
        ...         self.batches += 1
        ...     def state_dict(self):
        ...         return {"batches": self.batches}
        ...     def load_state_dict(self, state):
        ...         self.batches = state["batches"]

    Attributes:
        save_skip: Patterns of what of its state `trainer.save` leaves out, as `("cache",)`. A run's own checkpoints hold
            it all.
        load_skip: Of what `trainer.load` leaves as it is, and a new run does not take over from another one.
    """

    save_skip: Sequence[str] = ()
    load_skip: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The callback's name in the state tree; a second one of the same name gets a number behind it."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """What the callback keeps from one event to the next, as a state tree."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""

    def hears(self, event: str) -> bool:
        """Whether to be told of an event, such as "train_iter_end", where its handler is overridden; asked once.

        Each call costs ten to twenty microseconds, which a callback that acts once an epoch need not pay in each iteration.
        """
        del event
        return True

    def on_train_begin(self, trainer: Trainer, event: Event) -> None:
        """The run's first iteration is next: once in a run, not once in each process that goes on with it."""

    def on_train_iter_end(self, trainer: Trainer, event: Event) -> None:
        """An iteration was committed."""

    def on_train_batch_end(self, trainer: Trainer, event: Event) -> None:
        """The last iteration of a batch was committed."""

    def on_train_epoch_end(self, trainer: Trainer, event: Event) -> None:
        """The last batch of an epoch was committed; its validation comes after this."""

    def on_val_iter_end(self, trainer: Trainer, event: Event) -> None:
        """An iteration of a validation pass is done."""

    def on_val_batch_end(self, trainer: Trainer, event: Event) -> None:
        """A batch of a validation pass is done."""

    def on_val_end(self, trainer: Trainer, event: Event) -> None:
        """A validation pass is done; the event's metrics are those of the whole pass."""

    def on_save(self, trainer: Trainer, event: Event) -> None:
        """A checkpoint is about to be written; `event.extra` takes what is to be saved beside the state."""

    def on_load(self, trainer: Trainer, event: Event) -> None:
        """A state was loaded; `event.extra` is what `on_save` had put there."""

    def on_start(self, trainer: Trainer, event: Event) -> None:
        """The trainer begins to run, the first time or again."""

    def on_stop(self, trainer: Trainer, event: Event) -> None:
        """The trainer stops running, for whatever reason."""
