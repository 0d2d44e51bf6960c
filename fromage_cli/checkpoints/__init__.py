"""Checkpoints: named tensors on disk, one reader per format; nothing in a file is ever executed."""

from fromage_cli.checkpoints.checkpoint import Checkpoint, TensorEntry
from fromage_cli.checkpoints.opening import open_checkpoint
from fromage_cli.checkpoints.series import Series, find_series, read_series

__all__ = ["Checkpoint", "Series", "TensorEntry", "find_series", "open_checkpoint", "read_series"]
