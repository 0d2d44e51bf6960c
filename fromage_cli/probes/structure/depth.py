"""Three depths of a network: all weight tensors, those on the longest path, and these with residual branches weighed.

`path` and `effective` are read from the autograd graph of the loss. A node that multiplies data with weights is one
deeper than its data. For `path` a sum is as deep as its deepest term. For `effective` it is as deep as its shallow term
plus the share rho = ||F(x)|| / ||x + F(x)|| of the difference.
"""

import math
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.double_backward import twice_differentiable
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.data.pytrees import map_tensors
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.call import inputs_and_targets
from fromage_cli.theory.accumulation import squared_norm

ADDITIVE = ("AddBackward", "SubBackward", "CatBackward", "StackBackward", "WhereBackward", "MaximumBackward")
LOOKUPS = ("EmbeddingBackward", "EmbeddingBagBackward")
PRODUCTS = ("MmBackward", "AddmmBackward", "BmmBackward", "BaddbmmBackward", "ConvolutionBackward", "LinearBackward")
BIAS_FIRST = ("AddmmBackward", "BaddbmmBackward")
"""Products whose first term is added to that of the others; elsewhere a bias comes last."""
SUMS = {"add", "add_", "__add__", "__iadd__", "__radd__", "sub", "sub_", "__sub__", "__isub__", "__rsub__"}
"""Functions of torch that add or subtract two tensors."""
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
    """The longest path, residual branches weighed by their share of the sum; at least 1."""


@dataclass(frozen=True)
class _NodeDepth:
    """How deep a node of the graph lies."""

    data: bool
    """Whether it depends on data."""
    path: int
    effective: float
    mixed: bool = False
    """Whether weights meet a constant on the way, which may be data that nobody showed."""


def measure_depth(problem: Problem) -> Depth:
    """Measures the three depths by one forward pass of the first chunk, whose rows ranks share."""
    layers = {id(layer.parameter) for layer in problem.layers}
    rows = problem.batch.rows(0, problem.micro_batch or problem.batch.size)
    problem.evaluations.forwards += rows.size / problem.rows
    traced = _trace_of_ranks(problem, rows) if problem.ranks.several else None
    found = traced or _trace(problem, rows)
    if not found.nodes or any(node.name().startswith(OPAQUE) for node in found.nodes):
        return Depth(len(layers), None, None)
    graph = _Graph(layers, found.inputs, {node: sum.shares for node, sum in found.sums.items()})
    for node in found.nodes:
        graph.visit(node)
    loss = graph.depths[found.nodes[-1]]
    if graph.doubtful or not loss.data:
        return Depth(len(layers), None, None)
    # a branch that is nearly zero leaves the loss as deep as one layer: Lemma 2 speaks of one at least
    return Depth(len(layers), loss.path, None if math.isnan(loss.effective) else max(1.0, loss.effective))


@dataclass(frozen=True)
class _Sum:
    """A sum of two tensors."""

    squares: tuple[float, ...]
    """Squared norms of both terms and of the sum, then the entries of each."""
    of_losses: bool
    """Whether its terms count in full: losses of samples, not features."""

    @property
    def shares(self) -> tuple[float, float]:
        """The norm of each term over that of the sum.

        A term that is repeated along a dimension is stretched to the size of the sum; no share is above 1.
        """
        first, second, whole, *entries = self.squares
        if self.of_losses:
            return 1.0, 1.0
        if not whole > 0.0:
            return math.nan, math.nan
        return (
            min(1.0, math.sqrt(first / whole * (entries[2] / entries[0]))),
            min(1.0, math.sqrt(second / whole * (entries[2] / entries[1]))),
        )


@dataclass(frozen=True)
class _Trace:
    """The graph of a forward pass."""

    nodes: list[Any]
    """Children first, the loss last; empty without a graph."""
    inputs: set[int]
    """Identities of the leaves behind the batch."""
    sums: dict[Any, _Sum]
    """By node, in the order in which they were taken."""


def _trace(problem: Problem, rows: Batch) -> _Trace:
    """The graph of the loss of some rows."""
    batch, inputs = _with_differentiable_inputs(problem, rows)
    try:
        with problem.evaluation(batch), twice_differentiable(problem.model), _ResidualSums() as residuals:
            root = problem.loss(problem.model, batch).total.grad_fn
    except (MismatchError, RuntimeError):  # an operation that has no derivative by its input
        root = None
    return _Trace(_children_first(root) if root is not None else [], inputs, residuals.sums if root else {})


def _trace_of_ranks(problem: Problem, rows: Batch) -> _Trace | None:
    """The graph of this rank's rows, with the sums of all; None where ranks have different graphs.

    A rank without rows takes the graph from one, which does not count.
    """
    ranks = problem.ranks
    begin, end = ranks.part(rows.size)
    found = _trace(problem, rows.rows(begin, end) if begin < end else rows.rows(0, 1))
    shape = zlib.crc32(" ".join(node.name() for node in found.nodes).encode())
    counts = ranks.of_each(float(shape)), ranks.of_each(float(len(found.sums)))
    if any(len(set(each)) > 1 for each in counts):
        return None
    if not found.sums:
        return found
    own = [number if begin < end else 0.0 for sum in found.sums.values() for number in sum.squares]
    whole = iter(ranks.sums(own))
    sums = {node: replace(sum, squares=tuple(islice(whole, len(sum.squares)))) for node, sum in found.sums.items()}
    return replace(found, sums=sums)


def _with_differentiable_inputs(problem: Problem, batch: Batch) -> tuple[Batch, set[int]]:
    """The batch with floating inputs made differentiable, and the identities of the leaves behind them.

    The target stays as it is, where it can be told from the inputs.
    """
    leaves: list[Tensor] = []
    target = None
    with suppress(MismatchError):
        target = inputs_and_targets(problem.model, batch)[2]

    def view(value: Tensor) -> Tensor:
        if value is target or not value.is_floating_point():
            return value
        leaves.append(value.detach().requires_grad_())
        return leaves[-1].clone()  # a copy may be written in place, a leaf may not

    return replace(batch, data=map_tensors(batch.data, view)), {id(tensor) for tensor in leaves}


class _ResidualSums(TorchFunctionMode):
    """Remembers each sum of two tensors that may be a residual branch.

    Sums of losses, such as those of two heads, are none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sums: dict[Any, _Sum] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        terms = args[:2] if getattr(func, "__name__", "") in SUMS else ()
        both = len(terms) == 2 and all(isinstance(t, Tensor) and t.requires_grad for t in terms)
        # before the sum is taken, which may be written over its first term
        measured = [(squared_norm(term), term.numel()) for term in terms] if both else []
        result = func(*args, **(kwargs or {}))
        if measured and result.grad_fn is not None:
            (first, entries), (second, other_entries) = measured
            second *= float((kwargs or {}).get("alpha", 1.0)) ** 2
            squares = (first, second, squared_norm(result), entries, other_entries, result.numel())
            self.sums[result.grad_fn] = _Sum(squares, of_losses=result.dim() <= 1)
        return result


class _Graph:
    """The depths of the nodes of an autograd graph, which are visited children first."""

    def __init__(self, layers: set[int], inputs: set[int], shares: dict[Any, tuple[float, float]]) -> None:
        self.layers, self.inputs, self.shares = layers, inputs, shares
        self.depths: dict[Any, _NodeDepth] = {}
        self.doubtful = False
        """Whether a product that seems to be one of weights may be one of data."""

    def visit(self, node: Any) -> None:
        """Finds the depth of a node from those of its children."""
        variable = getattr(node, "variable", None)
        if variable is not None:
            weight = int(id(variable) in self.layers)
            self.depths[node] = _NodeDepth(id(variable) in self.inputs, weight, weight)
            return
        name, children = node.name(), [child for child, _ in node.next_functions]
        data = [self.depths[child] for child in children if child is not None and self.depths[child].data]
        if not data:
            self.depths[node] = self._without_data(name, children)
            return
        weight = max((self.depths[c].path for c in children if c is not None and not self.depths[c].data), default=0)
        path, effective = max(depth.path for depth in data), _deepest(depth.effective for depth in data)
        if len(data) == 2 and name.startswith(("AddBackward", "SubBackward")) and data[0].path != data[1].path:
            # a residual branch: the deeper term counts by its share of the sum
            (shallow, _), (deep, share) = sorted(
                zip(data, self.shares.get(node, (math.nan, math.nan)), strict=True), key=lambda term: term[0].path
            )
            effective = shallow.effective + share * (deep.effective - shallow.effective)
        if name.startswith(ADDITIVE):
            self.depths[node] = _NodeDepth(True, max(path, weight), _deepest((effective, weight)))
        else:
            self.depths[node] = _NodeDepth(True, path + weight, effective + weight)

    def _without_data(self, name: str, children: list[Any]) -> _NodeDepth:
        """The depth of a node that only weights and constants lead to.

        A product with a constant counts as the input where no input is known. Factors of a product of weights add up; a
        bias is added beside them.
        """
        found = [self.depths[child] if child is not None else _NodeDepth(False, 0, 0.0) for child in children]
        depths, mixed = [depth.path for depth in found], any(depth.mixed for depth in found)
        if not name.startswith(PRODUCTS):
            weight = max(depths, default=0)
            return _NodeDepth(name.startswith(LOOKUPS), weight, weight, None in children or mixed)
        constant_input = not self.inputs and None in children
        self.doubtful |= mixed and not constant_input
        added, factors = (depths[:1], depths[1:]) if name.startswith(BIAS_FIRST) else (depths[2:], depths[:2])
        weight = max(sum(factors), *added, 0)
        return _NodeDepth(constant_input, weight, weight, None in children or mixed)


def _deepest(depths: Iterable[float]) -> float:
    """The largest, or NaN where one is not known: `max` alone would let the order of the terms decide."""
    known = list(depths)
    return math.nan if any(math.isnan(depth) for depth in known) else max(known)


def _children_first(root: Any) -> list[Any]:
    """The nodes of an autograd graph, children before parents, without recursion: graphs are thousands deep."""
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
