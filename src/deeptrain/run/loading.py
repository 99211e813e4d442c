"""What `Trainer.load` reads, whole or in part, and what the load did, in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.checkpoint.format import read_whole
from deeptrain.checkpoint.partial import Report, merge, require_shapes, written_as
from deeptrain.checkpoint.selecting import patterns
from deeptrain.checkpoint.store import Newest
from deeptrain.checkpoint.weight_files import SUFFIXES
from deeptrain.run.branches import newest_of
from deeptrain.state.tree import components, matching

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from deeptrain.data.feed import Position
    from deeptrain.trainer import Trainer

_OPTIMIZER = {"state", "param_groups"}
_AVERAGES = {  # what torch's optimizers keep element by element
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "grad_avg", "acc_delta",
    "sum", "ax", "prev", "step_size",
}  # fmt: skip


class Place(NamedTuple):
    """Where a trainer stands: its count of iterations, and the train loader's cursor."""

    iterations: int
    cursor: Position

    @classmethod
    def of(cls, trainer: Trainer) -> Place:
        """Where it stands now."""
        return cls(trainer.progress.train.iterations, trainer.train.position)

    def moved(self, after: Place) -> str | None:
        """In words, how a load went back or forth; None where it stayed."""
        if self == after:
            return None
        order, fed = _order(self.cursor), _order(after.cursor)
        if self.iterations == after.iterations:
            return f"the loader went {_way(self.cursor, after.cursor)} from {order} to {fed}, the count stays at iteration {after.iterations}"
        line = f"went {_way(self.iterations, after.iterations)} from iteration {self.iterations} to {after.iterations}"
        return (
            f"{line}, and the loader to {fed}" if order != fed else f"{line}, while the loader stays at {fed}"
        )


def _way(before: Any, after: Any) -> str:
    return "back" if after < before else "forth"


def _order(cursor: Position) -> str:
    return f"epoch {cursor.epoch + 1}, batch {cursor.batch + 1}"


class Loaded(NamedTuple):
    """A state to go to.

    Attributes:
        state: The whole of it.
        report: What of it is the saved one's and what the present one's; None where all is the saved one's.
        before: Where the trainer stood when it was read.
        info: What the checkpoint says of itself, where the whole state is its.
    """

    state: dict[str, Any]
    report: Report | None
    before: Place
    info: dict[str, Any] | None = None

    def entry(self) -> dict[str, Any]:
        """What the journal tells of the load."""
        entry: dict[str, Any] = {"before": self.before.iterations}
        return entry if self.report is None else {**entry, "part": str(self.report)}


def wants_history(only: str | Sequence[str], skip: str | Sequence[str]) -> bool:
    """Whether patterns choose something of the history; where they do not, it need not be whole."""
    top: dict[str, Any] = {"history": {"series": {}}}
    if any(matching(top, pattern) for pattern in patterns("skip", skip)):
        return False
    wanted = patterns("only", only)
    return not wanted or any(matching(top, components(pattern)[0]) for pattern in wanted if pattern)


def read_state(path: str | PathLike[str], *, history: bool = True) -> Newest:
    """A checkpoint, or a run's newest whole one.

    Args:
        path: Its directory.
        history: Whether the history is wanted. Else its series may be empty, and need not be whole.

    Raises:
        ValueError: It is a file of weights.
        CheckpointError: There is no whole checkpoint.
    """
    place = Path(path)
    if place.suffix in SUFFIXES and not place.is_dir():
        raise ValueError(
            f"{place}: found the name of a file of weights, expected the directory of a run or a checkpoint: weights alone "
            f"are loaded by dt.load_weights({str(place)!r}, model), and the rest of the state stays as it is"
        )
    if (place / "checkpoints").is_dir():
        return newest_of(place, history=history)
    tree, info, chain = read_whole(place, history=history)
    return Newest(place, tree, info, [], chain=chain)


def merged(
    trainer: Trainer, saved: Newest, only: str | Sequence[str], skip: str | Sequence[str]
) -> tuple[dict[str, Any], Report]:
    """The present state with a part of a saved one in it, seen to fit before anything is changed.

    Raises:
        UnknownPathError, ValueError: See `partial.merge` and `partial.require_shapes`.
    """
    present = trainer.state_dict()
    state, report = merge(present, saved.tree, only, skip, written=written_as(saved.info))
    owned = (p for module in trainer.learner.modules() for p in module.parameters())
    require_shapes(present, state, {p.data_ptr() for p in owned if p.numel()})
    _require_averages(trainer, state)
    return state, report


def _require_averages(trainer: Trainer, state: dict[str, Any]) -> None:
    """See that what optimizers keep for each element of a parameter is of its shape; a step would tear the state.

    Raises:
        ValueError: It is not, as where a layer of another width kept its weights and got the averages of the saved one.
    """
    optimizers = trainer.learner.optimizers()
    parts = [(name, x) for name, x in state.items() if type(x) is dict and _OPTIMIZER.issubset(x)]
    if len(parts) != len(optimizers):
        return  # a step of the user's, which lays its state out otherwise
    for (name, part), optimizer in zip(parts, optimizers, strict=True):
        numbers = [n for group in part["param_groups"] for n in group["params"]]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=False):
            for key, x in part["state"].get(number, {}).items():
                if key in _AVERAGES and getattr(x, "shape", parameter.shape) != parameter.shape:
                    raise ValueError(
                        f"{name}.state.{number}.{key}: found shape {list(x.shape)}, expected {list(parameter.shape)}, that of "
                        f"its parameter: leave it out, with skip=['{name}.state.{number}']; nothing was changed"
                    )


def say(trainer: Trainer, line: str) -> None:
    """Print one line where the trainer prints."""
    trainer.display.say(line)
