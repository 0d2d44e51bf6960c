"""An optimizer's state from a file of its own: what stands beside weights, or what `--optimizer-state` names."""

from collections.abc import Mapping
from pathlib import Path

from fromage_cli.checkpoints.finding.trainer_files import OPTIMIZER_FILES, optimizer_in
from fromage_cli.checkpoints.formats.content import PICKLED_FORMATS, kind_of
from fromage_cli.checkpoints.formats.distributed import load_distributed_optimizer
from fromage_cli.checkpoints.names.library_files import METADATA
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState
from fromage_cli.checkpoints.optimizers.saved_optimizer import KEYS, optimizer_state, parse_optimizer
from fromage_cli.checkpoints.storage.files import quoted, status_of
from fromage_cli.errors import InputError


def load_optimizer(path: Path) -> OptimizerState:
    """Read the optimizer's state in a PyTorch file, in a distributed checkpoint, or in a directory that holds one.

    Raises InputError where there is none.
    """
    from fromage_cli.checkpoints.formats.torch_file import load_file

    status_of(path)
    state = None
    if path.is_dir() and (path / METADATA).is_file():
        state, held = load_distributed_optimizer(path / METADATA), "no such entries in its metadata"
    elif path.is_dir():
        file = optimizer_in(path)
        if file is None:
            raise InputError(
                f"Directory {quoted(path)} holds no optimizer state: no {' or '.join(OPTIMIZER_FILES)}.",
                hint="Name the optimizer's file.",
            )
        return load_optimizer(file)
    else:
        kind = kind_of(path)
        root, held = load_file(path, kind) if kind in PICKLED_FORMATS else None, f"it is {kind}"
        if isinstance(root, Mapping):
            held = f"it holds {listed([str(name) for name in root])}"
            state = parse_optimizer(root) or optimizer_state([{str(name): value for name, value in root.items()}])
    if state is None:
        raise InputError(
            f"{quoted(path)} holds no optimizer state: {held}.",
            hint="Expected is what torch.save(optimizer.state_dict(), FILE) writes, itself or under one of "
            f"{', '.join(KEYS)}.",
        )
    return state
