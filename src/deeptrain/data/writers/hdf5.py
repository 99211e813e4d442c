"""HDF5 files with one dataset, contiguous, so that a reader gets it at the file's speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeptrain.data.formats.checks import needed

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.formats.base import Array


def write_hdf5(path: Path, values: Array) -> None:
    """Write one array as the dataset `data`."""
    h5py = needed("h5py", "hdf5")
    with h5py.File(path, "x") as file:
        file.create_dataset("data", data=values)
