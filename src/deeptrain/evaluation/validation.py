"""`Validation`: on what a model is judged, by what, and when; a phase of its own. See `Pass` for how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from deeptrain.evaluation.joining import JOINS
from deeptrain.state.cadence import Every
from deeptrain.step.row_weights import ClassWeights, RowWeights, SampleWeight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from deeptrain.evaluation.joining import Join

MEMORY = 1 << 30


class Validation:
    """What a model is validated on, how, and when.

    Args:
        loader: The validation data; a `BatchLoader`, a torch `DataLoader` or what else a trainer takes. Not the train loader. Several
            by name, `{"clean": ..., "noisy": ...}`, are gone through one after another in each pass, and their figures
            are `clean.loss`, `noisy.loss`.
        metrics: Functions of `(predictions, targets)` by name, each called once a pass on the whole pass.
        key_metric: The figure that schedulers and the best checkpoints go by: "loss" or the name of a metric; of several
            loaders `"clean.loss"`, or `"loss"` for that of the first.
        mode: Whether the "max" or the "min" of the key metric is the best; of the loss it is the smallest.
        every: When to validate, by a count. By default after each epoch.
        limit: How many batches of each loader a pass has; None for all.
        memory: How many bytes of predictions, targets and weights a pass may hold of each loader, with the joined whole. Past
            it they go to files without a name, in the run's directory, and the loss is computed batch by batch.
        join: How the predictions of a series' windows are put together before they are scored: "mean", by the windows'
            weights; "last", the last window alone; "later", the first once, the second twice and so on. None scores each
            window by itself.
        ledger: Whether to write down the loss of every row in each pass, for `deeptrain worst RUN`; see `Ledger`, which does it for
            training too.
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
        loader: Any,
        *,
        metrics: Mapping[str, Callable[[Any, Any], float | torch.Tensor]] | None = None,
        key_metric: str = "loss",
        mode: Literal["max", "min"] | None = None,
        every: Every | None = None,
        limit: int | None = None,
        memory: int = MEMORY,
        join: Join | None = None,
        ledger: bool = False,
        class_weights: ClassWeights = None,
        sample_weight: SampleWeight = None,
    ) -> None:
        if metrics is not None and not hasattr(metrics, "items"):
            raise TypeError(
                f"metrics={metrics!r}: expected functions by name, such as {{'accuracy': accuracy}}"
            )
        self.loader = loader
        self.limit, self.memory, self.join, self.ledger = limit, memory, join, ledger
        self.loaders = _by_name(loader)
        self.metrics = dict(metrics or {})
        self.key_metric = self._key(key_metric)
        self.mode = "min" if mode is None and self.key_metric.rpartition(".")[2] == "loss" else mode
        self.every = every or Every(epochs=1)
        self.row_weights = RowWeights(class_weights, sample_weight)
        if mode not in {None, "max", "min"}:
            raise ValueError(
                f'mode={mode!r}: expected "max" or "min", whichever of {key_metric!r} is the best'
            )
        if limit is not None and limit < 1:
            raise ValueError(f"limit={limit}: expected at least 1 batch, or None for all")
        if join is not None and join not in JOINS:
            raise ValueError(f"join={join!r}: expected one of {', '.join(map(repr, JOINS))}, or None")
        if self.every.unit == "seconds":
            raise ValueError(
                f"{self.every!r} would let the clock decide when to validate, which no rerun could repeat: "
                "give Every(batches=...) or Every(epochs=...)"
            )

    def names(self) -> list[str]:
        """The figures of a pass."""
        known = sorted({"loss", *self.metrics})
        return [f"{loader}.{name}" if loader else name for loader in self.loaders for name in known]

    def _key(self, name: str) -> str:
        first = next(iter(self.loaders))
        known = self.names()
        for found in (name, f"{first}.{name}"):
            if found in known:
                return found
        raise ValueError(f"key_metric={name!r} is none of this validation's figures {known}")

    def __repr__(self) -> str:
        return f"Validation(metrics={sorted(self.metrics)}, key_metric={self.key_metric!r}, every={self.every!r})"

    def settings(self) -> dict[str, Any]:
        """Plain values that describe it, for the run's fingerprint."""
        made = {"metrics": sorted(self.metrics), "key_metric": self.key_metric, "every": repr(self.every)}
        made |= {name: getattr(self, name) for name in ("limit", "join") if getattr(self, name) is not None}
        return made | self.row_weights.settings()


def _by_name(loader: Any) -> dict[str, Any]:
    if not isinstance(loader, Mapping):
        return {"": loader}
    odd = [name for name in loader if not isinstance(name, str) or not name or "." in name]
    if odd or not loader:
        raise ValueError(
            f"Validation: found loaders by the names {list(loader)}, expected words without a dot, as {{'clean': ..., 'noisy': ...}}"
        )
    return dict(loader)
