"""Reading a checkpoint that may be damaged, or made to do damage: each part is checked before it is used.

Nothing in the files is ever taken as a path, no length is believed before the file's own size confirms it, and
no byte reaches the decoder that its checksum does not cover.
"""

from __future__ import annotations

import json
import stat
import zlib
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import torch

from deeptrain.checkpoint.codec import DecodeError, decode
from deeptrain.checkpoint.device import Sums
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.forms import SAFETENSORS
from deeptrain.checkpoint.manifest import LENGTH, MANIFEST, STATE, TENSORS, Manifest, ManifestError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MAX_MANIFEST = 1 << 28  # bytes: a million tensors


class CorruptCheckpoint(CheckpointError):  # noqa: N818 - what it is, not what went wrong
    """A checkpoint's bytes are not those that were written.

    Attributes:
        path: The checkpoint's directory.
        what: The file, or the tensor's path, and what is wrong with it.
    """

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path, self.what = path, what


class _Place(NamedTuple):
    """Where a tensor lies in the tensors file."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    start: int
    size: int


class Reader:
    """One checkpoint's files. Making it reads and checks the manifest.

    Raises:
        CorruptCheckpoint: In each method, where something is not as it was written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        if not path.is_dir():
            raise CorruptCheckpoint(path, "there is no such directory")
        try:
            self.manifest = Manifest.parse(self._read(MANIFEST, None))
        except ManifestError as error:
            raise CorruptCheckpoint(path, f"{MANIFEST}: {error}") from error

    def info(self) -> dict[str, Any]:
        """What the writer said of the checkpoint."""
        info = self._decode(MANIFEST, self.manifest.info, {})
        if type(info) is not dict:
            raise CorruptCheckpoint(self._path, f"{MANIFEST}: info is no dict")
        return info

    def tree(self, *, verify: bool) -> Any:
        """The state."""
        state = self._state()
        tensors = {}
        with self._tensors() as (file, places):
            for place in places:
                tensors[place.name] = self._load(file, place, verify=verify)
        return self._decode(STATE, state, tensors)

    def check(self) -> None:
        """Compare every byte with its checksum, without keeping any."""
        self._state()
        with self._tensors() as (file, places), closing(Sums(self._path / TENSORS, file)) as sums:
            sums.next(self.manifest.header_size)  # which was compared
            for place in places:
                crc = sums.next(place.size)
                if crc is None:
                    raise self._ends_in(place.name)
                self._compare(place.name, crc)

    # ------------------------------------------------------------------ files

    def _size(self, name: str, expected: int | None) -> int:
        status = (self._path / name).stat()
        if not stat.S_ISREG(status.st_mode):
            raise CorruptCheckpoint(self._path, f"{name}: is no regular file")
        if expected is not None and status.st_size != expected:
            raise CorruptCheckpoint(self._path, f"{name}: has {status.st_size} bytes, expected {expected}")
        return status.st_size

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Say of a file that cannot be read which one it is."""
        try:
            yield
        except FileNotFoundError as error:
            raise CorruptCheckpoint(self._path, f"{name}: is missing") from error
        except OSError as error:
            raise CorruptCheckpoint(self._path, f"{name}: cannot be read: {error}") from error

    def _read(self, name: str, size: int | None) -> bytes:
        with self._reading(name):
            if self._size(name, size) > _MAX_MANIFEST and size is None:
                raise CorruptCheckpoint(self._path, f"{name}: is longer than any manifest")
            return (self._path / name).read_bytes()

    def _state(self) -> Any:
        data = self._read(STATE, self.manifest.state_size)
        if zlib.crc32(data) != self.manifest.state_crc:
            raise CorruptCheckpoint(self._path, f"{STATE}: its checksum does not match")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise CorruptCheckpoint(self._path, f"{STATE}: is no JSON: {error}") from error

    def _decode(self, name: str, value: Any, tensors: dict[str, torch.Tensor]) -> Any:
        try:
            return decode(value, tensors)
        except DecodeError as error:
            raise CorruptCheckpoint(self._path, f"{name}: {error}") from error

    # ------------------------------------------------------------------ tensors

    @contextmanager
    def _tensors(self) -> Iterator[tuple[BinaryIO, list[_Place]]]:
        """The open tensors file, and where everything is in it."""
        with self._reading(TENSORS):
            self._size(TENSORS, self.manifest.tensors_size)
            with (self._path / TENSORS).open("rb", buffering=0) as file:
                header = self._header(file)
                self._check_layout()
                yield file, self._places(header)

    def _header(self, file: BinaryIO) -> bytes:
        data = file.read(self.manifest.header_size)
        length = int.from_bytes(data[:LENGTH], "little")
        if length + LENGTH != self.manifest.header_size or zlib.crc32(data) != self.manifest.header_crc:
            raise CorruptCheckpoint(self._path, f"{TENSORS}: its header's checksum does not match")
        return data[LENGTH:]

    def _check_layout(self) -> None:
        """Let safetensors see that the header is valid: known dtypes, and tensors without gaps or overlaps."""
        from safetensors import SafetensorError, safe_open  # noqa: PLC0415 - `import deeptrain` is to cost little

        try:
            with safe_open(self._path / TENSORS, framework="pt") as opened:
                names = set(opened.keys())
        except SafetensorError as error:
            raise CorruptCheckpoint(self._path, f"{TENSORS}: {error}") from error
        if odd := sorted(names ^ set(self.manifest.tensors)):
            raise CorruptCheckpoint(
                self._path, f"{TENSORS}: it and {MANIFEST} differ in the tensors {odd[:5]}"
            )

    def _places(self, header: bytes) -> list[_Place]:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        places = []
        for name, entry in entries.items():
            if entry["dtype"] not in SAFETENSORS:
                raise CorruptCheckpoint(self._path, f"{TENSORS}: {name}: the unknown dtype {entry['dtype']}")
            start, end = entry["data_offsets"]
            dtype, at = SAFETENSORS[entry["dtype"]], self.manifest.header_size + start
            places.append(_Place(name, dtype, entry["shape"], at, end - start))
        return sorted(places, key=lambda place: place.start)

    def _load(self, file: BinaryIO, place: _Place, *, verify: bool) -> torch.Tensor:
        raw = torch.empty(place.size, dtype=torch.uint8)
        if place.size:
            data = raw.numpy().data
            file.seek(place.start)
            self._fill(file, data, place.name)
            if verify:
                self._compare(place.name, zlib.crc32(data))
        return raw.view(place.dtype).reshape(place.shape)

    def _fill(self, file: BinaryIO, data: memoryview, name: str) -> None:
        done = 0
        while done < len(data):
            count = file.readinto(data[done:])  # type: ignore[attr-defined]
            if not count:
                raise self._ends_in(name)
            done += count

    def _ends_in(self, name: str) -> CorruptCheckpoint:
        return CorruptCheckpoint(self._path, f"{TENSORS}: ends in the tensor {name}")

    def _compare(self, name: str, crc: int) -> None:
        if crc != self.manifest.tensors[name]:
            raise CorruptCheckpoint(self._path, f"{TENSORS}: the tensor {name}: its checksum does not match")
