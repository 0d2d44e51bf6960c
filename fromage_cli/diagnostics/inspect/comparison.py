"""Which layers hold the same bytes in every checkpoint of a network, found by digests of what was read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fromage_cli.checkpoints import Checkpoint
from fromage_cli.checkpoints.layers import layer_entries
from fromage_cli.diagnostics.inspect.result import InspectResult, UnchangedResult
from fromage_cli.errors import FromageError


@dataclass(frozen=True)
class Inspected:
    """One checkpoint, and what was found in it."""

    checkpoint: Checkpoint
    result: InspectResult
    digests: Mapping[str, bytes]
    """Of each tensor's bytes; empty where none were taken."""
    notes: tuple[str, ...] = ()
    """On the logs beside it."""


def compare(inspected: Sequence[Inspected | FromageError]) -> list[Inspected | FromageError]:
    """The same; the last of several checkpoints of a network gets the layers with the same bytes in all.

    Checkpoints are of one network where their layers agree in name and shape.
    """
    networks: dict[object, list[int]] = {}
    contents: dict[int, dict[str, tuple[str, bytes]]] = {}
    for place, one in enumerate(inspected):
        if isinstance(one, Inspected) and one.digests:
            copies = {name for group in one.checkpoint.tied for name in group[1:]}
            layers = [entry for name, entry in layer_entries(one.checkpoint).items() if name not in copies]
            contents[place] = {entry.name: (entry.dtype, one.digests[entry.name]) for entry in layers}
            networks.setdefault(frozenset((entry.name, entry.shape) for entry in layers), []).append(place)
    compared = list(inspected)
    for *before, last in networks.values():
        of_last, ended = contents[last], inspected[last]
        if before and of_last and isinstance(ended, Inspected):
            same = [name for name, held in of_last.items() if all(contents[place][name] == held for place in before)]
            unchanged = UnchangedResult(len(before) + 1, len(of_last), tuple(same))
            compared[last] = replace(ended, result=replace(ended.result, unchanged=unchanged))
    return compared
