"""Checkpoints: named tensors on disk, one reader per format; nothing in a file is ever executed."""

from fromage_cli.checkpoints.checkpoint import Checkpoint, TensorEntry
from fromage_cli.checkpoints.finding.series import Series, find_series
from fromage_cli.checkpoints.opening import open_checkpoint
from fromage_cli.checkpoints.optimizers.matching import match_parameters
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState

__all__ = [
    "Checkpoint",
    "OptimizerState",
    "Series",
    "TensorEntry",
    "find_series",
    "match_parameters",
    "open_checkpoint",
]
