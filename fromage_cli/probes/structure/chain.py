"""Networks that Theorem 1 speaks of: bias-free linear layers that do not narrow, with a nonlinearity of bounded slopes.

Source: Bernstein et al., NeurIPS 2020, Theorem 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.missing import Missing, Why
from fromage_cli.problem.graphs.network import class_name
from fromage_cli.problem.networks.layers import unwrapped
from fromage_cli.problem.networks.perceptron import Perceptron

_NEUTRAL = (nn.Identity, nn.Flatten, nn.Unflatten)
"""Modules that keep the norm of every row."""
_DROPOUT = (nn.Dropout, nn.AlphaDropout)
_SLOPES_DOWN_TO_ZERO = (
    nn.ReLU,
    nn.ReLU6,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.Softplus,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Softmax,
)
"""Nonlinearities whose slope comes down to zero, so that alpha is 0."""
NO_BOUND = "its nonlinearity {} has slopes down to 0, for which the theorem gives no finite bound"
NO_CHAIN = "the model is not a plain chain of linear layers and nonlinearities: {}"


@dataclass(frozen=True)
class Chain:
    """A perceptron of the theorem."""

    weights: tuple[str, ...]
    """Names of the matrices, from the input to the output."""
    alpha: float
    """alpha |x| <= |phi(x)|, and the smallest slope of what stands between two matrices."""
    beta: float
    """The largest slope of it."""


def theorem_chain(model: nn.Module, *, dropout: bool) -> Chain | Missing:
    """Reads the chain that the model is, or gives the reason why Theorem 1 says nothing of it.

    `dropout`: whether dropout is on. A layer without a nonlinearity counts as one with slope 1.
    """
    try:
        return _chain(_links(unwrapped(model), "", dropout))
    except _Refusal as refusal:
        return Missing(Why.NO_FORMULA, str(refusal))


class _Refusal(Exception):
    """Says why a model is no chain."""


_Link = tuple[str, nn.Module | Callable[[Tensor], Tensor] | None]


def _links(module: nn.Module, path: str, dropout: bool) -> list[_Link]:
    """The leaves of nested nn.Sequential, or of a rebuilt perceptron, in order, without what leaves the norm alone."""
    if isinstance(module, Perceptron):
        links: list[_Link] = []
        for stage in module._stages:
            if stage.norm is not None or stage.residual:
                extra = "it has a normalisation" if stage.norm is not None else "it has skip connections"
                raise _Refusal(NO_CHAIN.format(extra))
            name = f"{path}.{stage.linear}".lstrip(".")
            links += [(name, module.get_submodule(stage.linear)), (name, stage.activation)]
        return links
    if type(module) is nn.Sequential:
        return [
            link
            for name, child in module._modules.items()  # a module used twice stands here twice
            if child is not None
            for link in _links(child, f"{path}.{name}".lstrip("."), dropout)
        ]
    if isinstance(module, _NEUTRAL) or (isinstance(module, _DROPOUT) and not dropout):
        return []
    return [(path, module)]


def _chain(links: list[_Link]) -> Chain:
    """Reads the matrices and the slopes behind each: nonlinearities that follow each other multiply theirs.

    What stands before the first matrix only makes another input. Raises _Refusal for any other network.
    """
    names: list[str] = []
    low: list[float] = []
    high: list[float] = []
    narrowing = None
    for path, link in links:
        if type(link) is nn.Linear:
            if link.bias is not None:
                raise _Refusal(f"{path} has a bias")
            names.append(f"{path}.weight".lstrip("."))
            low.append(1.0)
            high.append(1.0)
            if link.weight.shape[0] < link.weight.shape[1] and narrowing is None:
                narrowing = names[-1]
        elif link is not None:
            slopes = _slopes(path, link)
            if names:
                low[-1] *= min(1.0, *slopes)
                high[-1] *= max(1.0, *slopes)
    if not names:
        raise _Refusal(NO_CHAIN.format("it has no linear layer"))
    if narrowing is not None:
        raise _Refusal(f"{narrowing} has fewer outputs than inputs, so some changes of its input have no effect")
    return Chain(tuple(names), min(low), max(high))


def _slopes(path: str, link: nn.Module | Callable[[Tensor], Tensor]) -> list[float]:
    """The slopes of a nonlinearity that is linear on each side of zero."""
    if isinstance(link, nn.LeakyReLU):
        found = [float(link.negative_slope)]
    elif isinstance(link, nn.PReLU):
        found = [float(slope) for slope in link.weight.detach()]
    elif link is functional.leaky_relu:
        found = [0.01]
    elif not isinstance(link, nn.Module):
        identity = bool(torch.equal(link(probe := torch.linspace(-3.0, 3.0, 7)), probe))
        found = [1.0] if identity else [0.0]
    elif isinstance(link, _SLOPES_DOWN_TO_ZERO):
        found = [0.0]
    else:
        raise _Refusal(NO_CHAIN.format(f"{path or 'it'} is a {class_name(link)}"))
    if min(found) <= 0.0:
        name = type(link).__name__ if isinstance(link, nn.Module) else link.__name__
        raise _Refusal(NO_BOUND.format(name))
    return found
