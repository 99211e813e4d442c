"""The trainer's verbs that save, load and let go. See `Run` for where the state goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.control.change import Change
from deeptrain.control.part import TrainerPart
from deeptrain.run.elsewhere import on_load, read_into, write
from deeptrain.run.whole import gather, restore
from deeptrain.state.progress import TornStateError

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence
    from os import PathLike

    import numpy as np
    import torch

    from deeptrain.checkpoint.partial import Report
    from deeptrain.trainer import Trainer


class SavingVerbs(TrainerPart):
    """The part of a `Trainer` by which its state is saved and loaded."""

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
            trainer.delivery.tell("save")
            write(trainer, path, only, skip)

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
            loaded = read_into(trainer, path, only, skip)
            trainer.load_state_dict(loaded.state)
        on_load(trainer.run, trainer, path, loaded)
        return loaded.report

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how the run goes on, as one tree. Tensors are the live ones, not copies.

        Inside a handler this is the state in which the handler has not been called yet, so that it will be.
        """
        return gather(self._trainer)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a saved state. If that fails in the middle, the trainer refuses to train until a load succeeds.

        Raises:
            ValueError: It is of another version, model, data or set of callbacks; the message names it.
        """
        delivery = self._trainer.delivery
        if delivery.handling is not None:
            raise RuntimeError(
                f"a state was to be loaded inside a handler of {delivery.handling[0]}: what is pending would be of two states; "
                "let the handler call trainer.pause(), and load once fit() has raised Interrupted"
            )
        delivery.newest = None
        restore(self._trainer, state)

    def log_picture(self, name: str, figure: Any) -> None:
        """Keep a picture of the present iteration with the run, and send it to its loggers; in a handler, or anywhere.

        It lies as `pictures/00000120-b0-NAME.png` in the run's directory: the iteration, the branch, the name. A handler that
        makes it again in a replay replaces it.

        Args:
            name: What it shows, such as "confusion".
            figure: A matplotlib figure, or the bytes of a PNG file.

        Raises:
            ValueError: The name cannot be a file's.
            TypeError: It is no picture.

        Example:
            `trainer.log_picture("rates", dt.find_lr(trainer).figure())`
        """
        self._trainer.loggers.add_picture(self._trainer, name, figure)

    def register_generator(
        self, name: str, generator: torch.Generator | np.random.Generator | random.Random
    ) -> None:
        """Make a generator of your own part of the state, so that it is saved, restored and rolled back."""
        self._trainer.streams.register(name, generator)

    def refuse_unclaimed(self) -> None:
        """See that there is a generator for each random stream of a state that was loaded.

        Raises:
            ValueError: There is not.
        """
        if unclaimed := self._trainer.streams.unclaimed:
            raise ValueError(
                f"the loaded state has the random streams {unclaimed}, which this trainer does not know: "
                "call trainer.register_generator(name, generator) for each before training"
            )

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

    def close(self) -> None:
        """Let go of the run's lock, its files and the loaders' workers. The trainer can still be looked at."""
        trainer = self._trainer
        trainer.loggers.close(trainer)
        trainer.run.close()
        trainer.train.close()
        trainer.judging.close()

    def __enter__(self) -> Trainer:
        return self._trainer

    def __exit__(self, *_: object) -> None:
        self.close()
