"""What stands where in a perceptron: its linear layers in order, each with the norm that follows it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fromage_cli.problem.networks.perceptron_layers import LinearLayer, NormLayer, read_layers, refusal
from fromage_cli.problem.networks.perceptron_order import check_boundaries, in_order, natural_path

if TYPE_CHECKING:
    from fromage_cli.checkpoints import TensorEntry


@dataclass(frozen=True)
class Placement:
    """A linear layer and the norm that follows it."""

    linear: LinearLayer
    norm: NormLayer | None


def read_layout(entries: Mapping[str, "TensorEntry"], norm: str) -> tuple[Placement, ...]:
    """The layers in the order in which they are applied.

    Raises MismatchError naming what is no part of a perceptron, what is missing, or what leaves the order open.
    """
    linears, norms = read_layers(entries)
    if not linears:
        raise refusal("it has no weight matrix")
    order = in_order(linears)
    check_boundaries(order, norms)
    if norm == "none":
        if norms:
            raise refusal(
                f"{norms[0].path!r} looks like a norm layer, but the kind of norm is not given",
                'Write norm = "layernorm", "batchnorm" or "rmsnorm" into fromage.toml beside it. Or give '
                "--model file.py:factory.",
            )
        return tuple(Placement(linear, None) for linear in order)
    hidden = order[:-1]
    ordered = sorted(norms, key=lambda layer: natural_path(layer.path))
    if len(ordered) != len(hidden):
        raise refusal(f"it has {len(ordered)} norm layers for {len(hidden)} hidden layers")
    for linear, layer in zip(hidden, ordered, strict=True):
        _check_norm(linear, layer, norm)
    pairs = [Placement(linear, layer) for linear, layer in zip(hidden, ordered, strict=True)]
    return (*pairs, Placement(order[-1], None))  # linear → norm → activation in every hidden layer


def _check_norm(linear: LinearLayer, layer: NormLayer, kind: str) -> None:
    """Refuse a norm whose width, tensors or place in the numbering cannot be those of one after this layer."""
    if layer.width != linear.outputs:
        raise refusal(
            f"norm {layer.path!r} has width {layer.width}, but the layer before it, {linear.path!r}, has "
            f"{linear.outputs} outputs"
        )
    if "running_mean" in layer.leaves and kind != "batchnorm":
        raise refusal(f"{layer.path!r} has running statistics, but norm = {kind!r} was given")
    if "bias" in layer.leaves and kind == "rmsnorm":
        raise refusal(f"{layer.path!r} has a bias, but norm = 'rmsnorm' was given")
    (parent, _, last), (norm_parent, _, norm_last) = linear.path.rpartition("."), layer.path.rpartition(".")
    if parent == norm_parent and last.isdigit() and norm_last.isdigit():  # next in a numbered container
        misplaced = int(norm_last) != int(last) + 1
    else:  # the same numbers elsewhere
        numbers, norm_numbers = re.findall(r"\d+", linear.path), re.findall(r"\d+", layer.path)
        misplaced = len(numbers) == len(norm_numbers) and list(map(int, numbers)) != list(map(int, norm_numbers))
    if misplaced:
        raise refusal(f"norm {layer.path!r} does not come right after {linear.path!r}")
