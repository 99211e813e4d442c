"""Plain functions by event and cadence, each as a callback of its own: `callbacks=[{"train:epoch": fn}]`."""

from __future__ import annotations

import difflib
import inspect
from typing import TYPE_CHECKING, Any

from deeptrain.callbacks.base import IMMEDIATE, Callback
from deeptrain.state.cadence import At, Every, Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer

EVENTS = {
    "train:begin": "train_begin",
    "train:iter": "train_iter_end",
    "train:batch": "train_batch_end",
    "train:epoch": "train_epoch_end",
    "val:iter": "val_iter_end",
    "val:batch": "val_batch_end",
    "val:end": "val_end",
    "save": "save",
    "load": "load",
    "start": "start",
    "stop": "stop",
}


def functions_of(table: Mapping[Any, Any]) -> Iterator[Callback]:
    """The callbacks that a dict of functions stands for, in its order.

    Args:
        table: By an event's name, such as "train:batch", or by a pair of one and a cadence: a function or several. Each is
            called as `fn(trainer)`, or as `fn(trainer, event)` where it has two parameters.

    Raises:
        ValueError: There is no such event, or a cadence does not go with it.
        TypeError: Something is no function, or takes other parameters.

    Example:
        >>> [each.name for each in functions_of({("train:batch", Every(batches=10)): print})]
        ['print']
    """
    aside: list[tuple[str, Callable[..., object]]] = []
    for key, functions in table.items():
        name, cadence = key if isinstance(key, tuple) and len(key) == 2 else (key, None)  # noqa: PLR2004
        event = _event(name)
        _refuse_cadence(name, cadence)
        for fn in functions if isinstance(functions, list | tuple) else (functions,):
            if event in IMMEDIATE:
                aside.append((event, fn))
            else:
                yield Function(fn, event, cadence)
    if aside:
        yield Functions(aside)


class Function(Callback):
    """One function that is called at an event.

    It keeps nothing but when it was looked at last: what a function changes of its own is no part of the state.

    Args:
        fn: The function.
        event: The event's name, such as "train_batch_end".
        cadence: At which of them; None for each.
    """

    def __init__(self, fn: Callable[..., object], event: str, cadence: Every | At | None = None) -> None:
        self._fn, self._event = _with_event(fn), event
        self._name = _name(fn)
        self._turn = None if cadence is None else Turn(cadence)

    @property
    def name(self) -> str:
        """The function's name."""
        return self._name

    def hears(self, event: str) -> bool:
        """Its own event alone, and when the trainer starts, where there is a cadence that counts from there."""
        return event == self._event or (event == "start" and self._turn is not None)

    def on_start(self, trainer: Trainer, event: Event) -> None:
        """Count from where it joined the run."""
        del event
        if self._turn is not None:
            self._turn.join(trainer.progress.train)

    def _call(self, trainer: Trainer, event: Event) -> None:
        if self._turn is not None and not self._turn(trainer.progress.train):
            return
        self._fn(trainer, event)

    on_train_begin = on_train_iter_end = on_train_batch_end = on_train_epoch_end = _call
    on_val_iter_end = on_val_batch_end = on_val_end = _call

    def state_dict(self) -> dict[str, Any]:
        """When its cadence was looked at last."""
        return {} if self._turn is None else self._turn.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it over."""
        if self._turn is not None:
            self._turn.load_state_dict(state)


class Functions(Callback):
    """The functions of one dict that are called at the user's times; those of a load get what those of a save left.

    Args:
        functions: Each with its event's name, such as "save".
    """

    def __init__(self, functions: Sequence[tuple[str, Callable[..., object]]]) -> None:
        self._functions = [(event, _with_event(fn)) for event, fn in functions]
        self._name = "+".join(dict.fromkeys(_name(fn) for _, fn in functions))

    @property
    def name(self) -> str:
        """The functions' names."""
        return self._name

    def hears(self, event: str) -> bool:
        """Only what it has functions for."""
        return any(event == known for known, _ in self._functions)

    def _call(self, trainer: Trainer, event: Event) -> None:
        for known, fn in self._functions:
            if known == event.name:
                fn(trainer, event)

    on_save = on_load = on_start = on_stop = _call


def _name(fn: Callable[..., object]) -> str:
    return str(getattr(fn, "__name__", type(fn).__name__))


def _event(name: object) -> str:
    if isinstance(name, str) and name in EVENTS:
        return EVENTS[name]
    near = difflib.get_close_matches(str(name).replace("_", ":"), EVENTS, n=3, cutoff=0.4)
    meant = f"near it there are {', '.join(map(repr, near))}; " if near else ""
    raise ValueError(
        f"found the event {name!r} in a dict of callbacks: {meant}events are {', '.join(EVENTS)}"
    )


def _refuse_cadence(name: str, cadence: object) -> None:
    if cadence is None:
        return
    if not isinstance(cadence, Every | At):
        raise TypeError(
            f"({name!r}, {cadence!r}): expected a cadence beside the event, such as Every(batches=10)"
        )
    if isinstance(cadence, Every) and cadence.unit == "seconds":
        raise ValueError(
            f"({name!r}, {cadence!r}) would let the clock decide when a function is called, which no rerun could repeat: "
            "give Every(batches=...) or Every(epochs=...)"
        )
    if ":" not in name or name == "train:begin":
        raise ValueError(
            f"({name!r}, {cadence!r}): a {name} does not come at the run's counts, so that it has no cadence: leave it out"
        )
    if isinstance(cadence, At) and cadence.target[1] == 0:
        raise ValueError(
            f"({name!r}, {cadence!r}): there is no {name} before the first iteration: write 'train:begin'"
        )


def _with_event(fn: Callable[..., object]) -> Callable[[Trainer, Event], object]:
    """A function of the trainer and the event that calls one of both, or of the trainer alone."""
    return fn if _takes_event(fn) else lambda trainer, _: fn(trainer)


def _takes_event(fn: Callable[..., object]) -> bool:
    """Whether to give a function the event: where it must have a second argument, or calls it so, or takes any number."""
    if not callable(fn):
        raise TypeError(
            f"found {fn!r} in a dict of callbacks, expected a function of (trainer) or (trainer, event)"
        )
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except ValueError:  # one that is not written in Python and does not say
        return True
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return True
    placed = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    required = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if not placed or not _are_at_the_front(required, placed):
        raise TypeError(
            f"the function {getattr(fn, '__name__', fn)} takes {inspect.signature(fn)}, expected (trainer) or (trainer, event)"
        )
    return len(required) == 2 or (len(placed) > 1 and placed[1].name == "event")  # noqa: PLR2004


def _are_at_the_front(required: Sequence[inspect.Parameter], placed: Sequence[inspect.Parameter]) -> bool:
    """Whether two arguments by their places are all that a function needs."""
    return required == list(placed)[: len(required)] and len(required) <= 2  # noqa: PLR2004
