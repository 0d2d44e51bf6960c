"""From a Problem and a direction to a BreakdownResult."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from fromage_cli.diagnostics.breakdown import derived as reading
from fromage_cli.diagnostics.breakdown.result import (
    BatchTrust,
    BreakdownResult,
    DepthResult,
    SkippedTensor,
)
from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.probes.lines.direction import Direction, Skipped
from fromage_cli.probes.lines.ray import measure_ray, product_norms
from fromage_cli.probes.structure.depth import Depth, measure_depth
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.curves import Point, first_sign_change, minimum

LOSS_ULPS = 8.0
"""A loss has risen when it exceeds its start by so many rounding errors."""


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
    last: bool = False,
) -> Measurement:
    """The breakdown of every layer along a direction, and what follows from it.

    `etas`: increasing and positive; `show_vectors`: also report tensors of fewer than two dimensions; `last`: nobody
    asks for the direction or the base gradients afterwards, so that their memory may be let go.
    Costs K + 2 gradients with the base and the noise floor, one Hessian-vector product and one forward pass.
    """
    base = problem.base.loss
    ray = measure_ray(problem, direction, etas, advance)
    spectral = reading.predicted_spectral(direction, ray.etas)
    stopped, depth, products = ray.stopped, Depth(len(problem.layers), None, None), None
    try:
        if stopped is None:
            depth = measure_depth(problem)
            products = product_norms(problem, direction, last=last) if direction.certifies else None
    except ResourceError as limit:
        stopped = limit
    predicted = reading.predicted(direction, ray.etas)
    moved = [reading.read_layer(move, ray, predicted, direction.certifies) for move in direction.moves]
    trust, limiting = reading.network_trust([layer for layer in moved if not reading.is_noise(layer.noise_floor)])
    layers = tuple(layer for layer in moved if show_vectors or len(layer.shape) > 1 or layer.name == limiting)
    linear = reading.linear_trust(direction, products, ray)
    bounds = reading.loss_bounds(direction, ray)
    aggregate = reading.aggregate_trust(direction, ray, bounds) if direction.certifies else Point(None, "uncertifiable")
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
        predicted_spectral=tuple(spectral),
        loss_bounds=tuple(bounds),
        depth=_depth(depth),
        tail_slope=reading.first_tail_slope(layers, ray.etas),
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
        noise=tuple(layer.name for layer in moved if reading.is_noise(layer.noise_floor)),
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
            line = _line_of(alone, direction_on)
            measured = measure(alone, line, etas, advance=advance, last=True) if line is not None else None
        except ResourceError as limit:
            return tuple(found), limit
        finally:
            problem.evaluations.add(alone.evaluations, batch.size / problem.rows)
        if measured is None:
            found.append(BatchTrust(alone.base.loss, None, "uncertifiable", None, None))
        elif measured.stopped is not None:
            return tuple(found), measured.stopped
        else:
            found.append(_batch_trust(measured.result))
    return tuple(found), None


def _line_of(alone: Problem, direction_on: Callable[[Problem], Direction]) -> Direction | None:
    """The direction that a batch alone gives; None where nothing moves along it."""
    _ = alone.base
    try:
        return direction_on(alone)
    except MismatchError:
        return None


def _batch_trust(result: BreakdownResult) -> BatchTrust:
    return BatchTrust(
        result.loss, result.trust_eta, result.trust_relation, result.limiting_layer, result.aggregate_trust_eta
    )


def _depth(depth: Depth) -> DepthResult:
    return DepthResult(depth.count, depth.path, depth.effective)
