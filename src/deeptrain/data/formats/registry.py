"""`Format`: how files of one kind are opened; and the register of formats by the ends of their files' names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from deeptrain.data.formats.base import Part

HERE = "deeptrain.data.formats"
NODES = ("zarr.json", ".zarray", ".zgroup")  # what a directory holds that is one Zarr array or group

_BUILT_IN = {
    ".npy": "npy:NpyFormat",
    ".npz": "npz:NpzFormat",
    ".h5": "hdf5:Hdf5Format",
    ".hdf5": "hdf5:Hdf5Format",
    ".csv": "csv:CsvFormat",
    ".parquet": "parquet:ParquetFormat",
    ".zarr": "zarr:ZarrFormat",
    ".lz4": "frames:Lz4Format",
    ".npy.lz4": "frames:Lz4Format",
    ".zst": "frames:ZstdFormat",
    ".npy.zst": "frames:ZstdFormat",
    ".b2nd": "blosc:Blosc2Format",
    ".b2frame": "blosc:Blosc2Format",
    ".bl2": "blosc:Blosc2Format",
}
_FORMATS: dict[str, Format] = {}


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known of values that are stored without a header.

    Attributes:
        shape: One row's shape; or the whole array's, where the values are exactly that many; `(-1, ...)` is always the
            shape of many rows.
        dtype: How they are stored.
    """

    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None


class Format(ABC):
    """Opens files of one kind. Make one of your own for files that no built-in format reads.

    Example:
        >>> from deeptrain.data.formats import Format, register_format
        >>> class Recording(Format):
        ...     def entries(self, path, hints):
        ...         return {"": RecordingPart(path)}  # a `Part`, made from the file's header
        >>> register_format(".rec", Recording())  # doctest: +SKIP
    """

    @abstractmethod
    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:
        """Give the arrays in a file by their names, from headers alone; `{"": part}` where it holds just one.

        Args:
            path: The file.
            hints: The shape and dtype that the user gave.

        Raises:
            DataError: The file is not as it should be.
        """

    def columns(self, path: Path) -> dict[str, Part]:  # noqa: ARG002 - most files are no tables
        """Give a table's columns by their names, each as rows of single values; nothing for other files."""
        return {}


def register_format(suffix: str, format: Format) -> None:  # noqa: A002 - the word of the field
    """Have files whose names end so opened by a format, from now on in this process.

    Args:
        suffix: With its dot: `".rec"`, `".npy.gz"`. A built-in one may be taken over.
        format: What opens them.

    Raises:
        ValueError: The suffix has no dot.
        TypeError: It is no `Format`.
    """
    if not suffix.startswith(".") or suffix == ".":
        raise ValueError(
            f"register_format: found the suffix {suffix!r}, expected one that starts with a dot, as '.rec'"
        )
    if not isinstance(format, Format):
        raise TypeError(f"register_format: found {type(format).__name__}, expected an instance of a Format")
    _FORMATS[suffix.lower()] = format


def suffix_of(path: Path) -> str | None:
    """Give the longest known suffix of a name; `.zarr` for a directory that holds a Zarr node; None where there is none."""
    name = path.name.lower()
    known = [suffix for suffix in (*_FORMATS, *_BUILT_IN) if name.endswith(suffix) and name != suffix]
    if path.is_dir():
        return ".zarr" if any((path / node).is_file() for node in NODES) else None
    return max(known, key=len) if known else None


def suffixes() -> list[str]:
    """List the known suffixes."""
    return list(dict.fromkeys((*_BUILT_IN, *_FORMATS)))


def format_of(suffix: str) -> Format:
    """Give the format of a known suffix."""
    if suffix not in _FORMATS:
        module, _, name = _BUILT_IN[suffix].partition(":")
        made = getattr(import_module(f"{HERE}.{module}"), name)()
        assert isinstance(made, Format)
        _FORMATS[suffix] = made
    return _FORMATS[suffix]
