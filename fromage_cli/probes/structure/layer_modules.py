"""The modules around a layer: its bias, its heads, the size of what it returns."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.graphs.network import HEADS
from fromage_cli.problem.networks.layers import TrainableTensor, owner_of
from fromage_cli.theory.accumulation import squared_norm


def bias_of(problem: Problem, layer: TrainableTensor) -> TrainableTensor | None:
    """The vector that is added to what a layer returns, as far as names and lengths tell.

    The one whose name says `bias` where the layer's says `weight`, else `bias`, else the only vector beside the layer;
    always one that receives a gradient and is as long as one of the layer's first two dimensions.
    """
    owner, leaf = owner_of(layer.name)
    vectors = {
        owner_of(tensor.name)[1]: tensor
        for tensor in problem.receiving
        if tensor.parameter.dim() == 1 and owner_of(tensor.name)[0] == owner
        if tensor.parameter.shape[0] in layer.parameter.shape[:2]
    }
    for name in (leaf.replace("weight", "bias"), "bias"):
        if name in vectors:
            return vectors[name]
    return next(iter(vectors.values())) if len(vectors) == 1 else None


def head_counts(model: nn.Module, name: str) -> set[int]:
    """The numbers of heads that the modules around a layer, or their configurations, speak of."""
    modules = dict(model.named_modules(remove_duplicate=False))
    owner, found = owner_of(name)[0], set()
    while True:
        for speaker in (modules[owner], getattr(modules[owner], "config", None)):
            counts = (getattr(speaker, attribute, None) for attribute in HEADS)
            found |= {count for count in counts if type(count) is int}
        if not owner:
            return found
        owner = owner.rpartition(".")[0]


def output_scales(problem: Problem, layers: Sequence[TrainableTensor]) -> dict[str, float]:
    """Measures the root mean square of what each layer's module returns on the first chunk; one forward pass.

    Modules that are not called, that return no tensor, or take no hook are left out.
    """
    found: dict[str, tuple[float, float]] = {}

    def record(name: str, module: Any, arguments: Any, output: Any) -> None:
        first = output[0] if isinstance(output, list | tuple) and output else output
        if isinstance(first, Tensor) and first.is_floating_point() and first.numel():
            found[name] = squared_norm(first), first.numel()

    modules = dict(problem.model.named_modules(remove_duplicate=False))
    chunk = problem.chunks()[0]
    with ExitStack() as stack:
        for layer in layers:
            module = modules.get(owner_of(layer.name)[0])
            if module is not None and not isinstance(module, torch.jit.ScriptModule):
                stack.callback(module.register_forward_hook(partial(record, layer.name)).remove)
        problem.on(chunk).value()
    problem.evaluations.forwards += chunk.size / problem.rows
    own = [found.get(layer.name, (0.0, 0.0)) for layer in layers]
    squares = problem.ranks.sums([square for square, _ in own])
    entries = problem.ranks.sums([count for _, count in own])
    return {
        layer.name: math.sqrt(square / count)
        for layer, square, count in zip(layers, squares, entries, strict=True)
        if count
    }
