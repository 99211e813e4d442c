"""Which run a script means, and whether it is still the script that the run was started with."""

from __future__ import annotations

import difflib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.format import CorruptCheckpoint, read_checkpoint, read_info
from deeptrain.checkpoint.line import Line
from deeptrain.checkpoint.store import CheckpointStore
from deeptrain.run.branches import newest_of
from deeptrain.run.declared import not_skipped
from deeptrain.run.directory import RunDirectory
from deeptrain.run.fingerprint import FingerprintMismatch, Mismatch, compare
from deeptrain.run.record import origin_in
from deeptrain.run.replaced import is_another_script, other_callbacks, schedule_as
from deeptrain.run.travel import Travel
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from deeptrain.checkpoint.chain import Chain
    from deeptrain.trainer import Trainer

    Hold = Callable[[RunDirectory], None]

CHOICES = ("auto", "new", "keep", "take")
LOADER = ("batch_size", "shuffle", "seed", "last", "group", "limit_batches", "overfit")


@dataclass(slots=True)
class Found:
    """What was found to go on from.

    Attributes:
        state: The state to go on from, or None for a start from nothing.
        info: What the checkpoint says of itself.
        parent: Where the state is from, when that is another run.
        passed_over: Newer checkpoints that were not whole, each with the reason.
        unfinished: Where no name was given, the runs without a name that could be gone on from.
        line: The branch that the run is on.
        travel: The point of another run to come to again, or None.
        finished: The run of this name that is done and was made with other settings, so that a new one is begun.
        chain: What of the state's history is whole in this run's segments, where there are any.
    """

    state: dict[str, Any] | None = None
    info: dict[str, Any] = field(default_factory=dict)
    parent: Path | None = None
    passed_over: list[str] = field(default_factory=list)
    unfinished: list[Path] = field(default_factory=list)
    line: Line = field(default_factory=Line)
    travel: Travel | None = None
    finished: Path | None = None
    chain: Chain | None = None


def find(trainer: Trainer, runs: Path, name: str | None, resume: str | PathLike[str], hold: Hold) -> Found:
    """Find the run to continue, or make a new one.

    Args:
        trainer: The trainer, built and not restored.
        runs: The directory of runs.
        name: The run's name.
        resume: A choice, or the path of a run or a checkpoint.
        hold: Takes a run for this process; called before anything of it is read, so that nobody moves it on.

    Raises:
        ValueError: `resume` is neither a choice nor a path that holds a run or a checkpoint.
    """
    if (travel := Travel.asked_for(name)) is not None:
        source, state, info = travel.start()
        schedule_as(trainer, state)
        hold(RunDirectory.create(Path(travel.run).parent, travel.into))
        return Found(state, info, source, travel=travel)
    if resume == "new" or (name is None and resume == "auto"):
        others = [] if name is not None else unfinished(runs)
        hold(RunDirectory.create(runs, name))
        return Found(unfinished=others)
    if resume in CHOICES:
        return _continue(trainer, runs, name, str(resume), hold)
    found = _from_path(Path(resume))
    if name is not None and _is_child(runs, name, Path(resume)):
        return _continue(trainer, runs, name, "auto", hold)
    schedule_as(trainer, found.state or {})
    hold(RunDirectory.create(runs, name))
    return found


def _is_child(runs: Path, name: str, source: Path) -> bool:
    """Whether the newest run of a name was begun by the same `resume=`: then the same script runs again."""
    for path in RunDirectory.find(runs, name)[:1]:
        asked = origin_in(path).get("resume")
        return asked is not None and Path(asked).resolve() == source.resolve()
    return False


def unfinished(runs: Path) -> list[Path]:
    """The runs without a name that have a checkpoint and are not done, newest first."""
    found = []
    for path in RunDirectory.find(runs, None):
        newest = CheckpointStore(path / "checkpoints").paths()[-1:]
        with suppress(CorruptCheckpoint):
            found += [path for checkpoint in newest if read_info(checkpoint)["phase"] != Phase.DONE.value]
    return found


def _continue(trainer: Trainer, runs: Path, name: str | None, resume: str, hold: Hold) -> Found:
    if name is None:
        raise ValueError('resume="keep" and "take" continue a run by its name: give the trainer name="..."')
    known = RunDirectory.find(runs, name)
    if not known:
        hold(RunDirectory.create(runs, name))
        return Found()
    directory = RunDirectory(known[0])
    hold(directory)
    store = CheckpointStore(directory.path / "checkpoints")
    if not store.paths():
        return Found()  # it died before its first checkpoint, so nothing was trained
    newest = newest_of(directory.path)
    schedule_as(trainer, newest.tree)
    done = newest.info["phase"] == Phase.DONE.value
    if done and resume == "auto" and is_another_script(trainer, newest.tree, newest.info["settings"]):
        # Nothing is left to continue, and the script is another one by now.
        directory.release()
        hold(RunDirectory.create(runs, name))
        return Found(finished=directory.path)
    passed_over = _in_words(newest.passed_over)
    return Found(newest.tree, newest.info, None, passed_over, line=newest.line, chain=newest.chain)


def _in_words(passed_over: list[tuple[Path, str]]) -> list[str]:
    return [f"{where}: {why}" for where, why in passed_over]


def _from_path(source: Path) -> Found:
    if not source.is_dir():
        near = difflib.get_close_matches(str(source), CHOICES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"resume={str(source)!r} is neither one of {CHOICES} nor the directory of a run or a checkpoint{hint}"
        )
    if (source / "checkpoints").is_dir():
        newest = newest_of(source)
        return Found(newest.tree, newest.info, newest.path, _in_words(newest.passed_over))
    state, info = read_checkpoint(source)
    return Found(state, info, source)


def reconcile(trainer: Trainer, found: Found, resume: str) -> Callable[[], None]:
    """See that the script is the one that the run was started with, or do as was chosen.

    Returns:
        What is to be done once the state is loaded.

    Raises:
        FingerprintMismatch: They differ, and no choice was made or it cannot be carried out.
    """
    assert found.state is not None
    replaced = found.state.get("replaced", [])
    mismatches = compare(found.info["settings"], trainer.settings)
    mismatches = not_skipped(trainer, found, mismatches) + other_callbacks(trainer, found.state)
    if not mismatches:
        return _nothing
    if resume == "keep":
        return _keep(trainer, found, mismatches)
    if resume == "take":
        return _take(trainer, mismatches, replaced)
    raise FingerprintMismatch(
        mismatches, found.parent or trainer.run.path, replaced, from_path=found.parent is not None
    )


def _nothing() -> None:
    pass


def _keep(trainer: Trainer, found: Found, mismatches: list[Mismatch]) -> Callable[[], None]:
    """Go on with the run's values, where they can be had."""
    stay = [
        m
        for m in mismatches
        if not _kept_by_state(m.path) and not _of_loader(m.path) and not m.path.startswith("config")
    ]
    if stay:
        raise FingerprintMismatch(stay, replaced=(found.state or {}).get("replaced", []))
    recorded = found.info["settings"]
    trainer.settings = recorded
    trainer.config = dict(recorded["config"])
    trainer.train.adopt(recorded["data"]["train"])
    if trainer.judging.feed is not None:
        trainer.judging.feed.adopt(recorded["data"]["validation"])
    return _nothing


def _take(trainer: Trainer, mismatches: list[Mismatch], replaced: list[dict[str, Any]]) -> Callable[[], None]:
    """Go on with the script's values; those of the optimizer are set after the state is loaded."""
    fixed = ("step.model", "step.scheduler", "step.optimizer.class", "callbacks")
    stay = [m for m in mismatches if m.path.startswith(fixed)]
    if stay:
        raise FingerprintMismatch(stay, replaced=replaced)
    optimizer: Any = getattr(trainer.learner, "optimizer", None)
    changed = [m.path.split(".")[3:] for m in mismatches if _kept_by_state(m.path)]
    wanted = [(int(path[0]), path[1], optimizer.param_groups[int(path[0])][path[1]]) for path in changed]

    def finish() -> None:
        for group, key, value in wanted:
            optimizer.param_groups[group][key] = value

    return finish


def _kept_by_state(path: str) -> bool:
    return path.startswith("step.optimizer.param_groups.")


def _of_loader(path: str) -> bool:
    return path.startswith("data.") and path.rpartition(".")[2] in LOADER
