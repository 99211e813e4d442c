"""`deeptrain ensemble FILE FILE ...`: which of several checkpoints' or runs' predictions to average, and what that gains."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from deeptrain.evaluation.choosing.ensemble import Ensemble


def add_ensemble(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    ensemble = commands.add_parser(
        "ensemble", help="which of several runs' kept predictions to average, and what that gains out of fold"
    )
    ensemble.add_argument(
        "files",
        metavar="PREDICTIONS",
        nargs="+",
        help="a predictions.parquet, or its directory, as deeptrain evaluate RUN --predictions DIRECTORY writes it; or NAME=PREDICTIONS",
    )
    ensemble.add_argument("--metric", required=True, help="by what, such as auroc, f1, accuracy, log_loss")
    ensemble.add_argument(
        "--form",
        choices=("probabilities", "logits", "scores"),
        default=None,
        help="what predictions are (default: probabilities; logits where the loss took logits)",
    )
    ensemble.add_argument(
        "--threshold", default=None, help="from where on a row is positive; or best, found for each ensemble"
    )
    ensemble.add_argument(
        "--folds", type=int, default=5, help="in how many parts rows are held out (default: 5)"
    )
    ensemble.add_argument(
        "--seed", type=int, default=0, help="what bags and folds are drawn from (default: 0)"
    )
    ensemble.set_defaults(run=_ensemble)


def _ensemble(parsed: argparse.Namespace) -> int:
    from deeptrain.evaluation.choosing.ensemble import select_ensemble  # noqa: PLC0415 - a command pays for what it uses
    from deeptrain.evaluation.choosing.kept import read_predictions, side_by_side  # noqa: PLC0415

    rows = side_by_side({name: read_predictions(path) for name, path in _named(parsed.files).items()})
    found = select_ensemble(
        rows.predictions,
        rows.targets,
        parsed.metric,
        form=parsed.form,
        sample_weight=rows.weights,
        threshold=_threshold(parsed),
        groups=rows.groups,
        folds=parsed.folds,
        seed=parsed.seed,
    )
    for line in _lines(found, len(rows.targets)):
        print(line)  # noqa: T201 - a command's answer
    return 0


def _named(files: list[str]) -> dict[str, str]:
    """The files by name; their own where none is given.

    Raises:
        ValueError: Two have the same.
    """
    pairs = [
        (name, path) if is_named else (whole, whole)
        for whole, (name, is_named, path) in ((each, each.partition("=")) for each in files)
    ]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(
            f"found {len(pairs)} files by {len(found)} names, expected a name of its own for each"
        )
    return found


def _threshold(parsed: argparse.Namespace) -> Any:
    from deeptrain.evaluation.thresholds.threshold import best_threshold  # noqa: PLC0415

    if parsed.threshold is None:
        return None
    if parsed.threshold == "best":
        return partial(_best, best_threshold, parsed.metric)
    try:
        return float(parsed.threshold)
    except ValueError:
        raise ValueError(f"--threshold {parsed.threshold}: expected a number, or best") from None


def _best(search: Any, metric: str, scores: Any, targets: Any, sample_weight: Any = None) -> Any:
    return search(scores, targets, metric, sample_weight, bootstrap=0, folds=0)


def _lines(found: Ensemble, rows: int) -> Iterator[str]:
    yield f"{found.metric} of {rows} rows, out of fold: {found.out_of_fold:.6g}, {found.best_out_of_fold:.6g} of the best single one (gain {found.gain:+.3g})"
    yield f"on the rows that it was selected on: {found.score:.6g} (optimistic), {found.best_score:.6g} of {found.best}"
    if found.threshold is not None:
        yield f"threshold {found.threshold:.6g}"
    for weight, name in sorted(((weight, name) for name, weight in found.weights.items()), reverse=True):
        if weight:
            yield f"  {weight:.3f}  {name}"
