"""DeepTrain: train PyTorch models with full knowledge and control of the train state.

    import deeptrain as dt

A run can be stopped at any moment, looked at, changed and continued, and ends with the same bits as one that
nobody touched. See `Trainer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deeptrain.callbacks.base import Callback, Event
from deeptrain.checkpoint.codec import CodecError
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.settings import Checkpoints
from deeptrain.control.interrupt import Interrupted
from deeptrain.data.batch import Batch
from deeptrain.data.errors import DataError
from deeptrain.data.preprocess import Preprocessor
from deeptrain.data.source import Arrays
from deeptrain.later import later
from deeptrain.state.cadence import At, Every
from deeptrain.state.progress import Phase, TornStateError
from deeptrain.state.reproducible import reproducible
from deeptrain.state.tree import digest
from deeptrain.step.base import Outcome, Step, Totals

if TYPE_CHECKING:
    from deeptrain.callbacks.device_stats import DeviceStats
    from deeptrain.callbacks.display import Display
    from deeptrain.callbacks.early_stopping import EarlyStopping
    from deeptrain.callbacks.learning_rate_log import LearningRateLog
    from deeptrain.callbacks.ledger import Ledger
    from deeptrain.callbacks.seed_setter import SeedSetter
    from deeptrain.callbacks.throughput import Throughput
    from deeptrain.callbacks.time_limit import TimeLimit
    from deeptrain.callbacks.unfreeze import Unfreeze
    from deeptrain.checkpoint.format import CorruptCheckpoint
    from deeptrain.checkpoint.weight_files import save_weights
    from deeptrain.checkpoint.weights import load_weights
    from deeptrain.data.augment import Augment
    from deeptrain.data.convert import convert
    from deeptrain.data.dataset import FromDataset
    from deeptrain.data.files import Files
    from deeptrain.data.loader import BatchLoader
    from deeptrain.data.repeat import Repeat
    from deeptrain.data.series import Series, WithLengths, WithMask
    from deeptrain.data.windows import Windows
    from deeptrain.data.write import write_sets
    from deeptrain.evaluation.arrays import EvaluationError
    from deeptrain.evaluation.choosing.ensemble import Ensemble, select_ensemble
    from deeptrain.evaluation.choosing.kept import KeptPredictions, read_predictions
    from deeptrain.evaluation.choosing.subset import Subset, best_subset
    from deeptrain.evaluation.deciding import FindThreshold
    from deeptrain.evaluation.metrics.named import Metric, metric_names, resolve_metric
    from deeptrain.evaluation.metrics.own_metric import sklearn_metric
    from deeptrain.evaluation.metrics.reading import MetricError
    from deeptrain.evaluation.thresholds.calibration import (
        IsotonicCalibration,
        SigmoidCalibration,
        TemperatureCalibration,
    )
    from deeptrain.evaluation.thresholds.chosen import Threshold, Thresholds
    from deeptrain.evaluation.thresholds.confusion import (
        CountMetric,
        expected_cost,
        f_beta,
        precision_at_recall,
    )
    from deeptrain.evaluation.thresholds.reliability import brier_score, calibration_error, reliability
    from deeptrain.evaluation.thresholds.threshold import best_threshold, best_thresholds
    from deeptrain.evaluation.validation import Validation
    from deeptrain.loggers.base import Logger
    from deeptrain.loggers.csv_files import CSVLogger
    from deeptrain.loggers.mlflow import MLflowLogger
    from deeptrain.loggers.tensorboard import TensorBoardLogger
    from deeptrain.loggers.trackio import TrackioLogger
    from deeptrain.loggers.wandb import WandbLogger
    from deeptrain.preferences import defaults, set_defaults
    from deeptrain.run.fingerprint import FingerprintMismatch
    from deeptrain.run.reader import open_run
    from deeptrain.run.replay import ReplayMismatch
    from deeptrain.step.nonfinite import NonFiniteError
    from deeptrain.step.own import OwnStep
    from deeptrain.step.stateful import Stateful, reset_states
    from deeptrain.step.supervised import SupervisedStep
    from deeptrain.trainer import Trainer
    from deeptrain.tuning.batch_size import BatchFit, find_batch_size
    from deeptrain.tuning.rate import RateTest, find_lr

# Imported when they are first asked for, so that `import deeptrain` costs little more than `import torch`.
_LATER = {
    "CorruptCheckpoint": "deeptrain.checkpoint.format",
    "load_weights": "deeptrain.checkpoint.weights",
    "BatchLoader": "deeptrain.data.loader",
    "Ensemble": "deeptrain.evaluation.choosing.ensemble",
    "select_ensemble": "deeptrain.evaluation.choosing.ensemble",
    "KeptPredictions": "deeptrain.evaluation.choosing.kept",
    "read_predictions": "deeptrain.evaluation.choosing.kept",
    "Metric": "deeptrain.evaluation.metrics.named",
    "metric_names": "deeptrain.evaluation.metrics.named",
    "resolve_metric": "deeptrain.evaluation.metrics.named",
    "sklearn_metric": "deeptrain.evaluation.metrics.own_metric",
    "MetricError": "deeptrain.evaluation.metrics.reading",
    "Subset": "deeptrain.evaluation.choosing.subset",
    "best_subset": "deeptrain.evaluation.choosing.subset",
    "Validation": "deeptrain.evaluation.validation",
    "EvaluationError": "deeptrain.evaluation.arrays",
    "IsotonicCalibration": "deeptrain.evaluation.thresholds.calibration",
    "SigmoidCalibration": "deeptrain.evaluation.thresholds.calibration",
    "TemperatureCalibration": "deeptrain.evaluation.thresholds.calibration",
    "FindThreshold": "deeptrain.evaluation.deciding",
    "Threshold": "deeptrain.evaluation.thresholds.chosen",
    "Thresholds": "deeptrain.evaluation.thresholds.chosen",
    "CountMetric": "deeptrain.evaluation.thresholds.confusion",
    "expected_cost": "deeptrain.evaluation.thresholds.confusion",
    "f_beta": "deeptrain.evaluation.thresholds.confusion",
    "precision_at_recall": "deeptrain.evaluation.thresholds.confusion",
    "brier_score": "deeptrain.evaluation.thresholds.reliability",
    "calibration_error": "deeptrain.evaluation.thresholds.reliability",
    "reliability": "deeptrain.evaluation.thresholds.reliability",
    "best_threshold": "deeptrain.evaluation.thresholds.threshold",
    "best_thresholds": "deeptrain.evaluation.thresholds.threshold",
    "FingerprintMismatch": "deeptrain.run.fingerprint",
    "SupervisedStep": "deeptrain.step.supervised",
    "Trainer": "deeptrain.trainer",
    "Display": "deeptrain.callbacks.display",
    "OwnStep": "deeptrain.step.own",
    "DeviceStats": "deeptrain.callbacks.device_stats",
    "EarlyStopping": "deeptrain.callbacks.early_stopping",
    "LearningRateLog": "deeptrain.callbacks.learning_rate_log",
    "Ledger": "deeptrain.callbacks.ledger",
    "SeedSetter": "deeptrain.callbacks.seed_setter",
    "Throughput": "deeptrain.callbacks.throughput",
    "TimeLimit": "deeptrain.callbacks.time_limit",
    "Unfreeze": "deeptrain.callbacks.unfreeze",
    "Stateful": "deeptrain.step.stateful",
    "reset_states": "deeptrain.step.stateful",
    "ReplayMismatch": "deeptrain.run.replay",
    "open_run": "deeptrain.run.reader",
    "save_weights": "deeptrain.checkpoint.weight_files",
    "Augment": "deeptrain.data.augment",
    "convert": "deeptrain.data.convert",
    "FromDataset": "deeptrain.data.dataset",
    "Files": "deeptrain.data.files",
    "Repeat": "deeptrain.data.repeat",
    "Series": "deeptrain.data.series",
    "WithLengths": "deeptrain.data.series",
    "WithMask": "deeptrain.data.series",
    "Windows": "deeptrain.data.windows",
    "write_sets": "deeptrain.data.write",
    "NonFiniteError": "deeptrain.step.nonfinite",
    "Logger": "deeptrain.loggers.base",
    "CSVLogger": "deeptrain.loggers.csv_files",
    "MLflowLogger": "deeptrain.loggers.mlflow",
    "TensorBoardLogger": "deeptrain.loggers.tensorboard",
    "TrackioLogger": "deeptrain.loggers.trackio",
    "WandbLogger": "deeptrain.loggers.wandb",
    "BatchFit": "deeptrain.tuning.batch_size",
    "find_batch_size": "deeptrain.tuning.batch_size",
    "RateTest": "deeptrain.tuning.rate",
    "find_lr": "deeptrain.tuning.rate",
    "defaults": "deeptrain.preferences",
    "set_defaults": "deeptrain.preferences",
}

__version__ = "1.0.0.dev0"

__all__ = [
    "Arrays",
    "At",
    "Augment",
    "Batch",
    "BatchFit",
    "BatchLoader",
    "CSVLogger",
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "CodecError",
    "CorruptCheckpoint",
    "CountMetric",
    "DataError",
    "DeviceStats",
    "Display",
    "EarlyStopping",
    "Ensemble",
    "EvaluationError",
    "Event",
    "Every",
    "Files",
    "FindThreshold",
    "FingerprintMismatch",
    "FromDataset",
    "Interrupted",
    "IsotonicCalibration",
    "KeptPredictions",
    "LearningRateLog",
    "Ledger",
    "Logger",
    "MLflowLogger",
    "Metric",
    "MetricError",
    "NonFiniteError",
    "Outcome",
    "OwnStep",
    "Phase",
    "Preprocessor",
    "RateTest",
    "Repeat",
    "ReplayMismatch",
    "SeedSetter",
    "Series",
    "SigmoidCalibration",
    "Stateful",
    "Step",
    "Subset",
    "SupervisedStep",
    "TemperatureCalibration",
    "TensorBoardLogger",
    "Threshold",
    "Thresholds",
    "Throughput",
    "TimeLimit",
    "TornStateError",
    "Totals",
    "TrackioLogger",
    "Trainer",
    "Unfreeze",
    "Validation",
    "WandbLogger",
    "Windows",
    "WithLengths",
    "WithMask",
    "best_subset",
    "best_threshold",
    "best_thresholds",
    "brier_score",
    "calibration_error",
    "convert",
    "defaults",
    "digest",
    "expected_cost",
    "f_beta",
    "find_batch_size",
    "find_lr",
    "load_weights",
    "metric_names",
    "open_run",
    "precision_at_recall",
    "read_predictions",
    "reliability",
    "reproducible",
    "reset_states",
    "resolve_metric",
    "save_weights",
    "select_ensemble",
    "set_defaults",
    "sklearn_metric",
    "write_sets",
]

__getattr__, __dir__ = later(__name__, _LATER)
