"""`TrainerPart`: what the classes have in common that give `Trainer` its verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from deeptrain.trainer import Trainer


class TrainerPart:
    """A part of `Trainer`, which inherits from it."""

    @property
    def _trainer(self) -> Trainer:
        return cast("Trainer", self)
