"""What stands where in a perceptron: its linear layers in order, each with the norm that follows it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fromage_cli.problem.networks.perceptron_layers import LinearLayer, NormLayer, read_layers, refusal
from fromage_cli.problem.networks.perceptron_order import check_boundaries, in_order, natural

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
        raise refusal("there is no weight matrix in it")
    order = in_order(linears)
    check_boundaries(order, norms)
    if norm == "none":
        if norms:
            raise refusal(
                f"{norms[0].path!r} looks like a norm layer, but none is declared",
                'Put norm = "layernorm", "batchnorm" or "rmsnorm" into fromage.toml beside it, or give --model.',
            )
        return tuple(Placement(linear, None) for linear in order)
    return _with_norms(order, norms, norm)


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
