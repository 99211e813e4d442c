"""The random streams of a process: captured in microseconds, put back exactly, seeded aside.

A run draws from Python's stream, NumPy's legacy stream, torch's CPU generator, the generators of the devices
in use, and those that the user registers. They run on and are part of the state. Validation and other work
that must not move them runs under seeds derived by hashing, and puts them back.

`random.getstate` costs 10 us and `numpy.random.get_state` 30 to 50, before every iteration. Both keep their
Mersenne Twister in one block of memory: its 624 words, and beside them the index of the next one. Every draw
moves the index, and whatever brings it back to the same number (624 draws, a new seed) makes all words anew; so
the index and the four words next to it tell whether a stream stands where it stood, and only one that moved is
captured again. What is read there only ever tells that nothing changed, or is decoded after a check at start
that it says the same as the official call.
"""

from __future__ import annotations

import ctypes
import random
from typing import Any, Protocol

import numpy as np
import torch

from deeptrain.state.hashing import mix
from deeptrain.state.progress import check_version

VERSION = 1
TWISTER_WORDS = 624
PLACE = 20  # bytes: the index and the four words beside it
TORCH_LAYOUT, NORMALS = 100, 28  # bytes of torch's generator before its words, and of what lies behind them
_numpy_legacy: Any = np.random.mtrand._rand  # noqa: SLF001 - the one object behind the module's functions


class Stream(Protocol):
    """One random stream. A capture is opaque and cheap; a state is made of plain values."""

    def capture(self) -> Any:
        """What `restore` needs to put the stream back."""

    def restore(self, captured: Any) -> None:
        """Put the stream back to where it was captured."""

    def seed(self, value: int) -> None:
        """Start the stream anew from a 64-bit seed."""

    def state_dict(self, captured: Any = None) -> dict[str, Any]:
        """The stream's place as plain values: of a capture, or of now."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the stream to a saved place."""


class PythonStream:
    """A `random.Random`, by default the one behind the module's functions."""

    def __init__(self, generator: random.Random | None = None) -> None:
        self.generator: random.Random = random._inst if generator is None else generator  # noqa: SLF001
        # CPython lays the index and the 624 words right behind the object's header.
        size, start = 4 + 4 * TWISTER_WORDS, id(self.generator) + object.__basicsize__
        self._memory = (ctypes.c_char * size).from_address(start)
        self._place = (ctypes.c_char * PLACE).from_address(start)
        self._seen: tuple[bytes, float | None] | None = None
        self._captured: tuple[bytes, float | None] = (b"", None)
        self._peeks = self._peek_is_right()

    def _peek_is_right(self) -> bool:
        if type(self.generator) is not random.Random:
            return False
        peeked = self._memory.raw, self.generator.gauss_next  # type: ignore[attr-defined]
        return self._decode(peeked) == self.generator.getstate()

    @staticmethod
    def _decode(peeked: tuple[bytes, float | None]) -> tuple[int, tuple[int, ...], float | None]:
        words = np.frombuffer(peeked[0], dtype=np.uint32).tolist()
        return 3, (*words[1:], words[0]), peeked[1]

    def capture(self) -> Any:
        """See `Stream`."""
        if not self._peeks:
            return self.generator.getstate()
        seen = self._place.raw, self.generator.gauss_next  # type: ignore[attr-defined]
        if seen != self._seen:
            self._seen, self._captured = seen, (self._memory.raw, seen[1])
        return self._captured

    def restore(self, captured: Any) -> None:
        """See `Stream`."""
        self.generator.setstate(self._decode(captured) if self._peeks else captured)

    def seed(self, value: int) -> None:
        """See `Stream`."""
        self.generator.seed(value)

    def state_dict(self, captured: Any = None) -> dict[str, Any]:
        """See `Stream`."""
        state = self.generator.getstate() if captured is None else captured
        version, words, gauss = self._decode(state) if captured is not None and self._peeks else state
        return {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Stream`."""
        self.generator.setstate((state["version"], tuple(state["words"].tolist()), state["gauss"]))


class NumpyLegacyStream:
    """The stream behind `numpy.random.rand` and its like.

    Its full state is asked for only when it may have changed. The Mersenne Twister shows any draw but one: the
    second of a pair of normal numbers, which is kept outside. So a full state without such a number stays valid
    for as long as the Twister stays where it is; one with it is never trusted twice.
    """

    def __init__(self) -> None:
        self._owner: Any = None
        self._twister: Any = None
        self._seen = b""
        self._full: dict[str, Any] = {}
        self._known = False  # whether the full state holds for as long as the memory stays as it was seen

    def _watch(self, owner: Any) -> None:
        """Look at the memory of the generator that is behind the stream now."""
        self._owner, self._known, self._twister = owner, False, None
        if type(owner) is np.random.MT19937:
            last = 4 * TWISTER_WORDS + 4 - PLACE  # NumPy lays the index behind the words
            self._twister = (ctypes.c_char * PLACE).from_address(owner.ctypes.state_address + last)

    def capture(self) -> Any:
        """See `Stream`."""
        owner = _numpy_legacy._bit_generator  # noqa: SLF001
        if owner is not self._owner:
            self._watch(owner)
        place = b"" if self._twister is None else self._twister.raw
        if not self._known or place != self._seen:
            self._full = dict(np.random.get_state(legacy=False))  # noqa: NPY002
            self._seen = place
            self._known = self._twister is not None and not self._full["has_gauss"]
        return self._full

    def restore(self, captured: Any) -> None:
        """See `Stream`."""
        np.random.set_state(captured)  # noqa: NPY002
        self._known = False

    def seed(self, value: int) -> None:
        """See `Stream`."""
        np.random.seed([value & 0xFFFFFFFF, value >> 32])  # noqa: NPY002

    def state_dict(self, captured: Any = None) -> dict[str, Any]:
        """See `Stream`."""
        return self.capture() if captured is None else captured  # type: ignore[no-any-return]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Stream`."""
        self.restore(state)


class TorchStream:
    """A `torch.Generator` of any device.

    `get_state` takes a microsecond by itself and six amid a model's work, because it makes a tensor of 5 KB. So the
    CPU's generator is asked only where its memory shows a draw since.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self._watched = _place_of(generator)
        self._seen: tuple[int, bytes, bytes] | None = None
        self._captured: Any = None

    def capture(self) -> Any:
        """See `Stream`."""
        if self._watched is None:
            return self.generator.get_state()
        begin, end = self._watched
        seen = self.generator._cdata, begin.raw, end.raw  # type: ignore[attr-defined]  # noqa: SLF001
        if seen != self._seen:
            self._seen, self._captured = seen, self.generator.get_state()
        return self._captured

    def restore(self, captured: Any) -> None:
        """See `Stream`."""
        self.generator.set_state(captured)

    def seed(self, value: int) -> None:
        """See `Stream`."""
        self.generator.manual_seed(value)

    def state_dict(self, captured: Any = None) -> dict[str, Any]:
        """See `Stream`."""
        return {"state": self.generator.get_state() if captured is None else captured}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Stream`."""
        self.generator.set_state(state["state"])


def _place_of(generator: torch.Generator) -> tuple[Any, Any] | None:
    """The memory of torch's Mersenne Twister that any draw changes; None where it does not lie as known.

    Around its 624 words lie the index of the next one, with how many are left, and the second of a pair of normal
    numbers, as a float and as a double, each with whether it is there.
    """
    if generator.device.type != "cpu":
        return None
    start, size = generator._cdata, 4 * TWISTER_WORDS  # type: ignore[attr-defined]  # noqa: SLF001
    state = generator.get_state().numpy()
    words = state[24 : 24 + 2 * size].view(np.uint64).astype(np.uint32).tobytes()
    at = ctypes.string_at(start, TORCH_LAYOUT + size).find(words)
    if at < PLACE:
        return None
    begin = (ctypes.c_char * (2 * PLACE)).from_address(start + at - PLACE)
    return begin, (ctypes.c_char * NORMALS).from_address(start + at + size)


class NumpyGeneratorStream:
    """A `numpy.random.Generator` that the user registered."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def capture(self) -> Any:
        """See `Stream`."""
        return self.generator.bit_generator.state

    def restore(self, captured: Any) -> None:
        """See `Stream`."""
        self.generator.bit_generator.state = captured

    def seed(self, value: int) -> None:
        """See `Stream`."""
        self.generator.bit_generator.state = type(self.generator.bit_generator)(value).state

    def state_dict(self, captured: Any = None) -> dict[str, Any]:
        """See `Stream`."""
        return dict(self.capture() if captured is None else captured)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Stream`."""
        self.restore(state)


class Streams:
    """All random streams of a run, by name.

    Args:
        device: The device that the step computes on; its generator joins unless it is the CPU's.

    Example:
        >>> streams = Streams()
        >>> place = streams.capture()
        >>> a = torch.rand(3)
        >>> streams.restore(place)
        >>> bool((torch.rand(3) == a).all())
        True
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._streams: dict[str, Stream] = {
            "python": PythonStream(),
            "numpy": NumpyLegacyStream(),
            "torch": TorchStream(torch.default_generator),
        }
        for name, generator in device_generators(device):
            self._streams[name] = TorchStream(generator)
        self._captures = [stream.capture for stream in self._streams.values()]
        self._registered: set[str] = set()
        self._unclaimed: dict[str, dict[str, Any]] = {}

    def register(self, name: str, generator: torch.Generator | np.random.Generator | random.Random) -> None:
        """Make a generator of the user's own part of the state.

        If a state that was loaded before holds a stream of this name, the generator is put there.

        Raises:
            TypeError: It is none of the three kinds.
            ValueError: The name is taken.
        """
        if name in self._streams:
            raise ValueError(f"a random stream named {name!r} is registered already: choose another name")
        stream = self._streams[name] = _stream_over(generator)
        self._captures.append(stream.capture)
        self._registered.add(name)
        if name in self._unclaimed:
            stream.load_state_dict(self._unclaimed.pop(name))

    @property
    def generators(self) -> list[Any]:
        """The generator objects that are part of the state."""
        return [s.generator for s in self._streams.values() if hasattr(s, "generator")]

    def capture(self) -> list[Any]:
        """Where every stream stands; opaque, for `restore`."""
        return [capture() for capture in self._captures]

    def restore(self, captured: list[Any]) -> None:
        """Put every stream back to where it was captured."""
        for stream, place in zip(self._streams.values(), captured, strict=False):
            stream.restore(place)

    def seed(self, *key: int | str) -> None:
        """Start every stream anew from a key, each from its own hash of it."""
        for name, stream in self._streams.items():
            stream.seed(mix(*key, name))

    @property
    def unclaimed(self) -> list[str]:
        """Streams of a loaded state for which no generator was registered yet."""
        return sorted(self._unclaimed)

    def state_dict(self, captured: list[Any] | None = None) -> dict[str, Any]:
        """Every stream's place as plain values: of a capture, or of now."""
        places = captured if captured is not None else [None] * len(self._streams)
        pairs = zip(self._streams.items(), places, strict=False)
        present = {name: stream.state_dict(place) for (name, stream), place in pairs}
        return {"version": VERSION, "streams": {**present, **self._unclaimed}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put every stream to its saved place; streams that are not registered yet wait for `register`."""
        check_version("Streams", state, VERSION)
        if missing := sorted(self._registered - set(state["streams"])):
            raise ValueError(
                f"the saved state has no random streams named {missing}, which are registered here: "
                "it is of a run without them, so where they should stand is not known"
            )
        self._unclaimed.clear()
        for name, saved in state["streams"].items():
            if name in self._streams:
                self._streams[name].load_state_dict(saved)
            else:
                self._unclaimed[name] = saved


def _stream_over(generator: object) -> Stream:
    if isinstance(generator, torch.Generator):
        return TorchStream(generator)
    if isinstance(generator, np.random.Generator):
        return NumpyGeneratorStream(generator)
    if isinstance(generator, random.Random):
        return PythonStream(generator)
    raise TypeError(
        f"cannot register a {type(generator).__name__} as a random stream: "
        "give a torch.Generator, a numpy.random.Generator or a random.Random"
    )


def device_generators(device: torch.device | None) -> list[tuple[str, torch.Generator]]:
    """The default generators of the devices in use, by names such as "cuda:0"."""
    if device is None or device.type == "cpu":
        return []
    if device.type == "mps":
        return [("mps", torch.mps._get_default_mps_generator())]  # noqa: SLF001
    module = torch.get_device_module(device)
    module.init()
    return [(f"{device.type}:{i}", generator) for i, generator in enumerate(module.default_generators)]


def seed_all(seed: int) -> None:
    """Seed every stream of the process, each from its own hash of the seed."""
    random.seed(mix(seed, "python"))
    NumpyLegacyStream().seed(mix(seed, "numpy"))
    torch.manual_seed(seed)  # also seeds every device's generator
