"""Arrays in compressed chunks of rows: Zarr 3 and Blosc2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from deeptrain.data.formats.checks import needed

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.formats.base import Array

CHUNK = (
    1 << 20
)  # bytes in a chunk, about: few files for a set, and no large piece to be decoded for a few rows


def write_zarr(path: Path, values: Array) -> None:
    """Write one array as a Zarr 3 directory."""
    zarr = needed("zarr", "zarr")
    made = zarr.create_array(
        path, shape=values.shape, dtype=values.dtype, chunks=chunk_shape(values), zarr_format=3
    )
    made[...] = values


def write_blosc2(path: Path, values: Array) -> None:
    """Write one array as a Blosc2 `.b2nd` file."""
    blosc2 = needed("blosc2", "compression")
    blosc2.asarray(np.ascontiguousarray(values), chunks=chunk_shape(values), urlpath=str(path), mode="w-")


def chunk_shape(values: Array) -> tuple[int, ...]:
    """Give the shape of a chunk: whole rows, about `CHUNK` bytes of them."""
    row = max(1, values[:1].nbytes)
    rows = min(len(values), max(1, CHUNK // row))
    return (rows, *(max(1, length) for length in values.shape[1:]))
