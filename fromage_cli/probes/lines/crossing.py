"""Finds with few gradients how far a step is certain to descend: until they have changed by as much as it relies on.

One Hessian-vector product gives the slope of every tensor's breakdown, b_l'(0) = ||(H d)_l|| / ||g_l||. It says where
to look first; from there a few gradients close in on the place where the certificate ends.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from fromage_cli.errors import ResourceError
from fromage_cli.probes.lines.certificate import Certificate, Criterion
from fromage_cli.probes.lines.direction import Direction
from fromage_cli.probes.lines.ray import gradient_changes, noise_floor, noise_limit, product_norms, smallest_step
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.theory.bracketing import Bracket, close_in
from fromage_cli.theory.curves import Point, Relation, first_crossing, running_maximum
from fromage_cli.theory.first_order import RESOLVED, SlopeCheck, check_slope

POINTS = 6
"""Gradients beside the base and the noise floor; with the product and the base they stay within 12 gradients."""
WITHOUT_SLOPE = 8
"""The same where there is no product."""
FALLBACK = 3e-3
"""Where the search starts without a slope: between the crossings in Fig. 1 of Bernstein et al., NeurIPS 2020."""
HIGHEST = 1.0
"""The relative step at which a layer moves by its own norm; nothing beyond is looked at, unless the caller says so."""
BENT = 1.5
"""Where the value is so many times what the first slope predicts, more points below are looked at."""
BELOW = (0.71, 0.36, 0.25, 0.18)
"""Shares of the place at which they are; half of it is looked at in any case."""
CLOSE = 1.0 / 32.0
"""Share of the place where the search starts at which the loss is held against its slope; curvature is small there."""
CLOSEST = 0.25
"""The same from which on there is nothing to look at: so large a step shows no more than the search does."""


@dataclass(frozen=True)
class Crossing:
    """What a search has found along one line."""

    eta: float | None
    """The largest relative step tried that is certain to descend; None where there is none."""
    upper: float | None
    """The smallest one tried that is not; None where all were."""
    relation: Relation
    criterion: Criterion
    """`layers`: every layer by itself; `sum`: only all tensors together."""
    limiting: str | None
    """The layer that crosses first, or the tensor that weighs most in the group, or sum, that does."""
    certificate: Certificate
    etas: tuple[float, ...]
    """Relative steps at which the gradient was taken, rising."""
    losses: tuple[float, ...]
    excesses: tuple[float, ...]
    """The share of the descent that may be lost at each of them; the step is certain to descend below 1."""
    changes: Mapping[str, tuple[float, ...]]
    """||g_l(W + eta d) - g_l|| by tensor name."""
    products: Mapping[str, float] | None
    """||(H d)_l|| by tensor name; None without a second derivative."""
    closed: bool = False
    """Whether eta and upper are within 5 %."""
    unresolved: bool = False
    """Whether the steps below are so small that the dtype cannot make them: no gradient changed by a digit."""
    loss_floor: float = 0.0
    """By how much rounding and chance alone change the loss."""
    stopped: ResourceError | None = None
    """The limit that ended the search early: without one, no point means that no step is certain to descend."""

    def slope_check(self, start: float) -> SlopeCheck:
        """Holds the loss, `start` at eta = 0, against the slope that its gradient gives."""
        direction = self.certificate.direction
        lost = [
            eta * math.fsum(move.step_norm * self.changes[move.tensor.name][place] for move in direction.moves)
            for place, eta in enumerate(self.etas)
        ]
        return check_slope(direction.slope, start, self.etas, self.losses, lost, rounding=self.loss_floor)

    def trust(self, name: str, gradient_norm: float) -> Point:
        """Where one tensor crosses its own level, by the points that were taken."""
        if gradient_norm <= 0.0 or name in self.certificate.noise:
            return Point(None, "uncertifiable")
        path = running_maximum([change / gradient_norm for change in self.changes[name]])
        return first_crossing(self.etas, path, self.certificate.levels[name])


@dataclass
class _Search:
    """A search that is under way: what it judges by, and what it has evaluated."""

    problem: Problem
    certificate: Certificate
    advance: Callable[[], None]
    losses: dict[float, float]
    changes: dict[float, dict[str, float]]
    highest: float
    loss_floor: float = 0.0

    def close(self, start: float, points: int, origin: Mapping[str, Tensor], bracket: Bracket) -> None:
        """Takes gradients along the direction until the bracket is closed, or so many are taken."""
        close_in(bracket, lambda eta: self.excess(eta, origin), start, evaluations=points, highest=self.highest)

    def look_close(
        self, start: float, products: Mapping[str, float] | None, origin: Mapping[str, Tensor], bracket: Bracket
    ) -> None:
        """Takes two gradients far below `start` where the loss does not change there as its gradient says.

        One forward pass tells, held against slope and curvature: further out the gradients change so much that any
        change of the loss is possible.
        """
        direction, base = self.certificate.direction, self.problem.base.loss
        slope = direction.slope
        resolved = 2.0 * RESOLVED * self.loss_floor / abs(slope) if slope else math.inf
        eta = max(CLOSE * start, resolved, smallest_step(self.problem, direction))
        if eta > CLOSEST * start:
            return
        direction.write(origin, eta)
        loss = self.problem.value()
        bent = [move.step_norm * products[move.tensor.name] for move in direction.moves] if products is not None else []
        curvature = eta**2 * math.fsum(bent)
        if check_slope(slope, base, [eta], [loss], [curvature], rounding=self.loss_floor).contradicted:
            for place in (eta, 2.0 * eta):
                bracket.add(place, self.excess(place, origin))

    def look_below(self, slope: float, origin: Mapping[str, Tensor], bracket: Bracket) -> None:
        """Takes gradients at more places below the one found, where kinks bend the curve.

        Where one of them is not certain, the search goes on below it.
        """
        place = bracket.low
        if not bracket.values.get(place, 0.0) > BENT * slope * place:
            return
        for share in BELOW:
            bracket.add(share * place, self.excess(share * place, origin))
            if bracket.low < share * place:
                self.close(bracket.proposal(), POINTS, origin, bracket)
                break

    def excess(self, eta: float, origin: Mapping[str, Tensor]) -> float:
        """The share of the descent that may be lost at a step of that size."""
        direction = self.certificate.direction
        direction.write(origin, eta)
        loss, changes = gradient_changes(self.problem, direction, self.problem.base.gradients)
        self.losses[eta], self.changes[eta] = loss, changes
        self.advance()
        return self.certificate.excess(changes)


def find_crossing(
    problem: Problem,
    direction: Direction,
    levels: Mapping[str, float],
    advance: Callable[[], None] = lambda: None,
    *,
    highest: float = HIGHEST,
) -> Crossing:
    """Finds the end of certain descent along a direction, to 5 %, and every layer's own as far as it shows.

    `levels`: cos theta_l by tensor name; `highest`: the eta beyond which nothing is looked at. Costs one Hessian-vector
    product, one forward pass and at most 7 gradients beside the base; 2 more where the loss contradicts its gradient.
    Ends early, keeping what it has, when a limit of the budget is reached; the weights are afterwards as before.
    """
    search = _Search(problem, Certificate(direction, levels), advance, {}, {}, highest)
    products, stopped, bracket = None, None, Bracket()
    try:
        found = product_norms(problem, direction)
        products = found if found is not None and all(map(math.isfinite, found.values())) else None
        advance()
        with problem.displaced([move.tensor for move in direction.moves]) as origin, problem.steady():
            before = problem.evaluations.gradients
            floor = noise_floor(problem, direction, origin)
            floors, search.loss_floor = floor.gradients, floor.loss
            sizes = {move.tensor.name: move.gradient_norm for move in direction.moves if move.gradient_norm > 0.0}
            noise = frozenset(name for name, size in sizes.items() if not floors[name] < noise_limit(problem) * size)
            search.certificate = Certificate(direction, levels, noise)
            again = round(problem.evaluations.gradients - before) - 1  # where rows in another order were no use
            advance()
            if search.certificate.possible:
                points = (POINTS if products is not None else WITHOUT_SLOPE) - again
                start = min(_start(search.certificate, products), highest)
                search.look_close(start, products, origin, bracket)
                search.close(start, points, origin, bracket)
    except ResourceError as limit:
        stopped = limit
    return _conclude(search, bracket, products, stopped)


def find_sum_crossing(
    problem: Problem, found: Crossing, advance: Callable[[], None] = lambda: None, *, highest: float = HIGHEST
) -> Crossing:
    """Finds the same where only the sum over all tensors counts, from what a search by layers has found already.

    Costs at most 6 gradients, 10 more where the curve bends, and ends early as that does.
    """
    certificate = replace(found.certificate, together=True)
    direction = certificate.direction
    names = [move.tensor.name for move in direction.moves]
    changes = {eta: {name: found.changes[name][place] for name in names} for place, eta in enumerate(found.etas)}
    losses = dict(zip(found.etas, found.losses, strict=True))
    search = _Search(problem, certificate, advance, losses, changes, highest, found.loss_floor)
    bracket, stopped = Bracket(), None
    if not certificate.possible:
        return _conclude(search, bracket, found.products, None)
    excesses = {eta: certificate.excess(changes[eta]) for eta in found.etas}
    above = min((eta for eta, excess in excesses.items() if not excess < 1.0), default=math.inf)
    below = max((eta for eta in excesses if eta < above), default=0.0)
    for eta in (below, above):  # the others are far from the place, and would only make the search halve its bracket
        if eta in excesses:
            bracket.add(eta, excesses[eta])
    try:
        with problem.displaced([move.tensor for move in direction.moves]) as origin, problem.steady():
            start = _start(certificate, found.products)
            if not bracket.low < start < bracket.high:
                start = bracket.proposal()
            if not bracket.closed:
                search.close(start, POINTS, origin, bracket)
            slope = certificate.excess(found.products) if found.products is not None else 0.0
            search.look_below(slope, origin, bracket)
    except ResourceError as limit:
        stopped = limit
    return _conclude(search, bracket, found.products, stopped)


def judged_again(found: Crossing, later: Crossing) -> Crossing:
    """A search judged by a later one's points on the same line too: one below its place may deny it."""
    places = [{name: changes[place] for name, changes in later.changes.items()} for place in range(len(later.etas))]
    excesses = tuple(map(found.certificate.excess, places))
    bracket = Bracket()
    for eta, excess in zip(later.etas, excesses, strict=True):
        bracket.add(eta, excess)
    high = next((place for place, excess in enumerate(excesses) if not excess < 1.0), None)
    return replace(
        found,
        eta=bracket.low or None,
        upper=later.etas[high] if high is not None else None,
        relation="above-grid" if high is None else "crossing" if bracket.low else "below-grid",
        limiting=found.certificate.limiting(places[high]) if high is not None else None,
        etas=later.etas,
        losses=later.losses,
        excesses=excesses,
        changes=later.changes,
        closed=bracket.closed,
    )


def _start(certificate: Certificate, products: Mapping[str, float] | None) -> float:
    """Where the certificate would end if the gradients changed linearly."""
    slope = certificate.excess(products) if products is not None else 0.0
    return 1.0 / slope if 0.0 < slope < math.inf else FALLBACK


def _conclude(
    search: _Search, bracket: Bracket, products: Mapping[str, float] | None, stopped: ResourceError | None
) -> Crossing:
    """What the search has found, in the order of the points."""
    etas = tuple(sorted(search.changes))
    high = bracket.high if math.isfinite(bracket.high) else None
    low = bracket.low or None
    unresolved = high is not None and low is not None and bracket.values[low] == 0.0  # the step changed no weight
    low = None if unresolved else low
    relation: Relation = "crossing" if low is not None else "below-grid"
    if not etas and stopped is None:
        relation = "uncertifiable"
    elif low is not None and high is None:
        relation = "above-grid"
    certificate = search.certificate
    return Crossing(
        eta=low,
        upper=high,
        relation=relation,
        criterion=certificate.criterion,
        limiting=certificate.limiting(search.changes[high]) if high is not None else None,
        certificate=certificate,
        etas=etas,
        losses=tuple(search.losses[eta] for eta in etas),
        excesses=tuple(certificate.excess(search.changes[eta]) for eta in etas),
        changes={
            move.tensor.name: tuple(search.changes[eta][move.tensor.name] for eta in etas)
            for move in certificate.direction.moves
        },
        products=products,
        closed=bracket.closed,
        unresolved=unresolved,
        loss_floor=search.loss_floor,
        stopped=stopped,
    )
