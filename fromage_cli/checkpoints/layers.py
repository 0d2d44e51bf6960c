"""Which tensors of a checkpoint are layers, as far as a file tells."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from fromage_cli.checkpoints.checkpoint import Checkpoint, TensorEntry
from fromage_cli.checkpoints.reading.widening import WIDTHS


def layer_entries(
    checkpoint: Checkpoint, include: Sequence[str] = (), exclude: Sequence[str] = (), tensors: str = "matrices"
) -> dict[str, TensorEntry]:
    """The floating-point tensors of two or more dimensions, with `all` vectors too, that the globs leave; by name.

    A tied tensor stands here under each of its names.
    """
    return {
        entry.name: entry
        for entry in checkpoint.entries.values()
        if entry.floating
        and entry.dtype in WIDTHS
        and entry.elements
        and (tensors == "all" or len(entry.shape) > 1)
        and (not include or any(fnmatchcase(entry.name, glob) for glob in include))
        and not any(fnmatchcase(entry.name, glob) for glob in exclude)
    }


def lasting_layers(
    checkpoints: Sequence[Checkpoint], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers of a run's last checkpoint, each tied one once, and those that not every one has in one shape."""
    last = checkpoints[-1]
    copies = {name for group in last.tied for name in group[1:]}
    layers = {name: entry for name, entry in layer_entries(last, include, exclude).items() if name not in copies}
    lasting = [
        name
        for name, entry in layers.items()
        if all(name in one.entries and one.entries[name].shape == entry.shape for one in checkpoints)
    ]
    return tuple(lasting), tuple(name for name in layers if name not in lasting)
