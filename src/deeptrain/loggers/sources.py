"""What loggers are told, as the run keeps it: rows of its history, hyperparameters, and interventions of its journal."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from deeptrain.loggers.base import Row

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deeptrain.state.history import History, Series
    from deeptrain.trainer import Trainer

BULKY = ("model", "modules")  # of the step's settings
KINDS = (b'"kind": "intervention"', b'"kind": "rejected"', b'"kind": "load"', b'"kind": "replace"')


def rows_of(series: Mapping[str, Series]) -> list[Row]:
    """Values of several figures as rows; of two at one iteration, as by a validation that was asked for, each has its own."""
    found: dict[tuple[int, int], dict[str, float]] = {}
    for name, (iterations, values) in series.items():
        seen: Counter[int] = Counter()
        for at, value in zip(iterations.tolist(), values.tolist(), strict=True):
            found.setdefault((at, seen[at]), {})[name] = value
            seen[at] += 1
    return [Row(at, found[at, number]) for at, number in sorted(found)]


def counts_until(history: History, iteration: int) -> dict[str, int]:
    """How many values each figure has up to an iteration."""
    return {name: int((s.iterations <= iteration).sum()) for name, s in history.since({}).items()}


def hyperparameters(trainer: Trainer) -> dict[str, Any]:
    """The run's config and settings by dotted names, without what describes the model in full."""
    settings = trainer.settings
    step = {key: value for key, value in settings["step"].items() if key not in BULKY}
    rest = {"step": step, "data": settings["data"], "validation": settings["validation"]}
    return {**dict(_flat(settings["config"])), "epochs": trainer.epochs, **dict(_flat(rest))}


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        yield from _flat({str(number): item for number, item in enumerate(value)}, prefix)
    else:
        yield prefix, json.dumps(value) if isinstance(value, list) else value


class Interventions:
    """The interventions that a journal tells of, each once, though a replay tells of some again.

    Args:
        journal: The file; None where there is none.
    """

    def __init__(self, journal: Path | None) -> None:
        self._journal = journal
        self._read = 0  # bytes
        self._found: dict[Any, dict[str, Any]] = {}

    def all(self) -> list[dict[str, Any]]:
        """All of them until now, oldest first."""
        for line in self._new_lines():
            if any(kind in line for kind in KINDS):
                self._add(json.loads(line))
        return list(self._found.values())

    def _new_lines(self) -> Iterator[bytes]:
        if self._journal is None or not self._journal.exists():
            return
        with self._journal.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield line

    def _add(self, entry: dict[str, Any]) -> None:
        kind, origin, number = entry.get("kind"), entry.get("origin", "script"), entry.get("number")
        # A person's and a script's have numbers; a handler makes the same at the same place, when it is called again.
        made = (
            entry.get("branch"),
            entry.get("at"),
            entry.get("place"),
            entry.get("verb"),
            entry.get("path"),
        )
        key = json.dumps([origin, number] if number is not None else [kind, *made, entry.get("value")])
        if kind == "rejected":
            self._found.pop(key, None)
        elif kind in {"intervention", "load", "replace"}:
            path = entry.get("path", ", ".join(entry.get("parts", ())))
            verb, value = entry.get("verb", kind), entry.get("value")
            told = {"at": entry["at"], "branch": entry.get("branch", 0), "origin": origin}
            self._found[key] = told | {"verb": verb, "path": path, "value": value}
