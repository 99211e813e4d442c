"""`Standing`: what a run still has of the promise. It knows where the environment became another, and never forgets it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.introspect.suspects import generators
from deeptrain.run.environment import surroundings
from deeptrain.run.guarantee import Guarantee, Reason, alone, between

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deeptrain.trainer import Trainer

# Part of the state or of the settings: a change of them by the run itself is no change of the environment.
OF_THE_STATE = ("optimizers", "loader", "batch_size", "shuffle", "pieces", "workers")


class Standing:
    """The environment in which a run has trained, and each place where it became another.

    What counts is where something is computed: an environment that is changed and changed back while the trainer rests
    costs nothing, nor does one that is changed before the first iteration.

    Attributes:
        environment: The one in which the present state was computed; before the first iteration, the present one.
        announced: The newest one that was seen, for the record.
        broken: For each place where something of the promise was lost: `at`, the last iteration before it; `order`,
            whether the order of samples was lost too; `reasons`. Each checkpoint has this list.
    """

    def __init__(self) -> None:
        self.environment: dict[str, Any] = {}
        self.announced: dict[str, Any] = {}
        self.broken: list[dict[str, Any]] = []
        self._at = 0  # the iteration up to which `environment` is known to be the one
        self._fresh, self._restored = True, False
        self._more: list[Reason] = []

    def begin(self, trainer: Trainer) -> None:
        """A new run begins."""
        self.environment = self.announced = surroundings(trainer)

    def go_on(self, trainer: Trainer, info: Mapping[str, Any], more: Sequence[Reason] = ()) -> list[Reason]:
        """A run goes on from a checkpoint.

        Args:
            trainer: The trainer, its state loaded.
            info: What the checkpoint says of itself.
            more: What else is not as it was.

        Returns:
            What differs between the environment that wrote the checkpoint and the present one, and `more`. It is
            kept once the run trains.
        """
        self.announced = surroundings(trainer)
        self.environment = dict(info.get("environment") or self.announced)
        self.broken = [dict(entry) for entry in info.get("broken", ())]
        self._at, self._more = trainer.progress.train.iterations, list(more)
        self._fresh, self._restored = False, True
        return self._changed(trainer, self.announced)

    def is_behind(self, trainer: Trainer) -> bool:
        """Whether something was computed since the last look."""
        return trainer.progress.train.iterations != self._at

    def look(self, trainer: Trainer) -> list[Reason]:
        """Before or after something is computed: see whether the environment is still the one, and keep that it is not.

        Returns:
            What differs, if it was not said by `go_on`.
        """
        at, present = trainer.progress.train.iterations, surroundings(trainer)
        if present == self.announced and not (
            self._fresh or self._restored or self._more or _astray(trainer)
        ):
            self.environment, self._at = present, at  # as mostly; a loop may start and stop often
            return []
        before, fresh = self.announced, self._fresh
        lost = [reason for reason in self._changed(trainer, present) if reason.costs != "nothing"]
        if lost:
            order = any(reason.costs == "order" for reason in lost)
            self.broken.append({"at": self._at, "order": order, "reasons": [str(reason) for reason in lost]})
        self.environment = self.announced = present
        self._at, self._more, self._fresh, self._restored = at, [], False, False
        return [] if fresh else between(_fixed(before), _fixed(present))

    def _changed(self, trainer: Trainer, present: Mapping[str, Any]) -> list[Reason]:
        """What differs from the environment in which the present state was computed, and is not kept yet."""
        known = {text for entry in self.broken for text in entry["reasons"]}
        astray = [reason for reason in _astray(trainer) if str(reason) not in known]
        if self._fresh:
            return astray
        if self._restored:
            return [*between(self.environment, present), *self._more, *astray]
        return [*between(_fixed(self.environment), _fixed(present)), *astray]

    def as_saved(self, trainer: Trainer) -> dict[str, Any]:
        """What a checkpoint says of it."""
        if not self._restored:
            present = surroundings(trainer)
            self.environment = {**self.environment, **{name: present[name] for name in OF_THE_STATE}}
        return {"environment": self.environment, "broken": [dict(entry) for entry in self.broken]}

    def guarantee(self, trainer: Trainer) -> Guarantee:
        """What holds now, and why. Nothing is kept of it."""
        present = surroundings(trainer)
        changed = [
            Reason(f"after iteration {self._at}: {text}", costs)
            for text, costs in self._changed(trainer, present)
        ]
        found = [*self.lost(), *changed, *alone(present), *_seen(trainer)]
        return Guarantee.of(found if self.broken or changed else [_as_it_is(present), *found])

    def lost(self) -> list[Reason]:
        """What the run had lost by the newest start or since."""
        return [
            Reason(f"after iteration {entry['at']}: {text}", "order" if entry["order"] else "bits")
            for entry in self.broken
            for text in entry["reasons"]
        ]


def _fixed(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environment.items() if name not in OF_THE_STATE}


def _as_it_is(environment: Mapping[str, Any]) -> Reason:
    threads, on = environment["threads"], environment["deterministic"]
    return Reason(
        f"one environment since the run's beginning: {environment['device']}, {threads} thread{'' if threads == 1 else 's'}, "
        f"deterministic algorithms {'on' if on else 'off'}",
        "nothing",
    )


def _seen(trainer: Trainer) -> list[Reason]:
    """What the parts of a trainer tell."""
    order = type(trainer.train).__name__ == "IterableFeed"
    found = [
        Reason(text, "order" if order and text.startswith("data.train.") else "bits")
        for text in generators(trainer)
    ]
    if trainer.progress.torn is not None:
        found.append(Reason("the state is not whole: load a checkpoint"))
    if trainer.run.path is None:
        found.append(
            Reason(
                "runs=None: nothing is saved by itself; it holds for interrupts in this process and for what you save",
                "nothing",
            )
        )
    return found


def _astray(trainer: Trainer) -> list[Reason]:
    text = getattr(trainer.train, "astray", None)
    return [] if text is None else [Reason(text, "order")]
