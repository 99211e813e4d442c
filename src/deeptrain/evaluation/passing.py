"""`Pass`: one pass over the validation data, batch by batch, and the figures of the whole of it.

Each batch is evaluated under random streams seeded from (seed, pass, batch), which are put back afterwards. So
how often one validates never changes the training, and any part of a pass can be computed again alone. A pass
that a process death cut short does exactly that: predictions are not saved, they are recomputed silently.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from deeptrain.evaluation.figures import figures_of
from deeptrain.evaluation.joining import joined
from deeptrain.evaluation.judgement import Judged
from deeptrain.evaluation.keeping import kept
from deeptrain.evaluation.several import Several
from deeptrain.step.rollback import Rollback
from deeptrain.step.row_weights import WeighsPasses
from deeptrain.step.stateful import reset_states

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deeptrain.data.batch import Batch
    from deeptrain.data.feed import Feed
    from deeptrain.evaluation.validation import Validation
    from deeptrain.state.randomness import Streams
    from deeptrain.step.base import Outcome, Step


class Pass:
    """One pass under way: what it has gathered, batch by batch.

    Args:
        validation: The settings.
        feed: The data.
        step: What evaluates a batch.
        streams: The random streams, put back after each batch.
        key: What the streams are seeded from, together with the batch's index.
        place: Where files go, past the bound of memory.

    Attributes:
        done: How many batches were gathered.
        ended: Whether they are all of the pass.
        kept: What `figures` found besides, by the loader's name; plain values and arrays.
        parts: What was gathered, by the loader's name; "" where there is one that has none.
    """

    def __init__(
        self,
        validation: Validation,
        feed: Feed | Several,
        step: Step,
        streams: Streams,
        *,
        key: tuple[int | str, ...],
        place: Path | None = None,
    ) -> None:
        self._validation, self._feed, self._step, self._streams, self._key = (
            validation,
            feed,
            step,
            streams,
            key,
        )
        self._rollback = Rollback(streams, step.modules())
        self.done, self.ended = 0, False
        self.kept: dict[str, dict[str, Any]] = {}
        feeds = feed.feeds if isinstance(feed, Several) else {"": feed}
        self.parts = {name: Judged(name, validation.memory, place) for name in feeds}
        self._staged: Judged | None = None
        self._weighed: list[torch.Tensor | None] = []  # of the pieces; working them out may draw numbers

    def evaluate(self) -> list[tuple[Batch, Outcome]]:
        """Evaluate the batch at the feed's cursor, in all of its pieces; nothing counts yet and nothing moves.

        What a module carries from piece to piece begins anew with the batch, and is put back after it.
        """
        self._feed.whole()  # under the streams as they are: reading draws from none
        at = self._feed.position.batch
        with self._aside(at):
            reset_states(self._step.modules())
            self._weighed = []
            pieces = self._feed.through(self._evaluate)
        part = self.parts[self._feed.name_of(at) if isinstance(self._feed, Several) else ""]
        rows = [
            kept(batch, outcome, weights)
            for (batch, outcome), weights in zip(pieces, self._weighed, strict=True)
        ]
        if self._validation.join is not None:
            rows = joined(self._validation.join, rows)
        part.stage(
            at, [each.tree() for each in rows], _loss_of(pieces), pieces[0][0].table if pieces else None
        )
        self._staged = part
        return pieces

    def _evaluate(self, batch: Batch) -> Outcome:
        outcome, weights = self._step.evaluate(batch), self._weights_of(batch)
        self._weighed.append(weights)
        if weights is not None:
            loss = self._weigher.weighted_loss_over(outcome.predictions, batch.targets, weights)
            outcome.loss = torch.tensor(loss, dtype=torch.float64)
        return outcome

    def _weights_of(self, batch: Batch) -> torch.Tensor | None:
        """Give the weights of a batch's rows in the loss; None where the validation weighs none."""
        if not self._validation.row_weights:
            return None
        return self._validation.row_weights.of(batch, self._weigher.ignored_class)

    @property
    def _weigher(self) -> WeighsPasses:
        assert isinstance(self._step, WeighsPasses)  # see `Judging.prepare_weights`
        return self._step

    @contextmanager
    def _aside(self, what: int | str) -> Iterator[None]:
        """Seed the streams for one piece of the pass; put them, and the modules' buffers, back after it.

        Raises:
            ValueError: A parameter was changed, so that the training would not be what it is without validation.
        """
        parameters = [p for module in self._step.modules() for p in module.parameters()]
        versions = [p._version for p in parameters]  # noqa: SLF001
        self._rollback.capture()
        try:
            self._streams.seed(*self._key, what)
            yield
        finally:
            self._rollback.restore()
        if versions != [p._version for p in parameters]:  # noqa: SLF001
            raise ValueError(
                "evaluating changed the model's parameters in place (an nn.Embedding with max_norm does so in its "
                "forward), so that validating would change the training: renormalise in a callback instead"
            )

    def gather(self) -> None:
        """Let the batch that was evaluated count, and move on; cannot fail for what was found."""
        assert self._staged is not None
        self._staged.commit()
        self._staged = None
        self.done += 1
        self.ended = self._feed.advance()

    def catch_up(self, batches: int | None = None) -> None:
        """Compute the first batches of the pass again, silently; by default all of it."""
        self._feed.seek(epoch=0)
        self.done, self.ended = 0, False
        for part in self.parts.values():
            part.forget()
        while not self.ended and (batches is None or self.done < batches):
            self.evaluate()
            self.gather()

    def figures(self) -> dict[str, float]:
        """Loss and metrics over the whole pass, those of a named loader behind its name and a dot.

        Raises:
            ValueError: A metric gave something that is no number; the message names it. Or there is nothing to judge.
        """
        found: dict[str, float] = {}
        self.kept = {}
        with self._aside("figures"), torch.no_grad():
            for name, part in self.parts.items():
                if not part.batches and any(other.batches for other in self.parts.values()):
                    continue  # a dry run does not come to it
                if not len(part):
                    raise ValueError(_nothing(part))
                before = f"{name}." if name else ""
                figures, kept = figures_of(self._validation, self._step, part)
                if kept:
                    self.kept[name] = kept
                found |= {f"{before}{key}": value for key, value in figures.items()}
        return found


def _loss_of(pieces: list[tuple[Batch, Outcome]]) -> float | None:
    """The loss of a batch: the mean of its pieces', by their rows."""
    sizes = [batch.size - batch.padded for batch, _ in pieces]
    losses = [None if outcome.loss is None else float(outcome.loss) for _, outcome in pieces]
    known = [(loss, rows) for loss, rows in zip(losses, sizes, strict=True) if loss is not None]
    if not known:
        return None
    return sum(loss * rows for loss, rows in known) / sum(rows for _, rows in known)


def _nothing(part: Judged) -> str:
    of = f" of {part.name!r}" if part.name else ""
    return (
        f"the validation's {len(part.batches)} batches{of} have no piece that could be judged: its preprocessor leaves all of "
        f"their rows out"
    )
