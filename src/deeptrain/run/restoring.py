"""A trainer is put where its run stands, and what was saved is seen to have come back equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.run.branches import go_on_with
from deeptrain.run.declared import begins_with, say_left_aside
from deeptrain.run.fingerprint import compare
from deeptrain.run.guarantee import taken
from deeptrain.run.record import used_of, write_start
from deeptrain.run.replaying import Replaying
from deeptrain.run.resume import reconcile
from deeptrain.state import tree
from deeptrain.state.history import same_series

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.run.resume import Found
    from deeptrain.run.run import Run
    from deeptrain.trainer import Trainer


def restore(run: Run, trainer: Trainer, found: Found, resume: str) -> None:
    """Put a trainer where its run stands, and write down how it was started.

    Args:
        run: Its run, open.
        trainer: It is built, and at the beginning.
        found: What was found to go on from.
        resume: What the script chose.

    Raises:
        FingerprintMismatch, ValueError: The state is not of this script, or does not come back equal.
    """
    assert run.path is not None
    trainer.display.on_run(found, run.path)
    if found.state is not None:
        _go_on(run, trainer, found, resume)
    _note_the_start(run, trainer, found, resume)
    if found.state is not None:
        trainer.display.on_restored(trainer, run.replay_until)


def _go_on(run: Run, trainer: Trainer, found: Found, resume: str) -> None:
    finish = reconcile(trainer, found, resume)
    mismatches = compare(found.info["settings"], trainer.settings) if resume == "take" else []
    state = begins_with(trainer, found)
    trainer.load_state_dict(state)
    check_same(state, trainer, taken=resume == "take")
    finish()
    _take_up_the_line(run, trainer, found)
    if run.journalling.replay is not None:
        run.journalling.replay.prepare(found.info, run.standing, comparable=not mismatches)
    differences = run.standing.go_on(trainer, found.info, taken(mismatches))
    trainer.display.on_environment(differences, run.standing.lost())


def _take_up_the_line(run: Run, trainer: Trainer, found: Found) -> None:
    """What the journal tells of the iterations to come, if it does, is what they are held against."""
    if found.travel is not None:
        run.travel = found.travel
        _replay(run, trainer, found.travel.journal)
    elif found.parent is not None:
        trainer.steering.forget()  # another script's calls
    else:
        assert run.checkpoints is not None
        say_left_aside(trainer)
        go_on_with(run, found.line, trainer)
        _replay(run, trainer)
        run.checkpoints.go_on_from(trainer, found.chain)


def _replay(run: Run, trainer: Trainer, source: Path | None = None) -> None:
    assert run.journalling.file is not None
    after = trainer.progress.train.iterations
    run.journalling.replay = Replaying(run.journalling.file, after=after, source=source)
    run.replay_until = run.journalling.replay.until


def _note_the_start(run: Run, trainer: Trainer, found: Found, resume: str) -> None:
    assert run.path is not None
    origin = {
        "parent": None if found.parent is None else str(found.parent),
        "resume": None if found.parent is None else resume,
        "passed_over": found.passed_over,
    }
    at, now = trainer.progress.train.iterations, run.standing.announced
    write_start(run.path, trainer.settings, trainer.config, origin, now, used=used_of(trainer, run.path))
    run.journal("start", at=at, parent=origin["parent"], environment=now)


def check_same(saved: dict[str, Any], trainer: Trainer, *, taken: bool = False) -> None:
    """Refuse a state that does not come back equal; where the script's settings were taken, those aside.

    Raises:
        ValueError: Loading it gave another state; the message names the paths.
    """
    present = trainer.state_dict()
    # More epochs may have been asked of a run that was done.
    renewed = {name: present["progress"][name] for name in ("phase", "stopped_short_of")}
    saved = {**saved, "progress": {**saved["progress"], **renewed}}
    if taken:
        saved["data"] = present["data"] = {}
    if same_series(saved["history"], present["history"]):  # as long as the run; a digest of it takes its time
        saved["history"] = present["history"] = {}
    if tree.digest(saved) == tree.digest(present):
        return
    lines = "\n  ".join(str(d) for d in tree.diff(saved, present)[:10])
    raise ValueError(
        "the saved state was loaded and what is there now is not the same, so the run would not go on as it was:\n  "
        f"{lines}\nsee that each part's load_state_dict takes over all that its state_dict gives"
    )
