"""Data: sources of rows, the order they come in, and loaders that can be stopped and continued anywhere."""

from deeptrain.data.augment import Augment
from deeptrain.data.batch import Batch, Rows, describe, map_tensors
from deeptrain.data.chain import Chain
from deeptrain.data.convert import convert
from deeptrain.data.dataset import FromDataset, StreamingSource
from deeptrain.data.errors import DataError
from deeptrain.data.feed import Feed, Position
from deeptrain.data.files import Files, shared_rows
from deeptrain.data.formats import Format, Hints, Part, register_format
from deeptrain.data.loader import BatchLoader
from deeptrain.data.order import Order, shard
from deeptrain.data.plan import Plan
from deeptrain.data.preprocess import Preprocessor
from deeptrain.data.repeat import Repeat
from deeptrain.data.series import Series, WithLengths, WithMask
from deeptrain.data.source import Arrays, RangeSource, Source, StoredSource
from deeptrain.data.windows import Windows
from deeptrain.data.write import Written, write_sets

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
