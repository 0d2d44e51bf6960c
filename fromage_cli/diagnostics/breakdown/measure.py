"""From a Problem and a direction to a BreakdownResult."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch

from fromage_cli.diagnostics.breakdown import derived
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
    """Measures the breakdown of every layer along a direction, and what follows from it.

    `etas`: increasing and positive; `show_vectors`: also report tensors of fewer than two dimensions; `last`: nobody
    asks for the direction or the base gradients afterwards, so that their memory may be let go.
    Costs K + 2 gradients with the base and the noise floor, one Hessian-vector product and one forward pass.
    """
    base = problem.base.loss
    ray = measure_ray(problem, direction, etas, advance)
    spectral = derived.predicted_spectral(direction, ray.etas)
    stopped, depth, products = ray.stopped, Depth(len(problem.layers), None, None), None
    try:
        if stopped is None:
            depth = measure_depth(problem)
            products = product_norms(problem, direction, last=last) if direction.certifies else None
    except ResourceError as limit:
        stopped = limit
    predicted = derived.predicted(direction, ray.etas)
    moved = [derived.layer_breakdown(move, ray, predicted, direction.certifies) for move in direction.moves]
    trust, limiting = derived.network_trust([layer for layer in moved if not derived.is_noise(layer.noise_floor)])
    layers = tuple(layer for layer in moved if show_vectors or len(layer.shape) > 1 or layer.name == limiting)
    linear = derived.linear_trust(direction, products, ray)
    bounds = derived.loss_bounds(direction, ray)
    aggregate = derived.aggregate_trust(direction, ray, bounds) if direction.certifies else Point(None, "uncertifiable")
    least = minimum(ray.etas, ray.losses, base)
    tolerance = LOSS_ULPS * torch.finfo(torch.bfloat16 if problem.autocast else problem.dtype).eps * abs(base)
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
        depth=DepthResult(depth.count, depth.path, depth.effective),
        tail_slope=derived.first_tail_slope(layers, ray.etas),
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
        noise=tuple(layer.name for layer in moved if derived.is_noise(layer.noise_floor)),
        skipped=tuple(SkippedTensor(s.name, s.reason) for s in (*skipped, *direction.skipped)),
        layers=layers,
    )
    return Measurement(result, stopped)


def measure_batches(
    problem: Problem,
    direction_on: Callable[[Problem], Direction],
    etas: Sequence[float],
    advance: Callable[[], None] = lambda: None,
) -> tuple[tuple[BatchTrust, ...], ResourceError | None]:
    """Measures the trust of each batch alone, along the direction that it gives.

    The second value is the limit that ended it early, if one did.
    """
    found: list[BatchTrust] = []
    for batch in problem.batches:
        alone = problem.on(batch)
        line = None
        try:
            base = alone.base
            with suppress(MismatchError):  # nothing moves along it
                line = direction_on(alone)
            measured = measure(alone, line, etas, advance=advance, last=True) if line is not None else None
        except ResourceError as limit:
            return tuple(found), limit
        finally:
            problem.evaluations.add(alone.evaluations, batch.size / problem.rows)
        if measured is None:
            found.append(BatchTrust(base.loss, None, "uncertifiable", None, None))
        elif measured.stopped is not None:
            return tuple(found), measured.stopped
        else:
            one = measured.result
            network = (one.trust_eta, one.trust_relation, one.limiting_layer)
            found.append(BatchTrust(one.loss, *network, one.aggregate_trust_eta))
    return tuple(found), None
