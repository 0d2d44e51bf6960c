"""Which tensors of a checkpoint are layers, as far as a file tells."""

import re
from collections.abc import Sequence

from fromage_cli.checkpoints.checkpoint import Checkpoint, TensorEntry
from fromage_cli.checkpoints.names.naming import chosen_names
from fromage_cli.checkpoints.storage.peculiarities import remedy
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS
from fromage_cli.counting import counted, first_names
from fromage_cli.errors import UsageError

BUFFERS = ("running_mean", "running_var")
"""Ends of names of floating-point tensors that no optimizer moves."""
LINEAR = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
"""Classes of modules whose matrices have a usual size: one over the square root of their inputs."""
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Those of recurrent layers, with how many matrices each of theirs stacks; torch sizes them by their outputs."""
MAPS = (*LINEAR, *GATES)
_LOOKUP_TABLE = re.compile(r"embed|(^|[._])(emb|wte|wpe|tok\w*|pos\w*|cls)([._]|\d|$)", re.IGNORECASE)


def looks_like_lookup_table(name: str) -> bool:
    """Return whether a tensor has a usual name of embeddings of tokens or positions."""
    return _LOOKUP_TABLE.search(name) is not None


def is_lookup_table(name: str, kind: str | None) -> bool:
    """Return whether a tensor is a table of embeddings: by its module's class, else by its name."""
    return kind == "Embedding" or (kind not in MAPS and looks_like_lookup_table(name))


def layer_entries(
    checkpoint: Checkpoint, include: Sequence[str] = (), exclude: Sequence[str] = (), tensors: str = "matrices"
) -> dict[str, TensorEntry]:
    """Return by name the floating-point tensors that the globs leave, of two or more dimensions or, with `all`, of any.

    A tied tensor stands here under each of its names.
    """
    chosen = chosen_names(checkpoint.entries, include, exclude)
    return {
        entry.name: entry
        for entry in checkpoint.entries.values()
        if entry.floating
        and entry.dtype in WIDTHS
        and entry.elements
        and (tensors == "all" or len(entry.shape) > 1)
        and entry.name in chosen
    }


def lasting_layers(
    checkpoints: Sequence[Checkpoint], include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the layers that a run has throughout, tied ones once, and a note on those at its end only.

    Raises UsageError where none is left.
    """
    last = checkpoints[-1]
    copies = {name for group in last.tied for name in group[1:]}
    layers = {name: entry for name, entry in layer_entries(last, include, exclude).items() if name not in copies}
    lasting = {
        name: entry
        for name, entry in layers.items()
        if all(name in one.entries and one.entries[name].shape == entry.shape for one in checkpoints)
    }
    unread = {entry.name: entry.dtype for entry in last.entries.values() if entry.dtype not in WIDTHS}
    if not lasting and unread:
        name, kind = next(iter(unread.items()))
        raise UsageError(
            f"No layer is left: {counted(len(unread), 'tensor')} of {last.place!r} cannot be read as plain numbers, "
            f"first {name!r}, {kind}.",
            hint=remedy(unread.values()),
        )
    if not lasting:
        raise UsageError(
            "No layer is left. A layer needs two dimensions, the same shape in every checkpoint, and a "
            "name that was asked for.",
            hint="Name checkpoints of one run. fromage-diag inspect shows what they hold.",
        )
    changed = [name for name in layers if name not in lasting]
    return tuple(lasting), left_out(changed, "that some checkpoint lacks or has in another shape")


def left_out(names: Sequence[str], which: str) -> tuple[str, ...]:
    """Return a note on layers that are not measured, the first three by name; none where there are none."""
    if not names:
        return ()
    return (f"Left out {counted(len(names), 'layer')} {which}: {first_names(names)}.",)
