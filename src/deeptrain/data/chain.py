"""`Chain`: several preprocessors, one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deeptrain.data.batch import Batch, edits_of
from deeptrain.data.preprocess import Phase, Preprocessor
from deeptrain.data.seeded import seed_streams, streams_put_back
from deeptrain.state.hashing import mix

if TYPE_CHECKING:
    from deeptrain.step.base import Outcome


class Chain(Preprocessor):
    """Applies preprocessors in their order; one of them may make several pieces of a batch.

    What stands before that one is done to the whole batch, and all pieces are of the same result: with
    `Chain(Augment(flip), Windows(50))` a series is flipped in all of its windows or in none. What stands behind it is
    done to each piece, each time with other random numbers: `Chain(Repeat(3), Augment(noise))`.

    Args:
        *members: The preprocessors; chains among them are joined in.
        seed: For the random numbers of what is done to whole batches; a list that is given to a loader becomes a chain
            with the loader's seed.

    Raises:
        TypeError: Something is no `Preprocessor`.
        ValueError: Several of them make several pieces.

    Example:
        >>> import torch
        >>> from deeptrain.data.repeat import Repeat
        >>> from deeptrain.data.augment import Augment
        >>> chain = Chain(Repeat(3), Augment(lambda x: x + torch.randn_like(x)))
        >>> chain.pieces_in_total((28, 28), epoch=0)
        3
    """

    def __init__(self, *members: Preprocessor, seed: int = 0) -> None:
        flat: list[Preprocessor] = []
        for member in members:
            flat += member.members if isinstance(member, Chain) else [_checked(member)]
        self.members: tuple[Preprocessor, ...] = tuple(flat)
        self.seed = seed
        self.random = any(member.random for member in flat)
        self.may_be_empty = any(member.may_be_empty for member in flat)
        cutting = [place for place, member in enumerate(flat) if _makes_pieces(member)]
        if len(cutting) > 1:
            found = " and ".join(f"{type(flat[place]).__name__} (place {place})" for place in cutting)
            raise ValueError(
                f"Chain: found {found}, which all make several pieces of a batch; expected at most one that does. "
                f"Write a Preprocessor that does both"
            )
        at = cutting[0] if cutting else 0
        self._before: tuple[Preprocessor, ...] = self.members[:at]
        self._cutting: Preprocessor | None = self.members[at] if cutting else None
        self._behind: tuple[Preprocessor, ...] = self.members[at + len(cutting) :]
        self._held: tuple[Batch, Phase, int, Batch, int] | None = None

    def count(self, batch: Batch, phase: Phase) -> int | None:
        """Count the pieces that the one which makes several makes; 1 without such a one."""
        return 1 if self._cutting is None else self._cutting.count(self._prepared(batch, phase), phase)

    def piece(self, batch: Batch, iteration: int, phase: Phase) -> Batch:
        """Give a piece that went through all members."""
        if self._cutting is not None:
            batch = self._cutting.piece(self._prepared(batch, phase), iteration, phase)
        for member in self._behind:
            batch = member.piece(batch, 0, phase)
        return batch if batch.iteration == iteration else batch.replaced(iteration=iteration)

    def is_done(self, batch: Batch, iterations: int, outcome: Outcome | None, phase: Phase) -> bool:
        """Ask the one that makes several pieces."""
        if self._cutting is None:
            return True
        return self._cutting.is_done(self._prepared(batch, phase), iterations, outcome, phase)

    def pieces_in_total(self, row_shape: tuple[int, ...] | None, epoch: int) -> int | None:
        """Ask the one that makes several pieces; what stands before it may change the shape, which is not known then."""
        if self._cutting is None:
            return 1
        return self._cutting.pieces_in_total(None if self._before else row_shape, epoch)

    def settings(self) -> dict[str, Any]:
        """Describe the members, in their order."""
        return super().settings() | {
            "members": [member.settings() for member in self.members],
            "seed": self.seed,
        }

    def state_dict(self) -> dict[str, Any]:
        """Give the members' states, in their order."""
        return {"members": [member.state_dict() for member in self.members]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises:
            ValueError: It is of another number of members.
        """
        saved = state.get("members", [])
        if len(saved) != len(self.members):
            raise ValueError(
                f"Chain: the saved state is of {len(saved)} preprocessors, expected {len(self.members)}: "
                f"give the loader the same ones"
            )
        for member, part in zip(self.members, saved, strict=True):
            member.load_state_dict(part)

    def _prepared(self, batch: Batch, phase: Phase) -> Batch:
        """Give the batch as the members before the cutting one leave it; kept for the batch's other pieces."""
        if not self._before:
            return batch
        held = self._held
        if (
            held is not None
            and held[0] is batch
            and held[1:3] == (phase, edits_of(batch))
            and held[4] == edits_of(held[3])
        ):
            return held[3]
        with streams_put_back():
            prepared = batch
            for place, member in enumerate(self._before):
                seed_streams(mix(self.seed, "chain", phase, batch.epoch, batch.index, place))
                prepared = member.piece(prepared, 0, phase)
        self._held = (batch, phase, edits_of(batch), prepared, edits_of(prepared))
        return prepared


def _makes_pieces(member: Preprocessor) -> bool:
    kind = type(member)
    return kind.count is not Preprocessor.count or kind.is_done is not Preprocessor.is_done


def _checked(member: object) -> Preprocessor:
    if isinstance(member, Preprocessor):
        return member
    hint = "; wrap a function: Augment(fn)" if callable(member) else ""
    raise TypeError(f"Chain: found a {type(member).__name__}, expected a Preprocessor{hint}")
