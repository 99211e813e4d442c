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

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.control.journal import floats, place_of
from deeptrain.control.present import tail
from deeptrain.run.guarantee import between

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from deeptrain.data.batch import Batch
    from deeptrain.run.standing import Standing

ABSENT = "(absent)"


class Difference(NamedTuple):
    """Where a replay and the journal part.

    Attributes:
        at: The iteration.
        what: "batch", or the name of the figure.
        recorded: The journal's value.
        present: The value that was found now.
        validation: Whether it is a figure of the validation after that iteration.
    """

    at: int
    what: str
    recorded: Any
    present: Any
    validation: bool = False

    def __str__(self) -> str:
        if self.validation:
            return (
                f"the validation after iteration {self.at}: {self.what} was {self.recorded!r} before, and now "
                f"{self.present!r}: the validation data, the weights or a metric differ, or kernels that are not deterministic"
            )
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
        environment: In what the environment differs from that of the process that computed the iteration before, in words.
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
        _, what, recorded, present, validation = self.difference
        differs: dict[str, Any] = {"what": what, "recorded": recorded, "present": present}
        if validation:
            differs["validation"] = True
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

    Raises:
        ValueError: A line of the journal is not one; the message names the file and the place.
    """

    def __init__(self, path: Path, *, after: int) -> None:
        self.path = path
        self.after = self.at = after
        self._tail = tail(path, after, whole=True)
        self.until = self._tail.until
        self._compared = self._unknown = self._told = 0
        self._entries = self._tail.lines()
        self._next = next(self._entries, None)
        self._saved: Mapping[str, Any] = {}
        self._standing: Standing | None = None

    def prepare(self, saved: Mapping[str, Any], standing: Standing) -> None:
        """Be told the environment that wrote the checkpoint, and what knows the one that is there now."""
        self._saved, self._standing = saved, standing

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
        if self._next is None or at < int(self._next[1]["at"]):
            self._unknown += 1  # lost, as what waited to be written when the process died
            return None
        (where, entry), self._next = self._next, next(self._entries, None)
        self._compared += 1
        difference = _difference(entry, at, place_of(batch), floats(figures))
        return self.verdict(difference, where) if difference is not None or self.done else None

    def verdict(
        self, difference: Difference | None = None, where: int = 0, *, whole: bool = False
    ) -> Verdict:
        """What was found so far.

        Args:
            difference: The first that differs.
            where: Where the line that it differs from lies in the journal.
            whole: Whether nothing more is to be compared, though the journal may have more.
        """
        left = 0 if whole or self.done or difference is not None else self.until - self.at
        environment = [] if difference is None else self._differs_from(where)
        return Verdict(self.at, self._compared, left, self._unknown, difference, environment)

    def _differs_from(self, where: int) -> list[str]:
        """In what the environment differs from that of the process that wrote a line."""
        present = {} if self._standing is None else self._standing.environment
        return [str(reason) for reason in between(self._tail.environment_at(where) or self._saved, present)]

    @property
    def awaits_validations(self) -> bool:
        """Whether the journal tells of passes that were not computed again yet."""
        return bool(self._tail.validations)

    def forget_validations(self) -> None:
        """Compare none any more: they are of another line of history."""
        self._tail.validations.clear()

    def compare_validation(
        self, number: int, at: int, figures: Mapping[str, Any]
    ) -> tuple[bool, Verdict | None]:
        """Hold a pass of validation against the journal.

        Args:
            number: How many passes the run has completed with it.
            at: The iteration that it came after.
            figures: What it found.

        Returns:
            Whether the journal tells of it, and where it differs the verdict.
        """
        where, entry = self._tail.validations.pop(number, (0, None))
        if entry is None or entry.get("at") != at:
            return False, None
        difference = _first_figure(entry["figures"], floats(figures), at)
        if difference is None:
            return True, None
        differs = Difference(*difference[:4], validation=True)
        same = max(0, at - self.after) + 1
        return True, Verdict(at, same, difference=differs, environment=self._differs_from(where))

    def so_far(self) -> Verdict | None:
        """What was found since this was last asked, for a run that stops in the middle; None where nothing was."""
        if self._compared == self._told:
            return None
        self._told = self._compared
        return self.verdict()


def _difference(
    entry: Mapping[str, Any], at: int, place: tuple[int, ...], figures: Mapping[str, float]
) -> Difference | None:
    if entry.get("batch") != list(place):
        return Difference(at, "batch", entry.get("batch", ABSENT), list(place))
    recorded = entry.get("figures")
    return _first_figure(recorded if isinstance(recorded, dict) else {}, figures, at)


def _first_figure(recorded: Mapping[str, Any], figures: Mapping[str, float], at: int) -> Difference | None:
    for name in {**figures, **recorded}:
        one, two = recorded.get(name, ABSENT), figures.get(name, ABSENT)
        if repr(one) != repr(two):  # of floats it tells every bit, and one NaN is like the other
            return Difference(at, name, one, two)
    return None
