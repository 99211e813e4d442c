"""What components say of themselves: which of their values are never saved, or never loaded.

`save_skip` and `load_skip` of a step, a loader, a validation or a callback are patterns relative to its own place in
the state tree. They hold for what goes between runs: `Trainer.save`, `Trainer.load`, and a new run that starts from
another one's state. A run's own checkpoints hold everything and are loaded whole, or it would not go on to the same
bits. What a component needs no saving of, it leaves out of its `state_dict`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from deeptrain.checkpoint.partial import written_as
from deeptrain.checkpoint.selecting import Choice, patterns
from deeptrain.checkpoint.store import Newest
from deeptrain.run.loading import merged, say
from deeptrain.state import tree
from deeptrain.state.tree import UnknownPathError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deeptrain.run.fingerprint import Mismatch
    from deeptrain.run.resume import Found
    from deeptrain.trainer import Trainer

Which = Literal["save_skip", "load_skip"]


class _Component(NamedTuple):
    """A part that may declare something.

    Attributes:
        place: Its path in the state tree; "" for the step, whose keys stand at the top.
        thing: The part.
    """

    place: str
    thing: Any


def _components(trainer: Trainer) -> Iterator[_Component]:
    yield _Component("", trainer.learner)
    yield _Component("data.train", trainer.train)
    if trainer.judging.validation is not None:
        yield _Component("data.validation", trainer.judging.validation)
    for name, callback in trainer.handlers.by_name.items():
        yield _Component(tree.join("callbacks", name), callback)


def declared(trainer: Trainer, which: Which, among: Sequence[Any]) -> tuple[str, ...]:
    """What the components declare, as patterns of the whole state.

    A pattern that matches nothing now is left out: what it is meant for may come with training.

    Args:
        trainer: Whose components.
        which: `save_skip` or `load_skip`.
        among: The states in which they are looked up.

    Raises:
        TypeError: A component declares something that is no pattern.
        UnknownPathError: It names what is no part of the component's state.
    """
    found: list[str] = []
    own = list(trainer.learner.state_dict())
    for place, thing in _components(trainer):
        name = f"{type(thing).__name__}.{which}"
        for pattern in patterns(name, getattr(thing, which, ())):
            path = f"{place}.{pattern}" if place else pattern
            _require_own(name, place, pattern, among if place else [{key: among[0].get(key) for key in own}])
            if any(tree.matching(state, path) for state in among):
                found.append(path)
    return tuple(found)


def _require_own(name: str, place: str, pattern: str, among: Sequence[Any]) -> None:
    first = tree.components(pattern)[:1]
    root = ".".join([place, *first] if place else first)
    if not first or not any(tree.matching(state, root) for state in among):
        near = tree.similar(among[0], root)
        where = f"of the state at {place}" if place else "of the step's state"
        raise UnknownPathError(f"{name} = {pattern!r}: there is nothing at this {where}{near}")


def to_skip(trainer: Trainer, saved: Newest) -> tuple[str, ...]:
    """What `Trainer.load` leaves out by itself: nothing of the run's own checkpoints, nor into a state that is torn."""
    skip = declared(trainer, "load_skip", [trainer.state_dict(), saved.tree])
    if not skip:
        return ()
    run = trainer.run.path
    if run is not None and saved.path.resolve().is_relative_to(run.resolve()):
        say(trainer, _left_aside(skip, "the run goes on from its own checkpoint"))
        return ()
    if trainer.progress.torn is not None:
        say(trainer, _left_aside(skip, "the present state is not whole, and has nothing to keep"))
        return ()
    return skip


def say_left_aside(trainer: Trainer) -> None:
    """Say that a run which goes on takes all of its own state, whatever its components declare."""
    if skip := declared(trainer, "load_skip", [trainer.state_dict()]):
        say(
            trainer, _left_aside(skip, "the run goes on from its own checkpoint, or its bits would be others")
        )


def _left_aside(skip: Sequence[str], why: str) -> str:
    return f"load_skip is left aside ({', '.join(skip)}): {why}"


def not_skipped(trainer: Trainer, found: Found, mismatches: list[Mismatch]) -> list[Mismatch]:
    """The settings that differ, without those of values of a step that a new run does not take over."""
    if found.parent is None or found.travel is not None or found.state is None:
        return mismatches
    among = [trainer.state_dict(), found.state]
    taken = Choice(among, (), declared(trainer, "load_skip", among))
    return [m for m in mismatches if not m.path.startswith("step.") or taken(m.path.removeprefix("step."))]


def begins_with(trainer: Trainer, found: Found) -> Any:
    """The state that a run starts with: of another run's without what is not to be taken over, of its own the whole."""
    if found.parent is None or found.travel is not None:  # the latter comes to a point of that run again
        return found.state
    saved = Newest(found.parent, found.state, found.info, [])
    skip = declared(trainer, "load_skip", [trainer.state_dict(), found.state])
    if not skip and written_as(found.info) is None:
        return found.state
    state, report = merged(trainer, saved, (), skip)
    say(trainer, f"{found.parent}: {report}")
    return state
