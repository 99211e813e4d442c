"""`Line`: a branch of a run's history, with what it has in common with those that it came from.

A run begins on branch 0. Going back in it begins another branch, of the next number, at the count of iterations that was
gone back to; what came behind that count stays on the branch that was left. So the states that a branch goes on from are
its own, those of the branch before up to where it was left, and so on. Every checkpoint says on which line it was saved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Line:
    """A branch, and where each of those that it came from was left.

    Attributes:
        branch: Its number.
        before: Of each branch before it, oldest first, the number and the count of iterations at which it was left.

    Example:
        >>> line = Line().left_at(900, number=1)
        >>> line.holds(Line(0), 880), line.holds(Line(0), 1000), line.holds(line, 1000)
        (True, False, True)
    """

    branch: int = 0
    before: tuple[tuple[int, int], ...] = ()

    def left_at(self, iterations: int, *, number: int) -> Line:
        """The line that begins here, where this one is left.

        Args:
            iterations: At which count of completed iterations.
            number: The new branch's number.
        """
        kept = [(branch, min(until, iterations)) for branch, until in self.before]
        return Line(number, (*kept, (self.branch, iterations)))

    def holds(self, other: Line, iterations: float) -> bool:
        """Whether a state that was saved on another line, at a count of iterations, lies behind what is on this one."""
        return other.branch == self.branch or iterations <= dict(self.before).get(other.branch, -1)

    def info(self) -> dict[str, Any]:
        """The line as a checkpoint's info has it; nothing for the first branch."""
        return {"branch": self.branch, "before": [list(pair) for pair in self.before]} if self.branch else {}

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Line:
        """The line that an info tells of. One that is no such thing gives the first branch."""
        branch, before = info.get("branch", 0), info.get("before", [])
        if type(branch) is not int or not isinstance(before, list | tuple):
            return cls()
        pairs = [tuple(pair) for pair in before if isinstance(pair, list | tuple)]
        if any(len(pair) != 2 or {type(each) for each in pair} != {int} for pair in pairs):  # noqa: PLR2004 - a pair
            return cls()
        return cls(branch, tuple((int(number), int(until)) for number, until in pairs))
