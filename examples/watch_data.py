"""The watch data of seglearn's wheel, converted once to a plain file: no pickle is ever executed.

The wheel keeps 140 recordings of shoulder exercises, made with a watch at 50 Hz, as a pickle within a `.npy` file.
Unpickling may run any code. So the pickle is read here with stand-ins for the four names that it may use, and refused
if it uses any other.
"""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

INSIDE = Path("data", "watch_dataset.npy")  # within seglearn
REMEDY = "pip install --no-deps seglearn (only its data file is read, nothing of it is imported)"


class Watch(NamedTuple):
    """Recordings of exercises.

    Attributes:
        series: float32 arrays of shape (time, 6): acceleration and rotation rate along three axes.
        exercises: Which exercise each one is, int64 of shape (140,), of 0 to 6.
        subjects: Who made it, int64 of shape (140,).
    """

    series: list[npt.NDArray[np.float32]]
    exercises: npt.NDArray[np.int64]
    subjects: npt.NDArray[np.int64]


def find_watch() -> Path | None:
    """Find the data file in the installed seglearn, which is not imported; None where there is none."""
    found = importlib.util.find_spec("seglearn")
    places = [] if found is None else list(found.submodule_search_locations or [])
    paths = [Path(place) / INSIDE for place in places]
    return next((path for path in paths if path.is_file()), None)


def load_watch(converted: Path) -> Watch | None:
    """Read the recordings from the converted file, which is made first where it is missing.

    Args:
        converted: An `.npz` file.

    Returns:
        The recordings; None where seglearn is not installed and nothing was converted before.
    """
    if not converted.exists():
        path = find_watch()
        if path is None:
            return None
        write_watch(converted, read_watch(path))
    with np.load(converted, allow_pickle=False) as file:
        series = np.split(file["values"], np.cumsum(file["lengths"])[:-1])
        return Watch(series, file["exercises"], file["subjects"])


def write_watch(path: Path, watch: Watch) -> None:
    """Write the recordings as plain arrays, one behind another; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.part")
    with scratch.open("wb") as file:
        np.savez(
            file,
            values=np.concatenate(watch.series),
            lengths=np.array([len(series) for series in watch.series]),
            exercises=watch.exercises,
            subjects=watch.subjects,
        )
    scratch.replace(path)


def read_watch(path: Path) -> Watch:
    """Read the wheel's file.

    Raises:
        ValueError: It is not laid out as expected.
        pickle.UnpicklingError: Its pickle uses something else than arrays.
    """
    with path.open("rb") as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError(
                f"{path}: found another version of the npy format, expected 1.0: reinstall seglearn"
            )
        np.lib.format.read_array_header_1_0(file)
        root = _ArraysOnly(file).load()
    content = root.value[0]
    series = [np.asarray(entry.value, np.float32) for entry in content["X"]]
    labels = [np.asarray(content[name].value, np.int64) for name in ("y", "subject")]
    if len(series) != len(labels[0]) or any(one.ndim != 2 or one.shape[1] != 6 for one in series):  # noqa: PLR2004
        raise ValueError(f"{path}: found no list of arrays of shape (time, 6): reinstall seglearn")
    return Watch(series, labels[0], labels[1])


class _Type:
    """Stands for `numpy.dtype`: keeps what it is made of."""

    def __init__(self, text: str, *_: Any) -> None:
        self.text = text
        self.order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    @property
    def is_object(self) -> bool:
        return self.text.startswith("O")

    def as_numpy(self) -> np.dtype[Any]:
        return np.dtype(self.text).newbyteorder(self.order if self.order in "<>" else "=")


class _Array:
    """Stands for an array that is being rebuilt: a list of objects, or numbers out of raw bytes."""

    value: Any

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, content = state
        if kind.is_object:
            self.value = list(content)
        else:
            plain = np.frombuffer(content, kind.as_numpy())
            self.value = plain.reshape(shape, order="F" if fortran else "C")


def _rebuild(*_: Any) -> _Array:
    return _Array()


def _encode(text: str, codec: str) -> bytes:
    if codec != "latin1":
        raise pickle.UnpicklingError(f"found bytes as text in {codec!r}, expected 'latin1'")
    return text.encode("latin1")


class _ArraysOnly(pickle.Unpickler):
    """Reads a pickle of plain values and NumPy arrays, through stand-ins; any other name is refused."""

    known = {  # noqa: RUF012 - never changed
        ("numpy.core.multiarray", "_reconstruct"): _rebuild,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Type,
        ("_codecs", "encode"): _encode,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Give the stand-in for a name."""
        if (module, name) not in self.known:
            raise pickle.UnpicklingError(f"found {module}.{name} in the pickle, expected NumPy arrays alone")
        return self.known[module, name]
