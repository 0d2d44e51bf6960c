"""Which tensors of two checkpoints are held against each other, and which find no counterpart."""

from collections.abc import Sequence
from dataclasses import dataclass

from fromage_cli.checkpoints import Checkpoint, TensorEntry
from fromage_cli.checkpoints.layers import layer_entries
from fromage_cli.checkpoints.names.naming import nearest
from fromage_cli.diagnostics.distance.result import Unpaired
from fromage_cli.errors import UsageError


@dataclass(frozen=True)
class Pairing:
    """Names that both checkpoints have in one shape, in the order of the first, and what is left over."""

    names: tuple[str, ...]
    unpaired: Unpaired


def pair_tensors(
    first: Checkpoint, second: Checkpoint, tensors: str, include: Sequence[str], exclude: Sequence[str]
) -> Pairing:
    """Pairs the floating-point tensors to compare: those of two or more dimensions, or `all`; each tied one once.

    Raises UsageError where none is left.
    """
    copies = {name for group in first.tied if _tied_in(second, group) for name in group[1:]}
    ours, theirs = (layer_entries(checkpoint, include, exclude, tensors) for checkpoint in (first, second))
    both = [name for name in ours if name in theirs]
    same = [name for name in both if ours[name].shape == theirs[name].shape]
    unpaired = Unpaired(
        only_first=_lacking(ours, first, second),
        only_second=_lacking(theirs, second, first),
        reshaped=tuple(
            name for name in ours if name in second.entries and ours[name].shape != second.entries[name].shape
        ),
        first_ties=tuple(group for group in first.tied if not _tied_in(second, group)),
        second_ties=tuple(group for group in second.tied if not _tied_in(first, group)),
    )
    if not set(same) - copies:
        name = next(iter(unpaired.only_first or first.entries))
        raise UsageError(
            "No layer is left to compare: it takes two dimensions, and the same name and shape in both.",
            hint=f"The first has {name!r}. {nearest(name, second.entries)} --tensors all compares vectors too.",
            details=[*unpaired.only_first, *unpaired.only_second, *unpaired.reshaped],
        )
    return Pairing(tuple(name for name in same if name not in copies), unpaired)


def _lacking(entries: dict[str, TensorEntry], own: Checkpoint, other: Checkpoint) -> tuple[str, ...]:
    """The names that the other checkpoint does not have, save those of a tensor that it has under another of them."""
    elsewhere = {name for group in own.tied if any(name in other.entries for name in group) for name in group}
    return tuple(name for name in entries if name not in other.entries and name not in elsewhere)


def _tied_in(checkpoint: Checkpoint, group: Sequence[str]) -> bool:
    """Whether the names are one tensor there too, or it keeps one of them alone."""
    present = [name for name in group if name in checkpoint.entries]
    return len(present) < 2 or any(set(present) <= set(other) for other in checkpoint.tied)
