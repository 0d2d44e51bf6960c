"""Three depths of a network: its weight tensors counted, on the longest path, and with residual branches weighed.

`path` and `effective` are read from the autograd graph of the loss: a node that multiplies data with weights is one
deeper than its data; a sum is as deep as its deepest term (`path`), or as its shallow term plus the share
rho = ||F(x)|| / ||x + F(x)|| of the difference (`effective`).
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.evaluation import twice_differentiable
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import map_tensors
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.call import inputs_and_targets
from fromage_cli.theory.accumulation import norm

ADDITIVE = ("AddBackward", "SubBackward", "CatBackward", "StackBackward", "WhereBackward", "MaximumBackward")
LOOKUPS = ("EmbeddingBackward", "EmbeddingBagBackward")
PRODUCTS = ("MmBackward", "AddmmBackward", "BmmBackward", "BaddbmmBackward", "ConvolutionBackward", "LinearBackward")
BIAS_FIRST = ("AddmmBackward", "BaddbmmBackward")
"""Products whose first term is added to that of the others; elsewhere a bias comes last."""
OPAQUE = ("CheckpointFunction", "CompiledFunction")
"""Nodes that hide the graph behind them."""


@dataclass(frozen=True)
class Depth:
    """The depth L of Lemma 2, counted in three ways; None where the graph does not tell."""

    count: int
    """Weight tensors that receive a gradient."""
    path: int | None
    """Weight tensors on the longest path from the input to the loss; a tensor used twice on it counts twice."""
    effective: float | None
    """The longest path, residual branches weighed by their share of the sum."""


@dataclass(frozen=True)
class _Place:
    """How deep a node lies, and whether it depends on data at all."""

    data: bool
    path: int
    effective: float
    mixed: bool = False
    """Whether weights meet a constant on the way, which may be data that nobody showed."""


def measure_depth(problem: Problem) -> Depth:
    """The three depths, from one forward pass of the first chunk."""
    layers = {id(layer.parameter) for layer in problem.layers}
    rows = problem.batch.rows(0, problem.micro_batch or problem.batch.size)
    batch, inputs = _differentiable(rows, _target(problem, rows))
    problem.evaluations.forwards += batch.size / problem.rows
    try:
        with problem.evaluation(), twice_differentiable(problem.model), _Sums() as sums:
            root = problem.loss(problem.model, batch).total.grad_fn
    except (MismatchError, RuntimeError):  # an operation that has no derivative by its input
        root = None
    place = _read(root, layers, inputs, sums.shares) if root is not None else None
    if place is None:
        return Depth(len(layers), None, None)
    return Depth(len(layers), place.path, None if math.isnan(place.effective) else place.effective)


def _read(root: Any, layers: set[int], inputs: set[int], shares: dict[Any, tuple[float, float]]) -> _Place | None:
    """Where the loss lies; None where part of the graph is hidden, or where no data reach it visibly."""
    graph = _walk(root)
    if any(node.name().startswith(OPAQUE) for node in graph):
        return None
    reading = _Reading(layers, inputs, shares)
    for node in graph:
        reading.visit(node)
    return reading.places[root] if reading.places[root].data and not reading.doubtful else None


def _target(problem: Problem, batch: Batch) -> Any:
    """The target among the batch's tensors, which is no input; None where it cannot be told."""
    try:
        return inputs_and_targets(problem.model, batch)[2]
    except MismatchError:
        return None


def _differentiable(batch: Batch, target: Any) -> tuple[Batch, set[int]]:
    """The batch with floating inputs made differentiable, and the identities of the leaves behind them."""
    leaves: list[Tensor] = []

    def view(value: Tensor) -> Tensor:
        if value is target or not value.is_floating_point():
            return value
        leaves.append(value.detach().requires_grad_())
        return leaves[-1].clone()  # a copy may be written in place, a leaf may not

    return replace(batch, data=map_tensors(batch.data, view)), {id(tensor) for tensor in leaves}


class _Sums(TorchFunctionMode):
    """Remembers, for each sum of two tensors, the norm of each term divided by the norm of the sum.

    Sums of losses, such as those of two heads, are no residual branches: their terms count in full.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shares: dict[Any, tuple[float, float]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        terms = args[:2] if getattr(func, "__name__", "") in _SUMS else ()
        both = len(terms) == 2 and all(isinstance(t, Tensor) and t.requires_grad for t in terms)
        norms = [(norm(term), term.numel()) for term in terms] if both else []
        result = func(*args, **(kwargs or {}))
        if norms and result.grad_fn is not None:
            factors = (1.0, abs(float((kwargs or {}).get("alpha", 1.0))))
            whole = result.dim() <= 1  # losses of samples, not features
            self.shares[result.grad_fn] = (1.0, 1.0) if whole else _shares(norms, factors, result)
        return result


_SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__", "sub", "sub_", "__sub__", "__isub__", "__rsub__"}


def _shares(terms: list[tuple[float, int]], factors: tuple[float, float], total: Tensor) -> tuple[float, float]:
    """Each term's norm, stretched to the size of the sum where it is repeated, over that of the sum; at most 1."""
    size = norm(total)
    first, second = (
        min(1.0, factor * term * math.sqrt(total.numel() / count) / size) if size > 0.0 else math.nan
        for (term, count), factor in zip(terms, factors, strict=True)
    )
    return first, second


class _Reading:
    """Depths of the nodes of a graph, visited children first."""

    def __init__(self, layers: set[int], inputs: set[int], shares: dict[Any, tuple[float, float]]) -> None:
        self.layers, self.inputs, self.shares = layers, inputs, shares
        self.places: dict[Any, _Place] = {}
        self.doubtful = False
        """Whether a product that seems to be one of weights may be one of data."""

    def visit(self, node: Any) -> None:
        variable = getattr(node, "variable", None)
        if variable is not None:
            weight = int(id(variable) in self.layers)
            self.places[node] = _Place(id(variable) in self.inputs, weight, weight)
            return
        self.places[node] = self._combine(node, [child for child, _ in node.next_functions])

    def _combine(self, node: Any, children: list[Any]) -> _Place:
        name = node.name()
        data = [self.places[child] for child in children if child is not None and self.places[child].data]
        weights = [self.places[child] for child in children if child is not None and not self.places[child].data]
        weight = max((place.path for place in weights), default=0)
        if not data:
            constant_input = not self.inputs and name.startswith(PRODUCTS) and None in children
            if name.startswith(PRODUCTS):
                weight = self._product(name, children)
                self.doubtful |= not constant_input and any(place.mixed for place in weights)
            mixed = None in children or any(place.mixed for place in weights)
            return _Place(constant_input or name.startswith(LOOKUPS), weight, weight, mixed)
        path, effective = max(place.path for place in data), _deepest(place.effective for place in data)
        if len(data) == 2 and name.startswith(("AddBackward", "SubBackward")):
            effective = self._residual(node, *data)
        if name.startswith(ADDITIVE):
            return _Place(True, max(path, weight), _deepest((effective, weight)))
        return _Place(True, path + weight, effective + weight)

    def _product(self, name: str, children: list[Any]) -> int:
        """How many weights are multiplied in a product of matrices that are weights all; a bias is added beside it."""
        depths = [self.places[child].path if child is not None else 0 for child in children]
        added, factors = (depths[:1], depths[1:]) if name.startswith(BIAS_FIRST) else (depths[2:], depths[:2])
        return max(sum(factors), *added, 0)

    def _residual(self, node: Any, first: _Place, second: _Place) -> float:
        if first.path == second.path:
            return _deepest((first.effective, second.effective))
        share = self.shares.get(node, (math.nan, math.nan))
        shallow, deep, rho = (first, second, share[1]) if first.path < second.path else (second, first, share[0])
        return shallow.effective + rho * (deep.effective - shallow.effective)


def _deepest(depths: Iterable[float]) -> float:
    """The largest, or NaN where one is not known: `max` alone would let the order of the terms decide."""
    known = list(depths)
    return math.nan if any(math.isnan(depth) for depth in known) else max(known)


def _walk(root: Any) -> list[Any]:
    """The nodes of an autograd graph, children before parents."""
    order: list[Any] = []
    seen = {root}
    stack = [(root, iter(root.next_functions))]
    while stack:
        node, children = stack[-1]
        child = next((c for c, _ in children if c is not None and c not in seen), None)
        if child is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(child)
            stack.append((child, iter(child.next_functions)))
    return order
