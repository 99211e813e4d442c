"""A copy of a state tree, by the way that checkpoints take."""

from __future__ import annotations

from typing import Any

from deeptrain.checkpoint.codec import decode, encode


def copied(state: dict[str, Any]) -> dict[str, Any]:
    """A copy of a state in memory of its own on the CPU, by the way that checkpoints take."""
    encoded = encode(state)
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in encoded.tensors.items()}
    made: dict[str, Any] = decode(encoded.json, tensors)
    return made
