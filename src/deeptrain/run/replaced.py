"""Runs in which parts were replaced on the way: what their states need of a trainer. See `Trainer.replace`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.run.fingerprint import Mismatch, compare, part_of
from deeptrain.run.record import plain
from deeptrain.step.exchange import Rest
from deeptrain.step.supervised import SupervisedStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from os import PathLike

    from deeptrain.trainer import Trainer

LISTED = 12


def replaced_parts(replaced: Iterable[Mapping[str, Any]]) -> set[str]:
    """All parts that were replaced on the way."""
    return {part for each in replaced for part in each["parts"]}


def schedule_as(trainer: Trainer, state: Mapping[str, Any]) -> None:
    """Where a schedule was made on the way, for the rest of the run, make the script's for that rest too."""
    rest = state.get("scheduler_rest")
    if rest is not None and isinstance(trainer.learner, SupervisedStep):
        trainer.learner.prepare_rest(Rest(**rest), trainer.totals())
        trainer.settings = plain(trainer.settings_of_parts())


def other_callbacks(trainer: Trainer, state: Mapping[str, Any]) -> list[Mismatch]:
    """Callbacks are known by their names; where they were replaced, other ones are the script's old ones."""
    recorded, present = sorted(state.get("callbacks", {})), sorted(trainer.handlers.by_name)
    if "callbacks" not in replaced_parts(state.get("replaced", [])) or recorded == present:
        return []
    return [Mismatch("callbacks", recorded, present)]


def is_another_script(trainer: Trainer, state: Mapping[str, Any], recorded: dict[str, Any]) -> bool:
    """Whether a script differs from a run in more than parts that were replaced in that on the way."""
    replaced = replaced_parts(state.get("replaced", []))
    mismatches = compare(recorded, trainer.settings)
    return bool(mismatches) and replaced.isdisjoint(part_of(m.path) for m in mismatches)


def refuse_replaced(trainer: Trainer, info: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """See that a whole state is of the parts that the trainer has, where some of them were replaced.

    Raises:
        ValueError: It is of other ones, which its values do not fit.
    """
    recorded = info.get("settings")
    if not trainer.replaced or not isinstance(recorded, dict):
        return
    other = [
        m for m in compare(recorded, trainer.settings) if part_of(m.path) in replaced_parts(trainer.replaced)
    ]
    if not other:
        return
    when = "; ".join(f"{', '.join(each['parts'])} at iteration {each['at']}" for each in trainer.replaced)
    lines = "".join(f"\n  {mismatch}" for mismatch in other[:LISTED])
    raise ValueError(
        f"{path}: this state is of other parts than the trainer has, of which some were replaced on the way ({when}):{lines}\n"
        "go back no further than to the checkpoint right behind that; or replace the parts back first; or load what fits, with "
        "trainer.load(path, only=[...])"
    )
