"""The trainer's verbs that save, load and look into the state. See `Run` for where it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.control.change import Change
from deeptrain.control.part import TrainerPart
from deeptrain.run.run import TornStateError
from deeptrain.state import tree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from deeptrain.checkpoint.partial import Report


class SavingVerbs(TrainerPart):
    """The part of a `Trainer` by which its state is saved, loaded and looked at."""

    def save(
        self,
        path: str | PathLike[str],
        *,
        only: str | Sequence[str] = (),
        skip: str | Sequence[str] = (),
    ) -> None:
        """Write a checkpoint of the present state to a directory that does not exist yet.

        Args:
            path: The directory.
            only: What to save: paths of the state, as for `get`, each with all that is below it. Everything by default.
            skip: What to leave out, beside what components declare as `save_skip`. With `only` that is left aside.

        Raises:
            TornStateError: The state is not whole.
            CheckpointError: There is something at that path, or it could not be written.
            KeyError: A path matches nothing; the message names similar ones.

        Example:
            `trainer.save("here", skip=["optimizer.*"])`
        """
        self.refuse_torn()
        trainer = self._trainer
        with trainer.interrupts.resting:
            trainer.tell("save")
            trainer.run.write(trainer, path, only, skip)

    def checkpoint(self, tag: str | None = None) -> None:
        """Commit a checkpoint to the run now, and wait until it is on the disk.

        Args:
            tag: A name, such as "before surgery". A checkpoint that has one is kept for good.

        Raises:
            TornStateError: The state is not whole.
            CheckpointError: It could not be written; those that there are stay as they are.
            ValueError: There is no run that it could belong to.
        """
        self.refuse_torn()
        trainer = self._trainer
        if trainer.run.path is None:
            raise ValueError(
                "runs=None: there is no run to keep a checkpoint in; trainer.save(path) writes one anywhere"
            )
        with trainer.interrupts.resting:
            trainer.run.save(trainer, tag=tag)

    def load(
        self,
        path: str | PathLike[str],
        *,
        only: str | Sequence[str] = (),
        skip: str | Sequence[str] = (),
    ) -> Report | None:
        """Go to the state of a checkpoint, or of a run's newest one, or take a part of it into the present state.

        What is loaded becomes as it was saved, all else stays as it is. Where the counters are loaded the run goes
        back or forth on a new branch, and says so. A script that is run again after a crash loads once, as `set` sets once.

        Args:
            path: The directory of a checkpoint or a run.
            only: What to load: paths of the state, as for `get`, each with all that is below it. Everything by default.
            skip: What to leave as it is, beside what components declare as `load_skip`. With `only` that is left aside, and
                so it is for the run's own checkpoints, which are loaded whole.

        Returns:
            What was loaded, kept and ignored; None where the whole state was loaded, or the run that goes on had loaded it
            before.

        Raises:
            CorruptCheckpoint: Its bytes are not those that were written.
            ValueError: It is of another model or of other data; the message names the paths.
            KeyError: A path matches nothing; the message names similar ones.
            TornStateError: A part was to be loaded into a state that is not whole.
            RuntimeError: The trainer runs: at this moment another thread works on its state.

        Example:
            `trainer.load("here", skip=["optimizer.param_groups.*.lr"])` keeps the present learning rate.
        """
        trainer, change = self._trainer, Change("load", str(path))
        with trainer.interrupts.resting, trainer.steering.once(trainer, change) as call:
            if not call.is_new:
                return None
            loaded = trainer.run.read_into(trainer, path, only, skip)
            trainer.load_state_dict(loaded.state)
        trainer.run.on_load(trainer, path, loaded)
        return loaded.report

    def get(self, path: str) -> Any:
        """The value at a path of the state tree; with `*` in it, a dictionary of all values that match.

        Raises:
            KeyError: There is none; the message names similar ones.

        Example:
            `trainer.get("optimizer.param_groups.*.lr")` gives `{"optimizer.param_groups.0.lr": 0.001}`.
        """
        return tree.get(self._trainer.state_dict(), path)

    def refuse_torn(self) -> None:
        """See that the state is whole.

        Raises:
            TornStateError: It is not.
        """
        progress, place = self._trainer.progress, self._trainer.run.path
        if progress.torn is not None:
            remedy = (
                "load a state that was kept before, with trainer.load_state_dict(state), or make the trainer anew"
                if place is None
                else f"load a checkpoint first, for example trainer.load({str(place)!r})"
            )
            raise TornStateError(
                f"{progress.torn}. The state is not whole, so training on would not be what it seems: {remedy}"
            )
