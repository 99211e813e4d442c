"""Zarr: arrays in chunks, in a directory. Of its codecs those are used that are known to decode and do nothing else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.errors import DataError
from deeptrain.data.formats.checks import check_shape, native, nbytes, needed, unreadable
from deeptrain.data.formats.chunked import RegularPart, check_chunk, whole_if_small
from deeptrain.data.formats.registry import Format, Hints

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deeptrain.data.formats.base import Array, Part

WHAT = "Zarr array"
DEEPEST = 16
MOST_NODE = 1 << 24  # bytes of one node's description
# Some codecs unpickle what they find. What is not in this list is refused before any chunk is read.
CODECS = frozenset(
    (
        "bytes",
        "transpose",
        "blosc",
        "zstd",
        "gzip",
        "crc32c",
        "sharding_indexed",
        "zlib",
        "lz4",
        "bz2",
        "lzma",
        "shuffle",
        "delta",
        "fixedscaleoffset",
        "quantize",
        "bitround",
        "packbits",
        "astype",
        "adler32",
        "crc32",
        "fletcher32",
    )
)
FAULTS = (OSError, RuntimeError, ValueError, KeyError, TypeError, IndexError, ArithmeticError, AttributeError)


class ZarrFormat(Format):
    """One array, or a group of them by their paths in it; of Zarr 3, and of Zarr 2."""

    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:  # noqa: ARG002 - each array has a header
        """Read the nodes' descriptions."""
        if not path.is_dir():
            raise unreadable(path, WHAT, ValueError("it is no directory"))
        try:
            return {name: _part(node, about) for name, node, about in _walk(path, "", 0)}
        except DataError:
            raise
        except FAULTS as error:
            raise unreadable(path, WHAT, error) from error


def _walk(path: Path, name: str, depth: int) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    about = _describe(path)
    if about is None:
        return
    if "shape" in about:
        yield name, path, about
        return
    if depth >= DEEPEST:
        raise ValueError(f"groups within groups deeper than {DEEPEST}")
    for child in sorted(path.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            yield from _walk(child, f"{name}/{child.name}".removeprefix("/"), depth + 1)


def _describe(path: Path) -> dict[str, Any] | None:
    """Read a node's description; None where there is none."""
    for name in ("zarr.json", ".zarray", ".zgroup"):
        file = path / name
        if file.is_file():
            if file.stat().st_size > MOST_NODE:
                raise ValueError(f"{name} of more than {MOST_NODE} bytes")
            about = json.loads(file.read_bytes())
            if not isinstance(about, dict):
                raise ValueError(f"{name} that is no object")
            return about
    return None


def _part(path: Path, about: dict[str, Any]) -> Part:
    odd = sorted({name for name in _codecs(about) if name not in CODECS})
    if odd or about.get("storage_transformers"):
        raise DataError(
            path,
            found=f"the codecs {', '.join(odd)}" if odd else "storage transformers",
            expected=f"codecs that only decode numbers: {', '.join(sorted(CODECS))}",
            remedy="Write the array with one of these.",
        )
    return whole_if_small(ZarrPart(path, _open(path)))


def _codecs(about: dict[str, Any]) -> Iterator[str]:
    """Give the names of all codecs that a description has anywhere, nested ones too."""
    for codec in (*(about.get("codecs") or ()), *(about.get("filters") or ()), about.get("compressor")):
        if codec is None:
            continue
        name = str(codec.get("name", codec.get("id"))) if isinstance(codec, dict) else str(codec)
        yield name.removeprefix("numcodecs.")
        settings = codec.get("configuration") if isinstance(codec, dict) else None
        if isinstance(settings, dict):
            yield from _codecs(
                {"codecs": [*(settings.get("codecs") or ()), *(settings.get("index_codecs") or ())]}
            )


def _open(path: Path) -> Any:
    return needed("zarr", "zarr").open_array(str(path), mode="r")


class ZarrPart(RegularPart):
    """An array, decoded by its chunks. A chunk that is not there holds the fill value, as the format has it."""

    def __init__(self, path: Path, array: Any) -> None:
        self.path, self.dtype = path, native(path, np.dtype(array.dtype))
        check_shape(path, array.shape)
        self.rows, self.shape = int(array.shape[0]), tuple(map(int, array.shape[1:]))
        chunks = getattr(array, "shards", None) or array.chunks
        self.chunk_rows = int(chunks[0])
        check_chunk(path, nbytes((self.chunk_rows, *self.shape), self.dtype))
        check_chunk(path, nbytes(chunks, self.dtype))
        self._array: Any = None

    def _load(self, out: Array, start: int) -> None:
        try:
            array = self._array
            if array is None:
                array = self._array = _open(self.path)
            out[...] = array[start : start + len(out)]
        except FAULTS as error:
            raise unreadable(self.path, WHAT, error) from error

    def close(self) -> None:
        """Let the array go."""
        super().close()
        self._array = None
