"""From which checkpoints a point of a run can be come to, and what to say where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeptrain.checkpoint.keeping import Facts
    from deeptrain.checkpoint.line import Line


def before(known: list[Facts], line: Line, counter: str, count: int) -> list[Facts]:
    """The checkpoints from which a point can be come to by computing on, nearest first.

    Args:
        known: All that there are.
        line: The line of history that the point lies on.
        counter: Which count tells the point.
        count: The count.
    """

    def is_before(facts: Facts) -> bool:
        done = facts.counts.get(counter, count + 1)
        on_line = facts.readable and line.holds(facts.line, facts.counts.get("iterations", 0))
        return on_line and (done < count or (done == count and counter in facts.rest))

    found = [facts for facts in known if is_before(facts)]
    return sorted(found, key=lambda facts: (facts.counts[counter], facts.sequence), reverse=True)


def nothing_before(known: list[Facts], counter: str, count: int, who: str) -> str:
    """What to say where there is none."""
    if not known:
        return f"{who}: nothing was saved in this run yet, so there is no point to go back to: train first"
    there = sorted({int(facts.counts.get(counter, 0)) for facts in known if facts.readable})
    return (
        f"{who}: no checkpoint is left from which to go to {counter}={count}; there are some at {counter} {there}. Keep "
        "more of them: Checkpoints(keep=10), each=Every(epochs=1), or trainer.checkpoint(tag=...) before what you may undo"
    )
