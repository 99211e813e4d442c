"""`Validation`: a pass over held-out data, as a phase of its own.

Each batch is evaluated under random streams seeded from (seed, pass, batch), which are put back afterwards. So
how often one validates never changes the training, and any part of a pass can be computed again alone. A pass
that a process death cut short does exactly that: predictions are not saved, they are recomputed silently.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch

from deeptrain.data.batch import map_tensors
from deeptrain.state.cadence import Every
from deeptrain.step.base import figure, measured
from deeptrain.step.rollback import Rollback
from deeptrain.step.row_weights import ClassWeights, RowWeights, SampleWeight, WeighsPasses
from deeptrain.step.stateful import reset_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch.utils.data import DataLoader

    from deeptrain.data.batch import Batch
    from deeptrain.data.feed import Feed
    from deeptrain.data.loader import BatchLoader
    from deeptrain.state.randomness import Streams
    from deeptrain.step.base import Outcome, Step


class Validation:
    """What a model is validated on, how, and when.

    Args:
        loader: The validation data; a `BatchLoader` or a torch `DataLoader`. Not the train loader.
        metrics: Functions of `(predictions, targets)` by name, each called once a pass on the whole pass.
        key_metric: The figure that schedulers and the best checkpoints go by: "loss" or the name of a metric.
        mode: Whether the "max" or the "min" of the key metric is the best; of the loss it is the smallest.
        every: When to validate, by a count. By default after each epoch.
        class_weights: A weight in the validation loss for the rows of each class, `{0: 3, 1: 1}`, or `"balanced"`, counted
            from this loader's labels. See `RowWeights`. Where these or `sample_weight` are given, the weights that batches
            have, as of windows, count in the loss too; without, it counts all rows alike.
        sample_weight: A function of a batch that gives a weight for each row, `(size,)`, likewise.

    Attributes:
        save_skip: Paths of its state (`data.validation`) that `trainer.save` leaves out; none unless they are set.
        load_skip: Those that `trainer.load` leaves as they are.

    Raises:
        ValueError: `key_metric` is none of the metrics, `mode` is neither, or `every` goes by the clock.

    Example:
        >>> loader = BatchLoader(Arrays(torch.rand(8, 2), torch.rand(8, 1)), batch_size=4)
        >>> Validation(loader, metrics={"error": lambda p, t: (p - t).abs().mean()}, key_metric="error")
        Validation(metrics=['error'], key_metric='error', every=Every(epochs=1))
    """

    save_skip: Sequence[str] = ()
    load_skip: Sequence[str] = ()

    def __init__(
        self,
        loader: BatchLoader | DataLoader[Any],
        *,
        metrics: Mapping[str, Callable[[Any, Any], float | torch.Tensor]] | None = None,
        key_metric: str = "loss",
        mode: Literal["max", "min"] | None = None,
        every: Every | None = None,
        class_weights: ClassWeights = None,
        sample_weight: SampleWeight = None,
    ) -> None:
        if metrics is not None and not hasattr(metrics, "items"):
            raise TypeError(
                f"metrics={metrics!r}: expected functions by name, such as {{'accuracy': accuracy}}"
            )
        self.loader = loader
        self.metrics = dict(metrics or {})
        self.key_metric = key_metric
        self.mode = "min" if mode is None and key_metric == "loss" else mode
        self.every = every or Every(epochs=1)
        self.row_weights = RowWeights(class_weights, sample_weight)
        if mode not in {None, "max", "min"}:
            raise ValueError(
                f'mode={mode!r}: expected "max" or "min", whichever of {key_metric!r} is the best'
            )
        if key_metric not in {"loss", *self.metrics}:
            known = sorted({"loss", *self.metrics})
            raise ValueError(f"key_metric={key_metric!r} is none of this validation's figures {known}")
        if self.every.unit == "seconds":
            raise ValueError(
                f"{self.every!r} would let the clock decide when to validate, which no rerun could repeat: "
                "give Every(batches=...) or Every(epochs=...)"
            )

    def __repr__(self) -> str:
        return f"Validation(metrics={sorted(self.metrics)}, key_metric={self.key_metric!r}, every={self.every!r})"

    def settings(self) -> dict[str, Any]:
        """Plain values that describe it, for the run's fingerprint."""
        made = {"metrics": sorted(self.metrics), "key_metric": self.key_metric, "every": repr(self.every)}
        return made | self.row_weights.settings()


class Pass:
    """One pass under way: what it has gathered, batch by batch.

    Args:
        validation: The settings.
        feed: The data.
        step: What evaluates a batch.
        streams: The random streams, put back after each batch.
        key: What the streams are seeded from, together with the batch's index.

    Attributes:
        done: How many batches were gathered.
        ended: Whether they are all of the pass.
    """

    def __init__(
        self, validation: Validation, feed: Feed, step: Step, streams: Streams, key: tuple[int | str, ...]
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
        self._predictions: list[Any] = []
        self._targets: list[Any] = []
        self._losses: list[
            tuple[float, int]
        ] = []  # of each piece with its rows, for a step that has none of a whole pass
        self._weights: list[torch.Tensor] = []
        self._weighed: list[
            torch.Tensor | None
        ] = []  # of the pieces that were evaluated last; working them out may draw numbers

    def evaluate(self) -> list[tuple[Batch, Outcome]]:
        """Evaluate the batch at the feed's cursor, in all of its pieces; nothing is gathered yet and nothing moves.

        What a module carries from piece to piece begins anew with the batch, and is put back after it.
        """
        self._feed.whole()  # under the streams as they are: reading draws from none
        with self._aside(self._feed.position.batch):
            reset_states(self._step.modules())
            self._weighed = []
            return self._feed.through(self._evaluate)

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

    def gather(self, pieces: list[tuple[Batch, Outcome]]) -> None:
        """Keep a batch's predictions and move on."""
        for (batch, outcome), weights in zip(pieces, self._weighed, strict=True):
            keep = _rows_that_count(batch)
            self._predictions.append(map_tensors(outcome.predictions, keep))
            self._targets.append(map_tensors(batch.targets, keep))
            if outcome.loss is not None:
                self._losses.append((float(outcome.loss), batch.size - batch.padded))
            if weights is not None:
                self._weights.append(keep(weights))
        self.done += 1
        self.ended = self._feed.advance()

    def catch_up(self, batches: int | None = None) -> None:
        """Compute the first batches of the pass again, silently; by default all of it."""
        self._feed.seek(epoch=0)
        self.done, self.ended = 0, False
        self._predictions.clear()
        self._targets.clear()
        self._losses.clear()
        self._weights.clear()
        while not self.ended and (batches is None or self.done < batches):
            self.gather(self.evaluate())

    def figures(self) -> dict[str, float]:
        """Loss and metrics over the whole pass.

        Raises:
            ValueError: A metric gave something that is no number; the message names it. Or there is nothing to judge.
        """
        if not self._predictions:
            raise ValueError(
                f"the validation's {self.done} batches have no piece that could be judged: its preprocessor leaves all of "
                f"their rows out"
            )
        predictions, targets = _join(self._predictions), _join(self._targets)
        found: dict[str, float] = {}
        with self._aside("figures"), torch.no_grad():
            loss = self._loss_over(predictions, targets)
            if loss is None and self._losses:
                loss = sum(one * rows for one, rows in self._losses) / sum(rows for _, rows in self._losses)
            if loss is not None:
                found["loss"] = loss
            for name, metric in self._validation.metrics.items():
                found[name] = float(figure(name, measured(name, metric, predictions, targets)))
        return found

    def _loss_over(self, predictions: Any, targets: Any) -> float | None:
        if not self._weights:
            return self._step.loss_over(predictions, targets)
        return self._weigher.weighted_loss_over(predictions, targets, torch.cat(self._weights))


def _rows_that_count(batch: Batch) -> Callable[[torch.Tensor], torch.Tensor]:
    """Give what takes a batch's tensors to the CPU, without rows of weight 0 and without those that fill it up."""
    counted = batch.size - batch.padded
    weights = batch.weights
    if weights is None or bool((weights != 0).all()):
        return _to_cpu if not batch.padded else lambda tensor: _to_cpu(tensor[:counted])
    keep = torch.nonzero(_to_cpu(weights)[:counted]).flatten()
    return lambda tensor: _to_cpu(tensor)[keep]


def _to_cpu(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu()


def _join(pieces: list[Any]) -> Any:
    """Join the batches' nested tensors along their first axis."""
    first = pieces[0]
    if isinstance(first, torch.Tensor):
        if shapes := {tuple(piece.shape[1:]) for piece in pieces if piece.shape[1:] != first.shape[1:]}:
            raise ValueError(
                f"the batches of the validation gave rows of shape {tuple(first.shape[1:])} and {min(shapes)}, which "
                "cannot be joined into one pass: pad all series to one length, or give each one prediction and target"
            )
        return torch.cat(pieces)
    if isinstance(first, dict):
        return {key: _join([piece[key] for piece in pieces]) for key in first}
    if isinstance(first, (list, tuple)):
        return type(first)(_join([piece[i] for piece in pieces]) for i in range(len(first)))
    return first if first is None else pieces
