"""What goes between a run and places of the user's: `Trainer.save` and `Trainer.load` as the run sees them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deeptrain.checkpoint.format import write_checkpoint
from deeptrain.checkpoint.selecting import patterns, select
from deeptrain.checkpoint.store import line_of
from deeptrain.run.checkpointing import about
from deeptrain.run.declared import declared, to_skip
from deeptrain.run.loading import Loaded, Place, merged, read_state, say, wants_history
from deeptrain.run.replaced import refuse_replaced
from deeptrain.state.progress import TornStateError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from deeptrain.checkpoint.line import Line
    from deeptrain.run.run import Run
    from deeptrain.trainer import Trainer


def write(
    trainer: Trainer, path: str | PathLike[str], only: str | Sequence[str], skip: str | Sequence[str]
) -> None:
    """Write a checkpoint to a path of the user's; one of a part of the state says so."""
    if not only:
        skip = (*patterns("skip", skip), *declared(trainer, "save_skip", [trainer.state_dict()]))
    info, state = about(trainer), trainer.state_dict()
    if only or skip:
        state = select(state, only, skip)
        info["partial"] = {"only": list(patterns("only", only)), "skip": list(patterns("skip", skip))}
    write_checkpoint(Path(path), state, info)


def read_into(
    trainer: Trainer,
    path: str | PathLike[str],
    only: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
) -> Loaded:
    """The state to go to: the saved one, or the present one with a part of the saved one in it.

    Raises:
        TornStateError: A part was to be put into a state that is not whole.
    """
    before, saved = Place.of(trainer), read_state(path, history=wants_history(only, skip))
    for passed, why in saved.passed_over:
        say(trainer, f"passed over a checkpoint that is not whole: {passed}: {why}")
    if not only:
        skip = (*patterns("skip", skip), *to_skip(trainer, saved))
    if not (only or skip) and saved.info.get("partial") is None:
        refuse_replaced(trainer, saved.info, saved.path)
        return Loaded(saved.tree, None, before, saved.info)
    if trainer.progress.torn is not None:
        raise TornStateError(
            f"{trainer.progress.torn}. A part of a state can only be loaded into one that is whole: load the whole of a "
            "checkpoint first, with trainer.load(path)"
        )
    return Loaded(*merged(trainer, saved, only, skip), before)


def on_load(run: Run, trainer: Trainer, path: str | PathLike[str], loaded: Loaded) -> None:
    """The user went to another state: what comes now is no replay, and no checkpoint here holds it."""
    run.replay_until = 0
    if run.journalling.replay is not None:
        run.journalling.replay.leave()
    if loaded.info is not None:
        trainer.display.on_environment(run.standing.go_on(trainer, loaded.info), run.standing.lost())
    run.settle()
    run.journal("load", at=trainer.progress.train.iterations, path=str(path), **loaded.entry())
    if loaded.report is not None:
        say(trainer, f"{path}: {loaded.report}")
    moved = loaded.before.moved(Place.of(trainer))
    if moved is not None:
        say(trainer, f"{path}: {moved}")
    _save_there(run, trainer, Path(path), moved=moved is not None)


def _save_there(run: Run, trainer: Trainer, path: Path, *, moved: bool) -> None:
    """A process that ends here, or a crash, would have loaded in vain."""
    if run.checkpoints is None:
        return
    if run.checkpoints.saved is None:
        if moved:  # as what the run begins with
            run.begin(trainer)
        return
    run.checkpoints.leave()
    if moved:
        run.begin_branch(trainer, _line_at(run, path), origin="load", path=str(path))
    else:
        run.save(trainer)


def _line_at(run: Run, path: Path) -> Line | None:
    """The line that a checkpoint of this run was saved on; None for any other path."""
    assert run.path is not None
    own = path.is_dir() and path.resolve().parent == (run.path / "checkpoints").resolve()
    return line_of(path) if own else None
