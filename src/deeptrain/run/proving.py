"""`Proof`: what a run notes for `deeptrain prove`, so that it can be said where two runs part, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeptrain.checkpoint.files import write_json
from deeptrain.introspect.suspects import attributes, changed, generators

if TYPE_CHECKING:
    from deeptrain.trainer import Trainer


class Proof:
    """A run that is put to the proof: every iteration is traced, and what could make another run differ is listed."""

    def __init__(self) -> None:
        self._attributes: dict[str, str] = {}

    def begin(self, trainer: Trainer) -> None:
        """Before the first iteration: look at what no state holds."""
        if not self._attributes:
            self._attributes = attributes(trainer)

    def trace(self, trainer: Trainer) -> None:
        """Note what the last iteration saw and found."""
        assert trainer.last is not None
        from deeptrain.introspect.trace import entry  # noqa: PLC0415 - for proofs alone

        trainer.run.journal("trace", trace=entry(trainer, trainer.last))

    def end(self, trainer: Trainer) -> None:
        """At the end of the run, note what could make another one differ."""
        if trainer.run.path is not None:
            found = [*generators(trainer), *changed(self._attributes, attributes(trainer))]
            write_json(trainer.run.path / "record" / "suspects.json", found)
