"""Data: sources of rows, the order they come in, and loaders that can be stopped and continued anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeptrain.data.batch import Batch, Rows, describe, map_tensors
from deeptrain.data.errors import DataError
from deeptrain.data.feed import Feed, Position
from deeptrain.data.loader import BatchLoader
from deeptrain.data.source import Arrays, RangeSource, Source, StoredSource
from deeptrain.later import later

if TYPE_CHECKING:
    from deeptrain.data.augment import Augment
    from deeptrain.data.chain import Chain
    from deeptrain.data.convert import convert
    from deeptrain.data.dataset import FromDataset, StreamingSource
    from deeptrain.data.files import Files, shared_rows
    from deeptrain.data.formats import Format, Hints, Part, register_format
    from deeptrain.data.order import Order, shard
    from deeptrain.data.plan import Plan
    from deeptrain.data.preprocess import Preprocessor
    from deeptrain.data.repeat import Repeat
    from deeptrain.data.series import Series, WithLengths, WithMask
    from deeptrain.data.windows import Windows
    from deeptrain.data.write import Written, write_sets

# Imported when they are first asked for, so that `import deeptrain` costs little more than `import torch`.
_LATER = {
    "Augment": "deeptrain.data.augment",
    "Chain": "deeptrain.data.chain",
    "convert": "deeptrain.data.convert",
    "FromDataset": "deeptrain.data.dataset",
    "StreamingSource": "deeptrain.data.dataset",
    "Files": "deeptrain.data.files",
    "shared_rows": "deeptrain.data.files",
    "Format": "deeptrain.data.formats",
    "Hints": "deeptrain.data.formats",
    "Part": "deeptrain.data.formats",
    "register_format": "deeptrain.data.formats",
    "Order": "deeptrain.data.order",
    "shard": "deeptrain.data.order",
    "Plan": "deeptrain.data.plan",
    "Preprocessor": "deeptrain.data.preprocess",
    "Repeat": "deeptrain.data.repeat",
    "Series": "deeptrain.data.series",
    "WithLengths": "deeptrain.data.series",
    "WithMask": "deeptrain.data.series",
    "Windows": "deeptrain.data.windows",
    "Written": "deeptrain.data.write",
    "write_sets": "deeptrain.data.write",
}

__all__ = [
    "Arrays",
    "Augment",
    "Batch",
    "BatchLoader",
    "Chain",
    "DataError",
    "Feed",
    "Files",
    "Format",
    "FromDataset",
    "Hints",
    "Order",
    "Part",
    "Plan",
    "Position",
    "Preprocessor",
    "RangeSource",
    "Repeat",
    "Rows",
    "Series",
    "Source",
    "StoredSource",
    "StreamingSource",
    "Windows",
    "WithLengths",
    "WithMask",
    "Written",
    "convert",
    "describe",
    "map_tensors",
    "register_format",
    "shard",
    "shared_rows",
    "write_sets",
]

__getattr__, __dir__ = later(__name__, _LATER)
