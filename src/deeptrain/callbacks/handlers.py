"""`Handlers`: a trainer's callbacks by name, who waits for which event, and what they keep."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from deeptrain.callbacks.base import DELIVERED, IMMEDIATE, Callback
from deeptrain.callbacks.functions import functions_of
from deeptrain.checkpoint.codec import encode
from deeptrain.loggers.base import Logger
from deeptrain.state.tree import VOLATILE as EXTRA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer


def _spread(callbacks: Iterable[Callback | Mapping[Any, Any]]) -> Iterator[Callback]:
    """The callbacks one by one, with those that a dict of functions stands for."""
    for callback in callbacks:
        if isinstance(callback, Mapping):
            yield from functions_of(callback)
        else:
            yield callback


def _refuse_unknown_handlers(callback: Callback) -> None:
    known = {f"on_{event}" for event in (*DELIVERED, *IMMEDIATE)}
    for name in dir(type(callback)):
        if name.startswith("on_") and name not in known and callable(getattr(callback, name)):
            raise ValueError(
                f"{type(callback).__name__}.{name} would never be called: there is no such event; handlers are "
                f"{', '.join(sorted(known))}"
            )


class Handlers:
    """The callbacks of a trainer by name, and who waits for which event.

    Args:
        callbacks: Instances of `Callback`, and dicts of functions by event.
        more: Those that a step's settings ask for; they are called behind the others.

    Attributes:
        by_name: The callbacks; each function of a dict is one of its own.
        calls: The handlers by event and callback.
        extra: What the callbacks had saved beside the state the last time, by their names.

    Raises:
        TypeError: Something in the list is neither.
        ValueError: A callback, or a dict, has a handler for an event that there is not.
    """

    def __init__(
        self, callbacks: Sequence[Callback | Mapping[Any, Any]], more: Sequence[Callback] = ()
    ) -> None:
        self.by_name: dict[str, Callback] = {}
        if isinstance(callbacks, Callback | Mapping | None):
            raise TypeError(
                f"callbacks is one {type(callbacks).__name__}, expected a list: write callbacks=[...]"
            )
        for callback in _spread([*callbacks, *more]):
            if isinstance(callback, Logger):
                raise TypeError(
                    f"callbacks holds a {type(callback).__name__}, which is a logger: give it as Trainer(..., loggers=[...])"
                )
            if not isinstance(callback, Callback):
                raise TypeError(
                    f"callbacks holds a {type(callback).__name__}, expected instances of deeptrain.Callback, or dicts "
                    "of functions by event: derive its class from it"
                )
            _refuse_unknown_handlers(callback)
            self.by_name[self._free_name(callback.name)] = callback
        self.extra: dict[str, dict[str, Any]] = {}
        self.calls: dict[str, dict[str, Callable[[Any, Event], None]]] = {
            event: self._overridden(f"on_{event}") for event in (*DELIVERED, *IMMEDIATE)
        }

    def _free_name(self, name: str) -> str:
        if name not in self.by_name:
            return name
        return next(
            f"{name}-{i}" for i in range(2, len(self.by_name) + 3) if f"{name}-{i}" not in self.by_name
        )

    def _overridden(self, handler: str) -> dict[str, Callable[[Any, Event], None]]:
        base, event = getattr(Callback, handler), handler.removeprefix("on_")
        return {
            name: getattr(callback, handler)
            for name, callback in self.by_name.items()
            if getattr(type(callback), handler) is not base and callback.hears(event)
        }

    def state_dict(self) -> dict[str, Any]:
        """Every callback's state by its name."""
        return {name: callback.state_dict() for name, callback in self.by_name.items()}

    def check(self, state: dict[str, Any]) -> None:
        """Refuse a state of other callbacks.

        Raises:
            ValueError: The saved callbacks are not the present ones; the message names both.
        """
        if set(state) != set(self.by_name):
            raise ValueError(
                f"the saved state has the callbacks {sorted(state)}, this trainer has {sorted(self.by_name)}: "
                'give the trainer the same callbacks, or start over with resume="new"'
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Give every callback its saved state."""
        for name, callback in self.by_name.items():
            callback.load_state_dict(copy.deepcopy(state[name]))

    # ------------------------------------------------------------------ what is told at the user's times

    def tell(self, trainer: Trainer, event: Event) -> None:
        """Call the handlers of a save, a load, a start or a stop.

        Raises:
            CodecError: One wants to have saved what no state may hold; the message names its path.
        """
        saves = event.name == "save"
        for name, call in self.calls[event.name].items():
            told = replace(event, extra={} if saves else copy.deepcopy(self.extra.get(name, {})))
            call(trainer, told)
            if saves:
                encode({EXTRA: {"callbacks": {name: told.extra}}})
                self.extra[name] = told.extra

    def extra_state(self) -> dict[str, Any]:
        """What is saved beside the state, as a part of the tree that counts in no digest; nothing where nobody asks."""
        known = {*self.calls["save"], *self.calls["load"], *self.extra}
        if not known:
            return {}
        return {
            EXTRA: {"callbacks": {name: self.extra.get(name, {}) for name in self.by_name if name in known}}
        }

    def load_extra(self, state: dict[str, Any]) -> None:
        """Take over what was saved beside a state, for `on_load`; there is none in one of before."""
        saved = state.get(EXTRA, {}).get("callbacks", {})
        self.extra = {name: copy.deepcopy(saved[name]) for name in self.by_name if saved.get(name)}
