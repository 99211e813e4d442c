"""Checkpoints: a state tree to bytes and back, one checkpoint on disk, and the store that keeps several."""
