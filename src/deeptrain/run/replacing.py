"""Replacing parts of a trainer that rests: all or nothing, in the record, and with a checkpoint right behind it.

The run goes on with its counters and its history, and its settings are from then on those of the new parts: so it is
continued by a script that makes its trainer with them, and refused to one that does not.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from deeptrain.callbacks.handlers import Handlers
from deeptrain.control.change import steer_edits
from deeptrain.evaluation.judging import Judging
from deeptrain.integrations.torch_loader import as_feed
from deeptrain.parts import asked_for
from deeptrain.run.fingerprint import compare
from deeptrain.run.record import plain
from deeptrain.state.progress import Phase
from deeptrain.step.exchange import PARTS, Rest, exchange
from deeptrain.step.given import check_given
from deeptrain.step.parts import without_params
from deeptrain.step.rollback import Rollback
from deeptrain.step.supervised import SupervisedStep

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch.optim import Optimizer

    from deeptrain.data.feed import Feed
    from deeptrain.trainer import Trainer

# What a replacement may change of a trainer, beside its step.
_CHANGED = ("train", "judging", "handlers", "rollback", "settings", "replaced")
# Which settings a part of the step decides; a schedule decides over the rates that the optimizer begins with.
_SETTINGS = {
    "loss": ("loss",),
    "optimizer": ("optimizer",),
    "scheduler": ("scheduler", "scheduler_by", "optimizer"),
}
_COUNTED_BY = {"train", "loss"}  # what decides which labels are counted for balanced weights


def replace(trainer: Trainer, parts: dict[str, Any], scheduler_by: Any) -> str:
    """Replace parts. See `Trainer.replace`."""
    _refuse(trainer, parts, scheduler_by)
    try:
        with (
            trainer.interrupts
        ):  # a signal waits until it is made, and saved; so does who asks from another thread
            return _make(trainer, parts, scheduler_by)
    finally:
        trainer.steering.settle(trainer)


def _make(trainer: Trainer, parts: dict[str, Any], scheduler_by: Any) -> str:
    """Do it whole, or not at all."""
    trainer.run.begin(trainer)
    before = _Before(trainer, parts)
    try:
        said = _replace(trainer, parts, scheduler_by)
        told = _record(trainer, parts, before, said)
        trainer.run.save(trainer)
    except BaseException as error:
        before.put_back(trainer)
        trainer.run.journal("rejected", at=trainer.progress.train.iterations, reason=str(error))
        raise
    before.close(trainer)
    return told


class _Before:
    """What there was before, to be put back where a replacement fails."""

    def __init__(self, trainer: Trainer, parts: Mapping[str, Any]) -> None:
        self.kept = {name: getattr(trainer, name) for name in _CHANGED}
        self._learner = dict(vars(trainer.learner))
        given = [parts["optimizer"]] if "optimizer" in parts else []
        self._optimizers: list[Optimizer] = [*trainer.learner.optimizers(), *given]
        self._groups = [without_params(optimizer) for optimizer in self._optimizers]
        self._streams, self._replay_until = trainer.streams.capture(), trainer.run.replay_until
        progress = trainer.progress
        self._pass = progress.phase, progress.validation.batches, deque(progress.pending)

    def put_back(self, trainer: Trainer) -> None:
        """Make the trainer as it was."""
        for name, value in self.kept.items():
            setattr(trainer, name, value)
        vars(trainer.learner).clear()
        vars(trainer.learner).update(self._learner)
        for optimizer, groups in zip(self._optimizers, self._groups, strict=True):
            for group, values in zip(optimizer.param_groups, groups, strict=True):
                for key in set(group) - {*values, "params"}:
                    del group[key]
                group.update(values)
        progress = trainer.progress
        progress.phase, progress.validation.batches, progress.pending = self._pass
        trainer.listen()
        trainer.run.replay_until = self._replay_until
        self.put_back_streams(trainer)

    def put_back_streams(self, trainer: Trainer) -> None:
        """What was drawn meanwhile was not drawn by the training."""
        trainer.streams.restore(self._streams)

    def close(self, trainer: Trainer) -> None:
        """Let go of the files and processes of loaders that are no longer used."""
        used = (trainer.train, *trainer.judging.feeds())
        for old in (self.kept["train"], *self.kept["judging"].feeds()):
            if not any(old is one for one in used):
                old.close()


# ------------------------------------------------------------------ what is refused


def _refuse(trainer: Trainer, parts: Mapping[str, Any], scheduler_by: Any) -> None:
    if not parts:
        raise ValueError(
            "trainer.replace(): nothing is given to replace: name the new parts, replace(loss=...)"
        )
    trainer.refuse_torn()
    what = f"trainer.replace({', '.join(f'{name}=...' for name in parts)})"
    if trainer.delivery.handling is not None or trainer.interrupts.running:
        raise RuntimeError(
            f"{what} was called while the trainer runs: parts are replaced between two fit(); trainer.pause() brings there"
        )
    progress = trainer.progress
    if progress.phase is Phase.DONE:
        raise ValueError(
            f"{what}: the run is done, and nothing follows: start another from it with resume=its path"
        )
    unfinished = progress.phase is Phase.VALIDATE or any(
        task.kind != "checkpoint" for task in progress.pending
    )
    if unfinished and not _mends_the_pass(trainer, parts):
        pending = ", ".join(trainer.info().pending)
        raise ValueError(
            f"{what}: something is still to be done with the old parts ({pending}): have it done first, with "
            f"trainer.fit(until=dt.At(iteration={progress.train.iterations})); where it is the validation that fails, replace that alone"
        )
    _refuse_of_step(trainer, parts, scheduler_by, what)
    place = trainer.train.position
    if "train" in parts and place.iteration:
        raise ValueError(
            f"{what}: {place.iteration} pieces of batch {place.batch} are done: go on to the batch's end first, with "
            f"trainer.fit(until=dt.At(batch={progress.train.batches + 1}))"
        )


def _mends_the_pass(trainer: Trainer, parts: Mapping[str, Any]) -> bool:
    """Whether it is the validation alone that is replaced, and a pass of it that comes next."""
    pending = trainer.progress.pending
    return set(parts) == {"validation"} and bool(pending) and pending[0].kind == "validation"


def _refuse_of_step(trainer: Trainer, parts: Mapping[str, Any], scheduler_by: Any, what: str) -> None:
    own = [name for name in PARTS if name in parts]
    learner = trainer.learner
    if own and not isinstance(learner, SupervisedStep):
        raise TypeError(
            f"{what}: the step is a {type(learner).__name__}, which holds its parts in its own way: only train, validation and "
            "callbacks can be replaced; a function's parts are those of its variables"
        )
    if scheduler_by is not None and "scheduler" not in parts:
        raise ValueError(
            f"{what}: scheduler_by={scheduler_by!r} says when a new scheduler steps: give it too"
        )
    check_given(parts.get("loss"), parts.get("scheduler"), None, scheduler_by)
    if "loss" in parts and not callable(parts["loss"]):
        raise TypeError(
            f"{what}: found a loss of {parts['loss']!r}, expected a function of (predictions, targets)"
        )
    if "optimizer" in parts and not hasattr(parts["optimizer"], "param_groups"):
        raise TypeError(
            f"{what}: found {parts['optimizer']!r}, expected an optimizer over the model's parameters"
        )
    scheduled = getattr(learner, "scheduler", None)
    if "optimizer" in parts and "scheduler" not in parts and scheduled is not None:
        raise ValueError(
            f"{what}: the old optimizer is under a {type(scheduled).__name__}, which cannot be carried over: give scheduler= too, "
            "a function of (optimizer, totals) that makes one for the rest of the run, or None"
        )
    if "optimizer" not in parts and hasattr(parts.get("scheduler"), "step"):
        raise ValueError(
            f"{what}: found a {type(parts['scheduler']).__name__} over the optimizer that is in use, whose rates the old schedule "
            "has moved: give a function that makes it, scheduler=lambda optimizer, totals: ..."
        )


# ------------------------------------------------------------------ how it is made


def _replace(trainer: Trainer, parts: dict[str, Any], scheduler_by: Any) -> list[str]:
    """Put the new parts in; what is worth saying of it, in words."""
    said = []
    settings = dict(trainer.settings)
    train = as_feed(parts["train"], trainer.seed) if "train" in parts else trainer.train
    if "validation" in parts:
        old = trainer.judging
        trainer.judging = Judging(parts["validation"], trainer.seed)
        trainer.judging.refuse_unknown_best(trainer.checkpoints.best)
        said += _take_the_pass_over(trainer, old)
    judged = trainer.judging.validation
    loaders = () if judged is None else judged.loaders.values()
    if any(train is one for one in (*trainer.judging.feeds(), *loaders)) or any(
        one is parts.get("train") for one in loaders
    ):
        raise ValueError(
            "the train loader would be the validation's loader too: make a second one, each has its place"
        )
    if train is not trainer.train:
        said.append(_move(trainer.train, train))
        trainer.train = train
        steer_edits(trainer)
    if "train" in parts or "validation" in parts:
        trainer.judging.warn_of_shared_rows(train)
        settings["data"] = _data_settings(trainer, settings["data"], parts)
    if "callbacks" in parts:
        trainer.handlers = Handlers(
            parts["callbacks"], asked_for(trainer.learner, trainer.judging.validation)
        )
    settings["step"] = plain(_replace_of_step(trainer, parts, scheduler_by, settings["step"]))
    if not _COUNTED_BY.isdisjoint(parts) or "validation" in parts:
        trainer.judging.prepare_weights(trainer.learner)
        settings["validation"] = plain(trainer.judging.settings())
    if "optimizer" in parts:
        said.append("the optimizer's averages begin anew: nothing was carried over")
    trainer.settings = settings
    trainer.listen()
    return said


def _take_the_pass_over(trainer: Trainer, old: Judging) -> list[str]:
    """Where a pass comes next, or is under way, let the new validation make it; what is worth saying of it.

    The batches that were judged are computed again, silently: what was delivered of them stays delivered.
    """
    progress = trainer.progress
    if not progress.pending or progress.pending[0].kind != "validation":
        return []
    if trainer.judging.validation is None:
        progress.pending.popleft()
        progress.phase, progress.validation.batches = Phase.TRAIN, 0
        return ["the validation that was due is left out"]
    if progress.validation.batches and trainer.judging.data_settings() != old.data_settings():
        raise ValueError(
            f"trainer.replace(validation=...): {progress.validation.batches} batches of a pass are judged, whose handlers were called: expected "
            "a validation over the same data, or None, which leaves the pass out"
        )
    return ["the validation that was due is made by the new one"]


def _data_settings(trainer: Trainer, recorded: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the loaders that are new; of one that stays the recorded ones, as its order may have been edited."""
    train = plain(trainer.train.settings()) if "train" in parts else recorded["train"]
    if "validation" in parts:
        return {"train": train, **plain(trainer.judging.data_settings())}
    return {**recorded, "train": train}


def _move(old: Feed, new: Feed) -> str:
    """Move a new loader to where the run stands."""
    place = old.position
    new.phase = "train"
    if old.settings() == new.settings():
        new.load_state_dict(old.state_dict())
        return "the new train loader has the old one's order, and goes on at its place"
    new.seek(epoch=place.epoch)
    left = f" ({place.batch} batches of the old one were fed in it)" if place.batch else ""
    return f"the new train loader begins epoch {place.epoch + 1} at its first batch{left}"


def _replace_of_step(
    trainer: Trainer, parts: Mapping[str, Any], scheduler_by: Any, recorded: dict[str, Any]
) -> dict[str, Any]:
    """Put new parts into the step; give its settings."""
    learner, own = trainer.learner, {name: parts[name] for name in PARTS if name in parts}
    if not isinstance(learner, SupervisedStep):
        return recorded
    whole, rest = trainer.totals(), _rest(trainer)
    if "train" in parts and "scheduler" not in parts:
        learner.follow(whole, rest)
    if own:
        made, settings = exchange(learner, own, scheduler_by, whole, rest)
        vars(learner).update(vars(made))
        trainer.rollback = Rollback(trainer.streams, learner.modules())
        recorded = {**recorded, **{key: settings[key] for name in own for key in _SETTINGS[name]}}
    if learner.row_weights.is_balanced and not _COUNTED_BY.isdisjoint(parts):
        learner.count_labels(trainer.train)
        recorded = {**recorded, **plain(learner.row_weights.settings())}
    return recorded


def _rest(trainer: Trainer) -> Rest:
    """What is left of the run, from the loader's place on."""
    feed, epochs = trainer.train, trainer.epochs - trainer.progress.train.epochs
    epoch, batch, piece = feed.position
    batches = None if feed.batches is None else epochs * feed.batches
    first, last, whole = (feed.iterations(epoch + more) for more in (0, 1, epochs))
    iterations = None
    if None not in (first, last, whole, feed.batches):
        fed = (last - first) // feed.batches * batch + piece  # type: ignore[operator]
        iterations = whole - first - fed  # type: ignore[operator]
    return Rest(iterations, None if batches is None else batches - batch, iterations, epochs, trainer.epochs)


def _record(trainer: Trainer, parts: Mapping[str, Any], before: _Before, said: Iterable[str]) -> str:
    """Write down what was replaced by what; give it in words."""
    before.put_back_streams(trainer)
    at = trainer.progress.train.iterations
    mismatches = compare(before.kept["settings"], trainer.settings)
    old, new = list(before.kept["handlers"].by_name), list(trainer.handlers.by_name)
    changes = [*map(str, mismatches), *([f"callbacks: {old} -> {new}"] if old != new else []), *said]
    trainer.replaced = [*trainer.replaced, {"at": at, "parts": list(parts)}]
    entry = [
        {"path": m.path, "old": plain(repr(m.recorded)), "new": plain(repr(m.present))} for m in mismatches
    ]
    trainer.run.on_replace(at, list(parts), entry, said=changes)
    return f"replaced {', '.join(parts)} at iteration {at}" + "".join(f"\n  {line}" for line in changes)
