"""`convert`: data in any format that `Files` reads, written anew in another one and in sets of another size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.data.files import Files
from deeptrain.data.write import write_sets

if TYPE_CHECKING:
    from os import PathLike

    from deeptrain.data.write import LabelFiles, Written
    from deeptrain.data.writers.cutting import Remainder
    from deeptrain.data.writers.formats import FormatName


def convert(
    source_path: str | PathLike[str],
    target_path: str | PathLike[str],
    *,
    format: FormatName = "npy",  # noqa: A002 - the word of the field
    rows_per_set: int,
    labels: str | PathLike[str] | None = None,
    source: dict[str, Any] | None = None,
    name: str = "set",
    label_files: LabelFiles = "one file",
    shuffle: int | bool = False,
    remainder: Remainder = "keep",
    dtype: Any = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Written:
    """Write data that `Files` reads as numbered sets in a format; nothing of it is executed.

    Args:
        source_path: The data: a directory of sets, or one file.
        target_path: The directory to make; it may be the source's own, with `overwrite`.
        format: See `write_sets`.
        rows_per_set: Rows in a set; the last one may have fewer.
        labels: Where the labels are, where they are not found by themselves; see `Files`.
        source: Further arguments for `Files`, such as `{"sets": range(1, 9)}`.
        name: See `write_sets`.
        label_files: `labels` of `write_sets`.
        shuffle: See `write_sets`.
        remainder: See `write_sets`.
        dtype: See `write_sets`.
        overwrite: See `write_sets`.
        progress: See `write_sets`.

    Returns:
        How many sets and rows were written, and where.

    Raises:
        DataError: The source cannot be read.
        FileExistsError: There is something at the target's path.
        ValueError: A setting is out of range, or the format cannot hold the rows.
        ImportError: A format's library is missing.

    Example:
        >>> convert("old", "new", format="hdf5", rows_per_set=128)  # doctest: +SKIP
    """
    files = Files(Path(source_path), labels=labels, **(source or {}))
    try:
        return write_sets(
            target_path,
            files,
            rows_per_set=rows_per_set,
            format=format,
            name=name,
            labels=label_files,
            shuffle=shuffle,
            remainder=remainder,
            dtype=dtype,
            overwrite=overwrite,
            progress=progress,
        )
    finally:
        files.close()
