"""A checkpoint's manifest: the sizes and checksums of its files, by which every bit of it can be verified.

The text is one JSON object. Its first line holds the crc32 of everything after that line, so that the manifest
covers itself as well, and is compared with what it must be before anything is parsed.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any, NamedTuple

from deeptrain.checkpoint.chain import Chain

TENSORS = "tensors.safetensors"
STATE = "state.json"
MANIFEST = "manifest.json"
FORMAT = "deeptrain checkpoint"
VERSIONS = (1, 2)  # where the history lies in segments it is 2
LENGTH = 8  # bytes before a safetensors header, that hold its length
MAX_HEADER = 100_000_000  # bytes; safetensors' own bound
_CRC = 2**32


class ManifestError(ValueError):
    """A manifest is not one that this version writes."""


class Written(NamedTuple):
    """What a tensors file has to be, as it was in memory while it was written.

    Attributes:
        size: Of the file.
        header_size, header_crc: Of its header, with the bytes before it that hold the length.
        tensors: The crc32 of each tensor's bytes, by name.
    """

    size: int
    header_size: int
    header_crc: int
    tensors: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What is to be found in a checkpoint.

    Attributes:
        sequence: The checkpoint's place among the commits of a store.
        info: What the caller says of it, encoded.
        state_size, state_crc: Of state.json.
        tensors_size: Of the tensors file.
        header_size, header_crc: Of its header, with the bytes before it that hold the length.
        tensors: The crc32 of each tensor's bytes, by name.
        history: Where the history lies, see `Chain.plain`; None where it is in the state as everything else.
    """

    sequence: int
    info: Any
    state_size: int
    state_crc: int
    tensors_size: int
    header_size: int
    header_crc: int
    tensors: dict[str, int]
    history: Any = None

    @classmethod
    def of(
        cls, written: Written, state: bytes, info: Any, sequence: int, chain: Chain | None = None
    ) -> Manifest:
        """The manifest of what was written."""
        return cls(
            sequence=sequence,
            info=info,
            state_size=len(state),
            state_crc=zlib.crc32(state),
            tensors_size=written.size,
            header_size=written.header_size,
            header_crc=written.header_crc,
            tensors=written.tensors,
            history=None if chain is None else chain.plain(),
        )

    @property
    def chain(self) -> Chain | None:
        """Where the history lies; None where it is in the state as everything else."""
        return None if self.history is None else Chain.parse(self.history)

    def text(self) -> bytes:
        """The manifest as it is written."""
        entries = {name: getattr(self, name) for name in self.__slots__ if name != "history"}
        body = {"format": FORMAT, "version": VERSIONS[self.history is not None]} | entries
        rest = json.dumps(body, indent=1, allow_nan=False)[1:]  # without the opening brace
        if self.history is not None:  # in one line, as json writes long lists fast
            rest = f'{rest[:-2]},\n "history": {json.dumps(self.history)}\n}}'
        return _first_line(rest.encode()) + rest.encode()

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            ManifestError: It is damaged, or of another format or version.
        """
        _, _, rest = text.partition(b"\n")
        rest = b"\n" + rest
        if text != _first_line(rest) + rest:
            raise ManifestError("its checksum does not match")
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"it is no JSON: {error}") from error
        return cls._of_body(body)

    @classmethod
    def _of_body(cls, body: dict[str, Any]) -> Manifest:
        for key, expected in (("format", (FORMAT,)), ("version", VERSIONS)):
            if body.get(key) not in expected:
                known = " and ".join(map(repr, expected))
                raise ManifestError(f"its {key} is {body.get(key)!r}, this deeptrain reads {known}")
        values = {key: body[key] for key in body if key not in ("crc32", "format", "version")}
        names = set(cls.__slots__) - ({"history"} if body["version"] == VERSIONS[0] else set())
        if set(values) != names:
            odd = sorted(set(values) ^ names)
            raise ManifestError(f"it should have the entries {sorted(names)} and differs in {odd}")
        _check(values)
        return cls(**values)


def _first_line(rest: bytes) -> bytes:
    return b'{ "crc32": "%08x",' % zlib.crc32(rest)


def _check(values: dict[str, Any]) -> None:
    """Numbers are numbers in their bounds, and names are names: nothing here is a path that would be followed."""
    for key, value in values.items():
        if key in ("info", "tensors", "history"):
            continue
        bound = _CRC if key.endswith("crc") else 2**63
        if type(value) is not int or not 0 <= value < bound:
            raise ManifestError(f"{key} is {str(value)[:80]}, expected a whole number below {bound}")
    if not LENGTH <= values["header_size"] <= min(values["tensors_size"], MAX_HEADER + LENGTH):
        raise ManifestError(f"header_size is {values['header_size']}, which no tensors file has")
    tensors = values["tensors"]
    if type(tensors) is not dict or not all(type(c) is int and 0 <= c < _CRC for c in tensors.values()):
        raise ManifestError("its checksums of the tensors are no whole numbers below 2**32")
    if "history" in values:
        try:
            Chain.parse(values["history"])
        except ValueError as error:
            raise ManifestError(str(error)) from error
