"""Staging: a state as it was at one moment, in memory of its own, so that it can be written while training goes on.

The memory stays between calls: fresh memory costs a page fault for every 4 KB, six times as much as the copying.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.checkpoint.codec import encode
from deeptrain.checkpoint.files import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = 256  # bytes that a tensor's entries take in the two headers, about
_ALIGNMENT = 64  # bytes: what copying is fastest at
_SPARE = (
    16  # a block that has to grow gets a sixteenth more: what grows by a little does not grow it each time
)
_STALE = "this state was staged over by a later one, or its memory was freed: write a state before the next is staged"
_BUSY = "the state that was staged before is still being written: wait for that (Writer.wait), then stage the next"


@dataclass(frozen=True, slots=True)
class Content:
    """What a checkpoint is made of.

    Attributes:
        state: The text of state.json.
        info: What the caller says of it, encoded.
        tensors: By name.
    """

    state: bytes
    info: Any
    tensors: dict[str, torch.Tensor]

    @classmethod
    def of(cls, tree: Any, info: dict[str, Any], where: str = "") -> Content:
        """Encode a state and the info beside it. The tensors are the tree's own; nothing else of it is referred to.

        Args:
            tree: The state tree.
            info: A tree without tensors and arrays.
            where: What an error's message begins with.

        Raises:
            CodecError: The tree holds something that a checkpoint cannot; the message names its path.
            CheckpointError: The info holds tensors or arrays.
        """
        encoded, about = encode(tree), encode(info)
        if about.tensors:
            raise CheckpointError(
                f"{where}the info holds tensors or arrays ({', '.join(about.tensors)}): numbers only"
            )
        state = json.dumps(encoded.json, allow_nan=False, separators=(",", ":")).encode()
        return cls(state, about.json, encoded.tensors)

    @property
    def size(self) -> int:
        """How many bytes its files will have, about."""
        names = sum(2 * len(name) + _HEADER for name in self.tensors)
        return len(self.state) + names + sum(tensor.nbytes for tensor in self.tensors.values())


class Staged:
    """A state in a `Staging`'s memory. It can be written until the next one is staged there."""

    def __init__(self, staging: Staging, turn: int, size: int) -> None:
        self._staging, self._turn, self._size = staging, turn, size

    @property
    def size(self) -> int:
        """How many bytes a checkpoint of it will have, about."""
        return self._size

    @contextmanager
    def content(self) -> Iterator[Content]:
        """What to write, which nothing is staged over until the block ends. May be called in another thread.

        Raises:
            RuntimeError: A later state was staged, or this one is being written already.
        """
        with self._staging.held():
            yield self._staging.ready(self._turn)


class Staging:
    """Standing memory for one copy of a state.

    It is one block, which grows when a state needs more and is else used again, whatever the tensors' shapes.
    Tensors of a CUDA device come by a stream of their own into pinned memory: work that is queued on the device later
    waits for that there, this process does not. That part has been written for devices, and is not run by the
    tests where there is none.

    Example:
        >>> w = torch.zeros(2)
        >>> staged = Staging().stage({"w": w}, {"iterations": 3})
        >>> w += 1  # training goes on, and what was staged stays
        >>> with staged.content() as content:
        ...     content.tensors["w"]
        tensor([0., 0.])
    """

    def __init__(self) -> None:
        self._turn = 0  # counts what was staged
        self._content: Content | None = None
        self._copies: list[_Copy] = []
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
        self._drop()
        self._lock, self._process = threading.Lock(), os.getpid()

    def stage(self, tree: Any, info: dict[str, Any]) -> Staged:
        """Copy a state. What was staged before cannot be written any more.

        Args:
            tree: The state tree. It may be changed as soon as this returns.
            info: What the checkpoint is to say of itself: a tree without tensors and arrays.

        Raises:
            CodecError, CheckpointError: As `write_checkpoint`; what was staged before is as it was.
            RuntimeError: What was staged before is being written at this moment.
        """
        with self.held(), torch.inference_mode(mode=False), torch.no_grad():
            live = Content.of(tree, info)
            self._turn, self._content = self._turn + 1, None
            self._fit(live.tensors)
            self._copy(live.tensors)
            self._content = Content(live.state, live.info, self._buffers)
            return Staged(self, self._turn, live.size)

    def ready(self, turn: int) -> Content:
        """For `Staged`: what was staged at a turn, once every device has copied its part.

        Raises:
            RuntimeError: It is not there any more.
        """
        if self._content is None or turn != self._turn:
            raise RuntimeError(_STALE)
        while self._copies:
            self._copies.pop().finish()
        return self._content

    def free(self) -> None:
        """Give the memory back. What was staged cannot be written any more.

        Raises:
            RuntimeError: It is being written at this moment.
        """
        with self.held():
            self._drop()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Have the memory alone; nobody waits for it, so that nobody waits for ever.

        Raises:
            RuntimeError: Somebody else has it.
        """
        if self._process != os.getpid():  # after a fork: the thread that perhaps had it is not here
            self._lock, self._process = threading.Lock(), os.getpid()
        if not self._lock.acquire(blocking=False):
            raise RuntimeError(_BUSY)
        try:
            yield
        finally:
            self._lock.release()

    # ------------------------------------------------------------------ memory

    def _drop(self) -> None:
        self._content = None
        self._places: list[tuple[str, torch.dtype, torch.Size]] = []
        self._buffers: dict[str, torch.Tensor] = {}
        self._block = torch.empty(0, dtype=torch.uint8, device="cpu")

    def _fit(self, tensors: dict[str, torch.Tensor]) -> None:
        """Have a buffer for each tensor."""
        pinned = any(tensor.is_cuda for tensor in tensors.values())
        places = [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]
        if places == self._places and (self._block.is_pinned() or not pinned):
            return
        ends = _ends(tensors)
        size = ends[-1] if ends else 0
        if size > self._block.nbytes or (pinned and not self._block.is_pinned()):
            self._drop()  # before there is another one: at no time are there two
            self._block = torch.empty(
                size + size // _SPARE, dtype=torch.uint8, device="cpu", pin_memory=pinned
            )
        starts = [0, *ends]
        self._buffers = {
            name: _buffer(self._block, start, tensor)
            for start, (name, tensor) in zip(starts, tensors.items(), strict=False)
        }
        self._places = places

    # ------------------------------------------------------------------ copying

    def _copy(self, tensors: dict[str, torch.Tensor]) -> None:
        while self._copies:  # of a state that nobody wrote; its buffers are the same
            self._copies.pop().finish()
        by_device: dict[torch.device, list[str]] = {}
        for name, tensor in tensors.items():
            by_device.setdefault(tensor.device, []).append(name)
        for device, names in by_device.items():
            target, source = [self._buffers[name] for name in names], [tensors[name] for name in names]
            if device.type == "cuda":
                self._copies.append(self._copy_aside(device, target, source))
            else:
                torch._foreach_copy_(target, source)

    def _copy_aside(
        self, device: torch.device, target: list[torch.Tensor], source: list[torch.Tensor]
    ) -> _Copy:
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side, present = self._streams[device], torch.cuda.current_stream(device)
        side.wait_stream(present)
        with torch.cuda.stream(side):
            torch._foreach_copy_(target, source, non_blocking=True)
        present.wait_stream(side)  # the next step changes the values only when they are copied
        return _Copy(side.record_event(), source)


@dataclass(slots=True)
class _Copy:
    """One that a device makes: the tensors must live until it is done."""

    event: torch.cuda.Event
    source: list[torch.Tensor]

    def finish(self) -> None:
        self.event.synchronize()
        self.source = []


def _ends(tensors: dict[str, torch.Tensor]) -> list[int]:
    """Where the next tensor may begin, after each."""
    ends, end = [], 0
    for tensor in tensors.values():
        end += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
        ends.append(end)
    return ends


def _buffer(block: torch.Tensor, start: int, tensor: torch.Tensor) -> torch.Tensor:
    return block[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
