"""`Rewind`: back to a point that the run came through before, on a new branch.

The state is put where the nearest checkpoint before the point has it, and the iterations from there to the point are
computed again, with what people and the script changed in between, and held against the journal. Then the new
branch begins: its first checkpoint is on the disk before the rewind returns. Until then the run stands where it stood: what
stops the rewind, an error, Ctrl-C or the end of the process, leaves it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.format import read_checkpoint
from deeptrain.checkpoint.nearest import before, nothing_before
from deeptrain.checkpoint.reading import CorruptCheckpoint
from deeptrain.control.changes import prepare_edit
from deeptrain.data.edits import Skip, from_plain
from deeptrain.data.loader import BatchLoader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deeptrain.checkpoint.keeping import Facts
    from deeptrain.checkpoint.line import Line
    from deeptrain.run.checkpointing import Checkpointing
    from deeptrain.trainer import Trainer

COUNTERS = ("iterations", "batches", "updates", "epochs")


class Rewind:
    """One way back, seen to be possible when it is made.

    Args:
        trainer: Who goes back.
        value: What was asked for, as plain values: "to" is a counter and a count, "back" a number of batches, "checkpoint" a
            name or a tag; "skip" holds edits of the order to be made there; "interventions" says whether what was
            changed on the way is changed again.

    Raises:
        ValueError: There is no such point behind, or no checkpoint from which to go there.
        IndexError, KeyError: An edit does not fit.
    """

    def __init__(self, trainer: Trainer, value: dict[str, Any]) -> None:
        if trainer.run.checkpoints is None or trainer.run.path is None:
            raise ValueError(
                "runs=None, or the trainer was closed: there are no checkpoints to go back to; keep a state yourself, with "
                "copy.deepcopy(trainer.state_dict()), for trainer.load_state_dict"
            )
        self._trainer, self._value = trainer, value
        self._checkpoints: Checkpointing = trainer.run.checkpoints
        self._from, self._line = trainer.progress.train.iterations, trainer.run.line
        self._goal = _goal(trainer, value)
        self._starts = self._find_starts()
        skip = value.get("skip", ())
        if skip and not isinstance(trainer.train, BatchLoader):
            raise ValueError(
                f"rewind(skip=...): the order of a {type(trainer.train).__name__} cannot be edited; that of a dt.BatchLoader can"
            )
        self._skip: list[dict[str, Any]] = [_newest(trainer)] if skip == "last" else list(skip)
        for each in self._skip:
            from_plain(each["edit"])
        self._with_interventions: bool = value.get("interventions", True)
        self._tip: Path | None = None

    def _find_starts(self) -> list[Facts]:
        """The checkpoints to go back to, best first."""
        known = [facts for facts in self._checkpoints.store.facts() if facts.readable]
        if self._goal is None:
            wanted = self._value["checkpoint"]
            found = [facts for facts in known if wanted in {facts.path.name, facts.tag}]
            if not found:
                names = ", ".join(f"{facts.path.name}{_tagged(facts)}" for facts in known)
                raise ValueError(
                    f"rewind(to={wanted!r}): there is no such checkpoint or tag; there are {names}"
                )
            return found[-1:]
        counter, count = self._goal
        behind = before(known, self._line, counter, count)
        if not behind:
            raise ValueError(nothing_before(known, counter, count, "rewind"))
        return behind

    def keep_tip(self) -> None:
        """See that the state as it is now is on the disk: a rewind loses nothing, and where it is left, this is gone back to."""
        trainer, store = self._trainer, self._checkpoints.store
        store.held = frozenset(facts.path for facts in self._starts)
        if trainer.progress.torn is not None:
            return
        trainer.run.begin(trainer)
        if self._checkpoints.is_behind(trainer):
            trainer.run.save(trainer)
        self._tip = store.paths()[-1]
        store.held |= {self._tip}

    def travel(self) -> None:
        """Go to the point.

        Raises:
            CheckpointError: None of the checkpoints before it is whole.
            BaseException: Whatever stops the computation on the way.
        """
        trainer, start = self._trainer, self._load_start()
        if self._goal is None or not self._with_interventions:
            return
        limit = dict(self._line.before).get(start.line.branch, self._from)
        breaks, trainer.breaks.conditions = trainer.breaks.conditions, []
        try:
            with trainer.run.retracing(trainer, self._from):
                trainer.steering.retrace(trainer)
                trainer.retrace(*self._goal, limit)
        finally:
            trainer.breaks.conditions = breaks

    def _load_start(self) -> Facts:
        for facts in self._starts:
            try:
                state, info = read_checkpoint(facts.path)
            except CorruptCheckpoint as error:
                self._trainer.display.say(f"passed over a checkpoint that is not whole: {error}")
                continue
            self._trainer.run.refuse_replaced(self._trainer, info, facts.path)
            self._trainer.load_state_dict(state)
            self._trainer.run.standing.go_on(self._trainer, info)
            return facts
        raise ValueError(
            "rewind: none of the checkpoints before that point is whole; the run stands where it was"
        )

    def arrive(self, **why: Any) -> str:
        """Begin the new branch; it is on the disk when this returns.

        Args:
            why: What the journal is to say of it.
        """
        trainer = self._trainer
        for each in self._skip:
            prepare_edit(trainer, each["edit"], each["epoch"])()
        told = {**why, "left": self._from, **self._value}
        trainer.run.begin_branch(trainer, self._line_of_start, **told)
        self._let_go()
        trainer.went_back()
        line = f"went back from iteration {self._from} to {trainer.progress.train.iterations}, on branch {trainer.run.line.branch}"
        trainer.display.say(line)
        return line

    @property
    def is_short(self) -> bool:
        """Whether the branch begins before the point, because what was changed on the way is left out."""
        return self._goal is not None and not self._with_interventions

    def go_on(self, there: Callable[[], None]) -> None:
        """Come to the point, where the branch begins before it: by another course than before, and so not as a replay.

        Args:
            there: Called when it is come to, and before it is saved.
        """
        assert self._goal is not None
        self._trainer.retrace(*self._goal)
        self._trainer.went_back()
        there()
        self._trainer.run.save(self._trainer)

    @property
    def _line_of_start(self) -> Line:
        """The line that the point lies on, which may be one that was left before."""
        if self._goal is not None:
            return self._line
        return self._starts[0].line

    def undo(self) -> None:
        """Go back to where the run stood."""
        self._let_go()
        self._trainer.progress.torn = "a rewind was cut short"
        if self._tip is not None:
            state, info = read_checkpoint(self._tip)
            self._trainer.load_state_dict(state)
            self._trainer.run.standing.go_on(self._trainer, info)

    def _let_go(self) -> None:
        self._checkpoints.store.held = frozenset()


def _newest(trainer: Trainer) -> dict[str, Any]:
    """The edit that passes over the newest batch that was fed."""
    train, place = trainer.train, trainer.train.position
    assert isinstance(train, BatchLoader)
    epoch, batch = (
        (place.epoch, place.batch - 1)
        if place.batch
        else (place.epoch - 1, train.batches_of(place.epoch - 1) - 1)
    )
    if epoch < 0:
        raise ValueError('rewind(skip="last"): no batch was fed yet')
    return {"epoch": epoch, "edit": Skip(rows=train.rows(epoch, batch)).as_plain()}


def _tagged(facts: Facts) -> str:
    return "" if facts.tag is None else f" ({facts.tag})"


def _goal(trainer: Trainer, value: dict[str, Any]) -> tuple[str, int] | None:
    """The counter and the count to go back to; None where it is a checkpoint by name.

    Raises:
        ValueError: It does not lie behind.
    """
    if "checkpoint" in value:
        return None
    done = trainer.progress.train
    counter, count = ("batches", done.batches - value["back"]) if "back" in value else value["to"]
    if counter not in COUNTERS:
        raise ValueError(f"rewind: found the counter {counter!r}, expected one of {', '.join(COUNTERS)}")
    here = getattr(done, counter)
    if count < 0:
        raise ValueError(f"rewind(batches={value['back']}): only {here} batches were completed")
    if count > here:
        raise ValueError(
            f"rewind: {counter}={count} lies ahead, the run has completed {here}: trainer.fit(until=...) goes there"
        )
    return counter, count
