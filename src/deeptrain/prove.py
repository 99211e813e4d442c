"""`deeptrain prove SCRIPT`: is this training script resumable to the same bits?

The script is run once untouched, and once killed with SIGKILL at random moments and started again each time.
Then the final states are compared, and where they differ the journals tell from which iteration on.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deeptrain.control.journal import last_iteration
from deeptrain.introspect.parting import parting
from deeptrain.introspect.trace import FirstDifference, first_difference
from deeptrain.run.reader import RecordedRun, open_run
from deeptrain.state import tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

POLL = 0.002
# Under this many checkpoints in the whole run the killed one would learn little by being resumed.
CHECKPOINTS = 12
# The latest kill, as a share of the time that the run still needs.
LATEST = 0.7


class ProveError(RuntimeError):
    """The script could not be put to the proof: it failed by itself, or trained nothing with DeepTrain."""


@dataclass(frozen=True, slots=True)
class RunPair:
    """One run of the script in both of its lives.

    Attributes:
        untouched, killed: The two directories.
        digests: Their final digests.
        computed_twice: Iterations that the killed one computed more than once.
        parting: The first iteration that differs, from the two journals; None where none does.
        first: The first thing that differs, from what each iteration saw: rows, their values, rates and figures; or None.
        differences: Paths of the final states that differ, in words; the first ten.
        suspects: What could have caused it, in words.
    """

    untouched: Path
    killed: Path
    digests: tuple[str, str]
    computed_twice: int
    parting: FirstDifference | None = None
    first: FirstDifference | None = None
    differences: list[str] = field(default_factory=list)
    suspects: list[str] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        """Whether the two ended with the same bits."""
        return self.digests[0] == self.digests[1]


@dataclass(frozen=True, slots=True)
class ScriptProof:
    """What `prove_script` found.

    Attributes:
        kills: How often the script was killed.
        pairs: Each run that the script made, in both of its lives.
    """

    kills: int
    pairs: list[RunPair]

    @property
    def identical(self) -> bool:
        """Whether every run ended with the same bits."""
        return all(pair.identical for pair in self.pairs)

    def __str__(self) -> str:
        return "\n".join(line for pair in self.pairs for line in self._lines(pair))

    def _lines(self, pair: RunPair) -> Iterator[str]:
        yield f"untouched            {pair.digests[0]}  {pair.untouched}"
        yield f"killed {self.kills:>2} times      {pair.digests[1]}  {pair.killed}"
        yield f"computed twice       {pair.computed_twice} iterations"
        yield "identical" if pair.identical else "NOT identical"
        if not pair.identical:
            at = (
                "no iteration"
                if pair.parting is None
                else f"iteration {pair.parting.at}: {pair.parting.what}"
            )
            yield f"the journals part at {at}"
            yield f"first difference: {pair.first or pair.parting or 'only in the final state'}"
            yield from (f"  {line}" for line in pair.differences)
            yield from (f"likely cause: {line}" for line in pair.suspects)


def prove_script(
    script: Path,
    arguments: Sequence[str] = (),
    *,
    kills: int = 3,
    seed: int | None = None,
    directory: Path,
    say: Callable[[str], None] | None = None,
) -> ScriptProof:
    """Run a script untouched and killed, and compare.

    Args:
        script: A Python script that trains with DeepTrain. A trainer without a name is given one.
        arguments: The script's own arguments.
        kills: How often to kill it.
        seed: For the moments of the kills; by default they are different each time.
        directory: Where both lives write their runs.
        say: Told in words what is going on, before each part.

    Raises:
        ProveError: The script fails by itself, or makes no run.
    """
    if kills < 1:
        raise ValueError(f"kills={kills}: expected 1 or more")
    moments = random.Random(seed)  # noqa: S311
    say = say or _nothing
    say("The script runs untouched.")
    life = _Life([sys.executable, str(script), *arguments], directory / "untouched", seconds=None)
    life.run()
    training = life.ended - life.began
    killed = _Life(life.command, directory / "killed", seconds=training / CHECKPOINTS)
    say("The script runs anew, and will be killed with SIGKILL at random moments.")
    done = 0
    while done < kills:
        left = training * (1 - killed.iterations() / max(life.iterations(), 1))
        # So that the kills lie in all parts of the run; never near its end by the clock, as clocks are not exact.
        if killed.run(kill_after=moments.uniform(0, left * min(LATEST, 2 / (kills - done + 1)))):
            break
        if killed.iterations() >= life.iterations():
            break  # it had done all of its training, so that nothing would be resumed
        done += 1
        say(f"Killed with SIGKILL {killed.where()} ({done} of {kills}). The same script is started again.")
    if not done:
        raise ProveError(
            f"{' '.join(life.command)} trained for {training:.2f} s and was done before it could be killed: "
            "let it train for longer, with more epochs or data"
        )
    if done == kills:
        killed.run()
    return ScriptProof(done, [_pair(a, b) for a, b in zip(life.runs(), killed.runs(), strict=True)])


def _nothing(_: str) -> None:
    pass


class _Life:
    """A script that is run, perhaps several times, with its runs in one directory."""

    def __init__(self, command: list[str], runs: Path, seconds: float | None) -> None:
        self.command, self._runs = command, runs
        self._environment = {**os.environ, "DEEPTRAIN_RUNS": str(runs), "DEEPTRAIN_PROVE": "1"}
        if seconds is not None:
            self._environment["DEEPTRAIN_CHECKPOINT_SECONDS"] = str(seconds)
        self.began = self.ended = 0.0

    def runs(self) -> list[Path]:
        """The directories of the runs that it made, in their order."""
        return sorted(self._runs.glob("M*"), key=lambda path: int(path.name[1:].partition("__")[0]))

    def iterations(self) -> int:
        """How far it has come, over all of its runs."""
        return sum(last_iteration(run / "journal.jsonl") for run in self.runs())

    def where(self) -> str:
        """How far it has come, in words."""
        done = self.iterations()
        return f"after iteration {done}" if done else "before its first iteration"

    def run(self, kill_after: float | None = None) -> bool:
        """Run it to its end, or kill it so many seconds after it began to train.

        Returns:
            Whether it came to its end.
        """
        starts = self._starts()
        process = subprocess.Popen(
            self.command, env=self._environment, start_new_session=kill_after is not None
        )
        try:
            self._wait_for_training(process, starts)
            if kill_after is not None and not _ends_within(process, kill_after):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return False
            process.wait()
            self.ended = time.monotonic()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if process.returncode:
            raise ProveError(
                f"{' '.join(self.command)} failed by itself, with exit status {process.returncode}"
            )
        if not self.runs():
            raise ProveError(
                f"{' '.join(self.command)} made no run: a trainer with runs=None cannot be resumed"
            )
        return True

    def _starts(self) -> int:
        return sum(len(list((run / "record").glob("start-*.json"))) for run in self._runs.glob("M*"))

    def _wait_for_training(self, process: subprocess.Popen[bytes], starts: int) -> None:
        while process.poll() is None and self._starts() == starts:
            time.sleep(POLL)
        self.began = time.monotonic()


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _pair(untouched: Path, killed: Path) -> RunPair:
    one, two = open_run(untouched), open_run(killed)
    digests, twice = (one.digest, two.digest), computed_twice(two)
    if digests[0] == digests[1]:
        return RunPair(untouched, killed, digests, twice)
    first = first_difference(_trace(one), _trace(two))
    differences = [str(d) for d in tree.diff(one.state, two.state)[:10]]
    parted = parting(untouched, killed)
    cause = first or parted
    suspects = [*([] if cause is None else [cause.cause]), *_suspects(untouched)]
    return RunPair(untouched, killed, digests, twice, parted, first, differences, suspects)


def computed_twice(run: RecordedRun) -> int:
    """How many iterations a run computed more than once, because processes died after them."""
    iterations = [entry["at"] for entry in run.journal() if entry["kind"] == "iteration"]
    return len(iterations) - len(set(iterations))


def _trace(run: RecordedRun) -> Iterator[dict[str, Any]]:
    return (entry["trace"] for entry in run.journal() if entry["kind"] == "trace")


def _suspects(run: Path) -> list[str]:
    path = run / "record" / "suspects.json"
    return list(json.loads(path.read_text())) if path.exists() else []
