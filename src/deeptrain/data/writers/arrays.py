"""NumPy's own files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.formats.base import Array


def write_npy(path: Path, values: Array) -> None:
    """Write one array as a `.npy` file."""
    with path.open("xb") as file:
        np.save(file, values, allow_pickle=False)


def write_npz(path: Path, values: Array) -> None:
    """Write one array, named `data`, as a compressed `.npz` file."""
    with path.open("xb") as file:
        np.savez_compressed(file, allow_pickle=False, data=values)
