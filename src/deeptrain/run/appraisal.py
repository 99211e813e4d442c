"""`Appraisal`: what `deeptrain evaluate` asks of a script's process: to judge a run's model in place of training it.

The command starts the run's own script with this in its environment. The trainer of that run then has no directory; its first
`fit()` takes the state of a checkpoint of the run, validates, writes what it found, and ends the script. The run itself is only read.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deeptrain.checkpoint.files import write_json
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.control.interrupt import Interrupted, end_by_signal_if_uncaught

if TYPE_CHECKING:
    from deeptrain.trainer import Trainer

VARIABLE = "DEEPTRAIN_EVALUATE"


@dataclass(frozen=True, slots=True)
class Appraisal:
    """A run whose model is to be judged.

    Attributes:
        run: The run's directory.
        which: Its "newest" checkpoint or its "best".
        report: Where the figures are written.
        predictions: Where the rows are written, a directory; "" for nowhere.
    """

    run: str
    which: str
    report: str
    predictions: str

    def as_variable(self) -> dict[str, str]:
        """What it is in a process's environment."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def asked_for(cls, name: str | None) -> Appraisal | None:
        """What the process was asked for, where that is of a run of this name; None elsewhere."""
        text = os.environ.get(VARIABLE)
        if text is None:
            return None
        asked = cls(**json.loads(text))
        return asked if Path(asked.run).name.partition("__")[2] == (name or "") else None

    def make(self, trainer: Trainer) -> Interrupted:
        """Judge, write down what was found, and give what ends the script."""
        end_by_signal_if_uncaught()
        store = CheckpointStore(Path(self.run) / "checkpoints")
        found = store.best() if self.which == "best" else store.newest()
        trainer.load_state_dict(found.tree)
        judgement = trainer.validate(keep_predictions=True)
        files = []
        for name, part in judgement.parts.items() if self.predictions else ():
            files.append(Path(self.predictions) / f"predictions{name and '-'}{name}.parquet")
            part.to_parquet(files[-1])
        at = trainer.progress.train
        told = {"checkpoint": found.path.name, "iterations": at.iterations, "epochs": at.epochs}
        figures = {name: repr(value) for name, value in judgement.items()}  # JSON has no NaN
        write_json(self.report, told | {"figures": figures, "files": [str(file) for file in files]})
        ended = Interrupted(f"{self.run} was evaluated", trainer.info().line)
        ended.told = True  # by the command
        return ended
