"""Checkpoints: named tensors on disk, one reader per format; nothing in a file is ever executed."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "Checkpoint": "checkpoint",
    "OptimizerState": "optimizers.optimizer_state",
    "Series": "finding.series",
    "TensorEntry": "checkpoint",
    "find_series": "finding.series",
    "match_parameters": "optimizers.matching",
    "open_checkpoint": "opening",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for by then: the readers take a quarter of a second, and a bar is to stand before."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
