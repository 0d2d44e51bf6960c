"""What the Trainer of Hugging Face writes beside weights: its own state as JSON, and the optimizer's.

trainer_state.json {"global_step": …}; optimizer.pt, which accelerate calls optimizer.bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fromage_cli.checkpoints.directory import INDEX_SUFFIXES, MAIN_FILES
from fromage_cli.checkpoints.json_file import read_object
from fromage_cli.checkpoints.steps import step_in_metadata

TRAINER = "trainer_state.json"
OPTIMIZERS = ("optimizer.pt", "optimizer.bin")


@dataclass(frozen=True)
class Beside:
    """What was found beside weights."""

    step: int | None = None
    optimizer: Path | None = None
    notes: tuple[str, ...] = ()


def read_beside(weights: Path) -> Beside:
    """Read what stands beside weights that have one of the usual names; nothing beside others."""
    if weights.name not in MAIN_FILES and not weights.name.endswith(INDEX_SUFFIXES):
        return Beside()
    trainer = weights.with_name(TRAINER)
    step = step_in_metadata(read_object(trainer)) if trainer.is_file() else None
    optimizer = optimizer_in(weights.parent)
    found = [trainer.name] if step is not None else []
    found += [optimizer.name] if optimizer is not None else []
    note = f"Read beside the weights: {', '.join(found)}."
    return Beside(step, optimizer, (note,) if found else ())


def optimizer_in(directory: Path) -> Path | None:
    """The optimizer's file in a directory."""
    return next((directory / name for name in OPTIMIZERS if (directory / name).is_file()), None)
