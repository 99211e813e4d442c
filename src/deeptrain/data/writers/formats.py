"""The formats that sets can be written in: each one's name, extension, writer, and the library that it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from deeptrain.data.checks import known
from deeptrain.data.formats.checks import needed
from deeptrain.data.writers import arrays, chunked, framed, hdf5, tables

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deeptrain.data.formats.base import Array

FormatName: TypeAlias = Literal["npy", "npz", "hdf5", "csv", "parquet", "zarr", "blosc2", "zstd", "lz4"]


class Format(NamedTuple):
    """How one set is written.

    Attributes:
        extension: What the file's name ends in.
        write: Writes an array of shape `(rows, ...)` to a file that is not there yet.
        needs: The module that must be installed; None where none is.
        extra: The extra of this package that installs it.
    """

    extension: str
    write: Callable[[Path, Array], None]
    needs: str | None = None
    extra: str | None = None


FORMATS: dict[str, Format] = {
    "npy": Format(".npy", arrays.write_npy),
    "npz": Format(".npz", arrays.write_npz),
    "hdf5": Format(".h5", hdf5.write_hdf5, "h5py", "hdf5"),
    "csv": Format(".csv", tables.write_csv, "pyarrow", "tables"),
    "parquet": Format(".parquet", tables.write_parquet, "pyarrow", "tables"),
    "zarr": Format(".zarr", chunked.write_zarr, "zarr", "zarr"),
    "blosc2": Format(".b2nd", chunked.write_blosc2, "blosc2", "compression"),
    "zstd": Format(".zst", framed.write_zstd, "zstandard", "compression"),
    "lz4": Format(".lz4", framed.write_lz4, "lz4.frame", "compression"),
}


def format_of(name: str) -> Format:
    """Find a format by its name, and see that its library is there.

    Raises:
        ValueError: There is no such format.
        ImportError: Its library is missing; the message says how to install it.
    """
    found = FORMATS[known("format", name, list(FORMATS))]
    if found.needs is not None and found.extra is not None:
        needed(found.needs, found.extra)
    return found
