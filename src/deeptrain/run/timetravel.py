"""The trainer's verbs that go back in time and try other ways on. See `Rewind`, `forking` and `Trial`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deeptrain.control.change import Change
from deeptrain.control.part import TrainerPart
from deeptrain.control.trial import Trial, kept_in, tried
from deeptrain.control.trial import keep as write_down
from deeptrain.data.batch import Batch
from deeptrain.data.edits import Skip
from deeptrain.run.forking import fork, forks_of, origin_of
from deeptrain.state.cadence import At
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deeptrain.trainer import Trainer
    from deeptrain.tuning.dry import DryRun


class TimeVerbs(TrainerPart):
    """The part of a `Trainer` by which it goes back in time, and tries other ways on."""

    def rewind(
        self,
        *,
        to: At | str | Path | None = None,
        batches: int | None = None,
        skip: Literal["last"] | Batch | Sequence[Batch] = (),
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
            skip: Batches whose rows are passed over, each in its epoch; "last" is the newest one that was fed, which a script that
                is run again after a crash can say too, where `trainer.last` is None.
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
        trainer = self._trainer
        value = _where(trainer, to, batches)
        if skipped := _skipped(skip):
            if not interventions:
                raise ValueError(
                    "rewind(skip=..., interventions=False): found both, expected one: rewind first, then trainer.train.skip(rows=...)"
                )
            value["skip"] = skipped
        if not interventions:
            value["interventions"] = False
        return trainer.steering.ask(trainer, Change("rewind", _in_words(value), value))

    def fork(self, name: str) -> Path:
        """Begin another run with the present state, beside this one; the trainer stays on its own.

        The new run's record names its parent and the iteration. A trainer that is made with its name continues it:
        `Trainer(..., name="half-lr")`. A script that is run again after a crash forks once.

        Args:
            name: The new run's name.

        Returns:
            Its directory.

        Raises:
            ValueError: There is no run, or the name cannot be used.
            TornStateError: The state is not whole.
            RuntimeError: The trainer runs, or a handler asks: pause it first.

        Example:
            `trainer.fork("half-lr")`
        """
        trainer = self._trainer
        trainer.refuse_torn()
        run = self._require_run("fork")
        _refuse_handler(trainer, "fork")
        if run.name.partition("__")[2] == name:
            raise ValueError(
                f"fork({name!r}): that is the name of this run, which would go on from the fork then: give another"
            )
        with trainer.steering.once(trainer, Change("fork", name)) as call:
            known = [
                path
                for path, origin in forks_of(run, name)
                if not call.is_new or origin == origin_of(trainer)
            ]
            if (
                known and call.number is not None
            ):  # a script's, made before; perhaps the process died right behind it
                return known[-1]
        trainer.delivery.tell("save")
        place = fork(trainer, name)
        trainer.run.journal("forked", at=trainer.progress.train.iterations, path=place.name)
        trainer.display.say(
            f"{place}: a new run from {run.name} at iteration {trainer.progress.train.iterations}"
        )
        return place

    def try_(
        self,
        variants: Mapping[str, Callable[[Trainer], Any]],
        *,
        batches: int,
        keep: str | Callable[[Trial], str | None] | None = None,
    ) -> Trial:
        """Try several ways to go on, each from this exact state and on the same batches, and compare them.

        Each variant is a function that takes the trainer and changes something: a value (`trainer.set`), the order, a layer's
        attribute. It is trained for so many batches; then everything is put back as it was. Nothing of it is saved, and sinks are
        told of a replay. With `keep` the run goes on with one of them: its function is called once more, as part of the record, and
        the next `fit()` comes to the figures that were seen here.

        Args:
            variants: The functions by name.
            batches: How many batches each is trained for; fewer where the run ends before.
            keep: Which one to go on with: a name, or a function that is given the trial and returns one, or None for none.

        Returns:
            The figures of each; its text is a table, `plot(path)` draws the curves.

        Raises:
            ValueError: There are no variants, or none of that name is kept; the run is done.
            TornStateError: The state is not whole.
            RuntimeError: The trainer runs, or a handler asks: pause it first.

        Example:
            ```
            def half(trainer):
                trainer.set("optimizer.param_groups.*.lr", 0.5e-3)

            trial = trainer.try_({"half-lr": half, "as it is": lambda trainer: None}, batches=200)
            trial.plot("trial.png")
            ```
        """
        trainer = self._trainer
        trainer.refuse_torn()
        _refuse_handler(trainer, "try_")
        _refuse_variants(trainer, variants, batches, keep)
        with trainer.steering.once(trainer, Change("try", ", ".join(variants))) as call:
            trial = None if call.is_new or call.number is None else kept_in(trainer, call.number)
        if trial is None:
            trial = tried(trainer, variants, batches)
            kept = keep(trial) if callable(keep) else keep
            if kept is not None and kept not in variants:
                raise ValueError(f"try_(keep=...): found {kept!r}, expected one of {list(variants)}, or None")
            trial = replace(trial, kept=kept)
            write_down(trainer, trial, call.number)
        if trial.kept is not None and trial.kept in variants:
            variants[trial.kept](trainer)
        return trial

    def dry_run(self) -> DryRun:
        """Touch everything that a run does once, and leave nothing behind: one train batch, one validation batch, one checkpoint.

        The batch is the last one of an epoch, where the loader can go there, so that all that follows from an epoch's end is
        called too: handlers, schedulers, a validation of a single batch. The checkpoint goes to a temporary directory, is read
        back and compared. Then everything is put back, also where something raises. Handlers are told of a replay; what they do
        outside the run is theirs. Loggers are told nothing.

        Returns:
            What was found.

        Raises:
            Exception: Whatever would stop the run.
            ValueError: The run is done; or a state does not come back from a checkpoint as it was, the message names the paths.
            TornStateError: The state is not whole.
            RuntimeError: The trainer runs, or a handler asks.

        Example:
            `print(trainer.dry_run())`
        """
        from deeptrain.tuning.dry import dry_run  # noqa: PLC0415 - made once in a while

        return dry_run(self._trainer)

    def _require_run(self, verb: str) -> Path:
        run = self._trainer.run.path
        if run is None or self._trainer.run.checkpoints is None:
            raise ValueError(
                f"{verb}: runs=None, or the trainer was closed: there is no run; give the trainer runs=..."
            )
        return run


def _refuse_handler(trainer: Trainer, verb: str) -> None:
    if trainer.delivery.handling is not None:
        raise RuntimeError(
            f"trainer.{verb} was called in a handler of {trainer.delivery.handling[0]}: let the handler call trainer.pause(), and call it "
            "once fit() has raised Interrupted"
        )


def _refuse_variants(trainer: Trainer, variants: Any, batches: Any, keep: Any) -> None:
    if not isinstance(variants, dict) or not variants or not all(map(callable, variants.values())):
        raise ValueError(
            f"try_({variants!r:.80}): expected a dict of functions that take the trainer, by name"
        )
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        raise ValueError(f"try_(batches={batches!r}): expected a whole number from 1 up")
    if keep is not None and not callable(keep) and keep not in variants:
        raise ValueError(f"try_(keep={keep!r}): expected one of {list(variants)}")
    if trainer.progress.phase is Phase.DONE:
        raise ValueError("try_: the run is done; go back first, with trainer.rewind, or ask for more epochs")


def _where(trainer: Trainer, to: Any, batches: Any) -> dict[str, Any]:
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
    if isinstance(to, Path) or (isinstance(to, str) and Path(to).is_dir()):
        return {"checkpoint": _own(trainer, Path(to))}
    if isinstance(to, str):
        return {"checkpoint": to}
    raise TypeError(
        f"rewind(to={to!r}): expected a point such as dt.At(epoch=2), or a checkpoint's tag, name or path"
    )


def _own(trainer: Trainer, path: Path) -> str:
    """The name of a checkpoint of the trainer's own run."""
    run = trainer.run.path
    if run is None or path.resolve().parent != (run / "checkpoints").resolve():
        raise ValueError(
            f"rewind(to={str(path)!r}): it is no checkpoint of {run}: another run's state is loaded by trainer.load, or begins a "
            "run of its own with Trainer(resume=...)"
        )
    return path.name


def _skipped(skip: Any) -> Literal["last"] | list[dict[str, Any]]:
    if skip == "last":
        return "last"
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
