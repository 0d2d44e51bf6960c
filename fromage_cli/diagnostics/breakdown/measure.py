"""From a Problem and a direction to a BreakdownResult."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fromage_cli.diagnostics.breakdown import derived
from fromage_cli.diagnostics.breakdown.result import (
    BatchTrust,
    BreakdownResult,
    DepthResult,
    LayerBreakdown,
    SkippedTensor,
)
from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.missing import LIMIT_REACHED, NO_OTHER_DRAWS, Interrupted, Missing, Why, found_of, known
from fromage_cli.probes.lines.direction import Direction, Skipped
from fromage_cli.probes.lines.draws import TRUSTED, trust_of_draw
from fromage_cli.probes.lines.ray import Ray, measure_ray, product_norms
from fromage_cli.probes.structure.depth import Depth, measure_depth
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.curves import Point, loss_places
from fromage_cli.theory.random_draws import OtherDraws

HIDDEN = Missing(Why.GRAPH_UNREADABLE, "the graph of the forward pass hides the depth")


def measure(
    problem: Problem,
    direction: Direction,
    etas: Sequence[float],
    *,
    show_vectors: bool = False,
    skipped: Sequence[Skipped] = (),
    advance: Callable[[], None] = lambda: None,
    last: bool = False,
    other_draws: bool = True,
) -> BreakdownResult | Interrupted[BreakdownResult]:
    """Measures the breakdown of every layer along a direction, and what follows from it.

    `etas`: increasing and positive; `show_vectors`: also report tensors of fewer than two dimensions; `last`: nobody
    asks for the direction or the base gradients afterwards, so that their memory may be let go; `other_draws`: where
    the network draws noise, also measure under others of its draws, for four gradients more.
    Costs K + 2 gradients with the base and the noise floor, one Hessian-vector product and one forward pass.
    """
    base = problem.base.loss
    ray, stopped = found_of(measure_ray(problem, direction, etas, advance))
    spectral = derived.predicted_spectral(direction, ray.etas)
    check = derived.first_order(direction, ray, base)
    refused = derived.refusal(direction, ray, check)
    nowhere, bounds = Point(None, "uncertifiable"), derived.loss_bounds(direction, ray)
    aggregate = derived.aggregate_trust(direction, ray, bounds) if refused is None else nowhere
    noisy = other_draws and problem.draws_noise
    draws: OtherDraws | Missing = LIMIT_REACHED if noisy else NO_OTHER_DRAWS
    depth, products = Depth(len(problem.layers), None, None), None
    try:
        if stopped is None:
            if noisy:
                problem.evaluations.doing = "the same under other random draws"
                draws = refused or _over_draws(problem, direction, aggregate.eta or aggregate.upper or ray.judged[-1])
            problem.evaluations.doing = "how deep the network is"
            depth = measure_depth(problem)
            problem.evaluations.doing = "curvature along the direction"
            products = product_norms(problem, direction, last=last) if direction.certifies else None
    except ResourceError as limit:
        stopped = limit
    predicted = derived.predicted(direction, ray.etas)
    moved = [derived.layer_breakdown(move, ray, predicted, refused) for move in direction.moves]
    found = _layers(moved, direction, ray, refused, show_vectors=show_vectors, rounds=problem.autocast)
    withheld = check.contradicted or found.hidden
    linear = (None, nowhere.relation) if withheld else derived.linear_trust(direction, products, ray)
    places, changes = derived.loss_points(ray, base)
    least, increase = loss_places(places, changes)
    flat = None if places or not ray.etas else derived.HIDDEN_CHANGE if ray.judged else derived.TOO_SMALL
    slope = derived.HIDDEN_CHANGE if check.measured is None else check.measured
    hidden = LIMIT_REACHED if stopped is not None else HIDDEN
    result = BreakdownResult(
        direction=direction.name,
        step_scale=direction.step_scale,
        loss=base,
        complete=stopped is None,
        etas=tuple(ray.etas),
        losses=tuple(ray.losses),
        predicted=tuple(predicted),
        predicted_spectral=tuple(spectral),
        loss_bounds=derived.shown_bounds(bounds, ray, check),
        depth=DepthResult(
            depth.count,
            hidden if depth.path is None else depth.path,
            hidden if depth.effective is None else depth.effective,
        ),
        tail_slope=derived.first_tail_slope(found.layers, ray.etas),
        trust_eta=derived.placed(found.trust.eta, found.trust.relation, found.unread),
        trust_relation=found.trust.relation,
        limiting_layer=found.limiting,
        aggregate_trust_eta=derived.placed(aggregate.eta, aggregate.relation, refused),
        aggregate_trust_relation=aggregate.relation,
        linear_trust_eta=LIMIT_REACHED
        if stopped is not None and direction.certifies
        else derived.placed(*linear, found.unread if withheld else None),
        linear_trust_relation=linear[1],
        argmin_loss_eta=derived.placed(least.eta, least.relation, flat),
        argmin_loss_relation=least.relation,
        first_increase_eta=derived.placed(increase.eta, increase.relation, flat),
        first_increase_relation=increase.relation,
        noise=found.noise,
        skipped=tuple(SkippedTensor(s.name, s.reason) for s in (*skipped, *direction.skipped)),
        layers=found.layers,
        trust_eta_upper=found.trust.upper,
        aggregate_trust_eta_upper=aggregate.upper,
        argmin_loss_eta_upper=least.upper,
        first_increase_eta_upper=increase.upper,
        loss_floor=ray.loss_floor,
        loss_slope=check.expected,
        measured_loss_slope=slope,
        out_of_line=derived.odd_layers([layer for layer in found.layers if len(layer.shape) > 1], found.noise),
        contradicted=check.contradicted,
        without_size=direction.without_size,
        precision="bfloat16" if problem.autocast else str(problem.dtype).removeprefix("torch."),
        draws=draws,
    )
    return result if stopped is None else Interrupted(result, stopped)


@dataclass(frozen=True)
class _Layers:
    """The layers of the page, and where the first of them gives way."""

    layers: tuple[LayerBreakdown, ...]
    noise: tuple[str, ...]
    """Tensors whose gradient is rounding."""
    trust: Point
    limiting: str | None
    unread: Missing | None
    """Why no place of single layers is told."""
    hidden: bool
    """Whether that is because a matrix is among the noise, where passes round."""


def _layers(
    moved: Sequence[LayerBreakdown],
    direction: Direction,
    ray: Ray,
    refused: Missing | None,
    *,
    show_vectors: bool,
    rounds: bool,
) -> _Layers:
    """Which of the tensors that move are shown, and what they say; `rounds`: under autocast."""
    noise = tuple(layer.name for layer in moved if derived.is_noise(known(layer.noise_floor), ray))
    hidden = rounds and any(len(layer.shape) > 1 for layer in moved if layer.name in noise)
    unread = refused or (derived.ROUNDED_LAYER if hidden else None)
    trust, limiting = Point(None, "uncertifiable"), None
    if unread is None:
        trust, limiting = derived.network_trust(direction, ray)
    shown = show_vectors or all(len(layer.shape) < 2 for layer in moved)
    layers = tuple(layer for layer in moved if shown or len(layer.shape) > 1 or layer.name == limiting)
    return _Layers(layers, noise, trust, limiting, unread, hidden)


def _over_draws(problem: Problem, direction: Direction, eta: float) -> OtherDraws | Missing:
    """Where the aggregate trust lies under other draws, by their gradients at this eta."""
    found = [trust_of_draw(problem.drawn(further), direction, eta) for further in range(1, TRUSTED + 1)]
    if not all(map(math.isfinite, found)):
        return Missing(Why.NOT_DEFINED, "under another draw no gradient changes, or one is not finite")
    return OtherDraws(len(found), min(found), max(found))


def measure_batches(
    problem: Problem,
    direction_on: Callable[[Problem], Direction],
    etas: Sequence[float],
    advance: Callable[[], None] = lambda: None,
) -> tuple[BatchTrust, ...] | Interrupted[tuple[BatchTrust, ...]]:
    """Measures the trust of each batch alone, along the direction that it gives."""
    found: list[BatchTrust] = []
    for place, batch in enumerate(problem.batches, 1):
        problem.evaluations.doing = f"batch {place} of {len(problem.batches)} alone"
        alone = problem.on(batch)
        line = None
        try:
            base = alone.base
            with suppress(MismatchError):  # nothing moves along it
                line = direction_on(alone)
            measured = (
                measure(alone, line, etas, advance=advance, last=True, other_draws=False) if line is not None else None
            )
        except ResourceError as limit:
            return Interrupted(tuple(found), limit)
        finally:
            problem.evaluations.add(alone.evaluations, batch.size / problem.rows)
        if measured is None:
            still = derived.placed(None, "uncertifiable")
            found.append(BatchTrust(base.loss, still, "uncertifiable", None, still))
        elif isinstance(measured, Interrupted):
            return Interrupted(tuple(found), measured.error)
        else:
            network = (measured.trust_eta, measured.trust_relation, measured.limiting_layer)
            found.append(BatchTrust(measured.loss, *network, measured.aggregate_trust_eta))
    return tuple(found)
