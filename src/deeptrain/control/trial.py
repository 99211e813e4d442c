"""Trials: several ways to go on from one state, each tried for some batches, so that they can be compared."""

from __future__ import annotations

import json
from collections import OrderedDict, defaultdict
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.checkpoint.files import write_json
from deeptrain.checkpoint.snapshot import copied
from deeptrain.state.history import Series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from deeptrain.trainer import Trainer

VERSION = 1
LAST = 20  # values of a curve's end that its figure in the table is the mean of


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
        longest = min(
            LAST, max((len(s.values) for found in self.curves.values() for s in found.values()), default=0)
        )
        return "\n".join(
            [f"tried from iteration {self.at}, the means of the last {longest} values{kept}", *lines]
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
                with put_back(trainer, state):
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
def put_back(trainer: Trainer, state: dict[str, Any]) -> Iterator[None]:
    """Put back whatever a variant changes, also what no state holds: layers, losses, hooks, attributes such as a dropout's p."""
    learner, optimizers = trainer.learner, trainer.learner.optimizers()
    modules = [module for root in learner.modules() for module in root.modules()]
    parameters = {id(p): p for module in modules for p in module.parameters(recurse=False)}.values()
    kept = [_Kept(thing) for thing in (*modules, *optimizers, learner, trainer.handlers)]
    hooks = [
        (p, name, copy(getattr(p, name))) for p in parameters for name in _TENSOR_HOOKS if hasattr(p, name)
    ]
    epochs = trainer.epochs
    try:
        yield
    finally:
        trainer.epochs = epochs
        for parameter, name, value in hooks:
            setattr(parameter, name, value)
        for each in kept:
            each.put_back()
        trainer.load_state_dict(copied(state))


_TENSOR_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
_DEPTH = 3  # of containers in containers: an optimizer's groups hold lists of parameters


class _Kept:
    """The attributes of an object as they are now, and what lies in those that are containers."""

    def __init__(self, thing: object) -> None:
        self._attributes = getattr(thing, "__dict__", {})
        self._contents = _contents(self._attributes, _DEPTH)

    def put_back(self) -> None:
        """Make them as they were."""
        _restore(self._attributes, self._contents)


def _contents(container: Any, depth: int) -> Any:
    """What lies in a container: for each entry the entry itself, and its own contents."""
    if depth < 0 or type(container) not in _CONTAINERS:
        return None
    if isinstance(container, dict):
        return [(key, value, _contents(value, depth - 1)) for key, value in container.items()]
    return [(None, value, _contents(value, depth - 1)) for value in container]


def _restore(container: Any, contents: Any) -> None:
    if contents is None:
        return
    if isinstance(container, dict):
        container.clear()
        container.update({key: value for key, value, _ in contents})
    elif isinstance(container, set):
        container.clear()
        container.update(value for _, value, _ in contents)
    else:
        container[:] = [value for _, value, _ in contents]
    for _, value, below in contents:
        _restore(value, below)


_CONTAINERS = (dict, OrderedDict, defaultdict, list, set)
