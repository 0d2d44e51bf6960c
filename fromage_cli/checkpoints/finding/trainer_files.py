"""What the Trainer of Hugging Face writes beside weights: its own state as JSON, and the optimizer's.

trainer_state.json {"global_step": …}; optimizer.pt, which accelerate calls optimizer.bin; sharded, a directory for the
weights and one for the optimizer.
"""

from dataclasses import dataclass
from pathlib import Path

from fromage_cli.checkpoints.finding.directory import has_usual_name
from fromage_cli.checkpoints.names.library_files import ACCELERATE, METADATA
from fromage_cli.checkpoints.names.steps import step_in_metadata
from fromage_cli.checkpoints.storage.json_file import read_object

TRAINER_STATE = "trainer_state.json"
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")


@dataclass(frozen=True)
class TrainerFiles:
    """What was found beside weights."""

    step: int | None = None
    optimizer: Path | None = None
    notes: tuple[str, ...] = ()


def read_trainer_files(weights: Path) -> TrainerFiles:
    """Read what stands beside weights that have one of the usual names; nothing beside others."""
    if not has_usual_name(weights):
        return TrainerFiles()
    home = weights.parent.parent if weights.parent.name == ACCELERATE[0] else weights.parent
    trainer = home / TRAINER_STATE
    step = step_in_metadata(read_object(trainer)) if trainer.is_file() else None
    optimizer = optimizer_in(home)
    found = [trainer.name] if step is not None else []
    found += [optimizer.name] if optimizer is not None else []
    note = f"Read beside the weights: {', '.join(found)}."
    return TrainerFiles(step, optimizer, (note,) if found else ())


def optimizer_in(directory: Path) -> Path | None:
    """Return the optimizer's file in a directory, or the directory in it that is the optimizer's."""
    sharded = directory / ACCELERATE[1]
    if (sharded / METADATA).is_file():
        return sharded
    return next((directory / name for name in OPTIMIZER_FILES if (directory / name).is_file()), None)
