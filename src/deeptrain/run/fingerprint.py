"""Whether a script is the one that a run was started with: the differences of their settings, by path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.run.record import plain
from deeptrain.state.tree import join, split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from os import PathLike

_LISTED = 30
_LENGTH = 100


class _Absent:
    """Stands for a value that only the other side has."""

    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


class Mismatch(NamedTuple):
    """A setting that differs.

    Attributes:
        path: Its path, with the escapes of state paths.
        recorded: The run's value, or `ABSENT`.
        present: The script's value, or `ABSENT`.
    """

    path: str
    recorded: Any
    present: Any

    def __str__(self) -> str:
        keys = split(self.path)
        name = ".".join(keys)
        if "model" not in keys[:-1]:
            return f"{name}: {_text(self.recorded)} -> {_text(self.present)}"
        if self.present is ABSENT:
            return f"{name}: missing in the script's model (the run has {_text(self.recorded)})"
        if self.recorded is ABSENT:
            return f"{name}: unexpected: only the script's model has it ({_text(self.present)})"
        return f"{name}: {_text(self.recorded)} in the run, {_text(self.present)} in the script"


class FingerprintMismatch(ValueError):  # noqa: N818 - what it is, and a public name
    """The script is not the one that the run was started with. Nothing was trained.

    Args:
        mismatches: Each setting that differs.
        run: The run.
        replaced: What was replaced in it on the way, see `Trainer.replace`.

    Attributes:
        mismatches: Each setting that differs.
    """

    def __init__(
        self,
        mismatches: Iterable[Mismatch],
        run: str | PathLike[str] | None = None,
        replaced: Iterable[dict[str, Any]] = (),
        *,
        from_path: bool = False,
    ) -> None:
        self.mismatches = list(mismatches)
        super().__init__(
            _message(self.mismatches, run, from_path=from_path) + _of_replaced(self.mismatches, replaced)
        )


def compare(recorded: dict[str, Any], present: dict[str, Any]) -> list[Mismatch]:
    """Compare settings: nested dicts and lists of plain values, by path.

    Both are first brought to the form that a record has, so that a tuple is equal to the list that JSON made of
    it. A list of plain values, such as a shape, is one value.

    Args:
        recorded: The run's.
        present: The script's.

    Example:
        >>> [str(m) for m in compare({"seed": 0, "lr": 0.1}, {"seed": 0, "lr": 0.2})]
        ['lr: 0.1 -> 0.2']
    """
    run, script = dict(_values("", plain(recorded))), dict(_values("", plain(present)))
    return [
        Mismatch(path, run.get(path, ABSENT), script.get(path, ABSENT))
        for path in run | script
        if not _same(run.get(path, ABSENT), script.get(path, ABSENT))
    ]


def _values(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    below: Iterable[tuple[str | int, Any]]
    if isinstance(node, dict):
        below = node.items()  # an empty one is nothing, and what the other side has in it is the mismatch
    elif isinstance(node, list) and any(isinstance(item, dict | list) for item in node):
        below = enumerate(node)
    else:
        yield path, node
        return
    for key, child in below:
        yield from _values(join(path, key), child)


def _same(a: Any, b: Any) -> bool:
    """Equal in value and type: 1 is neither True nor 1.0 here."""
    return repr(a) == repr(b)


def _text(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 3]}..."


_CHOICES = (
    'choose: resume="new" starts another run; resume="keep" goes on with the run\'s values; resume="take" goes '
    "on with the script's. A model with other parameters needs a new run."
)
_OF_PATH = (
    "resume= with a path goes on from that state with the settings of then. For others: make the trainer without resume= and "
    "load what is wanted, trainer.load(path, skip=['optimizer.param_groups.*.lr']) or only=['model']; or say on the part what "
    "of it never comes from a saved state, step.load_skip = ['optimizer.param_groups.*.lr']."
)


def _message(mismatches: list[Mismatch], run: str | PathLike[str] | None, *, from_path: bool = False) -> str:
    lines = "".join(f"\n  {mismatch}" for mismatch in mismatches[:_LISTED])
    more = f"\n  and {len(mismatches) - _LISTED} more" if len(mismatches) > _LISTED else ""
    which = "the run" if run is None else f"the run {run}"
    return (
        f"{which} was started with other settings than this script's (the run's -> the script's):{lines}{more}\n"
        f"{_OF_PATH if from_path else _CHOICES}"
    )


def part_of(path: str) -> str:
    """Which part a setting belongs to, as `Trainer.replace` calls them."""
    first, *rest = split(path)
    below = rest if first in {"step", "data"} else []
    return [*below, first][0].removesuffix("_by")


def _of_replaced(mismatches: list[Mismatch], replaced: Iterable[dict[str, Any]]) -> str:
    """What became of the parts that differ, where they were replaced on the way."""
    parts = {part_of(mismatch.path) for mismatch in mismatches}
    lines = [
        f"\n  {', '.join(each['parts'])} at iteration {each['at']}"
        for each in replaced
        if not parts.isdisjoint(each["parts"])
    ]
    if not lines:
        return ""
    return (
        f"\nparts of the run were replaced on the way (trainer.replace):{''.join(lines)}\n"
        "so make the trainer with the new parts and without that call, and it goes on; or start from a checkpoint of before, "
        "with its path as resume=..., where there still is one"
    )
