"""What trainers write beside weights: Hugging Face's own state as JSON, and the optimizer's in a file of its own.

trainer_state.json {"global_step": …}; optimizer.pt, which accelerate calls optimizer.bin; sharded, a directory for the
weights and one for the optimizer, optimizer_0. Further optimizers of one run are called optimizer_1 and so on.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.checkpoints.finding.directory import has_usual_name
from fromage_cli.checkpoints.formats.bundle import is_bundle
from fromage_cli.checkpoints.formats.content import PICKLED_FORMATS, kind_of
from fromage_cli.checkpoints.formats.distributed import load_distributed_optimizer
from fromage_cli.checkpoints.formats.torch_file import load_file
from fromage_cli.checkpoints.names.library_files import ACCELERATE, FURTHER_OPTIMIZER, METADATA
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.names.steps import step_in_metadata
from fromage_cli.checkpoints.nested.optimizers import find_optimizer
from fromage_cli.checkpoints.nested.remainder import described
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState, together
from fromage_cli.checkpoints.storage.files import quoted, status_of
from fromage_cli.checkpoints.storage.json_file import read_object
from fromage_cli.checkpoints.storage.path_confinement import confined_path
from fromage_cli.errors import FromageError, InputError, UsageError

TRAINER_STATE = "trainer_state.json"
SETTINGS = ("config.json", "adapter_config.json")
LARGEST_SETTINGS = 2_000_000
"""Bytes of a file of settings: a model's has a few thousand."""
OPTIMIZER_FILES = ("optimizer.pt", "optimizer.bin")


@dataclass(frozen=True)
class TrainerFiles:
    """What was found beside weights."""

    step: int | None = None
    optimizers: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    bundle: Path | None = None
    """The bundle that the weights are of, which has its own optimizer state."""


def read_trainer_files(weights: Path) -> TrainerFiles:
    """Read what stands beside weights that have one of the usual names; nothing beside others."""
    if not has_usual_name(weights):
        return TrainerFiles()
    if is_bundle(weights.parent):
        return TrainerFiles(bundle=weights.parent)
    home = weights.parent.parent if weights.parent.name == ACCELERATE[0] else weights.parent
    trainer = home / TRAINER_STATE
    step = step_in_metadata(read_object(trainer)) if trainer.is_file() else None
    optimizers = optimizers_in(home)
    found = [trainer.name] if step is not None else []
    found += [optimizer.name for optimizer in optimizers]
    note = f"Read beside the weights: {', '.join(found)}."
    return TrainerFiles(step, optimizers, (note,) if found else ())


def settings_beside(weights: Path) -> dict[str, object]:
    """The settings of a model in files beside weights that have one of the usual names, by file; none unreadable."""
    found: dict[str, object] = {}
    for name in SETTINGS if has_usual_name(weights) else ():
        with suppress(FromageError, OSError):
            path = confined_path(weights, name)
            if path.is_file() and path.stat().st_size <= LARGEST_SETTINGS:
                found |= described({name: read_object(path)})
    return found


def optimizers_in(directory: Path) -> tuple[Path, ...]:
    """The files of optimizers in a directory, or the directories in it that are an optimizer's; () without a first."""
    sharded = directory / ACCELERATE[1]
    files = (directory / name for name in OPTIMIZER_FILES if (directory / name).is_file())
    first = sharded if (sharded / METADATA).is_file() else next(files, None)
    if first is None:
        return ()
    numbered = ((FURTHER_OPTIMIZER.match(path.name), path) for path in directory.iterdir())
    further = [(int(name[1]), path) for name, path in numbered if name and path.suffix == first.suffix]
    whole = [path for _, path in sorted(further) if path.is_file() or (path / METADATA).is_file()]
    return (first, *whole)


def load_optimizers(paths: Sequence[Path], key: str | None = None) -> OptimizerState | None:
    """The states of all optimizers of a run as one; None without any. `key` and errors as of `load_optimizer`."""
    if len(paths) == 1:
        return load_optimizer(paths[0], key)
    if key is not None and paths:
        raise UsageError(
            f"--optimizer-key {key!r} needs one file, but {len(paths)} optimizer files lie here: "
            f"{listed([p.name for p in paths])}.",
            "Name one of them with --optimizer-state FILE.",
        )
    return together({(path.name,): load_optimizer(path) for path in paths})


def load_optimizer(path: Path, key: str | None = None) -> OptimizerState:
    """Read the optimizer's state in a PyTorch file, in a distributed checkpoint, or in a directory that holds one.

    `key`: the dotted path of one among several. Raises InputError where there is none.
    """
    status_of(path)
    state = None
    if path.is_dir() and (path / METADATA).is_file():
        state, held = load_distributed_optimizer(path / METADATA, key), "its metadata has no such entries"
    elif path.is_dir():
        state = load_optimizers(optimizers_in(path), key)
        if state is None:
            raise InputError(
                f"The directory {quoted(path)} holds no optimizer state: it has no {' or '.join(OPTIMIZER_FILES)}.",
                hint="Name the optimizer's file.",
            )
        return state
    else:
        kind = kind_of(path)
        root, held = load_file(path, kind) if kind in PICKLED_FORMATS else None, f"it is {kind}"
        if isinstance(root, Mapping):
            held = f"it holds {listed([str(name) for name in root])}"
            state = find_optimizer(root, key=key)
    if state is None:
        raise InputError(
            f"{quoted(path)} holds no optimizer state: {held}.",
            hint=(
                "Give a file that torch.save(optimizer.state_dict(), FILE) writes. The state may be inside a "
                "dictionary."
            ),
        )
    return state
