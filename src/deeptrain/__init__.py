"""DeepTrain: train PyTorch models with full knowledge and control of the train state.

    import deeptrain as dt

A run can be stopped at any moment, looked at, changed and continued, and ends with the same bits as one that
nobody touched. See `Trainer`.
"""

from deeptrain.callbacks.base import Callback, Event
from deeptrain.callbacks.display import Display
from deeptrain.checkpoint.codec import CodecError
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.format import CorruptCheckpoint
from deeptrain.checkpoint.settings import Checkpoints
from deeptrain.checkpoint.weights import load_weights
from deeptrain.control.interrupt import Interrupted
from deeptrain.data.batch import Batch
from deeptrain.data.files import Files
from deeptrain.data.loader import BatchLoader
from deeptrain.data.source import Arrays
from deeptrain.evaluation.validation import Validation
from deeptrain.run.fingerprint import FingerprintMismatch
from deeptrain.run.reader import open_run
from deeptrain.run.run import TornStateError
from deeptrain.state.cadence import At, Every
from deeptrain.state.progress import Phase
from deeptrain.state.reproducible import reproducible
from deeptrain.state.tree import digest
from deeptrain.step.base import Outcome, Step, Totals
from deeptrain.step.supervised import SupervisedStep
from deeptrain.trainer import Trainer

__version__ = "1.0.0.dev0"

__all__ = [
    "Arrays",
    "At",
    "Batch",
    "BatchLoader",
    "Callback",
    "CheckpointError",
    "Checkpoints",
    "CodecError",
    "CorruptCheckpoint",
    "Display",
    "Event",
    "Every",
    "Files",
    "FingerprintMismatch",
    "Interrupted",
    "Outcome",
    "Phase",
    "Step",
    "SupervisedStep",
    "TornStateError",
    "Totals",
    "Trainer",
    "Validation",
    "digest",
    "load_weights",
    "open_run",
    "reproducible",
]
