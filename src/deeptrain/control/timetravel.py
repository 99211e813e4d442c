"""The trainer's verbs that go back in time. See `Rewind`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.control.part import TrainerPart
from deeptrain.control.steering import Change
from deeptrain.data.batch import Batch
from deeptrain.data.edits import Skip
from deeptrain.state.cadence import At

if TYPE_CHECKING:
    from collections.abc import Sequence


class TimeVerbs(TrainerPart):
    """The part of a `Trainer` by which it goes back in time."""

    def rewind(
        self,
        *,
        to: At | str | Path | None = None,
        batches: int | None = None,
        skip: Batch | Sequence[Batch] = (),
        interventions: bool = True,
    ) -> str:
        """Go back to a point that the run came through, and go on from there on a new branch; what happened stays on the old one.

        The state is taken from the nearest checkpoint before the point, and the iterations from there on are computed again and
        held against the journal. When this returns, the new branch is on the disk: a process that dies then goes on from
        there. Called where `set` may be called: in a script, which makes it once however often it is run again, at a prompt, in
        a handler (then it is done when the handler has returned), or from another thread.

        Args:
            to: A point of the run, where all that followed from it was through; or a checkpoint of the run: its tag, name or path.
            batches: Instead: go back so many batches.
            skip: Batches whose rows are passed over, each in its epoch.
            interventions: False leaves out what people and the script changed between the checkpoint and the point: then the new
                branch begins at the checkpoint.

        Returns:
            What became of it, in words.

        Raises:
            ValueError: There is no such point behind, or no checkpoint from which to go there; the run stands where it was.
            TypeError: An argument is of another kind.

        Example:
            `trainer.rewind(batches=5, skip=it.batch)`
        """
        value = _where(to, batches)
        if skipped := _skipped(skip):
            if not interventions:
                raise ValueError(
                    "rewind(skip=..., interventions=False): found both, expected one: rewind first, then trainer.train.skip(rows=...)"
                )
            value["skip"] = skipped
        if not interventions:
            value["interventions"] = False
        trainer = self._trainer
        return trainer.steering.ask(trainer, Change("rewind", _in_words(value), value))


def _where(to: Any, batches: Any) -> dict[str, Any]:
    if (to is None) == (batches is None):
        raise ValueError(
            "rewind: expected either to=, a point such as dt.At(epoch=2) or a checkpoint, or batches=, a number of batches"
        )
    if batches is not None:
        if isinstance(batches, bool) or not isinstance(batches, int) or batches < 0:
            raise ValueError(f"rewind(batches={batches!r}): expected a whole number from 0 up")
        return {"back": batches}
    if isinstance(to, At):
        return {"to": list(to.target)}
    if isinstance(to, Path):
        return {"checkpoint": to.name}
    if isinstance(to, str):
        return {"checkpoint": Path(to).name if Path(to).is_dir() else to}
    raise TypeError(
        f"rewind(to={to!r}): expected a point such as dt.At(epoch=2), or a checkpoint's tag, name or path"
    )


def _skipped(skip: Any) -> list[dict[str, Any]]:
    found = [skip] if isinstance(skip, Batch) else list(skip)
    for batch in found:
        if not isinstance(batch, Batch):
            raise TypeError(
                f"rewind(skip=...): found {batch!r:.80}, expected a batch, such as it.batch, or several"
            )
    rows = [batch.rows[: len(batch.rows) - batch.padded] for batch in found]
    return [{"epoch": b.epoch, "edit": Skip(rows=r).as_plain()} for b, r in zip(found, rows, strict=True)]


def _in_words(value: dict[str, Any]) -> str:
    if "back" in value:
        return f"batches={value['back']}"
    return repr(value["checkpoint"]) if "checkpoint" in value else "{}={}".format(*value["to"])
