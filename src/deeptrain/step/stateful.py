"""`Stateful`: a recurrent module that keeps its hidden state from call to call.

The state lies in buffers that are not persistent and are bound anew by each call, never written to. So an abort
puts the former ones back, a checkpoint taken between two windows holds them, and a model's weights do not. How the
state is nested stands in the buffers' names, `state_0`, `state_1_0`, so that a new process finds it there too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

if TYPE_CHECKING:
    from collections.abc import Iterable

SERIES = "series"  # the buffer that tells by its shape alone how many series the state is of
BATCHED = 3  # axes of what torch's recurrent modules are given, where it is not a single series


class Stateful(nn.Module):
    """Calls a recurrent module with the state that its last call gave, detached, and gives the outputs alone.

    For series that are cut into windows (`Windows`): what the module knows at the end of one window it knows at the
    start of the next, while gradients stay within a window. A trainer resets the state at the end of each batch;
    in a loop of your own call `reset_states([model])` there. In evaluation mode the state is kept likewise.

    The weights' names get the prefix `module.`: `module.weight_ih_l0`. Each call moves the state on, so that a
    module which is called several times in one forward (shared layers, activation checkpointing) is not meant.

    Args:
        module: An `nn.RNN`, `nn.GRU` or `nn.LSTM`, `batch_first` or not; or any module that is called as
            `module(x, state)`, with the state None at first, and returns `(y, state)`. A state is a tensor, or
            tensors nested in tuples and lists; the first tensor in `x` has the series along its first axis.

    Raises:
        TypeError: The module is a cell such as `nn.LSTMCell`, which makes one time step and returns no outputs.

    Example:
        >>> lstm = Stateful(nn.LSTM(4, 8, batch_first=True))
        >>> lstm(torch.zeros(2, 5, 4)).shape
        torch.Size([2, 5, 8])
        >>> [part.shape for part in lstm.hidden]
        [torch.Size([1, 2, 8]), torch.Size([1, 2, 8])]
        >>> lstm.reset()
        >>> lstm.hidden is None
        True
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if isinstance(module, nn.RNNCellBase):
            raise TypeError(
                f"Stateful: found the cell {type(module).__name__}, expected a module that goes along the time axis "
                f"and returns (outputs, state): give nn.{type(module).__name__.removesuffix('Cell')}(...)"
            )
        self.module = module

    def forward(self, x: Any) -> Any:
        """Go on from the state of the last call.

        Args:
            x: What the module takes first; for `nn.LSTM` a tensor of shape `(batch, time, features)`, or
                `(time, batch, features)` without `batch_first`, or a `PackedSequence`.

        Returns:
            The module's outputs. The new state is in `hidden`.

        Raises:
            ValueError: There are other series in number than in the last call, and nobody has reset the state.
            TypeError: The module returned something other than `(outputs, state)`.
        """
        series = self._series_in(x)
        self._check(series)
        returned = self.module(x, self.hidden)
        if not isinstance(returned, tuple) or len(returned) != len(("outputs", "state")):
            raise TypeError(
                f"Stateful: {type(self.module).__name__} returned a {type(returned).__name__}, expected the two values "
                "(outputs, state)"
            )
        outputs, state = returned
        self._keep(state, series)
        return outputs

    def reset(self) -> None:
        """Forget the state, so that the next call starts without one."""
        for name in self._names():
            # Not `del self.name`, which would forget that it is not persistent; an abort may put the buffer back.
            self._buffers.pop(name)

    @property
    def hidden(self) -> Any:
        """The present state, nested as the module gave it; None before the first call and after a reset."""
        return _nest([(name, self._buffers[name]) for name in self._names() if name != SERIES], depth=1)

    def _names(self) -> list[str]:
        return [name for name in self._buffers if name == SERIES or name.split("_")[0] == "state"]

    def _check(self, series: int) -> None:
        held = self._buffers.get(SERIES)
        if held is not None and len(held) != series:
            raise ValueError(
                f"Stateful: the hidden state is of {len(held)} series and this call is given {series}; expected the same "
                "series as in the last call. Reset the state where other series begin: reset_states([model]) after each "
                "batch, as a trainer does"
            )

    def _series_in(self, x: Any) -> int:
        if isinstance(x, PackedSequence):
            return int(x.batch_sizes[0])
        tensor = _first_tensor(x)
        if not isinstance(self.module, nn.RNNBase):
            return len(tensor)
        if tensor.dim() < BATCHED:
            return 1
        return tensor.shape[0 if self.module.batch_first else 1]

    def _keep(self, state: Any, series: int) -> None:
        leaves = _flatten(state, "state")
        self.reset()
        for name, leaf in leaves:
            # A copy, in one memory layout whatever the module gave a view of: a state that comes from a checkpoint is
            # laid out so too, and the layout shows in the bits of matrix products.
            copied = leaf.detach().clone(memory_format=torch.contiguous_format)
            self.register_buffer(name, copied, persistent=False)
        self.register_buffer(SERIES, leaves[0][1].new_empty(series, 0), persistent=False)


def reset_states(modules: Iterable[nn.Module]) -> None:
    """Reset every `Stateful` in some modules: other series begin.

    Args:
        modules: The roots; all of their children are looked at.

    Example:
        >>> model = nn.Sequential(Stateful(nn.GRU(4, 8, batch_first=True)), nn.Linear(8, 1))
        >>> reset_states([model])
    """
    for root in modules:
        for module in root.modules():
            if isinstance(module, Stateful):
                module.reset()


def _first_tensor(tree: Any) -> torch.Tensor:
    while isinstance(tree, tuple | list | dict) and tree:
        tree = next(iter(tree.values() if isinstance(tree, dict) else tree))
    if isinstance(tree, torch.Tensor) and tree.dim():
        return tree
    raise TypeError(
        f"Stateful: found {type(tree).__name__} as input, expected a tensor with the series along an axis, or several "
        "in a tuple, list or dict"
    )


def _flatten(state: Any, name: str) -> list[tuple[str, torch.Tensor]]:
    """Give a nested state's tensors by names that say where they are: `_0` in a tuple, `_l0` in a list."""
    if isinstance(state, torch.Tensor):
        return [(name, state)]
    if type(state) not in {tuple, list} or not state:
        raise TypeError(
            f"Stateful: the module's {name} is a {type(state).__name__}, expected a tensor, or tensors in tuples and "
            "lists that are not empty: let the module's forward put it so"
        )
    mark = "_l" if isinstance(state, list) else "_"
    return [leaf for i, value in enumerate(state) for leaf in _flatten(value, f"{name}{mark}{i}")]


def _nest(leaves: list[tuple[str, Any]], depth: int) -> Any:
    """Put tensors back to where their names say that they were."""
    if not leaves:
        return None
    places = [name.split("_")[depth : depth + 1] for name, _ in leaves]
    if not places[0]:
        return leaves[0][1]
    groups: dict[str, list[tuple[str, Any]]] = {}
    for (place,), leaf in zip(places, leaves, strict=True):
        groups.setdefault(place, []).append(leaf)
    ordered = sorted(groups, key=lambda place: int(place.removeprefix("l")))
    values = [_nest(groups[place], depth + 1) for place in ordered]
    return values if ordered[0].startswith("l") else tuple(values)
