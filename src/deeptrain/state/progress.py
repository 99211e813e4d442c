"""How far a run is: the phase, counters of completed work, and the events that still wait for delivery.

Everything here is saved. Counters count what was completed, never what was started, and the phase is
stored, never worked out from the counters.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

VERSION = 1


class TornStateError(RuntimeError):
    """The state is not whole, because an exception came out of the middle of a commit or a load."""


class Phase(StrEnum):
    """What the trainer does next once nothing is pending."""

    TRAIN = "train"
    VALIDATE = "validate"
    DONE = "done"


@dataclass(slots=True)
class TrainCount:
    """Completed training work.

    Attributes:
        iterations: Calls of the step, each with its commit.
        batches: Batches of which every iteration is committed.
        updates: Optimizer steps.
        epochs: Passes over the train order.
    """

    iterations: int = 0
    batches: int = 0
    updates: int = 0
    epochs: int = 0


@dataclass(slots=True)
class ValidationCount:
    """Completed validation work.

    Attributes:
        passes: Whole passes over the validation data.
        batches: Batches of the pass that is under way; 0 between passes.
    """

    passes: int = 0
    batches: int = 0


@dataclass(slots=True)
class Task:
    """One thing that a commit left to be done: a handler to call, a validation to run, a checkpoint to save.

    A scheduled intervention is called by what it was registered as, see `Schedule`.

    Attributes:
        kind: What is to be done.
        event: What happened, given to the handler; None for the other kinds.
        callback: The name of the callback whose handler is called; of a scheduled intervention its label.
    """

    kind: Literal["handler", "validation", "scheduled", "checkpoint", "finish"]
    event: Any = None
    callback: str = ""


@dataclass(slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        phase: What comes next once nothing is pending.
        train: Completed training work.
        validation: Completed validation work.
        pending: What the last commits left to be done, in order; each is taken off once it is done.
        stopped_short_of: How many epochs had been asked for when a request ended the run before them; None elsewhere.
        torn: Why the state is not whole, where an exception came out of the middle of a commit or a load.
    """

    phase: Phase = Phase.TRAIN
    train: TrainCount = field(default_factory=TrainCount)
    validation: ValidationCount = field(default_factory=ValidationCount)
    pending: deque[Task] = field(default_factory=deque)
    stopped_short_of: int | None = None
    torn: str | None = None

    def state_dict(self) -> dict[str, Any]:
        """The counters, the phase and what is pending; an event is saved by its own `state_dict`."""
        return {
            "version": VERSION,
            "phase": self.phase.value,
            "train": asdict(self.train),
            "validation": asdict(self.validation),
            "pending": [_task_state(task) for task in self.pending],
            "stopped_short_of": self.stopped_short_of,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state. Events come back as their states; the trainer makes them whole."""
        check_version("Progress", state, VERSION)
        self.phase = Phase(state["phase"])
        self.train = TrainCount(**state["train"])
        self.validation = ValidationCount(**state["validation"])
        self.pending = deque(Task(**task) for task in state["pending"])
        self.stopped_short_of = state["stopped_short_of"]
        self.torn = None


def _task_state(task: Task) -> dict[str, Any]:
    event = None if task.event is None else task.event.state_dict()
    return {"kind": task.kind, "event": event, "callback": task.callback}


def check_version(component: str, state: dict[str, Any], known: int) -> None:
    """Refuse a state that another version of the component wrote.

    Raises:
        ValueError: The state bears no version or one that is not `known`.
    """
    found = state.get("version")
    if found != known:
        raise ValueError(
            f"{component} state has version {found!r}, this deeptrain reads {known}: "
            "load it with the version of deeptrain that wrote it"
        )
