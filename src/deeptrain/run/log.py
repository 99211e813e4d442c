"""`RunLog`: the course of a run as a tree of its branches, with what was done to it and the runs that began with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable  # noqa: TC003 - of a value below
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.control.change import EDITS
from deeptrain.control.journal import read_journal
from deeptrain.run.forking import forks_of
from deeptrain.run.record import origin_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

SHOWN = 60  # characters of a value


@dataclass(slots=True)
class Branch:
    """One branch of a run.

    Attributes:
        number: Its number.
        parent: The branch that it came from, or None.
        at: The count of iterations with which it begins.
        last: The count of the newest iteration on it.
        why: What began it, in words.
        events: What was done on it: counts of iterations and words, in their order.
    """

    number: int
    parent: int | None = None
    at: int = 0
    last: int = 0
    why: str = ""
    events: list[tuple[int, str]] = field(default_factory=list)


class RunLog:
    """What happened to a run, read from its journal. Its text is a tree.

    Attributes:
        path: The run's directory.
        branches: Its branches by number.
        present: The branch that the run is on.
        origin: The run and the iteration that it came from, or None.

    Args:
        path: The run's directory.

    Raises:
        FileNotFoundError: There is no run.
        ValueError: The journal has a line that is none; the message names it.

    Example:
        `print(RunLog("runs/M1__mnist"))`
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        journal = self.path / "journal.jsonl"
        if not journal.is_file():
            raise FileNotFoundError(
                f"{path} holds no run: expected a directory such as runs/M1__name with a journal"
            )
        self.branches = {0: Branch(0)}
        self.present, self.origin = 0, _origin(self.path)
        self._starts, self._seen = 0, set[tuple[Any, ...]]()
        for entry in read_journal(journal):
            self._add(entry)
        for run, origin in forks_of(self.path):
            self._add_run(run, origin)

    def _add(self, entry: dict[str, Any]) -> None:
        kind, at, number = entry["kind"], int(entry.get("at", 0)), int(entry.get("branch", 0))
        branch = self.branches.setdefault(number, Branch(number))
        self.present = number
        if kind == "branch":
            branch.parent, branch.at, branch.last = self._where_it_left(entry), at, at
            branch.why = _why(entry)
        elif kind == "fork":  # the run's first line: it begins with another one's state
            branch.at = branch.last = at
        elif kind == "iteration":
            branch.last = max(branch.last, at) if entry.get("replayed") else at
        elif (words := self._words(kind, entry)) and self._is_new(entry):
            branch.events.append((at, words))

    def _is_new(self, entry: dict[str, Any]) -> bool:
        """Whether an entry is not the one of a change that was written down before, by a process that died then."""
        if "number" not in entry:
            return True
        key = entry.get("branch", 0), entry["origin"], entry["number"]
        is_new = key not in self._seen
        self._seen.add(key)
        return is_new

    def _where_it_left(self, entry: dict[str, Any]) -> int:
        """The branch that a new one's first state lies on: the newest before it that had begun by then."""
        before = [int(number) for number, _ in entry.get("before", [])]
        known = [
            number for number in before if number in self.branches and self.branches[number].at <= entry["at"]
        ]
        return known[-1] if known else int(entry["parent"])

    def _words(self, kind: str, entry: dict[str, Any]) -> str | None:
        """What an entry says, or None where it is of no interest here."""
        if kind == "start":
            self._starts += 1
            return "started again" if self._starts > 1 else None
        words = _WORDS.get(kind)
        return None if words is None else words(entry)

    def _add_run(self, run: Path, origin: dict[str, Any]) -> None:
        at, number = origin.get("iteration"), int(origin.get("branch", 0))
        branch = self.branches.get(number, self.branches[0])
        branch.events.append((branch.last if at is None else int(at), f"-> {run.name} began with this state"))

    def __str__(self) -> str:
        came = "" if self.origin is None else f", from {self.origin}"
        return "\n".join([f"{self.path}{came}", *self._draw(self.branches[0])])

    def _draw(self, branch: Branch) -> Iterator[str]:
        """A branch and, below the events that were before each, those that came from it."""
        here = "  <- the run is here" if branch.number == self.present else ""
        why = f": {branch.why}" if branch.why else ""
        yield f"branch {branch.number}, iterations {branch.at} to {branch.last}{why}{here}"
        children = [child for child in self.branches.values() if child.parent == branch.number]
        rows: list[tuple[int, list[str]]] = [
            (at, [f"{at:>8}  {words}"]) for at, words in _joined(branch.events)
        ]
        rows += [(child.at, list(self._draw(child))) for child in sorted(children, key=lambda c: c.number)]
        rows.sort(key=lambda row: row[0])
        for number, (_, lines) in enumerate(rows):
            last = number == len(rows) - 1
            yield ("└─ " if last else "├─ ") + lines[0]
            yield from (("   " if last else "│  ") + line for line in lines[1:])


def _joined(events: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """The events in the order of their counts; the same one several times at one count as one with its number."""
    counted = Counter(events)
    ordered = sorted(dict.fromkeys(events), key=lambda event: event[0])
    return [
        (at, words if counted[at, words] == 1 else f"{words}, {counted[at, words]} times")
        for at, words in ordered
    ]


def _on_intervention(entry: dict[str, Any]) -> str | None:
    return None if entry["verb"] == "rewind" else f"{_call(entry)}  ({entry['origin']})"


def _on_replay(entry: dict[str, Any]) -> str | None:
    if entry.get("identical", True):
        return None
    return f"the replay differs: {entry.get('difference', 'it went on nevertheless')}"


def _on_trial(entry: dict[str, Any]) -> str:
    kept = "" if entry.get("kept") is None else f", went on with {entry['kept']!r}"
    return f"tried {', '.join(entry['variants'])}{kept}"


_WORDS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "intervention": _on_intervention,
    "replay": _on_replay,
    "trial": _on_trial,
    "replace": lambda entry: f"replaced {', '.join(entry['parts'])}",
    "interrupt": lambda entry: str(entry["reason"]),
    "exception": lambda entry: str(entry["reason"]),
    "load": lambda entry: f"load({entry.get('path')!r})" + (" in part" if entry.get("part") else ""),
}


def _call(entry: dict[str, Any]) -> str:
    verb, path, value = entry["verb"], entry["path"], entry.get("value")
    if verb == "set":
        return f"set({path!r}, {_short(value)})"
    if verb == "edit":
        named = ", ".join(f"{name}={_short(x)}" for name, x in (value or {}).items() if name != "kind")
        return f"train.{EDITS.get(path, path)}({named})"
    return f"request_{verb}({'' if value is None else _short(value)})"


def _why(entry: dict[str, Any]) -> str:
    if entry.get("recovered"):
        return "its beginning was recovered"
    if entry.get("origin") == "load":
        return f"load({entry.get('path')!r}) at iteration {entry['at']}"
    count = len(entry.get("skip", ()))
    skipped = f", {count} batch{'' if count == 1 else 'es'} passed over" if count else ""
    return f"back from {entry.get('left', '?')}{skipped}  ({entry.get('origin', '?')})"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _origin(run: Path) -> str | None:
    origin = origin_in(run)
    if origin.get("parent") is None:
        return None
    at = origin.get("iteration")
    return f"{origin['parent']}" + ("" if at is None else f" at iteration {at}")
