"""`Travel`: what `deeptrain replay` asks of a script's process: to begin before a point of a run, and to come to it.

The command starts the run's own script with this in its environment. The trainer of that run then begins a new run with the
nearest checkpoint before the point, computes the iterations up to the point again, with what was changed from outside on the
way, holds them against the journal of the run that it came from, saves, and ends the script. That run itself is only read.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.files import write_json
from deeptrain.checkpoint.format import read_checkpoint
from deeptrain.checkpoint.nearest import before, nothing_before
from deeptrain.checkpoint.reading import CorruptCheckpoint
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.control.interrupt import Interrupted
from deeptrain.run.branches import newest_of
from deeptrain.state import tree

if TYPE_CHECKING:
    from deeptrain.run.replay import Verdict
    from deeptrain.trainer import Trainer

VARIABLE = "DEEPTRAIN_REPLAY"
REPORT = "replay.json"


@dataclass(frozen=True, slots=True)
class Travel:
    """A point of a run to come to again.

    Attributes:
        run: The run's directory.
        counter: Which count tells the point: "iterations", "batches", "updates" or "epochs".
        count: The count.
        interventions: Whether what was changed from outside on the way is changed again.
        into: The new run's name.
    """

    run: str
    counter: str
    count: int
    interventions: bool
    into: str

    def as_variable(self) -> dict[str, str]:
        """What it is in a process's environment."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def asked_for(cls, name: str | None) -> Travel | None:
        """What the process was asked for, where that is of a run of this name; None elsewhere."""
        text = os.environ.get(VARIABLE)
        if text is None:
            return None
        asked = cls(**json.loads(text))
        return asked if Path(asked.run).name.partition("__")[2] == (name or "") else None

    @property
    def journal(self) -> Path:
        """The journal of the run that is come through again."""
        return Path(self.run) / "journal.jsonl"

    def start(self) -> tuple[Path, Any, dict[str, Any]]:
        """The nearest whole checkpoint before the point: its path, its state, and what it says of itself.

        Raises:
            ValueError: The point lies ahead of the run, or no checkpoint before it is left.
        """
        run = Path(self.run)
        newest, store = newest_of(run), CheckpointStore(run / "checkpoints")
        line, reached = newest.line, int(newest.info.get(self.counter, 0))
        if self.count > reached:
            raise ValueError(
                f"{run}: {self.counter}={self.count} lies ahead: its newest checkpoint has come to {self.counter}={reached}"
            )
        for facts in before(store.facts(), line, self.counter, self.count):
            try:
                return facts.path, *read_checkpoint(facts.path)
            except CorruptCheckpoint:
                continue
        raise ValueError(nothing_before(store.facts(), self.counter, self.count, str(run)))

    def report(self, trainer: Trainer, verdict: Verdict | None) -> Interrupted:
        """The point is come to: write down how it was, and give what ends the script."""
        assert trainer.run.path is not None
        found = {
            "at": trainer.progress.train.iterations,
            "digest": tree.digest(trainer.state_dict()),
            "identical": verdict is None or verdict.identical,
            "verdict": "nothing was compared" if verdict is None else str(verdict),
        }
        write_json(trainer.run.path / "record" / REPORT, found)
        return Interrupted(f"replayed to {self.counter}={self.count}", trainer.info().line)
