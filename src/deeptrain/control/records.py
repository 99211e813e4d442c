"""`Records`: figures that a handler has for the history, which they come to when it has returned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deeptrain.trainer import Trainer

OWN = ("train.", "val.")  # what the trainer's own figures are called


class Records:
    """What the handler under way wants to have recorded. See `SteeringVerbs.record`."""

    def __init__(self) -> None:
        self._asked: list[dict[str, float]] = []

    def ask(self, trainer: Trainer, figures: Mapping[str, float | torch.Tensor]) -> None:
        """Note figures until the handler has returned."""
        if trainer.delivery.handling is None:
            raise RuntimeError(
                "trainer.record was called outside of a handler: a script that is run again would record its figures twice; "
                "call it in a callback, or in a function that trainer.at schedules"
            )
        self._asked.append({_named(name): _number(name, value) for name, value in figures.items()})

    def forget(self) -> None:
        """The handler did not come to its end: it has recorded nothing."""
        self._asked.clear()

    def make(self, trainer: Trainer) -> None:
        """The handler has returned: put its figures into the history, and into the journal, which can mend that."""
        asked, self._asked = self._asked, []
        at = trainer.progress.train.iterations
        for figures in asked:
            trainer.history.add(at, figures)
            trainer.run.note("figures", at=at, figures=figures)


def _named(name: str) -> str:
    if not isinstance(name, str) or name.startswith(OWN) or not name:
        raise ValueError(
            f"record({{{name!r}: ...}}): expected a name, and none of the trainer's own, which begin with {' and '.join(OWN)}"
        )
    return name


def _number(name: str, value: float | torch.Tensor) -> float:
    if isinstance(value, torch.Tensor) and value.numel() != 1:
        raise ValueError(
            f"record({name!r}): found a tensor of shape {list(value.shape)}, expected one element"
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"record({name!r}): found {value!r:.80}, expected a number") from error
