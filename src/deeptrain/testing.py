"""For the tests of those who use DeepTrain: is my run resumable to the same bits?

def test_my_run_is_resumable(): deeptrain.testing.prove(make_trainer).check()
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.checkpoint.snapshot import copied
from deeptrain.introspect.suspects import attributes, changed, generators
from deeptrain.introspect.trace import FirstDifference, entry, first_difference
from deeptrain.state import tree
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.trainer import Trainer


@dataclass(frozen=True, slots=True)
class Proof:
    """What `prove` found.

    Attributes:
        identical: Whether every interrupted run ended with the untouched one's bits.
        stops: After how many iterations runs were stopped.
        digest: The untouched run's final digest.
        first: Where the runs part, or None.
        differences: Paths of the final states that differ, in words; the first ten.
        causes: What is likely to have caused it, in words.
    """

    identical: bool
    stops: list[int]
    digest: str
    first: FirstDifference | None = None
    differences: list[str] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if self.identical:
            return f"identical: {len(self.stops)} interrupted runs ended with the digest {self.digest} of the untouched one"
        lines = ["NOT identical", f"first difference: {self.first or 'only in the final state'}"]
        lines += [f"  {line}" for line in self.differences]
        lines += [f"likely cause: {line}" for line in self.causes]
        return "\n".join(lines)

    def check(self) -> None:
        """Raise an `AssertionError` that says all of this where the runs differ."""
        if not self.identical:
            raise AssertionError(str(self))


@dataclass(slots=True)
class _Life:
    """A whole run: its final state, its trace, and what the search for suspects found."""

    state: dict[str, Any]
    trace: list[dict[str, Any]]
    suspects: list[str]


def prove(make_trainer: Callable[[], Trainer], *, stops: int = 5, seed: int = 0) -> Proof:
    """Run untouched, twice; then stopped, saved and continued in a new trainer; and compare the bits.

    Everything happens in this process and in memory. Before each new trainer the global random streams are
    put elsewhere, as a new process would find them.

    Args:
        make_trainer: Makes everything anew, as the script does: seeds, model, data, trainer. Best with `runs=None`.
        stops: How many runs are stopped, each at another iteration.
        seed: For the choice of those.

    Example:
        `prove(make_trainer).check()` in a test.
    """
    untouched, again = _live(make_trainer, []), _live(make_trainer, [])
    digest = tree.digest(untouched.state)
    if tree.digest(again.state) != digest:
        return _differ(
            untouched, again, [], "even two untouched runs differ, so resuming is not what is wrong"
        )
    iterations = len(untouched.trace)
    chosen = sorted(random.Random(seed).sample(range(iterations), min(stops, iterations)))  # noqa: S311
    for at in chosen:
        resumed = _live(make_trainer, [at])
        if tree.digest(resumed.state) != digest:
            return _differ(untouched, resumed, chosen, f"the run stopped after {at} iterations differs")
    return Proof(True, chosen, digest)


def _live(make_trainer: Callable[[], Trainer], stops: list[int]) -> _Life:
    trace: list[dict[str, Any]] = []
    trainer = _new(make_trainer)
    before = attributes(trainer)
    for at in stops:
        _follow(trainer, trace, until=at)
        saved = copied(trainer.state_dict())
        trainer.close()
        trainer = _new(make_trainer)
        trainer.load_state_dict(saved)
    _follow(trainer, trace, until=None)
    suspects = [*generators(trainer), *changed(before, attributes(trainer))]
    state = copied(trainer.state_dict())
    trainer.close()
    return _Life(state, trace, suspects)


def _new(make_trainer: Callable[[], Trainer]) -> Trainer:
    elsewhere = 987654321
    random.seed(elsewhere)
    np.random.seed(elsewhere)  # noqa: NPY002
    torch.manual_seed(elsewhere)
    return make_trainer()


def _follow(trainer: Trainer, trace: list[dict[str, Any]], until: int | None) -> None:
    """Go on to that many iterations, or to the end, noting each."""
    if until == trainer.progress.train.iterations or trainer.progress.phase is Phase.DONE:
        return
    for event in trainer:
        trace.append(entry(trainer, event))
        if event.iteration == until:
            break


def _differ(untouched: _Life, other: _Life, stops: list[int], what: str) -> Proof:
    first = first_difference(untouched.trace, other.trace)
    differences = [str(d) for d in tree.diff(untouched.state, other.state)[:10]]
    causes = [what, *([] if first is None else [first.cause]), *untouched.suspects]
    return Proof(False, stops, tree.digest(untouched.state), first, differences, causes)
