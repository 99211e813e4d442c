"""The tensors file: safetensors, written from the memory in which the values are.

The library's own writer would want a second copy of some, and calls the system where no test can make it fail.
Everything is summed on its way: a checksum is of what was in memory, so that a write that went wrong shows.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, NamedTuple

from deeptrain.checkpoint.files import (
    CheckpointError,
    begin_writing,
    new_file,
    sync_descriptor,
    write_all,
)
from deeptrain.checkpoint.forms import SAFETENSORS
from deeptrain.checkpoint.manifest import LENGTH, MAX_HEADER, Written
from deeptrain.state.leaves import tensor_bytes

if TYPE_CHECKING:
    from pathlib import Path

    import torch

_CHUNK = 1 << 20  # bytes: what stays in the cache between summing and writing
_SMALL = 1 << 16  # bytes: below this, pieces are gathered for one call
_AT_ONCE = 1 << 24  # bytes: the disk is given so much while the next are summed and written
_ALIGNMENT = 8  # of the first tensor in the file
_NAMES = {dtype: name for name, dtype in SAFETENSORS.items()}


class _Layout(NamedTuple):
    """What comes first in the file, and in which order the tensors follow."""

    header: bytes
    names: list[str]


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> Written:
    """Write a new tensors file and wait until it is on the disk. One tensor at a time is brought to the CPU.

    Args:
        path: The file to make.
        tensors: By name, of the dtypes that safetensors holds.

    Returns:
        The sizes and checksums for the manifest.

    Raises:
        OSError: It could not be written.
        CheckpointError: There are more names than a safetensors header may hold.
    """
    header, names = _layout(path, tensors)
    with new_file(path) as descriptor:
        output = _Output(descriptor)
        header_crc = output.write(memoryview(header))
        sums = {name: output.write(tensor_bytes(tensors[name])) for name in names}
        output.flush()
        sync_descriptor(descriptor)
    size = len(header) + sum(tensor.nbytes for tensor in tensors.values())
    return Written(size, len(header), header_crc, sums)


def _layout(path: Path, tensors: dict[str, torch.Tensor]) -> _Layout:
    # Wide dtypes first, as the library does: then each tensor lies at a multiple of its element's size.
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise CheckpointError(
            f"{path}: the names of {len(names):,} tensors take {len(text):,} bytes, safetensors holds {MAX_HEADER:,}: "
            "keep many small tensors as a few large ones"
        )
    return _Layout(len(text).to_bytes(LENGTH, "little") + text, names)


class _Output:
    """A file to which pieces are written in order: small ones together, large ones from where they are."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._gathered = bytearray()
        self._written = self._begun = 0

    def write(self, data: memoryview) -> int:
        """Write a piece; gives its crc32."""
        crc = 0
        for start in range(0, len(data), _CHUNK):
            chunk = data[start : start + _CHUNK]
            crc = zlib.crc32(chunk, crc)
            self._write(chunk)
        return crc

    def _write(self, chunk: memoryview) -> None:
        if len(chunk) >= _SMALL:
            self.flush()
            self._put(chunk)
            return
        self._gathered += chunk
        if len(self._gathered) >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        gathered, self._gathered = self._gathered, bytearray()
        self._put(gathered)

    def _put(self, data: memoryview | bytearray) -> None:
        write_all(self._descriptor, data)
        self._written += len(data)
        if self._written - self._begun >= _AT_ONCE:
            begin_writing(self._descriptor, self._begun, self._written - self._begun)
            self._begun = self._written
