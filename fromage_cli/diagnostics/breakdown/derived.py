"""What is derived from a measured ray: each layer's trust, the network's, and what theory predicted for it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from fromage_cli.diagnostics.breakdown.result import LayerBreakdown
from fromage_cli.missing import LIMIT_REACHED, Missing, Why, known
from fromage_cli.probes.lines.direction import Direction, Move
from fromage_cli.probes.lines.ray import Ray
from fromage_cli.theory.curves import Point, first_crossing, first_sign_change, interpolate, running_maximum, tail_slope
from fromage_cli.theory.first_order import SlopeCheck, check_slope
from fromage_cli.theory.relative_trust import (
    GroupStep,
    implied_depth,
    loss_change_bound,
    predicted_breakdown,
    spectral_step,
)
from fromage_cli.theory.siblings import WEIGHT_FACTOR, OutOfLine, out_of_line, sibling_groups
from fromage_cli.theory.singular_values import stable_rank

BISECTIONS = 30
"""Halvings of the last interval: what is left of it is far below what the interpolation is exact to."""
SPECTRAL_TOLERANCE = 1e-2
"""Residual of singular values, which are then a few thousandths low at most: enough to compare two predictions."""
GRADIENT_FACTOR = 30.0
"""The same as WEIGHT_FACTOR for gradients and steps, which scatter more: up to 21 × in healthy deep perceptrons."""
VIOLATION_FLOOR = 10.0
"""A breakdown counts towards `violation` from this multiple of its noise floor on."""

NOWHERE = {
    "above-grid": Missing(Why.ABOVE_GRID, "it lies beyond the last point of the grid"),
    "below-grid": Missing(Why.BELOW_GRID, "it lies below the first point of the grid"),
    "uncertifiable": Missing(Why.UNCERTIFIABLE, "no size of this step is sure to lower the loss"),
    "unavailable": Missing(Why.NO_SECOND_DERIVATIVE, "the loss has no second derivative that can be used"),
}
"""Why there is no place on the eta axis, by relation."""
TOO_SMALL = Missing(
    Why.HIDDEN_BY_ROUNDING, "the precision of the weights cannot make so small a step; --dtype float64 can"
)
BELOW_FLOOR = Missing(Why.HIDDEN_BY_ROUNDING, "the gradient changes by less than rounding changes it")
HIDDEN_CHANGE = Missing(Why.HIDDEN_BY_ROUNDING, "the loss changes by no more than rounding changes it")
ROUNDED_LAYER = Missing(
    Why.HIDDEN_BY_ROUNDING,
    "in bfloat16 the gradient of a layer is no larger than its rounding; without --autocast it may be",
)
OTHER_GRADIENT = Missing(Why.UNCERTIFIABLE, "the loss does not change as its gradient says")
NO_STEP = Missing(Why.ZERO_OR_NOT_FINITE, "the weights are zero, or do not move")
NO_GRADIENT = Missing(Why.ZERO_OR_NOT_FINITE, "the gradient is zero")
NO_VIOLATION = Missing(Why.NOT_DEFINED, "no breakdown lies between ten noise floors and 1")
NO_TAIL = Missing(Why.NOT_DEFINED, "the curve of the first layer is not finite over η from 0.05 to 0.1, or not there")


def layer_breakdown(move: Move, ray: Ray, predicted: Sequence[float], refused: Missing | None) -> LayerBreakdown:
    """One tensor's curve and what follows from it; `refused`: why no step is certified, if none is."""
    tensor, step, noise = move.tensor, move.relative_step, _noise_floor(move, ray)
    trust, floor = Point(None, "uncertifiable"), noise or 0.0
    if move.gradient_norm > 0.0:
        values = [change / move.gradient_norm for change in ray.changes[tensor.name][ray.first :]]
        breakdown, path = (_shown(curve, ray, floor) for curve in (values, running_maximum(values)))
        if refused is None and not is_noise(noise, ray):
            trust = first_crossing(ray.judged, _path(move, ray), move.cosine)
    else:
        values, breakdown = [], (NO_GRADIENT,) * len(ray.etas)
        path = breakdown
    eta = placed(trust.eta, trust.relation, refused)
    implied = NO_STEP if not step else eta if isinstance(eta, Missing) else implied_depth(move.cosine, eta * step)
    pairs = zip(values, predicted[ray.first :], strict=False)
    ratios = [b / p for b, p in pairs if VIOLATION_FLOOR * floor < b < 1.0 and p > 0.0]
    no_floor = NO_GRADIENT if move.gradient_norm == 0.0 else LIMIT_REACHED
    return LayerBreakdown(
        name=tensor.name,
        kind=tensor.kind,
        shape=tuple(tensor.parameter.shape),
        parameters=tensor.parameter.numel(),
        weight_norm=move.weight_norm,
        gradient_norm=move.gradient_norm,
        cosine=move.cosine,
        relative_step=NO_STEP if step is None else step,
        noise_floor=no_floor if noise is None else noise,
        breakdown=breakdown,
        path_breakdown=path,
        trust_eta=eta,
        trust_relation=trust.relation,
        implied_depth=implied,
        violation=median(ratios) if ratios else NO_VIOLATION,
        trust_eta_upper=trust.upper,
    )


def _shown(values: Sequence[float], ray: Ray, floor: float) -> tuple[float | Missing, ...]:
    """A curve as it is reported: missing where the steps cannot be made, and where it is below its noise floor."""
    judged = (BELOW_FLOOR if value < floor else value for value in values)
    return (*(TOO_SMALL for _ in ray.etas[: ray.first]), *judged)


def placed(eta: float | None, relation: str, refused: Missing | None = None) -> float | Missing:
    """A place on the eta axis, or on which side of the grid it lies, or why there is none."""
    return eta if eta is not None else refused or NOWHERE[relation]


def refusal(direction: Direction, ray: Ray, check: SlopeCheck) -> Missing | None:
    """Why no step of any size is certified, whatever the gradients do; None where they decide."""
    if check.contradicted:
        return OTHER_GRADIENT
    if not direction.certifies:
        return NOWHERE["uncertifiable"]
    return TOO_SMALL if ray.etas and not ray.judged else None


def is_noise(noise_floor: float | None, ray: Ray) -> bool:
    """Whether a gradient is no larger than its own rounding errors, so that nothing can be said of its breakdown."""
    return noise_floor is not None and not noise_floor < ray.noise_limit


def _relative_steps(direction: Direction) -> list[tuple[Move, float]]:
    """The layers that move, with their relative step per unit of eta; weights that are nearly zero have none."""
    return [
        (move, move.relative_step)
        for move in direction.moves
        if move.tensor.is_layer and move.relative_step is not None and move.tensor.name not in direction.without_size
    ]


def predicted(direction: Direction, etas: Sequence[float]) -> list[float]:
    """Deep relative trust at each eta, every layer by its own relative step."""
    steps = [step for _, step in _relative_steps(direction)]
    return [predicted_breakdown(eta * step for step in steps) for eta in etas]


def predicted_spectral(direction: Direction, etas: Sequence[float]) -> list[float]:
    """The same with relative steps in the spectral norm."""
    steps = [
        spectral_step(
            step,
            stable_rank(move.tensor.parameter, SPECTRAL_TOLERANCE),
            stable_rank(direction.source(move.tensor), SPECTRAL_TOLERANCE),
        )
        for move, step in _relative_steps(direction)
        if step > 0.0
    ]
    return [predicted_breakdown(eta * step for step in steps) for eta in etas]


def aggregate_trust(direction: Direction, ray: Ray, bounds: Sequence[float]) -> Point:
    """Where the bound of Lemma 1 changes sign, the breakdowns interpolated as those of single tensors are.

    Between two points where one of them cannot be interpolated, it counts as at the second.
    """
    etas = ray.judged
    coarse = first_sign_change(etas, bounds)
    if coarse.eta is None or coarse.upper is not None:
        return coarse
    index = next(index for index, bound in enumerate(bounds) if not bound < 0.0)
    paths = {move.tensor.name: _path(move, ray) for move in direction.moves}
    low, high = etas[index - 1], etas[index]
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        values = {name: interpolate(etas, path, middle) for name, path in paths.items()}
        rising = {name: paths[name][index] if value is None else value for name, value in values.items()}
        low, high = (middle, high) if _loss_bound(direction, middle, rising) < 0.0 else (low, middle)
    return Point(low, "crossing")


def _path(move: Move, ray: Ray) -> list[float]:
    """The running maximum of a tensor's breakdown at the judged points, absolute where the gradient is zero.

    Below its noise floor it is not known, and counts as that.
    """
    size, floor = move.gradient_norm or 1.0, ray.floors.get(move.tensor.name, 0.0)
    return running_maximum([max(change, floor) / size for change in ray.changes[move.tensor.name][ray.first :]])


def loss_bounds(direction: Direction, ray: Ray) -> list[float]:
    """The bound of Lemma 1 at each judged eta, over all tensors that move."""
    paths = {move.tensor.name: _path(move, ray) for move in direction.moves}
    return [
        _loss_bound(direction, eta, {name: path[index] for name, path in paths.items()})
        for index, eta in enumerate(ray.judged)
    ]


def shown_bounds(bounds: Sequence[float], ray: Ray, check: SlopeCheck) -> tuple[float | Missing, ...]:
    """The bounds at every eta as they are reported: missing where there is no step, or the gradient is another's."""
    if check.contradicted:
        return (OTHER_GRADIENT,) * len(ray.etas)
    return (*(TOO_SMALL for _ in ray.etas[: ray.first]), *bounds)


def _loss_bound(direction: Direction, eta: float, breakdowns: Mapping[str, float]) -> float:
    """The bound of Lemma 1 for one step, with each tensor's breakdown on the way."""
    return loss_change_bound(
        [
            GroupStep(move.gradient_norm, eta * move.step_norm, move.cosine, breakdowns[move.tensor.name])
            for move in direction.moves
        ]
    )


def first_order(direction: Direction, ray: Ray, base: float) -> SlopeCheck:
    """Whether the loss changes along the ray as its gradient says; where it does not, nothing can be certified."""
    slope = direction.slope
    curvatures = [bound - eta * slope for eta, bound in zip(ray.judged, loss_bounds(direction, ray), strict=True)]
    return check_slope(slope, base, ray.judged, ray.losses[ray.first :], curvatures, rounding=ray.loss_floor)


def loss_points(ray: Ray, base: float) -> tuple[list[float], list[float]]:
    """The judged etas at which the loss has changed by more than rounding, and what it has changed by."""
    changes = [(eta, loss - base) for eta, loss in zip(ray.judged, ray.losses[ray.first :], strict=True)]
    kept = [(eta, change) for eta, change in changes if not abs(change) <= ray.loss_floor]
    return [eta for eta, _ in kept], [change for _, change in kept]


@dataclass(frozen=True)
class JudgedGroup:
    """Tensors that are judged together: a layer alone, or all vectors, whose step is one group of Lemma 1."""

    moves: tuple[Move, ...]

    def mean(self, value: Callable[[Move], float]) -> float:
        """The mean of a quantity over the tensors, each weighed by ||g|| ||dW||."""
        weights = [move.gradient_norm * move.step_norm for move in self.moves]
        total = math.fsum(weights)
        return math.fsum(weight / total * value(move) for weight, move in zip(weights, self.moves, strict=True))

    @property
    def cosine(self) -> float:
        """Between the group's step and its negative gradient, as Lemma 1 weighs it."""
        return self.mean(lambda move: move.cosine)

    def heaviest(self, value: Callable[[Move], float]) -> str:
        """The tensor with the largest part in that mean."""
        return max(self.moves, key=lambda move: move.gradient_norm * move.step_norm * value(move)).tensor.name


def judged_groups(direction: Direction, ray: Ray) -> list[JudgedGroup]:
    """Every layer by itself and all vectors together, without tensors whose gradient is rounding or zero."""
    moves = [
        move
        for move in direction.moves
        if move.gradient_norm * move.step_norm > 0.0 and not is_noise(_noise_floor(move, ray), ray)
    ]
    vectors = tuple(move for move in moves if not move.tensor.is_layer)
    groups = [JudgedGroup((move,)) for move in moves if move.tensor.is_layer]
    return [*groups, JudgedGroup(vectors)] if vectors else groups


def network_trust(direction: Direction, ray: Ray) -> tuple[Point, str | None]:
    """How far a step helps every layer, the vectors counting as one, and the tensor that fails first.

    A group whose step points uphill, or that fails below the grid, decides at once.
    """
    groups = judged_groups(direction, ray)
    for group in sorted(groups, key=lambda group: group.cosine):
        if group.cosine <= 0.0:
            return Point(None, "uncertifiable"), group.heaviest(lambda move: -move.cosine)
    paths = {move.tensor.name: _path(move, ray) for group in groups for move in group.moves}

    def place(group: JudgedGroup, index: int) -> float:
        """The group's breakdown at a judged point."""
        return group.mean(lambda move: paths[move.tensor.name][index])

    count = len(ray.judged)
    found = [
        (first_crossing(ray.judged, [place(group, index) for index in range(count)], group.cosine), group)
        for group in groups
    ]
    below = [(point, group) for point, group in found if point.relation == "below-grid"]
    if below:
        point, worst = max(below, key=lambda one: place(one[1], 0) / one[1].cosine)
        return replace(point, eta=None), worst.heaviest(lambda move: paths[move.tensor.name][0])
    crossing = [(point.eta, point, group) for point, group in found if point.eta is not None]
    if not crossing:
        return Point(None, "above-grid"), None
    eta, point, first = min(crossing, key=lambda one: one[0])
    reached = next(index for index, judged in enumerate(ray.judged) if judged >= eta)
    return point, first.heaviest(lambda move: paths[move.tensor.name][reached])


def linear_trust(direction: Direction, products: Mapping[str, float] | None, ray: Ray) -> tuple[float | None, str]:
    """Least over the groups of cos / b'(0), b'(0) = ||(H d)_l|| / ||g_l||, from one product with the direction."""
    groups = judged_groups(direction, ray)
    if not direction.certifies or any(group.cosine <= 0.0 for group in groups):
        return None, "uncertifiable"
    if products is None:
        return None, "unavailable"

    def slope(move: Move) -> float:
        return products.get(move.tensor.name, 0.0) / move.gradient_norm

    steepest = max((group.mean(slope) / group.cosine for group in groups), default=0.0)
    if not math.isfinite(steepest):
        return None, "unavailable"
    return (1.0 / steepest, "crossing") if steepest > 0.0 else (None, "above-grid")


def _noise_floor(move: Move, ray: Ray) -> float | None:
    """What rounding and chance change of a gradient, relative to it."""
    floor = ray.floors.get(move.tensor.name)
    return floor / move.gradient_norm if floor is not None and move.gradient_norm > 0.0 else None


def first_tail_slope(layers: Sequence[LayerBreakdown], etas: Sequence[float]) -> float | Missing:
    """The tail slope of the first layer, as the paper's figure has it."""
    curve = zip(etas, map(known, layers[0].breakdown), strict=True) if layers else ()
    points = [(eta, value) for eta, value in curve if value is not None]
    slope = tail_slope(*map(list, zip(*points, strict=True))) if points else None
    return NO_TAIL if slope is None else slope


def odd_layers(layers: Sequence[LayerBreakdown], noise: Sequence[str]) -> tuple[OutOfLine, ...]:
    """The layers whose weights, steps or gradients differ from those of their siblings, in this order.

    The first and the last of siblings have other neighbours, such as the data. Only their weights are compared.
    """
    found = []
    by_name = {layer.name: layer for layer in layers if layer.weight_norm > 0.0 and layer.name not in noise}
    for names in sibling_groups({name: (layer.kind, layer.shape) for name, layer in by_name.items()}):
        group = [by_name[name] for name in names]
        weights = [layer.weight_norm / math.sqrt(layer.parameters) for layer in group]
        found += [OutOfLine(names[at], "weights", by) for at, by in out_of_line(weights, WEIGHT_FACTOR).items()]
        steps = [known(layer.relative_step) or 0.0 for layer in group]
        gradients = [layer.gradient_norm for layer in group]
        for quantity, values in (("step", steps), ("gradient", gradients)):
            odd = out_of_line(values, GRADIENT_FACTOR).items()
            found += [OutOfLine(names[at], quantity, by) for at, by in odd if 0 < at < len(names) - 1]
    return tuple(found)
