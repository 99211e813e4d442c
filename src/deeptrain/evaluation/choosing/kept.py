"""Kept predictions: `predictions.parquet` of several checkpoints or runs, read and laid side by side row by row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.formats.checks import needed
from deeptrain.evaluation.predictions_file import FILE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray


@dataclass(frozen=True)
class KeptPredictions:
    """What `read_predictions` read.

    Attributes:
        predictions: `(n,)`, or `(n, columns)`.
        targets: Likewise; None where there are none.
        weights: What each row counts, `(n,)`; None where all count alike.
        rows: The rows' numbers in their loader's source, int64 `(n,)`; those of a series' windows are equal.
        sets: The name of each row's set; empty where there are no names.
        places: Each row's place in its set, int64 `(n,)`; empty likewise.
    """

    predictions: NDArray[Any]
    targets: NDArray[Any] | None
    weights: NDArray[Any] | None
    rows: NDArray[np.int64]
    sets: list[str]
    places: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def identity(self) -> list[Any]:
        """What each row is known by, in any run: its set and its place there; its number where sets have no names."""
        return list(zip(self.sets, self.places.tolist(), strict=True)) if self.sets else self.rows.tolist()


def read_predictions(path: str | PathLike[str]) -> KeptPredictions:
    """Read what `Judged.to_parquet` or `deeptrain evaluate --predictions` wrote.

    Args:
        path: The file, or the directory of a `predictions.parquet`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is no such file, or predictions are nested, so that it is not known which to take.

    Example:
        `dt.read_predictions("rows/predictions.parquet").predictions`
    """
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file: write one by deeptrain evaluate RUN --predictions DIRECTORY, or judged.to_parquet(path)"
        )
    parquet = needed("pyarrow.parquet", "tables")
    try:
        table = parquet.read_table(path)
    except Exception as error:
        raise ValueError(f"{path}: found no Parquet file ({error})") from error
    names = table.column_names
    if "row" not in names:
        raise ValueError(f"{path}: found the columns {names}, expected row, target and prediction among them")
    predictions = _values(table, path, "prediction")
    if predictions is None:
        raise ValueError(f"{path}: found the columns {names}, expected prediction, or prediction.0 and so on")
    named = "set" in names and "row_in_set" in names
    return KeptPredictions(
        predictions,
        _values(table, path, "target"),
        _values(table, path, "weight"),
        table["row"].to_numpy().astype(np.int64),
        table["set"].to_pylist() if named else [],
        table["row_in_set"].to_numpy().astype(np.int64) if named else np.zeros(0, np.int64),
    )


def _values(table: Any, path: Path, name: str) -> NDArray[Any] | None:
    """One column, or several that are numbered, side by side."""
    if name in table.column_names:
        return _column(table[name])
    mine = [column for column in table.column_names if column.startswith(f"{name}.")]
    numbered = [f"{name}.{at}" for at in range(len(mine))]
    if set(mine) != set(numbered):
        raise ValueError(
            f"{path}: found the columns {mine}, expected {name}, or {name}.0, {name}.1 and so on: predictions that are nested have to be "
            "read by their columns"
        )
    return np.stack([_column(table[each]) for each in numbered], axis=1) if mine else None


def _column(column: Any) -> NDArray[Any]:
    if hasattr(column.type, "list_size"):
        flat: NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(column), -1)
    found: NDArray[Any] = column.to_numpy()
    return found


@dataclass(frozen=True)
class SideBySide:
    """Predictions of the same rows in the same order.

    Attributes:
        predictions: By name.
        targets: Of the rows.
        weights: What each row counts; None where all count alike.
        groups: The rows that belong together, as the windows of a series, `(n,)`.
    """

    predictions: dict[str, NDArray[Any]]
    targets: NDArray[Any]
    weights: NDArray[Any] | None
    groups: NDArray[np.int64]


def side_by_side(kept: Mapping[str, KeptPredictions]) -> SideBySide:
    """Bring the rows of several files into the order of the first.

    Raises:
        ValueError: They are not of the same rows, or the targets of a row differ; the message names both files.
    """
    first, *others = kept
    base = kept[first]
    if base.targets is None:
        raise ValueError(f"{first}: found no column target, expected one to score predictions by")
    predictions = {first: base.predictions}
    for name in others:
        order = _order(base.identity, kept[name].identity, first, name)
        targets = kept[name].targets
        if targets is None or not np.array_equal(targets[order], base.targets):
            raise ValueError(
                f"{name}: found other targets than those of {first}, row for row, expected the same data"
            )
        predictions[name] = kept[name].predictions[order]
    numbers = {each: at for at, each in enumerate(dict.fromkeys(base.identity))}
    groups = np.array([numbers[each] for each in base.identity], np.int64)
    return SideBySide(predictions, base.targets, base.weights, groups)


def _order(wanted: Sequence[Any], found: Sequence[Any], first: str, name: str) -> NDArray[np.int64]:
    """Where the rows of one lie in the other; equal ones, as of windows, one after another."""
    mine = sorted(range(len(wanted)), key=wanted.__getitem__)
    theirs = sorted(range(len(found)), key=found.__getitem__)
    if [wanted[at] for at in mine] != [found[at] for at in theirs]:
        missing = len(set(wanted) - set(found))
        raise ValueError(
            f"{name}: found {len(found)} rows, of which {missing} of the {len(wanted)} of {first} are missing, expected the same rows: "
            "judge both on the same data"
        )
    order = np.empty(len(wanted), np.int64)
    order[mine] = theirs
    return order
