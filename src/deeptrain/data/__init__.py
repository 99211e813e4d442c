"""Data: sources of rows, the order they come in, and loaders that can be stopped and continued anywhere."""

from deeptrain.data.batch import Batch, Rows, describe, map_tensors
from deeptrain.data.feed import Feed, Position
from deeptrain.data.files import Files
from deeptrain.data.loader import BatchLoader
from deeptrain.data.npy import DataError
from deeptrain.data.order import Order
from deeptrain.data.source import Arrays, Source

__all__ = [
    "Arrays",
    "Batch",
    "BatchLoader",
    "DataError",
    "Feed",
    "Files",
    "Order",
    "Position",
    "Rows",
    "Source",
    "describe",
    "map_tensors",
]
