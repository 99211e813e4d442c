"""`predictions.parquet`: the rows of a pass as a table for other tools: identity, target, prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.checkpoint.files import temporary_beside
from deeptrain.data.formats.checks import needed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deeptrain.evaluation.judgement import Judged

FILE = "predictions.parquet"
FLAT = 2  # axes that become columns


def write_predictions(judged: Judged, path: Path) -> None:
    """Write what was judged, in one step: whoever reads it finds all of the old file or all of the new one.

    Columns are `row`, the number in the loader's source; where sets have names `set` and `row_in_set`; `target` and `prediction`, or
    `prediction.0`, `prediction.1` and so on of several values, with the keys of nested ones; `weight` where rows are weighed. What has
    more axes is a list a row.

    Raises:
        ValueError: pyarrow is not installed.
        TypeError: Predictions hold something else than tensors.
    """
    arrow, parquet = needed("pyarrow", "tables"), needed("pyarrow.parquet", "tables")
    columns: dict[str, Any] = {"row": judged.rows}
    if judged.table is not None:
        names, places = judged.table.identify(judged.rows)
        columns |= {"set": names, "row_in_set": places}
    for name, tree in (
        ("target", judged.targets),
        ("prediction", judged.predictions),
        ("weight", judged.weights),
    ):
        columns |= {where: _column(arrow, values) for where, values in _leaves(name, tree)}
    temporary = temporary_beside(path)
    try:
        parquet.write_table(arrow.table(columns), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _leaves(name: str, tree: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """A tree's columns, each `(rows,)` or with further axes."""
    if tree is None:
        return
    if isinstance(tree, torch.Tensor):
        values = (tree.float() if tree.dtype is torch.bfloat16 else tree).numpy()
        if values.ndim == FLAT:
            for at in range(values.shape[1]):
                yield (name if values.shape[1] == 1 else f"{name}.{at}"), values[:, at]
        else:
            yield name, values
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from _leaves(f"{name}.{key}", value)
    elif isinstance(tree, (tuple, list)):
        for at, value in enumerate(tree):
            yield from _leaves(f"{name}.{at}", value)
    else:
        raise TypeError(f"{name}: found {type(tree).__name__}, expected tensors, to write them as a table")


def _column(arrow: Any, values: np.ndarray[Any, Any]) -> Any:
    if values.ndim == 1:
        return np.ascontiguousarray(values)
    size = int(np.prod(values.shape[1:]))
    return arrow.FixedSizeListArray.from_arrays(np.ascontiguousarray(values).reshape(-1), size)
