"""`Replay`: what a run computes again after a crash, held against the journal of the process that died.

The iterations after the checkpoint that the run goes on from stand in the journal, with their batches and their
exact figures. While the run computes them again each is compared, and at the end there is one verdict: all were
identical, or which was the first that was not.

A recomputed iteration that is identical is written to the journal as a repetition (`"replayed": true`). With the
first that differs another line of history begins: the verdict, a line of the kind "replay", has its count as `cut`,
and the iteration's line follows as news. A run that is told to stop there writes neither and saves nothing, so
that its next start makes the same comparison again; only where it is told to go on nevertheless is the line cut.
"""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.control.journal import floats, is_news, parse, place_of, read_backwards

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deeptrain.data.batch import Batch

BLOCK = 1 << 16  # bytes of the journal that are in memory at a time
ABSENT = "(absent)"


class Difference(NamedTuple):
    """Where a replay and the journal part.

    Attributes:
        at: The iteration.
        what: "batch", or the name of the figure.
        recorded: The journal's value.
        present: The value that was found now.
    """

    at: int
    what: str
    recorded: Any
    present: Any

    def __str__(self) -> str:
        if self.what == "batch":
            return (
                f"iteration {self.at}: it was fed the batch {self.recorded} before, and now {self.present} "
                "(epoch, batch, piece): the order of samples is not what it was"
            )
        return (
            f"iteration {self.at}: {self.what} was {self.recorded!r} before, and now {self.present!r}: the data, the "
            "weights or random numbers differ (a file that changed, a generator that is not registered, something "
            "kept outside the state, or kernels that are not deterministic)"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a replay has found so far.

    Attributes:
        at: The last iteration that was compared.
        compared: How many were, the one that differs among them.
        left: How many are still to be compared.
        unknown: How many were computed again of which the journal has no line.
        difference: The first that differs, or None.
        environment: In what the environment differs from the one that wrote the checkpoint, in words.
    """

    at: int
    compared: int
    left: int = 0
    unknown: int = 0
    difference: Difference | None = None
    environment: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether all that was compared came out the same."""
        return self.difference is None

    def __str__(self) -> str:
        if self.difference is not None:
            return self._in_difference(self.difference)
        more = f" ({self.unknown} more had no line in the journal)" if self.unknown else ""
        if self.left:
            return (
                f"replayed {self.compared} of {self.compared + self.left} iterations, all identical so far{more}; "
                "the rest is compared when the run goes on"
            )
        return f"replayed {_count(self.compared)}, all identical{more}"

    def _in_difference(self, first: Difference) -> str:
        same = self.compared - 1
        before = f"after {_count(same)} that came out the same" if same else "at once"
        head = f"the replay is not identical, {before}: {first}"
        if not self.environment:
            return f"{head}\n  the environment is the same"
        return "\n  ".join([head, "what differs in the environment:", *self.environment])

    def entry(self) -> dict[str, Any]:
        """The verdict as the journal has it."""
        found: dict[str, Any] = {"at": self.at, "compared": self.compared, "identical": self.identical}
        found |= {name: getattr(self, name) for name in ("left", "unknown") if getattr(self, name)}
        if self.difference is None:
            return found
        _, what, recorded, present = self.difference
        differs = {"what": what, "recorded": recorded, "present": present}
        return {**found, "difference": differs, "environment": self.environment}


def _count(number: int) -> str:
    return f"{number} iteration{'' if number == 1 else 's'}"


class ReplayMismatch(RuntimeError):  # noqa: N818 - what it is, and a public name
    """A run that was started again did not come to the figures that its journal has.

    Raised where `Checkpoints(on_replay_mismatch="stop")` asks for it. The state is whole and nothing of it was
    saved: the same script started again makes the same comparison; `fit()` goes on with the new figures.

    Attributes:
        verdict: What was compared, and what differs.
    """

    def __init__(self, verdict: Verdict, run: object) -> None:
        self.verdict = verdict
        super().__init__(
            f"{run}: {verdict}\nmend the cause and start the script again, or call fit() again to go on with the "
            'new figures; Checkpoints(on_replay_mismatch="warn") always goes on'
        )


class Replay:
    """The iterations of a journal that are to be computed again. It is read as they come, block by block.

    Args:
        path: The journal.
        after: The count of iterations of the state that the run goes on from.

    Attributes:
        until: The last iteration that the journal tells of on the present line of history.
        at: The last iteration that was held against it.
        environment: In what the environment differs, in words, for the verdict.

    Raises:
        ValueError: A line of the journal is not one; the message names the file and the place.
    """

    def __init__(self, path: Path, *, after: int) -> None:
        self.path = path
        self.after = self.at = after
        self.environment: list[str] = []
        self._spans, self.until = _present_line(path, after)
        self._compared = self._unknown = self._told = 0
        self._entries = self._read()
        self._next = next(self._entries, None)

    @property
    def done(self) -> bool:
        """Whether nothing is left to be compared."""
        return self._next is None

    def compare(self, at: int, batch: Batch, figures: Mapping[str, Any]) -> Verdict | None:
        """Hold an iteration against the journal.

        Returns:
            The verdict, where this decides it: it differs, or it was the last.
        """
        self.at = at
        if self._next is None or at < int(self._next["at"]):
            self._unknown += 1  # lost, as what waited to be written when the process died
            return None
        entry, self._next = self._next, next(self._entries, None)
        self._compared += 1
        difference = _difference(entry, at, place_of(batch), floats(figures))
        return self.verdict(difference) if difference is not None or self.done else None

    def verdict(self, difference: Difference | None = None, *, whole: bool = False) -> Verdict:
        """What was found so far.

        Args:
            difference: The first that differs.
            whole: Whether nothing more is to be compared, though the journal may have more.
        """
        left = 0 if whole or self.done or difference is not None else self.until - self.at
        environment = [] if difference is None else self.environment
        return Verdict(self.at, self._compared, left, self._unknown, difference, environment)

    def so_far(self) -> Verdict | None:
        """What was found since this was last asked, for a run that stops in the middle; None where nothing was."""
        if self._compared == self._told:
            return None
        self._told = self._compared
        return self.verdict()

    def _read(self) -> Iterator[dict[str, Any]]:
        """The lines of the present history, oldest first. No file is open between two of them."""
        for first, last in self._spans:
            place = first
            while place <= last:
                with self.path.open("rb") as file:
                    file.seek(place)
                    lines = file.readlines(BLOCK)
                for line in lines:
                    if place <= last:
                        entry = parse(line, f"{self.path}, at byte {place}")
                        if is_news(entry):
                            yield entry
                    place += len(line)


def _difference(
    entry: Mapping[str, Any], at: int, place: tuple[int, ...], figures: Mapping[str, float]
) -> Difference | None:
    if entry.get("batch") != list(place):
        return Difference(at, "batch", entry.get("batch", ABSENT), list(place))
    recorded = entry.get("figures")
    recorded = recorded if isinstance(recorded, dict) else {}
    for name in {**figures, **recorded}:
        one, two = recorded.get(name, ABSENT), figures.get(name, ABSENT)
        if repr(one) != repr(two):  # of floats it tells every bit, and one NaN is like the other
            return Difference(at, name, one, two)
    return None


def _present_line(path: Path, after: int) -> tuple[list[tuple[int, int]], int]:
    """Where the lines of the present history after a count lie in a journal, and the last iteration it tells of.

    Read from the end, and no further than is needed: what a resume costs does not grow with the run.

    Returns:
        Spans of the file, oldest first: where the first line of each begins, and the last. Then the last iteration.
    """
    spans: list[tuple[int, int]] = []
    below, joined, newest = math.inf, False, 0
    with closing(read_backwards(path)) as entries:
        for place, entry in entries:
            at = int(entry.get("at", 0))
            if entry.get("kind") == "load" or (is_news(entry) and at <= after):
                newest = newest or min(at, after)
                break
            if is_news(entry):
                kept = at < below
                if kept:
                    spans.append((place, spans.pop()[1] if joined else place))
                    newest, below = newest or at, at
                joined = kept
            below = min(below, entry.get("cut", below))
    return spans[::-1], newest
