"""`Validation`: on what a model is judged, by what, and when; a phase of its own. See `Pass` for how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from deeptrain.data.checks import at_least
from deeptrain.evaluation.deciding import FindThreshold
from deeptrain.evaluation.joining import JOINS
from deeptrain.evaluation.measures import Given, resolved
from deeptrain.evaluation.thresholds.confusion import count_metric
from deeptrain.state.cadence import Every
from deeptrain.step.row_weights import ClassWeights, RowWeights, SampleWeight

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deeptrain.evaluation.joining import Join
    from deeptrain.evaluation.metrics.reading import Form
    from deeptrain.evaluation.thresholds.calibration import Calibration

MEMORY = 1 << 30
_TOLD = ("limit", "join", "form", "subset")  # settings that are named only where they are set


class Validation:
    """What a model is validated on, how, and when.

    Args:
        loader: The validation data; a `BatchLoader`, a torch `DataLoader` or what else a trainer takes. Not the train loader. Several
            by name, `{"clean": ..., "noisy": ...}`, are gone through one after another in each pass, and their figures
            are `clean.loss`, `noisy.loss`.
        metrics: Each called once on the whole pass, never a mean of batches' figures: functions `(predictions, targets)` by name, which may
            take `sample_weight` and `threshold` too; names, `["accuracy", "f1"]`, see `resolve_metric`; or torchmetrics' objects.
        key_metric: The figure that schedulers and the best checkpoints go by: "loss" or the name of a metric; of several
            loaders `"clean.loss"`, or `"loss"` for that of the first.
        mode: Whether the "max" or the "min" of the key metric is the best; known of the loss and of named metrics.
        every: When to validate, by a count. By default after each epoch.
        limit: How many batches of each loader a pass has; None for all.
        memory: How many bytes of predictions, targets and weights a pass may hold of each loader, with the joined whole. Past
            it they go to files without a name, in the run's directory, and the loss is computed batch by batch.
        join: How the predictions of a series' windows are put together before they are scored: "mean", by the windows'
            weights; "last", the last window alone; "later", the first once, the second twice and so on. None scores each
            window by itself.
        threshold: From where on a row is positive, for the metrics that go by decisions: a number; or a `FindThreshold`, or the metric by
            which the best one is found in each pass. Then the figure `threshold` is that of all rows; a metric's own figure
            is that of rows called by thresholds which other rows chose, and `f1_optimistic` that of the best one on its own rows. More than
            two classes or labels have a threshold each with `FindThreshold(each="class")` or `each="label"`.
        form: What fractions are, for named metrics: "probabilities", "logits" or "scores"; by default as the loss takes them.
        calibration: A class of calibrations, such as `TemperatureCalibration`, fitted on each pass and kept in the state. The figure
            `calibration_error` is that without it, `calibration_error_calibrated` that with one fitted on the other half.
        subset: How many batches to choose on which the key metric is best; `subset_optimistic` is the metric over them and
            `subset_rest` over the others. At the threshold of the pass, or with `FindThreshold(in_subsets=True)` at one of its own.
        ledger: Whether to write down the loss of every row in each pass, for `deeptrain worst RUN`; see `Ledger`, which does it for
            training too.
        class_weights: A weight in the validation loss for the rows of each class, `{0: 3, 1: 1}`, or `"balanced"`, counted
            from this loader's labels. See `RowWeights`. Where these or `sample_weight` are given, the weights that batches
            have, as of windows, count in the loss too; without, it counts all rows alike.
        sample_weight: A function of a batch that gives a weight for each row, `(size,)`, likewise.

    Attributes:
        metrics: The metrics by name.
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
        metrics: Given = None,
        key_metric: str = "loss",
        mode: Literal["max", "min"] | None = None,
        every: Every | None = None,
        limit: int | None = None,
        memory: int = MEMORY,
        join: Join | None = None,
        threshold: float | FindThreshold | str | Callable[..., Any] | None = None,
        form: Form | None = None,
        calibration: type[Calibration] | None = None,
        subset: int | None = None,
        ledger: bool = False,
        class_weights: ClassWeights = None,
        sample_weight: SampleWeight = None,
    ) -> None:
        if every is not None and not isinstance(every, Every):
            raise TypeError(f"Validation(every={every!r}): expected a cadence, such as dt.Every(epochs=1)")
        if calibration is not None and not isinstance(calibration, type):
            raise TypeError(
                f"Validation(calibration={calibration!r}): expected a class, which is fitted anew in each pass: dt.TemperatureCalibration"
            )
        if limit is not None:
            at_least(1, "Validation: limit", limit)
        at_least(0, "Validation: memory", memory)
        self.loader = loader
        self.limit, self.memory, self.join, self.ledger = limit, memory, join, ledger
        self.loaders = _by_name(loader)
        self.metrics = resolved(metrics)
        self.threshold = _threshold(threshold)
        self.form, self.calibration, self.subset = form, calibration, subset
        self.key_metric = self._key(key_metric)
        self.mode = self._mode() if mode is None else mode
        self.every = every or Every(epochs=1)
        self.row_weights = RowWeights(class_weights, sample_weight)
        self._refuse_unchoosable()
        if mode not in {None, "max", "min"}:
            raise ValueError(
                f'mode={mode!r}: expected "max" or "min", whichever of {key_metric!r} is the best'
            )
        if join is not None and join not in JOINS:
            raise ValueError(f"join={join!r}: expected one of {', '.join(map(repr, JOINS))}, or None")
        if self.every.unit == "seconds":
            raise ValueError(
                f"{self.every!r} would let the clock decide when to validate, which no rerun could repeat: "
                "give Every(batches=...) or Every(epochs=...)"
            )

    def names(self) -> list[str]:
        """The figures of a pass."""
        known = ["loss", *self.metrics]
        if isinstance(self.threshold, FindThreshold):
            decided = [name for name, metric in self.metrics.items() if self.threshold.decides_for(metric)]
            known += ["threshold", *(f"{name}_optimistic" for name in decided)]
        known += ["calibration_error", "calibration_error_calibrated"] if self.calibration else []
        known += ["subset_optimistic", "subset_rest"] if self.subset else []
        return [f"{loader}.{name}" if loader else name for loader in self.loaders for name in known]

    @property
    def judged_by(self) -> str:
        """The key metric without its loader and without what is said of its figure: "loss", or the name of a metric."""
        return self.key_metric.rpartition(".")[2].removesuffix("_optimistic")

    def _refuse_unchoosable(self) -> None:
        """See that it can be said which batches are the best, before the first pass."""
        if self.subset is None:
            return
        at_least(1, "Validation: subset", self.subset)
        how = self.threshold
        metric = self.metrics.get(self.judged_by)
        if self.mode is None or (metric is None and self.judged_by != "loss"):
            raise ValueError(
                f"Validation(subset={self.subset}): found key_metric={self.key_metric!r} with mode={self.mode!r}, expected the loss, or a "
                'metric of which it is known what is best: give key_metric=..., mode="max" or mode="min"'
            )
        if metric is not None and isinstance(how, FindThreshold) and how.each and how.decides_for(metric):
            raise ValueError(
                f"Validation(subset={self.subset}): found a threshold for each {how.each}, expected one between two classes, or a "
                "key_metric that needs none"
            )

    def _mode(self) -> Literal["max", "min"] | None:
        """Which values of the key metric are better, where that is known."""
        if self.judged_by in {"loss", "calibration_error", "calibration_error_calibrated"}:
            return "min"
        metric = self.metrics.get(self.judged_by)
        return None if metric is None else metric.mode

    def _key(self, name: str) -> str:
        first = next(iter(self.loaders))
        known = self.names()
        for found in (name, f"{first}.{name}"):
            if found in known:
                return found
        raise ValueError(f"key_metric={name!r} is none of this validation's figures {sorted(known)}")

    def __repr__(self) -> str:
        return f"Validation(metrics={sorted(self.metrics)}, key_metric={self.key_metric!r}, every={self.every!r})"

    def settings(self) -> dict[str, Any]:
        """Plain values that describe it, for the run's fingerprint."""
        made = {"metrics": sorted(self.metrics), "key_metric": self.key_metric, "every": repr(self.every)}
        made |= {name: getattr(self, name) for name in _TOLD if getattr(self, name) is not None}
        if self.threshold is not None:
            made["threshold"] = repr(self.threshold)
        if self.calibration is not None:
            made["calibration"] = self.calibration.__name__
        return made | self.row_weights.settings()


def _threshold(given: Any) -> float | FindThreshold | None:
    if given is None or isinstance(given, FindThreshold):
        return given
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return float(given)
    return FindThreshold(metric=count_metric(given) if isinstance(given, str) else given)


def _by_name(loader: Any) -> dict[str, Any]:
    if not isinstance(loader, Mapping):
        return {"": loader}
    odd = [name for name in loader if not isinstance(name, str) or not name or "." in name]
    if odd or not loader:
        raise ValueError(
            f"Validation: found loaders by the names {list(loader)}, expected words without a dot, as {{'clean': ..., 'noisy': ...}}"
        )
    return dict(loader)
