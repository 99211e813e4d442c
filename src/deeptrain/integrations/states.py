"""The states of other people's objects: which objects have one, and copies of it that can be kept."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from deeptrain.state import tree
from deeptrain.state.leaves import LeafError, leaf


def is_stateful(thing: Any) -> bool:
    """Whether something gives its state and takes it back; a model does, and is none of what is meant here."""
    methods = (getattr(thing, name, None) for name in ("state_dict", "load_state_dict"))
    return not isinstance(thing, (nn.Module, type)) and all(map(callable, methods))


def plain_copy(name: str, state: Any) -> Any:
    """Copy a state deeply: what its owner goes on to change stays out of it.

    Args:
        name: Whose state it is, for the message.
        state: What `state_dict()` gave.

    Raises:
        TypeError: It holds something that no checkpoint can hold; the message names its path.
    """
    try:
        for path, value in tree.walk(state):
            leaf(path, value)
    except LeafError as error:
        raise TypeError(f"{name} gave what cannot be kept: {error}") from error
    return copy.deepcopy(state)
