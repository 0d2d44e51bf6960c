"""In which order a perceptron's linear layers are applied: the one that numbers and shapes allow, or a refusal."""

import re
from collections.abc import Sequence
from itertools import groupby, pairwise, permutations

from fromage_cli.problem.networks.perceptron_layers import LinearLayer, NormLayer, refusal

_MOST_SIBLINGS = 5
"""Differently named neighbours of which every order is tried: 5! = 120 of them."""


def in_order(linears: Sequence[LinearLayer]) -> tuple[LinearLayer, ...]:
    """The one order in which numbered names ascend and every layer's outputs are the next one's inputs."""
    found = _chains([(layer.path.split("."), layer) for layer in linears])
    if not found:
        ordered = sorted(linears, key=lambda layer: natural_path(layer.path))
        for before, after in pairwise(ordered):
            if before.outputs != after.inputs:
                raise refusal(
                    f"{before.path!r} has {before.outputs} outputs and {after.path!r} {after.inputs} inputs, "
                    "and no other order of the layers fits"
                )
        raise refusal("no order of the layers fits their shapes")
    if len(found) > 1:
        first, second = ([layer.path for layer in chain] for chain in found[:2])
        raise refusal(f"the order of its layers is not clear: {' → '.join(first[:4])} or {' → '.join(second[:4])}")
    return found[0]


def _chains(items: Sequence[tuple[list[str], LinearLayer]]) -> list[tuple[LinearLayer, ...]]:
    """Every order of a subtree that chains, at most two for each pair of outer widths."""
    if len(items) == 1:
        return [(items[0][1],)]
    if any(not path for path, _ in items):
        raise refusal(
            f"{next((layer.path for path, layer in items if not path))!r} is a layer and contains other layers"
        )
    children: dict[str, list[tuple[list[str], LinearLayer]]] = {}
    for (first, *rest), layer in items:
        children.setdefault(first, []).append((rest, layer))
    chains = {name: _chains(below) for name, below in children.items()}
    kinds: dict[str, list[str]] = {}
    for name in sorted(children, key=natural):
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    if len(kinds) > _MOST_SIBLINGS:
        raise refusal(f"the order of its layers is not clear: {', '.join(sorted(children)[:6])}, …")
    found: list[tuple[LinearLayer, ...]] = []
    for order in permutations(kinds.values()):
        head, *others = [chains[name] for group in order for name in group]
        joined = list(head)  # every way to put one chain of each part after another
        for part in others:
            pairs = [(chain, after) for chain in joined for after in part if chain[-1].outputs == after[0].inputs]
            joined = _distinct([chain + after for chain, after in pairs])
        found += joined
    return _distinct(found)


def _distinct(chains: Sequence[tuple[LinearLayer, ...]]) -> list[tuple[LinearLayer, ...]]:
    """Two chains for each pair of outer widths are enough to show that the order is open."""
    kept: dict[tuple[int, int], list[tuple[LinearLayer, ...]]] = {}
    for chain in chains:
        alike = kept.setdefault((chain[0].inputs, chain[-1].outputs), [])
        if len(alike) < 2 and chain not in alike:
            alike.append(chain)
    return [chain for alike in kept.values() for chain in alike]


def natural_path(path: str) -> list[tuple[tuple[int, int, str], ...]]:
    """A sort key that puts `layers.2.weight` before `layers.10.weight`, component by component."""
    return [natural(component) for component in path.split(".")]


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts `layers.2` before `layers.10`."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part)


def check_boundaries(order: Sequence[LinearLayer], norms: Sequence[NormLayer]) -> None:
    """Refuse where two blocks meet and nothing shows whether an activation stands between them.

    Inside a numbered container gaps are activations, and then no gap means none; after its last layer they cannot be
    seen. Two blocks of several layers, such as an encoder and a decoder, may meet with or without one.

    Raises MismatchError.
    """
    blocks = [(name, list(group)) for name, group in groupby(order, key=_block)]
    for _, block in blocks:
        gaps = _gaps(block, norms)
        if gaps and min(gaps) == 0 < max(gaps):
            raise refusal(
                f"there is no room for an activation after {block[gaps.index(0)].path!r}, but after other "
                "layers there is"
            )
    for (_, block), (_, after) in pairwise(blocks):
        several = len(block) > 1 and (len(after) > 1 or any(gap > 0 for gap in _gaps(block, ())))
        if several:
            raise refusal(
                f"it is not clear whether an activation stands between {block[-1].path!r} and {after[0].path!r}"
            )


def _block(layer: LinearLayer | NormLayer) -> str:
    return layer.path.rpartition(".")[0]


def _last(layer: LinearLayer | NormLayer) -> str:
    return layer.path.rpartition(".")[2]


def _gaps(block: Sequence[LinearLayer], norms: Sequence[NormLayer]) -> list[int]:
    """How many layers without tensors stand between neighbours in a numbered container."""
    numbers = [int(last) for last in (_last(layer) for layer in block) if last.isdigit()]
    taken = [int(_last(norm)) for norm in norms if _block(norm) == _block(block[0]) and _last(norm).isdigit()]
    return [
        after - before - 1 - sum(before < number < after for number in taken) for before, after in pairwise(numbers)
    ]
