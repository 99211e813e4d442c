"""Formats: one reader for each kind of file, and the way to bring one's own."""

from deeptrain.data.formats.base import Part
from deeptrain.data.formats.registry import Format, Hints, format_of, register_format, suffix_of, suffixes

__all__ = ["Format", "Hints", "Part", "format_of", "register_format", "suffix_of", "suffixes"]
