"""Which linear and norm layers a checkpoint's tensors form, and in which order: read with certainty or refused."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise, permutations
from typing import TYPE_CHECKING

from fromage_cli.errors import MismatchError

if TYPE_CHECKING:
    from fromage_cli.checkpoints import TensorEntry

_FLOATING = {"float16", "bfloat16", "float32", "float64"}
_NORM_LEAVES = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
_EMBEDDING = re.compile(r"(^|[._])(emb|embed|embedding|embeddings|wte|wpe)([._]|\d|$)", re.IGNORECASE)
_MOST_SIBLINGS = 5
FACTORY_HINT = "Give the network itself: --model file.py:factory."


@dataclass(frozen=True)
class LinearLayer:
    """A weight (outputs × inputs), with or without a bias."""

    path: str
    inputs: int
    outputs: int
    bias: bool


@dataclass(frozen=True)
class NormLayer:
    """A layer of tensors with one dimension, all of one width."""

    path: str
    width: int
    leaves: frozenset[str]


@dataclass(frozen=True)
class Placement:
    """A linear layer and the norm that follows it."""

    linear: LinearLayer
    norm: NormLayer | None


def read_layout(entries: Mapping[str, "TensorEntry"], norm: str) -> tuple[Placement, ...]:
    """The layers in the order in which they are applied.

    Raises MismatchError naming what is no part of a perceptron, what is missing, or what leaves the order open.
    """
    linears, norms = _layers(entries)
    if not linears:
        raise refusal("there is no weight matrix in it")
    order = _order(linears)
    check_boundaries(order)
    if norm == "none":
        if norms:
            raise refusal(
                f"{norms[0].path!r} looks like a norm layer, but none is declared",
                'Put norm = "layernorm", "batchnorm" or "rmsnorm" into fromage.toml beside it, or give --model.',
            )
        return tuple(Placement(linear, None) for linear in order)
    return _with_norms(order, norms, norm)


def refusal(reason: str, hint: str = FACTORY_HINT) -> MismatchError:
    """The error of everything that cannot be rebuilt with certainty."""
    return MismatchError(f"The checkpoint cannot be rebuilt as a perceptron: {reason}.", hint)


def _layers(entries: Mapping[str, "TensorEntry"]) -> tuple[list[LinearLayer], list[NormLayer]]:
    """Linear layers and norm layers; every tensor belongs to one of them."""
    modules: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in entries.items():
        path, _, leaf = name.rpartition(".")
        if not path:
            raise refusal(f"{name!r} has no layer name before it")
        modules.setdefault(path, {})[leaf] = entry
    linears, norms = [], []
    for path, tensors in modules.items():
        for entry in tensors.values():
            _check_tensor(entry)
        if "weight" in tensors and len(tensors["weight"].shape) == 2:
            linears.append(_linear(path, tensors))
        else:
            norms.append(_norm(path, tensors))
    return linears, norms


def _check_tensor(entry: "TensorEntry") -> None:
    name, dimensions = entry.name, len(entry.shape)
    if name.endswith(".num_batches_tracked"):
        return
    if dimensions > 2:
        kind = "a convolution?" if dimensions in (3, 4, 5) else "unknown"
        raise refusal(f"{name!r} has {dimensions} dimensions ({kind})")
    if entry.dtype not in _FLOATING:
        raise refusal(f"{name!r} has type {entry.dtype} (quantised?)")
    if name.rpartition(".")[2] not in _NORM_LEAVES or dimensions == 0:
        raise refusal(f"{name!r} {list(entry.shape)} is neither a weight nor a bias of a linear or norm layer")
    if dimensions == 2 and _EMBEDDING.search(name):
        raise refusal(f"{name!r} looks like a table of embeddings")


def _linear(path: str, tensors: Mapping[str, "TensorEntry"]) -> LinearLayer:
    outputs, inputs = tensors["weight"].shape
    extra = sorted(tensors.keys() - {"weight", "bias"})
    if extra:
        raise refusal(f"'{path}.{extra[0]}' does not belong to a linear layer")
    if "bias" in tensors and tensors["bias"].shape != (outputs,):
        raise refusal(f"'{path}.bias' has shape {list(tensors['bias'].shape)}, its weight {[outputs, inputs]}")
    return LinearLayer(path, inputs, outputs, "bias" in tensors)


def _norm(path: str, tensors: Mapping[str, "TensorEntry"]) -> NormLayer:
    shapes = {entry.shape for leaf, entry in tensors.items() if leaf != "num_batches_tracked"}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1 or not tensors.keys() & {"weight", "running_mean"}:
        raise refusal(f"the tensors of {path!r} ({', '.join(sorted(tensors))}) form no linear and no norm layer")
    return NormLayer(path, next(iter(shapes))[0], frozenset(tensors))


def _order(linears: Sequence[LinearLayer]) -> tuple[LinearLayer, ...]:
    """The one order in which numbered names ascend and every layer's outputs are the next one's inputs."""
    found = _chains([(layer.path.split("."), layer) for layer in linears])
    if not found:
        raise refusal(_broken_chain(linears))
    if len(found) > 1:
        first, second = ([layer.path for layer in chain] for chain in found[:2])
        raise refusal(f"its order is open: {' → '.join(first[:4])} or {' → '.join(second[:4])}")
    return found[0]


def _chains(items: Sequence[tuple[list[str], LinearLayer]]) -> list[tuple[LinearLayer, ...]]:
    """Every order of a subtree that chains, at most two for each pair of outer widths."""
    if len(items) == 1:
        return [(items[0][1],)]
    if any(not path for path, _ in items):
        raise refusal(f"{next(layer.path for path, layer in items if not path)!r} is a layer and contains others")
    children: dict[str, list[tuple[list[str], LinearLayer]]] = {}
    for (first, *rest), layer in items:
        children.setdefault(first, []).append((rest, layer))
    chains = {name: _chains(below) for name, below in children.items()}
    kinds: dict[str, list[str]] = {}
    for name in sorted(children, key=natural):
        kinds.setdefault(re.sub(r"\d+", "#", name), []).append(name)
    if len(kinds) > _MOST_SIBLINGS:
        raise refusal(f"its order is open among {', '.join(sorted(children)[:6])}, …")
    found: list[tuple[LinearLayer, ...]] = []
    for order in permutations(kinds.values()):
        found += _joined([chains[name] for group in order for name in group])
    return _distinct(found)


def _joined(parts: Sequence[Sequence[tuple[LinearLayer, ...]]]) -> list[tuple[LinearLayer, ...]]:
    """Every way to put one chain of each part after another."""
    found = list(parts[0])
    for part in parts[1:]:
        pairs = [(chain, after) for chain in found for after in part if chain[-1].outputs == after[0].inputs]
        found = _distinct([chain + after for chain, after in pairs])
    return found


def _distinct(chains: Sequence[tuple[LinearLayer, ...]]) -> list[tuple[LinearLayer, ...]]:
    """Two chains for each pair of outer widths are enough to show that the order is open."""
    kept: dict[tuple[int, int], list[tuple[LinearLayer, ...]]] = {}
    for chain in chains:
        alike = kept.setdefault((chain[0].inputs, chain[-1].outputs), [])
        if len(alike) < 2 and chain not in alike:
            alike.append(chain)
    return [chain for alike in kept.values() for chain in alike]


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """A sort key that puts `layers.2` before `layers.10`."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part)


def _broken_chain(linears: Sequence[LinearLayer]) -> str:
    ordered = sorted(linears, key=lambda layer: [natural(part) for part in layer.path.split(".")])
    for before, after in pairwise(ordered):
        if before.outputs != after.inputs:
            return (
                f"{before.path!r} has {before.outputs} outputs and {after.path!r} {after.inputs} inputs, "
                "and no other order of the layers fits"
            )
    return "no order of the layers fits their shapes"


def check_boundaries(order: Sequence[LinearLayer]) -> None:
    """Refuse where two blocks meet and nothing shows whether an activation stands between them.

    Inside a numbered container, gaps are activations; after its last layer they cannot be seen. Two blocks of several
    layers, such as an encoder and a decoder, may meet with or without one.

    Raises MismatchError.
    """
    blocks = [(name, list(group)) for name, group in groupby(order, key=_block)]
    for (_, block), (_, after) in pairwise(blocks):
        several = len(block) > 1 and (len(after) > 1 or _has_gaps(block))
        if several:
            raise refusal(f"whether an activation stands between {block[-1].path!r} and {after[0].path!r} is open")


def _block(layer: LinearLayer) -> str:
    return layer.path.rpartition(".")[0]


def _has_gaps(block: Sequence[LinearLayer]) -> bool:
    numbers = [int(last) for last in (layer.path.rpartition(".")[2] for layer in block) if last.isdigit()]
    return any(after - before > 1 for before, after in pairwise(numbers))


def _with_norms(order: Sequence[LinearLayer], norms: Sequence[NormLayer], kind: str) -> tuple[Placement, ...]:
    """Linear → norm → activation in every hidden layer."""
    hidden = order[:-1]
    ordered = sorted(norms, key=lambda layer: [natural(part) for part in layer.path.split(".")])
    if len(ordered) != len(hidden):
        raise refusal(f"it has {len(ordered)} norm layers for {len(hidden)} hidden layers")
    for linear, layer in zip(hidden, ordered, strict=True):
        _check_norm(linear, layer, kind)
    return (
        *(Placement(linear, layer) for linear, layer in zip(hidden, ordered, strict=True)),
        Placement(order[-1], None),
    )


def _check_norm(linear: LinearLayer, layer: NormLayer, kind: str) -> None:
    if layer.width != linear.outputs:
        raise refusal(
            f"norm {layer.path!r} has width {layer.width}, the layer before it, {linear.path!r}, {linear.outputs}"
        )
    if "running_mean" in layer.leaves and kind != "batchnorm":
        raise refusal(f"{layer.path!r} has running statistics, but norm = {kind!r} is declared")
    if "bias" in layer.leaves and kind == "rmsnorm":
        raise refusal(f"{layer.path!r} has a bias, but norm = 'rmsnorm' is declared")
    if _misplaced(linear.path, layer.path):
        raise refusal(f"norm {layer.path!r} does not stand right after {linear.path!r}")


def _misplaced(linear: str, norm: str) -> bool:
    """Whether numbers contradict a norm's place: next in a numbered container, or the same number elsewhere."""
    (linear_parent, _, linear_last), (norm_parent, _, norm_last) = linear.rpartition("."), norm.rpartition(".")
    if linear_parent == norm_parent and linear_last.isdigit() and norm_last.isdigit():
        return int(norm_last) != int(linear_last) + 1
    linear_numbers, norm_numbers = list(_numbers(linear)), list(_numbers(norm))
    return len(linear_numbers) == len(norm_numbers) and linear_numbers != norm_numbers


def _numbers(path: str) -> Iterator[int]:
    return (int(number) for number in re.findall(r"\d+", path))
