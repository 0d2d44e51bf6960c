"""The curve along a direction: losses and gradient changes at each relative step, all layers from one gradient."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.missing import Interrupted
from fromage_cli.probes.lines.direction import Direction
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.evaluation.refusals import SPLIT_TOLERANCE
from fromage_cli.problem.evaluation.streamed_hessian import visit_hessian_vector_product
from fromage_cli.problem.networks.layers import TrainableTensor
from fromage_cli.theory.accumulation import CHUNK, WIDE_BYTES, distance, distances, norm

GATHERED = 1 << 20
"""Entries of small gradients that are held at most, to be reduced together."""
NOISE_LIMIT = 0.1
"""Noise floor over the norm of a gradient from which on the gradient is rounding errors."""
ROUNDING_STEPS = 2.0
"""The relative step, in rounding errors, that stands for another order of rows: most weights change a last digit."""


@dataclass
class Ray:
    """What was measured at each eta, in the order of the grid."""

    etas: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    changes: dict[str, list[float]] = field(default_factory=dict)
    """||g_l(W + eta d) - g_l(W)|| by tensor name."""
    floors: dict[str, float] = field(default_factory=dict)
    """The same at eta = 0, the rows summed in another order: what rounding and chance alone change.

    Where the order matters, the weights move by a rounding error instead.
    """


def measure_ray(
    problem: Problem, direction: Direction, etas: Sequence[float], advance: Callable[[], None] = lambda: None
) -> Ray | Interrupted[Ray]:
    """Measures losses and gradient changes along a direction: K + 1 gradients for K points, reduced as they appear.

    Ends early, keeping what it has, when a limit of the budget is reached. The weights are afterwards as before.
    """
    ray = Ray(changes={move.tensor.name: [] for move in direction.moves})
    with problem.displaced([move.tensor for move in direction.moves]) as origin, problem.steady():
        try:
            ray.floors = noise_floors(problem, direction, origin)
            advance()
            for eta in etas:
                direction.write(origin, eta)
                loss, changes = gradient_changes(problem, direction, problem.base.gradients)
                ray.etas.append(eta)
                ray.losses.append(loss)
                for name, change in changes.items():
                    ray.changes[name].append(change)
                advance()
        except ResourceError as limit:
            return Interrupted(ray, limit)
    return ray


def noise_floors(
    problem: Problem, direction: Direction, origin: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """Measures by how much the gradient changes when the same rows come in reverse: the size of its rounding errors.

    A gradient that is zero in exact arithmetic, such as that of a bias before a normalisation, shows itself here.
    Where the order of rows matters (dropout masks, indices into the batch) the weights move by as much as rounding
    moves them instead, and are left there: `origin` holds them. Without it the evaluation is repeated as it was.
    """
    if problem.mode != "train":
        backwards = problem.on(*(batch.reversed() for batch in problem.batches))
        problem.evaluations.gradients += 1
        try:
            loss, floors = gradient_changes(backwards, direction, problem.base.gradients)
        except (MismatchError, RuntimeError, IndexError):
            loss, floors = math.nan, {}
        if abs(loss - problem.base.loss) <= SPLIT_TOLERANCE * abs(problem.base.loss):
            return floors
    if origin is not None:
        direction.write(origin, ROUNDING_STEPS * torch.finfo(problem.dtype).eps)
    return gradient_changes(problem, direction, problem.base.gradients)[1]


def product_norms(problem: Problem, direction: Direction, *, last: bool = False) -> dict[str, float] | None:
    """||(H d)_l|| of every tensor that moves, how fast its gradient changes at the start; from one product, not kept.

    `last`: nobody asks for the direction or the base gradients afterwards, and so their memory is let go.
    None for a loss without second derivative.
    """
    coefficients = {move.tensor.name: move.coefficient for move in direction.moves}
    products = dict.fromkeys(coefficients, 0.0)
    itself = last and direction.along_gradients and len(problem.chunks()) == 1

    def source(tensor: TrainableTensor, gradient: Tensor) -> Tensor:
        return gradient if itself else direction.source(tensor)

    def reduce(tensor: TrainableTensor, product: Tensor) -> None:
        if tensor.name in products:
            products[tensor.name] = norm(product)

    moved = [move.tensor for move in direction.moves]
    released = last and (itself or not direction.along_gradients)
    try:
        with problem.base_gradients_released() if released else nullcontext():
            visit_hessian_vector_product(problem, moved, source, reduce, lambda tensor: coefficients[tensor.name])
    except MismatchError:
        return None
    return products


def gradient_changes(
    problem: Problem, direction: Direction, base: Mapping[str, Tensor]
) -> tuple[float, dict[str, float]]:
    """The loss, and each moving tensor's ||g - g_base||; a tensor that lost its gradient changed by all of it."""
    changes = _Changes({move.tensor.name: move.gradient_norm for move in direction.moves}, base)
    loss = problem.visit_gradient(changes.add)
    return loss, changes.finish()


class _Changes:
    """||g - g_base|| by tensor name as gradients appear; small ones are gathered and reduced together."""

    def __init__(self, norms: dict[str, float], base: Mapping[str, Tensor]) -> None:
        """`norms`: the value of each tensor that is asked for, until its gradient appears."""
        self._found, self._base = norms, base
        self._names: list[str] = []
        self._gradients: list[Tensor] = []
        self._held = 0

    def add(self, tensor: TrainableTensor, gradient: Tensor) -> None:
        """Reduces a gradient as it appears, or keeps a small one to be reduced with others."""
        if tensor.name not in self._found:
            return
        entries = gradient.numel()
        if entries > CHUNK or gradient.element_size() < WIDE_BYTES:
            self._found[tensor.name] = distance(gradient, self._base[tensor.name])
            return
        self._names.append(tensor.name)
        self._gradients.append(gradient)
        self._held += entries
        if self._held > GATHERED:
            self.finish()

    def finish(self) -> dict[str, float]:
        """Reduces what was kept and gives all values; without a gradient a tensor keeps that of the start."""
        reduced = distances(self._gradients, [self._base[name] for name in self._names])
        self._found.update(zip(self._names, reduced, strict=True))
        self._names, self._gradients, self._held = [], [], 0
        return self._found
