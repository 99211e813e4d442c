"""Trials: several ways to go on from one state, each tried for some batches, so that they can be compared."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.checkpoint.files import write_json
from deeptrain.checkpoint.snapshot import copied
from deeptrain.state.history import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

    from deeptrain.trainer import Trainer

VERSION = 1
LAST = 20  # values of a curve's end that its figure in the table is the mean of
_TABLES = ("_parameters", "_buffers", "_modules")


@dataclass(frozen=True, repr=False)
class Trial:
    """What came of trying several ways to go on from one state. Its text is a table.

    Attributes:
        at: Completed iterations of that state.
        curves: For each variant, the figures that it came to by their names, each with its iterations.
        failed: For each variant that an exception stopped, what it was.
        kept: The variant that the run goes on with, or None.
    """

    at: int
    curves: dict[str, dict[str, Series]]
    failed: dict[str, str] = field(default_factory=dict)
    kept: str | None = None

    def mean(self, variant: str, figure: str = "train.loss", last: int = LAST) -> float:
        """The mean of a variant's last values of a figure; NaN where it has none."""
        series = self.curves[variant].get(figure)
        return float("nan") if series is None else float(series.values[-last:].mean())

    def __repr__(self) -> str:
        figures = list(dict.fromkeys(name for found in self.curves.values() for name in found))
        rows = [["", *figures]]
        for variant in self.curves:
            mark = "* " if variant == self.kept else ""
            rows.append([mark + variant, *(f"{self.mean(variant, figure):.4g}" for figure in figures)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        lines += [f"{variant} was stopped by {error}" for variant, error in self.failed.items()]
        kept = "" if self.kept is None else "; the run goes on with the one that is marked"
        return "\n".join(
            [f"tried from iteration {self.at}, the means of the last {LAST} values{kept}", *lines]
        )

    def plot(self, path: str | Path, figure: str = "train.loss") -> None:
        """Lay the variants' curves over each other in a picture.

        Args:
            path: The file, such as "trial.png".
            figure: Which figure.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from deeptrain.report.trial_figure import draw  # noqa: PLC0415 - only where a picture is drawn

        draw(self, path, figure)

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        curves = {
            variant: {name: [s.iterations.tolist(), s.values.tolist()] for name, s in found.items()}
            for variant, found in self.curves.items()
        }
        rest = {"at": self.at, "failed": self.failed, "kept": self.kept}
        write_json(path, {"version": VERSION, "curves": curves, **rest})

    @classmethod
    def read(cls, path: Path) -> Trial:
        """Read what `write` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        curves = {
            variant: {
                name: Series(np.array(at, np.int64), np.array(x, np.float64))
                for name, (at, x) in series.items()
            }
            for variant, series in found["curves"].items()
        }
        return cls(found["at"], curves, found["failed"], found["kept"])


def kept_in(trainer: Trainer, number: int) -> Trial | None:
    """The trial that was a script's call of a number, where its file can be read."""
    if trainer.run.path is None:
        return None
    with suppress(OSError, ValueError, KeyError):
        return Trial.read(trainer.run.path / "record" / _file(number))
    return None


def keep(trainer: Trainer, trial: Trial, number: int | None) -> None:
    """Write down what came of a trial.

    Args:
        trainer: Whose run.
        trial: What came of it.
        number: Of the script's call; None at a prompt.
    """
    if trainer.run.path is None or trainer.run.checkpoints is None:
        return
    record = trainer.run.path / "record"
    name = _file(number) if number is not None else f"trial-{len(list(record.glob('trial-*'))) + 1:04d}.json"
    trial.write(record / name)
    trainer.run.journal("trial", at=trial.at, variants=list(trial.curves), kept=trial.kept, file=name)


def _file(number: int) -> str:
    return f"trial-of-call-{number:04d}.json"


def tried(trainer: Trainer, variants: Mapping[str, Callable[[Trainer], Any]], batches: int) -> Trial:
    """Try each variant from the trainer's present state, and put everything back.

    Args:
        trainer: At rest.
        variants: What is to be other, by name: functions that take the trainer.
        batches: How many batches each is trained for; fewer where the run ends before.
    """
    at, state = trainer.progress.train.iterations, copied(trainer.state_dict())
    curves: dict[str, dict[str, Series]] = {}
    failed: dict[str, str] = {}
    breaks, trainer.breaks.conditions = trainer.breaks.conditions, []
    try:
        with trainer.interrupts, trainer.run.aside(trainer):
            for name, variant in variants.items():
                with _put_back(trainer, state):
                    try:
                        _try(trainer, variant, batches)
                    except Exception as error:  # noqa: BLE001 - one that fails says so, and the others are tried
                        failed[name] = f"{type(error).__name__}: {error}"
                    curves[name] = _since(trainer, at)
    finally:
        trainer.breaks.conditions = breaks
    return Trial(at, curves, failed)


def _try(trainer: Trainer, variant: Callable[[Trainer], Any], batches: int) -> None:
    with trainer.steering.unrecorded():
        variant(trainer)
    trainer.retrace("batches", trainer.progress.train.batches + batches, finish=False)


def _since(trainer: Trainer, at: int) -> dict[str, Series]:
    found = {name: trainer.history[name] for name in trainer.history}
    return {
        name: Series(series.iterations[series.iterations > at], series.values[series.iterations > at])
        for name, series in found.items()
        if (series.iterations > at).any()
    }


@contextmanager
def _put_back(trainer: Trainer, state: dict[str, Any]) -> Iterator[None]:
    """Put back whatever a variant changes, also what no state holds: layers, losses, plain attributes such as a dropout's p."""
    learner = vars(trainer.learner)
    kept = dict(learner)
    modules = [(module, _contents(module)) for root in trainer.learner.modules() for module in root.modules()]
    try:
        yield
    finally:
        for module, contents in modules:
            _restore(module, contents)
        learner.clear()
        learner.update(kept)
        trainer.load_state_dict(copied(state))


def _contents(module: nn.Module) -> dict[str, Any]:
    return {name: dict(value) if name in _TABLES else value for name, value in vars(module).items()}


def _restore(module: nn.Module, contents: dict[str, Any]) -> None:
    present = vars(module)
    tables = {name: present[name] for name in _TABLES}
    for name, table in tables.items():
        table.clear()
        table.update(contents[name])
    present.clear()
    present.update({**contents, **tables})
