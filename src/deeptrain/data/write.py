"""`write_sets`: rows from anywhere into a directory of numbered sets, which `Files` opens from its path alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from deeptrain.data.checks import at_least, known, whole
from deeptrain.data.progress import progress_bar
from deeptrain.data.writers.cutting import (
    NO_ROWS,
    REMAINDERS,
    Remainder,
    Selection,
    in_order,
    joined_to_sets,
)
from deeptrain.data.writers.directory import check_name, refuse_to_replace
from deeptrain.data.writers.formats import Format, FormatName, format_of
from deeptrain.data.writers.rows import INPUTS, Stream, rows_of
from deeptrain.data.writers.spool import spooled, spools
from deeptrain.data.writers.staging import staged
from deeptrain.data.writers.values import as_dtype

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

    import numpy as np

    from deeptrain.data.writers.cutting import Columns
    from deeptrain.data.writers.rows import Block, Rows, Table
    from deeptrain.data.writers.spool import Spool

LabelFiles: TypeAlias = Literal["one file", "one per set"]

LABEL_FILES = ("one file", "one per set")


class Written(NamedTuple):
    """What was written.

    Attributes:
        path: The directory.
        sets: How many sets there are in it.
        rows: How many rows there are in them.
        dropped: Rows that were left out (`remainder="drop"`).
        repeated: Rows that are there a second time (`remainder="oversample"`).
    """

    path: Path
    sets: int
    rows: int
    dropped: int
    repeated: int

    def __str__(self) -> str:
        """Give one line: `data: 3 sets, 150 rows`."""
        more = f", {self.dropped} rows dropped" if self.dropped else ""
        more += f", {self.repeated} of them repeated" if self.repeated else ""
        return f"{self.path}: {self.sets} sets, {self.rows} rows{more}"


def write_sets(
    path: str | PathLike[str],
    inputs: Any,
    targets: Any = None,
    *,
    rows_per_set: int,
    format: FormatName = "npy",  # noqa: A002 - the word of the field
    name: str = "set",
    labels: LabelFiles = "one file",
    shuffle: int | bool = False,
    remainder: Remainder = "keep",
    dtype: Any = None,
    batched: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Written:
    """Write rows as a directory of numbered sets, `set1.npy`, `set2.npy`, ..., with their labels in `labels.npy`.

    The directory is there whole, on the disk, or not at all: it is filled under another name beside its own, and
    renamed. Memory is needed for a set or two, however many rows there are.

    Args:
        path: The directory to make.
        inputs: An array or tensor of shape `(rows, ...)`; a map-style data set or list of samples, or of (sample, label)
            tuples; a source, such as `Files`; or an iterable of the same samples or tuples, or of batches: a torch
            `DataLoader`, a `BatchLoader` (which then is at its next epoch), or any other with `batched=True`.
        targets: One label for each input: an array, a sequence or an iterable; None where inputs bring theirs, or have
            none. Class labels, which sources and batches may have as well, are written like labels, as `class_labels`.
        rows_per_set: Rows in a set; the last one may have fewer.
        format: `"npy"`, `"npz"`, `"hdf5"`, `"csv"` (rows with at most one axis, and no dtypes: give them when reading),
            `"parquet"`, `"zarr"`, `"blosc2"`, `"zstd"` or `"lz4"`.
        name: What the files' names begin with.
        labels: `"one file"` for all of them, or `"one per set"` in the directory `labels`.
        shuffle: A seed for another order of the rows, True for seed 0; False keeps it. No array as long as the data is
            made. A stream is put aside on the disk first, in the directory that is being filled.
        remainder: What becomes of rows that do not fill a set: `"keep"` them in a smaller one, `"drop"` them, or
            `"oversample"`: fill the set with rows taken by chance, which are then there twice.
        dtype: What to cast the inputs to. Rounding to a float is allowed, loss of any other kind is refused.
        batched: Whether an iterable gives batches, or (batch, labels) pairs.
        overwrite: Whether to replace a directory that is there, if it is one of sets alone.
        progress: Whether to show a progress bar; it is shown on a terminal only.

    Returns:
        How many sets and rows were written, and where.

    Raises:
        FileExistsError: There is something at the path.
        ValueError: There are no rows; rows differ in shape or dtype; labels are missing; or a setting is out of range.
        TypeError: What was given holds no numbers or booleans.
        ImportError: The format's library is missing.

    Example:
        >>> import numpy as np
        >>> written = write_sets("data", np.zeros((10, 4)), np.arange(10), rows_per_set=4)  # doctest: +SKIP
        >>> print(written)  # doctest: +SKIP
        data: 3 sets, 10 rows
    """
    job = _Job(
        rows_per_set=at_least(1, "rows_per_set", rows_per_set),
        format=format_of(format),
        name=check_name(name),
        labels_in_one=known("labels", labels, LABEL_FILES) == "one file",
        seed=_seed(shuffle),
        remainder=known("remainder", remainder, REMAINDERS),  # type: ignore[arg-type]
        dtype=None if dtype is None else as_dtype(dtype),
        progress=progress,
    )
    place = Path(path)
    rows = rows_of(inputs, targets, batched=batched)
    with staged(place, partial(refuse_to_replace, overwrite=overwrite)) as directory:
        written = job.write(rows, directory)
    return written._replace(path=place)


def _seed(shuffle: int | bool | None) -> int | None:
    if shuffle is None or isinstance(shuffle, bool):
        return 0 if shuffle else None
    return whole("shuffle", shuffle)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Job:
    """The settings of `write_sets`, checked."""

    rows_per_set: int
    format: Format
    name: str
    labels_in_one: bool
    seed: int | None
    remainder: Remainder
    dtype: np.dtype[Any] | None
    progress: bool

    def write(self, rows: Rows, directory: Path) -> Written:
        """Write rows, from a stream or a table."""
        if not isinstance(rows, Stream):
            return self._write_table(rows, directory)
        if self.seed is None and self.remainder != "oversample":
            return self._write_stream(rows, directory)
        with spooled(rows.blocks, directory, self.rows_per_set) as table:
            return self._write_table(table, directory)

    def _write_table(self, table: Table, directory: Path) -> Written:
        selection = Selection(table.rows, self.rows_per_set, self.seed, self.remainder)
        if not selection.total:
            raise ValueError(self._nothing(table.rows))
        sets = self._fill(in_order(table, selection), directory, selection.total)
        beyond = selection.total - table.rows
        return Written(directory, sets, selection.total, dropped=max(0, -beyond), repeated=max(0, beyond))

    def _write_stream(self, stream: Stream, directory: Path) -> Written:
        counted = _Counted(stream.blocks)
        sets = self._fill(counted, directory, None)
        if not sets:
            raise ValueError(self._nothing(counted.rows))
        written = counted.rows if self.remainder == "keep" else sets * self.rows_per_set
        return Written(directory, sets, written, dropped=counted.rows - written, repeated=0)

    def _nothing(self, rows: int) -> str:
        if not rows:
            return NO_ROWS
        return (
            f"write_sets: found {rows} rows, fewer than rows_per_set {self.rows_per_set}, and remainder='drop' leaves them "
            f"out; make rows_per_set smaller or set remainder='keep'"
        )

    def _fill(self, blocks: Iterable[Block], directory: Path, total: int | None) -> int:
        sets = joined_to_sets(blocks, self.rows_per_set, short=self.remainder != "drop", dtype=self.dtype)
        count = 0
        with (
            progress_bar("writing", total, "rows", wanted=self.progress) as done,
            spools(directory) as in_one,
        ):
            for count, columns in enumerate(sets, 1):
                self._put(directory, count, columns, in_one)
                done(len(columns[INPUTS]))
            for name, spool in in_one.items():
                self._save(directory / name, spool.values())
        return count

    def _put(self, directory: Path, number: int, columns: Columns, in_one: dict[str, Spool]) -> None:
        for name, values in columns.items():
            if name == INPUTS:
                self._save(directory / f"{self.name}{number}", values)
            elif self.labels_in_one:
                in_one[name].add(values)
            else:
                (directory / name).mkdir(exist_ok=True)
                self._save(directory / name / f"{self.name}{number}", values)

    def _save(self, path: Path, values: np.ndarray[Any, Any]) -> None:
        self.format.write(path.with_name(path.name + self.format.extension), values)


class _Counted:
    """Counts the rows that pass."""

    def __init__(self, blocks: Iterator[Block]) -> None:
        self._blocks = blocks
        self.rows = 0

    def __iter__(self) -> Iterator[Block]:
        for block in self._blocks:
            self.rows += block.rows
            yield block
