"""What trainers write beside weights: Hugging Face's own state as JSON, and the optimizer's in a file of its own.

trainer_state.json {"global_step": …}; optimizer.pt, which accelerate calls optimizer.bin; sharded, a directory for the
weights and one for the optimizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.checkpoints.finding.directory import has_usual_name
from fromage_cli.checkpoints.formats.content import PICKLED_FORMATS, kind_of
from fromage_cli.checkpoints.formats.distributed import load_distributed_optimizer
from fromage_cli.checkpoints.formats.torch_file import load_file
from fromage_cli.checkpoints.names.library_files import ACCELERATE, METADATA
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.names.steps import step_in_metadata
from fromage_cli.checkpoints.nested.optimizers import find_optimizer
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState
from fromage_cli.checkpoints.storage.files import quoted, status_of
from fromage_cli.checkpoints.storage.json_file import read_object
from fromage_cli.errors import InputError

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


def load_optimizer(path: Path, key: str | None = None) -> OptimizerState:
    """Read the optimizer's state in a PyTorch file, in a distributed checkpoint, or in a directory that holds one.

    `key`: the dotted path of one among several. Raises InputError where there is none.
    """
    status_of(path)
    state = None
    if path.is_dir() and (path / METADATA).is_file():
        state, held = load_distributed_optimizer(path / METADATA, key), "no such entries in its metadata"
    elif path.is_dir():
        file = optimizer_in(path)
        if file is None:
            raise InputError(
                f"Directory {quoted(path)} holds no optimizer state: no {' or '.join(OPTIMIZER_FILES)}.",
                hint="Name the optimizer's file.",
            )
        return load_optimizer(file, key)
    else:
        kind = kind_of(path)
        root, held = load_file(path, kind) if kind in PICKLED_FORMATS else None, f"it is {kind}"
        if isinstance(root, Mapping):
            held = f"it holds {listed([str(name) for name in root])}"
            state = find_optimizer(root, key=key)
    if state is None:
        raise InputError(
            f"{quoted(path)} holds no optimizer state: {held}.",
            hint="Expected is what torch.save(optimizer.state_dict(), FILE) writes, by itself or inside a dictionary.",
        )
    return state
