"""From a Problem and a direction to a BreakdownResult."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from fromage_cli.diagnostics.breakdown.result import (
    BatchTrust,
    BreakdownResult,
    DepthResult,
    LayerBreakdown,
    SkippedTensor,
)
from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.probes.depth import Depth, measure_depth
from fromage_cli.probes.direction import Direction, Move, Skipped
from fromage_cli.probes.ray import Ray, measure_ray
from fromage_cli.problem.hessian import visit_hessian_vector_product
from fromage_cli.problem.problem import Evaluations, Problem
from fromage_cli.theory.accumulation import norm
from fromage_cli.theory.curves import (
    Point,
    first_crossing,
    first_sign_change,
    interpolate,
    minimum,
    running_maximum,
    tail_slope,
)
from fromage_cli.theory.descent import GroupStep, loss_change_bound
from fromage_cli.theory.relative_trust import implied_depth, predicted_breakdown, spectral_step
from fromage_cli.theory.singular_values import stable_rank

NOISE_LIMIT = 0.1
"""A tensor whose noise floor reaches this has no trust eta of its own: its gradient is zero but for rounding."""
BISECTIONS = 30
LOSS_ULPS = 8.0
"""A loss has risen when it exceeds its start by so many rounding errors."""
VIOLATION_FLOOR = 10.0
"""A breakdown counts towards `violation` from this multiple of its noise floor on."""


@dataclass(frozen=True)
class Measurement:
    """The result, and the limit that cut it short, if one did."""

    result: BreakdownResult
    stopped: ResourceError | None


def measure(
    problem: Problem,
    direction: Direction,
    etas: Sequence[float],
    *,
    show_vectors: bool = False,
    skipped: Sequence[Skipped] = (),
    advance: Callable[[], None] = lambda: None,
) -> Measurement:
    """The breakdown of every layer along a direction, and what follows from it.

    `etas`: increasing and positive; `show_vectors`: also report tensors of fewer than two dimensions.
    Costs K + 2 gradients with the base and the noise floor, one Hessian-vector product and one forward pass.
    """
    base = problem.base.loss
    ray = measure_ray(problem, direction, etas, advance)
    stopped, depth, products = ray.stopped, Depth(len(problem.layers), None, None), None
    try:
        if stopped is None:
            products = _product_norms(problem, direction)
            depth = measure_depth(problem)
    except ResourceError as limit:
        stopped = limit
    predicted = _predicted(direction, ray.etas)
    moved = [_layer(move, ray, predicted, direction.certifies) for move in direction.moves]
    trust, limiting = _network_trust([layer for layer in moved if not is_noise(layer.noise_floor)])
    layers = tuple(layer for layer in moved if show_vectors or len(layer.shape) > 1 or layer.name == limiting)
    linear = _linear_trust(direction, products, ray)
    bounds = _loss_bounds(direction, ray)
    aggregate = _aggregate_trust(direction, ray, bounds) if direction.certifies else Point(None, "uncertifiable")
    least = minimum(ray.etas, ray.losses, base)
    tolerance = LOSS_ULPS * _precision(problem) * abs(base)
    increase = first_sign_change(ray.etas, [loss - base - tolerance for loss in ray.losses])
    result = BreakdownResult(
        direction=direction.name,
        step_scale=direction.step_scale,
        loss=base,
        complete=stopped is None,
        etas=tuple(ray.etas),
        losses=tuple(ray.losses),
        predicted=tuple(predicted),
        predicted_spectral=tuple(_predicted_spectral(direction, ray.etas)),
        loss_bounds=tuple(bounds),
        depth=_depth(depth),
        tail_slope=_tail_slope(layers, ray.etas),
        trust_eta=trust.eta,
        trust_relation=trust.relation,
        limiting_layer=limiting,
        aggregate_trust_eta=aggregate.eta,
        aggregate_trust_relation=aggregate.relation,
        linear_trust_eta=linear[0],
        linear_trust_relation=linear[1],
        argmin_loss_eta=least.eta,
        argmin_loss_relation=least.relation,
        first_increase_eta=increase.eta,
        first_increase_relation=increase.relation,
        noise=tuple(layer.name for layer in moved if is_noise(layer.noise_floor)),
        skipped=tuple(SkippedTensor(s.name, s.reason) for s in (*skipped, *direction.skipped)),
        layers=layers,
    )
    return Measurement(result, stopped)


def _precision(problem: Problem) -> float:
    """The relative rounding error of a loss."""
    return torch.finfo(torch.bfloat16 if problem.autocast else problem.dtype).eps


def measure_batches(
    problem: Problem,
    direction_on: Callable[[Problem], Direction],
    etas: Sequence[float],
    advance: Callable[[], None] = lambda: None,
) -> tuple[tuple[BatchTrust, ...], ResourceError | None]:
    """The trust of each batch alone, along the direction that it gives; and the limit that ended it early, if any."""
    found: list[BatchTrust] = []
    for batch in problem.batches:
        alone = problem.on(batch)
        try:
            measured = measure(alone, direction_on(alone), etas, advance=advance)
        except ResourceError as limit:
            return tuple(found), limit
        finally:
            _add(problem.evaluations, alone.evaluations, batch.size / problem.rows)
        if measured.stopped is not None:
            return tuple(found), measured.stopped
        found.append(_batch_trust(measured.result))
    return tuple(found), None


def _add(total: Evaluations, part: Evaluations, share: float) -> None:
    total.gradients += share * part.gradients
    total.forwards += share * part.forwards
    total.hessian_vector_products += share * part.hessian_vector_products


def _batch_trust(result: BreakdownResult) -> BatchTrust:
    return BatchTrust(
        result.loss, result.trust_eta, result.trust_relation, result.limiting_layer, result.aggregate_trust_eta
    )


def _depth(depth: Depth) -> DepthResult:
    return DepthResult(depth.count, depth.path, depth.effective)


def _layer(move: Move, ray: Ray, predicted: Sequence[float], certifies: bool) -> LayerBreakdown:
    tensor, changes = move.tensor, ray.changes[move.tensor.name]
    if move.gradient_norm > 0.0:
        breakdown = [change / move.gradient_norm for change in changes]
        path = running_maximum(breakdown)
        noise = _noise_floor(move, ray)
        certifies = certifies and not is_noise(noise)
        trust = first_crossing(ray.etas, path, move.cosine) if certifies else Point(None, "uncertifiable")
    else:
        breakdown, path, trust, noise = [], [], Point(None, "uncertifiable"), None
    blank = (None,) * len(changes)
    return LayerBreakdown(
        name=tensor.name,
        kind=tensor.kind,
        shape=tuple(tensor.parameter.shape),
        parameters=tensor.parameter.numel(),
        weight_norm=move.weight_norm,
        gradient_norm=move.gradient_norm,
        cosine=move.cosine,
        relative_step=move.relative_step,
        noise_floor=noise,
        breakdown=tuple(breakdown) or blank,
        path_breakdown=tuple(path) or blank,
        trust_eta=trust.eta,
        trust_relation=trust.relation,
        implied_depth=_implied_depth(move, trust.eta),
        violation=_violation(breakdown, predicted, noise),
    )


def is_noise(noise_floor: float | None) -> bool:
    """Whether a gradient is no larger than its own rounding errors, so that nothing can be said of its breakdown."""
    return noise_floor is not None and not noise_floor < NOISE_LIMIT


def _implied_depth(move: Move, eta: float | None) -> float | None:
    """The depth for which Lemma 2 would have given the layer's own relative step at the crossing."""
    return implied_depth(move.cosine, eta * move.relative_step) if eta is not None and move.relative_step else None


def _violation(breakdown: Sequence[float], predicted: Sequence[float], noise: float | None) -> float | None:
    low = VIOLATION_FLOOR * (noise or 0.0)
    ratios = [b / p for b, p in zip(breakdown, predicted, strict=False) if low < b < 1.0 and p > 0.0]
    return median(ratios) if ratios else None


def _relative_steps(direction: Direction) -> list[tuple[Move, float]]:
    """The layers that move, with their relative step per unit of eta; weights of zero norm have none."""
    return [
        (move, move.relative_step)
        for move in direction.moves
        if move.tensor.is_layer and move.relative_step is not None
    ]


def _predicted(direction: Direction, etas: Sequence[float]) -> list[float]:
    steps = [step for _, step in _relative_steps(direction)]
    return [predicted_breakdown(eta * step for step in steps) for eta in etas]


def _predicted_spectral(direction: Direction, etas: Sequence[float]) -> list[float]:
    steps = [
        spectral_step(step, stable_rank(move.tensor.parameter), stable_rank(direction.source(move.tensor)))
        for move, step in _relative_steps(direction)
        if step > 0.0
    ]
    return [predicted_breakdown(eta * step for step in steps) for eta in etas]


def _aggregate_trust(direction: Direction, ray: Ray, bounds: Sequence[float]) -> Point:
    """Where the bound of Lemma 1 changes sign, the breakdowns interpolated as those of single tensors are."""
    coarse = first_sign_change(ray.etas, bounds)
    if coarse.eta is None:
        return coarse
    index = next(index for index, bound in enumerate(bounds) if not bound < 0.0)
    paths = _paths(direction, ray)
    low, high = ray.etas[index - 1], ray.etas[index]
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        values = {name: interpolate(ray.etas, path, middle) for name, path in paths.items()}
        rising = {name: paths[name][index - 1] if value is None else value for name, value in values.items()}
        low, high = (middle, high) if _loss_bound(direction, middle, rising) < 0.0 else (low, middle)
    return Point(low, "crossing")


def _paths(direction: Direction, ray: Ray) -> dict[str, list[float]]:
    """The running maximum of every moving tensor's breakdown; absolute where the gradient is zero."""
    return {
        move.tensor.name: running_maximum([c / (move.gradient_norm or 1.0) for c in ray.changes[move.tensor.name]])
        for move in direction.moves
    }


def _loss_bounds(direction: Direction, ray: Ray) -> list[float]:
    """The bound of Lemma 1 at each eta, over all tensors that move."""
    paths = _paths(direction, ray)
    return [
        _loss_bound(direction, eta, {name: path[index] for name, path in paths.items()})
        for index, eta in enumerate(ray.etas)
    ]


def _loss_bound(direction: Direction, eta: float, breakdowns: Mapping[str, float]) -> float:
    return loss_change_bound(
        [
            GroupStep(move.gradient_norm, eta * move.step_norm, move.cosine, breakdowns[move.tensor.name])
            for move in direction.moves
        ]
    )


def _network_trust(layers: Sequence[LayerBreakdown]) -> tuple[Point, str | None]:
    """The smallest trust eta; a tensor without certificate, or one that crosses below the grid, decides at once."""
    for relation in ("uncertifiable", "below-grid"):
        found = [layer for layer in layers if layer.trust_relation == relation]
        if found:
            return Point(None, relation), max(found, key=_excess).name
    crossing = [layer for layer in layers if layer.trust_eta is not None]
    if not crossing:
        return Point(None, "above-grid"), None
    least = min(crossing, key=lambda layer: layer.trust_eta or math.inf)
    return Point(least.trust_eta, "crossing"), least.name


def _excess(layer: LayerBreakdown) -> float:
    """How far a tensor without trust is from it: by its cosine, or by its breakdown at the first point."""
    first = layer.breakdown[0] if layer.breakdown else None
    return -layer.cosine if layer.cosine <= 0.0 or first is None else first / layer.cosine


def _linear_trust(direction: Direction, products: Mapping[str, float] | None, ray: Ray) -> tuple[float | None, str]:
    """Least over all tensors of cos / b'(0), b'(0) = ||(H d)_l|| / ||g_l||, from one product with the direction."""
    moves = [move for move in direction.moves if not is_noise(_noise_floor(move, ray))]
    if not direction.certifies or any(move.cosine <= 0.0 for move in moves):
        return None, "uncertifiable"
    if products is None:
        return None, "unavailable"
    slopes = [products.get(move.tensor.name, 0.0) / move.gradient_norm / move.cosine for move in moves]
    steepest = max(slopes, default=0.0)
    if not math.isfinite(steepest):
        return None, "unavailable"
    return (1.0 / steepest, "crossing") if steepest > 0.0 else (None, "above-grid")


def _noise_floor(move: Move, ray: Ray) -> float | None:
    floor = ray.floors.get(move.tensor.name)
    return floor / move.gradient_norm if floor is not None and move.gradient_norm > 0.0 else None


def _product_norms(problem: Problem, direction: Direction) -> dict[str, float] | None:
    """||(H d)_l|| of every tensor, from one product, none of which is kept.

    None for a direction that promises nothing, and for a loss without second derivative.
    """
    if not direction.certifies:
        return None
    coefficients = {move.tensor.name: move.coefficient for move in direction.moves}
    norms: dict[str, float] = {}
    try:
        visit_hessian_vector_product(
            problem,
            [move.tensor for move in direction.moves],
            lambda tensor: coefficients[tensor.name] * direction.source(tensor),
            lambda tensor, product: norms.__setitem__(tensor.name, norm(product)),
        )
    except MismatchError:
        return None
    return norms


def _tail_slope(layers: Sequence[LayerBreakdown], etas: Sequence[float]) -> float | None:
    values = [value for value in layers[0].breakdown if value is not None] if layers else []
    return tail_slope(etas, values) if len(values) == len(etas) else None
