"""Compressed frames that hold a `.npy` file's bytes, header and values, with their length and a checksum."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from deeptrain.data.formats.checks import needed

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.formats.base import Array


def write_zstd(path: Path, values: Array) -> None:
    """Write one array as a zstd frame."""
    zstandard = needed("zstandard", "compression")
    header, body = _npy(values)
    packer = zstandard.ZstdCompressor(write_checksum=True)
    size = len(header) + body.nbytes
    with path.open("xb") as file, packer.stream_writer(file, size=size, closefd=False) as frame:
        frame.write(header)
        frame.write(body)


def write_lz4(path: Path, values: Array) -> None:
    """Write one array as an LZ4 frame."""
    lz4_frame = needed("lz4.frame", "compression")
    header, body = _npy(values)
    size = len(header) + body.nbytes
    with (
        path.open("xb") as file,
        lz4_frame.open(file, "wb", source_size=size, content_checksum=True) as frame,
    ):
        frame.write(header)
        frame.write(body)


def _npy(values: Array) -> tuple[bytes, memoryview]:
    """Give a `.npy` file's two parts, the second one shared with the array."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(values))
    flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return header.getvalue(), flat.data
