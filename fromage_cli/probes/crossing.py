"""How far a step is certain to descend: where the gradient has changed by as much as the step relies on, found fast.

Lemma 1 promises descent while b_l(eta) = ||g_l(W + eta d) - g_l|| / ||g_l|| stays below cos theta_l in every tensor.
Where a tensor has no positive cosine, the sum over all tensors, weighted by ||g_l|| ||d_l||, decides instead. One
Hessian-vector product gives the slope b_l'(0) = ||(H d)_l|| / ||g_l||, and so the first place to look.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fromage_cli.errors import MismatchError, ResourceError
from fromage_cli.probes.direction import Direction, Move
from fromage_cli.probes.ray import gradient_changes, noise_floors
from fromage_cli.problem.hessian import visit_hessian_vector_product
from fromage_cli.problem.problem import Problem
from fromage_cli.theory.accumulation import norm
from fromage_cli.theory.bracketing import Bracket, close_in
from fromage_cli.theory.curves import Point, Relation, first_crossing, running_maximum

POINTS = 6
"""Gradients beside the base and the noise floor; with the product and the base they stay below 12 gradients."""
WITHOUT_SLOPE = 8
"""The same where there is no product."""
FALLBACK = 3e-3
"""Where the search starts without a slope: between the crossings in Fig. 1 of Bernstein et al., NeurIPS 2020."""
HIGHEST = 1.0
"""The relative step at which a layer moves by its own norm; nothing beyond is looked at."""
NOISE_LIMIT = 0.1
"""A tensor whose noise floor reaches this has a gradient of rounding errors, and no say."""
Criterion = Literal["layers", "sum"]


@dataclass(frozen=True)
class Crossing:
    """What was found along one line."""

    eta: float | None
    """The largest relative step tried that is certain to descend; None where there is none."""
    upper: float | None
    """The smallest one tried that is not; None where all were."""
    relation: Relation
    criterion: Criterion
    """`layers`: every tensor by itself; `sum`: only all together."""
    limiting: str | None
    """The tensor that crosses first, or weighs most in the sum."""
    etas: tuple[float, ...]
    """Relative steps at which the gradient was taken, rising."""
    losses: tuple[float, ...]
    changes: Mapping[str, tuple[float, ...]]
    """||g_l(W + eta d) - g_l|| by tensor name."""
    excesses: tuple[float, ...]
    """What the criterion makes of them; descent is certain below 1."""
    levels: Mapping[str, float]
    """What the breakdown of each tensor is held against."""
    slopes: Mapping[str, float] | None
    """b_l'(0) by tensor name; None without a second derivative."""
    noise: tuple[str, ...] = ()
    """Tensors whose gradient is zero but for rounding."""
    uncertain: tuple[str, ...] = ()
    """Tensors that no certificate of their own is possible for."""
    closed: bool = False
    """Whether eta and upper are within 5 %."""
    stopped: ResourceError | None = None
    """The limit that ended the search early."""

    def trust(self, name: str, gradient_norm: float) -> Point:
        """Where one tensor crosses its level, by the points that were taken."""
        if gradient_norm <= 0.0 or name in self.noise:
            return Point(None, "uncertifiable")
        path = running_maximum([change / gradient_norm for change in self.changes[name]])
        return first_crossing(self.etas, path, self.levels[name])


@dataclass
class _Search:
    """One search on its way."""

    direction: Direction
    levels: Mapping[str, float]
    noise: set[str]
    criterion: Criterion
    losses: dict[float, float] = field(default_factory=dict)
    changes: dict[float, dict[str, float]] = field(default_factory=dict)

    def excess(self, changes: Mapping[str, float]) -> float:
        """What the criterion makes of the gradients' changes: 1 at the crossing."""
        return max(self.shares(changes).values(), default=0.0) if self.criterion == "layers" else self._sum(changes)

    def shares(self, changes: Mapping[str, float]) -> dict[str, float]:
        """Each tensor's breakdown over its level, or its part of the sum."""
        if self.criterion == "sum":
            return {move.tensor.name: move.step_norm * changes[move.tensor.name] for move in self.direction.moves}
        return {
            move.tensor.name: _number(changes[move.tensor.name] / (move.gradient_norm * self.levels[move.tensor.name]))
            for move in self.counted
        }

    @property
    def counted(self) -> list[Move]:
        """The tensors that have a say of their own."""
        return [move for move in self.direction.moves if move.tensor.name not in self.noise]

    def _sum(self, changes: Mapping[str, float]) -> float:
        return _number(math.fsum(map(_number, self.shares(changes).values()))) / certain_descent(
            self.direction, self.levels
        )


def certain_descent(direction: Direction, levels: Mapping[str, float]) -> float:
    """Sum over the tensors of ||g_l|| ||d_l|| times level: the slope that the sum may count on."""
    return math.fsum(move.gradient_norm * move.step_norm * levels[move.tensor.name] for move in direction.moves)


def _number(value: float) -> float:
    return math.inf if math.isnan(value) else value


def find_crossing(
    problem: Problem, direction: Direction, levels: Mapping[str, float], advance: Callable[[], None] = lambda: None
) -> Crossing:
    """The crossing along a direction, to 5 %, with the smallest and every tensor's own as far as it shows.

    `levels`: cos theta_l by tensor name. Costs one Hessian-vector product and at most 7 gradients beside the base.
    Ends early, keeping what it has, when a limit of the budget is reached; the weights are afterwards as before.
    """
    tensors = [move.tensor for move in direction.moves]
    slopes, stopped, bracket = None, None, Bracket()
    search = _Search(direction, levels, set(), "layers")
    try:
        slopes = _slopes(problem, direction)
        advance()
        with problem.displaced(tensors) as origin, problem.steady():
            search.noise = _noise(problem, direction, origin)
            advance()
            uncertain = _uncertain(search)
            if uncertain:
                search.criterion = "sum"
            if search.criterion == "sum" and certain_descent(direction, levels) <= 0.0:
                return _conclude(search, bracket, slopes, uncertain, None)

            def excess(eta: float) -> float:
                direction.write(origin, eta)
                loss, changes = gradient_changes(problem, direction, problem.base.gradients)
                search.losses[eta], search.changes[eta] = loss, changes
                advance()
                return search.excess(changes)

            points = POINTS if slopes is not None else WITHOUT_SLOPE
            close_in(bracket, excess, _start(search, slopes), evaluations=points, highest=HIGHEST)
    except ResourceError as limit:
        stopped = limit
    return _conclude(search, bracket, slopes, _uncertain(search), stopped)


def _uncertain(search: _Search) -> tuple[str, ...]:
    """Tensors that move and have no gradient, or no part along descent, to hold a certificate against."""
    return tuple(
        move.tensor.name
        for move in search.counted
        if move.gradient_norm <= 0.0 or search.levels[move.tensor.name] <= 0.0
    )


def _noise(problem: Problem, direction: Direction, origin: Mapping[str, Tensor]) -> set[str]:
    floors = noise_floors(problem, direction, origin)
    sizes = {move.tensor.name: move.gradient_norm for move in direction.moves}
    return {name for name, floor in floors.items() if sizes[name] > 0.0 and not floor < NOISE_LIMIT * sizes[name]}


def _slopes(problem: Problem, direction: Direction) -> dict[str, float] | None:
    """||(H d)_l|| of every tensor that moves, from one product; None for a loss without second derivative."""
    coefficients = {move.tensor.name: move.coefficient for move in direction.moves}
    products: dict[str, float] = dict.fromkeys(coefficients, 0.0)
    try:
        visit_hessian_vector_product(
            problem,
            [move.tensor for move in direction.moves],
            lambda tensor: coefficients[tensor.name] * direction.source(tensor),
            lambda tensor, product: products.__setitem__(tensor.name, norm(product)),
        )
    except MismatchError:
        return None
    return products if all(map(math.isfinite, products.values())) else None


def _start(search: _Search, products: Mapping[str, float] | None) -> float:
    """Where the criterion would reach 1 if the breakdowns were linear."""
    slope = search.excess(products) if products is not None else 0.0
    return 1.0 / slope if 0.0 < slope < math.inf else FALLBACK


def _conclude(
    search: _Search,
    bracket: Bracket,
    products: Mapping[str, float] | None,
    uncertain: tuple[str, ...],
    stopped: ResourceError | None,
) -> Crossing:
    etas = tuple(sorted(search.changes))
    high = bracket.high if math.isfinite(bracket.high) else None
    low = bracket.low or None
    relation: Relation = "crossing" if low is not None else "below-grid"
    if not etas and stopped is None:
        relation = "uncertifiable"
    elif low is not None and high is None:
        relation = "above-grid"
    at = search.changes.get(high if high is not None else etas[-1], {}) if etas else {}
    shares = search.shares(at) if at else {}
    norms = {move.tensor.name: move.gradient_norm for move in search.direction.moves}
    return Crossing(
        eta=low,
        upper=high,
        relation=relation,
        criterion=search.criterion,
        limiting=max(shares, key=lambda name: shares[name], default=None) if high is not None else None,
        etas=etas,
        losses=tuple(search.losses[eta] for eta in etas),
        changes={name: tuple(search.changes[eta][name] for eta in etas) for name in norms},
        excesses=tuple(bracket.values[eta] for eta in etas),
        levels=dict(search.levels),
        slopes=None if products is None else {n: products[n] / size for n, size in norms.items() if size > 0.0},
        noise=tuple(name for name in norms if name in search.noise),
        uncertain=uncertain,
        closed=bracket.closed,
        stopped=stopped,
    )
