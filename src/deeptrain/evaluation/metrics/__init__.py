"""Metrics by name, and functions of one's own as metrics."""
