"""`Ledger`: the loss of every row in every pass, for the rows that are hard, forgotten or mislabelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from deeptrain.callbacks.base import Callback
from deeptrain.data.batch import map_tensors
from deeptrain.evaluation.row_ledger import FOLDER, UNKNOWN, RowLedger
from deeptrain.step.weights import row_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deeptrain.callbacks.base import Event
    from deeptrain.data.feed import Feed
    from deeptrain.trainer import Trainer

BYTES = 256 << 20
HALF = 0.5  # from where on a binary target is the class 1


class Ledger(Callback):
    """Writes down what every row's loss was, in each epoch or each validation, and whether the model was right about it.

    `deeptrain worst RUN` reads it. It lies in the run's `ledger/`; without a run's directory in memory. It is no part of the state: what
    is computed again after a crash is written again, and is the same. Of training it is the loss under which the row was trained, with
    dropout and what else there is in training alone.

    Args:
        train: Whether to keep one of training.
        validation: And of validation, where there is one.
        most_bytes: What each may take on disk, at 5 bytes a row and pass. Past it every second of the older passes goes.

    Raises:
        TypeError: When the run starts: the loss cannot be had for each row.

    Example:
        >>> Ledger(validation=False).ledgers
        {}
    """

    def __init__(self, *, train: bool = True, validation: bool = True, most_bytes: int = BYTES) -> None:
        self._train, self._validation, self._most = train, validation, most_bytes
        self.ledgers: dict[str, RowLedger] = {}

    def hears(self, event: str) -> bool:
        """Only of what is kept."""
        return {"train_iter_end": self._train, "val_end": self._validation}.get(event, True)

    def on_start(self, trainer: Trainer, event: Event) -> None:
        """See that there is a loss for each row, and find what was written before."""
        del event
        if not hasattr(trainer.learner, "loss"):
            raise TypeError(
                f"Ledger: the step {type(trainer.learner).__name__} has no loss of predictions and targets: give a SupervisedStep, or leave "
                "the ledger out"
            )
        if self._train:
            self._open(trainer, "train", trainer.train)
        if self._validation:
            for feed, name in zip(trainer.judging.feeds(), self._names(trainer), strict=True):
                self._open(trainer, name, feed)
        self._forget_what_is_ahead(trainer)

    @staticmethod
    def _names(trainer: Trainer) -> list[str]:
        validation = trainer.judging.validation
        loaders = [] if validation is None else list(validation.loaders)
        return [f"val.{name}" if name else "val" for name in loaders]

    def _open(self, trainer: Trainer, name: str, feed: Feed) -> None:
        if name not in self.ledgers:
            place = None if trainer.run.path is None else trainer.run.path / FOLDER / name
            paths = getattr(getattr(feed, "source", None), "set_paths", ())
            self.ledgers[name] = RowLedger(feed.rows_total, place, self._most, paths)

    def on_load(self, trainer: Trainer, event: Event) -> None:
        """The run went back: what came later is no more."""
        del event
        self._forget_what_is_ahead(trainer)

    def on_save(self, trainer: Trainer, event: Event) -> None:
        """See what was written onto the disk before the checkpoint that goes on behind it."""
        del trainer, event
        for ledger in self.ledgers.values():
            ledger.flush()

    def _forget_what_is_ahead(self, trainer: Trainer) -> None:
        for name, ledger in self.ledgers.items():
            done = trainer.progress
            ledger.begin_anew(done.train.epochs + 1 if name == "train" else done.validation.passes)

    def on_train_iter_end(self, trainer: Trainer, event: Event) -> None:
        """Write an iteration's rows down."""
        batch = event.batch
        if batch is None or event.outputs is None:
            return
        counted = batch.size - batch.padded
        losses, right = _of_rows(trainer, event.outputs, batch.targets)
        keep = np.arange(batch.size) < counted
        if batch.weights is not None:  # a series has no such window
            keep &= batch.weights.cpu().numpy() != 0
        ledger = self.ledgers["train"]
        ledger.name_sets(batch.table)
        ledger.note(batch.epoch, batch.rows[keep], losses[keep], right[keep])

    def on_val_end(self, trainer: Trainer, event: Event) -> None:
        """Write a pass's rows down."""
        del event
        number = trainer.progress.validation.passes - 1
        for name, part in zip(self._names(trainer), trainer.judging.newest.values(), strict=True):
            self.ledgers[name].name_sets(part.table)
            for batch in part.batches:
                cut = slice(batch.start, batch.stop)
                self.ledgers[name].note(number, part.rows[cut], *_of_rows(trainer, *part.cut(cut)))


def _of_rows(trainer: Trainer, predictions: Any, targets: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Each row's loss, and whether it was right; computed where the loss is."""
    loss, device = trainer.learner.loss, trainer.learner.device  # type: ignore[attr-defined]
    placed = [map_tensors(tree, lambda t: t.to(device)) for tree in (predictions, targets)]
    return row_losses(loss, *placed), rightness(loss, *placed)


def rightness(loss: Any, predictions: Any, targets: Any) -> NDArray[Any]:
    """Whether each row's largest prediction is of its class: 1, 0, or `UNKNOWN` where there are no classes."""
    unknown = np.full(len(targets), UNKNOWN, np.int8)
    if not isinstance(predictions, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return unknown
    decide = _decider(loss, predictions, targets)
    if decide is None:
        return unknown
    return decide().cpu().numpy().astype(np.int8)


def _decider(
    loss: Any, predictions: torch.Tensor, targets: torch.Tensor
) -> Callable[[], torch.Tensor] | None:
    if predictions.dim() == 2 and targets.dim() == 1 and not targets.is_floating_point():  # noqa: PLR2004 - rows and classes
        return lambda: predictions.argmax(1) == targets.to(predictions.device)
    border = {nn.BCEWithLogitsLoss: 0.0, nn.BCELoss: 0.5}.get(type(loss))
    if border is not None and predictions[0].numel() == 1:
        return lambda: (
            (predictions.reshape(-1) >= border) == (targets.to(predictions.device).reshape(-1) >= HALF)
        )
    return None
