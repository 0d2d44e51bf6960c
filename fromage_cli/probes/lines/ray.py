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
from fromage_cli.shards import part_as
from fromage_cli.theory.accumulation import CHUNK, WIDE_BYTES, distance, distances, norm, squared_norm

GATHERED = 1 << 20
"""Entries of small gradients that are held at most, to be reduced together."""
NOISE_LIMIT = 0.1
"""Noise floor over the norm of a gradient from which on the gradient is rounding errors."""
AUTOCAST_NOISE_LIMIT = 1.0
"""The same under autocast, where rounding changes ordinary gradients by that much."""
ROUNDING_STEPS = 2.0
"""The relative step, in rounding errors, that stands for another order of rows: most weights change a last digit."""
AUTOCAST_STEP = torch.finfo(torch.bfloat16).eps
"""The same under autocast, which rounds weights to bfloat16 whatever the order of rows: its largest relative step."""
AUTOCAST_MARGIN = 1.5
"""Factor on the change under autocast: without it a change of rounding's size would read 1.4 × too high.

Tried on 6 small networks at 3 losses each, from that of their first weights to 1e-5. Breakdowns above it were within 50
% of those that float32 finds along the same step. The step follows a rounded gradient. Where a batch is fitted, that of
float32 goes another way. Descent was certain up to 10 × as far along it.
"""
RESOLVED_STEPS = 8.0
"""The relative step, in rounding errors, that can be made: rounding then leaves it within some 4 % of what it is."""
LOSS_ULPS = 8.0
"""A loss is known up to so many rounding errors at best."""


@dataclass
class Ray:
    """What was measured at each eta, in the order of the grid."""

    etas: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    changes: dict[str, list[float]] = field(default_factory=dict)
    """||g_l(W + eta d) - g_l(W)|| by tensor name."""
    floors: dict[str, float] = field(default_factory=dict)
    """The same at eta = 0: what rounding and chance alone change."""
    noise_limit: float = NOISE_LIMIT
    """Floor over the norm of a gradient from which on the gradient is rounding errors."""
    loss_floor: float = 0.0
    """By how much rounding and chance alone change the loss."""
    first: int = 0
    """Index of the first eta that the weights' precision can make as a step."""

    @property
    def judged(self) -> list[float]:
        """The etas from that one on."""
        return self.etas[self.first :]


def measure_ray(
    problem: Problem, direction: Direction, etas: Sequence[float], advance: Callable[[], None] = lambda: None
) -> Ray | Interrupted[Ray]:
    """Measures losses and gradient changes along a direction: K + 1 gradients for K points, reduced as they appear.

    Ends early, keeping what it has, when a limit of the budget is reached. The weights are afterwards as before.
    """
    ray = Ray(changes={move.tensor.name: [] for move in direction.moves})
    ray.noise_limit = noise_limit(problem)
    smallest = smallest_step(problem, direction)
    ray.first = next((place for place, eta in enumerate(etas) if eta >= smallest), len(etas))
    with problem.displaced([move.tensor for move in direction.moves]) as origin, problem.steady():
        try:
            problem.evaluations.doing = "how much rounding alone changes"
            floor = noise_floor(problem, direction, origin)
            ray.floors, ray.loss_floor = floor.gradients, floor.loss
            advance()
            for place, eta in enumerate(etas, 1):
                problem.evaluations.doing = f"step {place} of {len(etas)}"
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


def smallest_step(problem: Problem, direction: Direction) -> float:
    """The smallest eta that the precision of the weights can make: below it most entries do not change at all."""
    sized = [m for m in direction.moves if m.tensor.is_layer and m.tensor.name not in direction.without_size]
    layers = [move.relative_step for move in sized if move.relative_step]
    return RESOLVED_STEPS * torch.finfo(problem.dtype).eps / max(layers, default=1.0)


@dataclass(frozen=True)
class NoiseFloor:
    """What rounding and chance alone change at eta = 0."""

    loss: float
    gradients: dict[str, float]
    """||g' - g|| by name of the tensors that move."""


def noise_limit(problem: Problem) -> float:
    """Floor over the norm of a gradient from which on the gradient is rounding errors."""
    return AUTOCAST_NOISE_LIMIT if problem.autocast else NOISE_LIMIT


def noise_floor(problem: Problem, direction: Direction, origin: Mapping[str, Tensor]) -> NoiseFloor:
    """Measures by how much loss and gradient change when the same rows come in reverse: the size of rounding errors.

    A gradient that is zero in exact arithmetic, such as that of a bias before a normalisation, shows itself here.
    Reversed rows say nothing where their order matters (dropout masks, indices into the batch) and for single rows. Nor
    do they under autocast, which rounds a row alike wherever it stands. Every weight then moves by a rounding error up
    or down instead, and is left there; `origin` holds it.
    """
    base, eps = problem.base, torch.finfo(problem.dtype).eps
    least = LOSS_ULPS * eps * abs(base.loss)
    if problem.mode != "train" and not problem.autocast and problem.rows > len(problem.batches):
        backwards = problem.on(*(batch.reversed() for batch in problem.batches))
        problem.evaluations.gradients += 1
        try:
            loss, floors = gradient_changes(backwards, direction, base.gradients)
        except (MismatchError, RuntimeError, IndexError):
            loss, floors = math.nan, {}
        if abs(loss - base.loss) <= SPLIT_TOLERANCE * abs(base.loss):
            return NoiseFloor(max(least, 2.0 * abs(loss - base.loss)), floors)
    step = AUTOCAST_STEP if problem.autocast else ROUNDING_STEPS * eps
    if problem.autocast:  # a single draw of signs may leave the loss where it was by chance
        squares = (squared_norm(base.gradients[t.name] * t.parameter.detach()) for t in problem.receiving)
        least = max(least, step * math.sqrt(math.fsum(squares)))
    generator = torch.Generator(problem.device).manual_seed(problem.seed)
    for move in direction.moves:
        weight = move.tensor.parameter.data
        signs = torch.randint(2, weight.shape, generator=generator, device=weight.device).to(weight.dtype)
        signs = part_as(weight, signs)
        torch.mul(origin[move.tensor.name], signs.mul_(2.0 * step).add_(1.0 - step), out=weight)
    loss, floors = gradient_changes(problem, direction, base.gradients)
    margin = AUTOCAST_MARGIN if problem.autocast else 1.0
    return NoiseFloor(max(least, 2.0 * abs(loss - base.loss)), {name: margin * floor for name, floor in floors.items()})


def product_norms(problem: Problem, direction: Direction, *, last: bool = False) -> dict[str, float] | None:
    """||(H d)_l|| of every tensor that moves, how fast its gradient changes at the start; from one product, not kept.

    `last`: nobody asks for the direction or the base gradients afterwards, and so their memory is let go.
    None for a loss without second derivative.
    """
    coefficients = {move.tensor.name: move.coefficient for move in direction.moves}
    products = dict.fromkeys(coefficients, 0.0)
    whole = len(problem.own_chunks()) == 1 and (problem.ranks.sharded or not problem.ranks.several)
    itself = last and direction.along_gradients and whole

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
