"""Closing in on the place where a rising positive curve reaches 1, with few evaluations, in log-log coordinates."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

PRECISION = 1.05
"""How far apart the ends of the bracket may be in the end."""
ASIDE = 1.022
"""How far beside the expected place a point is set, so that two of them close the bracket."""
FARTHEST = 64.0
"""How many times further the next point is set at most."""
SECANTS = 5
"""Evaluations that follow the curve; later ones halve the bracket."""


@dataclass
class Bracket:
    """What is known of the place: below it at `low`, at or above it at `high`."""

    low: float = 0.0
    high: float = math.inf
    values: dict[float, float] = field(default_factory=dict)
    """The curve at every place tried."""

    @property
    def closed(self) -> bool:
        """Whether the place is known up to PRECISION."""
        return self.low > 0.0 and self.high <= PRECISION * self.low

    def add(self, place: float, value: float) -> None:
        """Takes in one evaluation; a value that is not a number counts as above."""
        self.values[place] = math.inf if math.isnan(value) else value
        self.low = max((x for x, y in self.values.items() if y < 1.0 and x < self._lowest_above), default=0.0)
        self.high = self._lowest_above

    @property
    def _lowest_above(self) -> float:
        return min((x for x, y in self.values.items() if not y < 1.0), default=math.inf)

    def proposal(self) -> float:
        """Where to evaluate next: beside the place where a power law through what is known reaches 1."""
        last = next(reversed(self.values))
        if not math.isfinite(self.high):
            return self._beyond(self.values[self.low])
        if self.low == 0.0:
            return self._below(self.values[self.high])
        low, high = self.values[self.low], self.values[self.high]
        follows = len(self.values) <= SECANTS and low > 0.0 and math.isfinite(high)
        if self.high <= PRECISION**2 * self.low or not follows:
            return math.sqrt(self.low * self.high)
        share = -math.log(low) / math.log(high / low)
        root = self.low * math.pow(self.high / self.low, share)
        aside = root / ASIDE if self.values[last] >= 1.0 else root * ASIDE
        return min(max(aside, self.low * ASIDE), self.high / ASIDE)

    def _beyond(self, value: float) -> float:
        """Above `low`, the further the more often that was not far enough."""
        stride = math.pow(1.1, len(self.values) - 1)
        return self.low * min(ASIDE * stride / value, FARTHEST) if value > 0.0 else FARTHEST * self.low

    def _below(self, value: float) -> float:
        """Below `high`, the further the more often that was not far enough."""
        stride = math.pow(1.1, len(self.values) - 1)
        return self.high / (value * ASIDE * stride) if value < 1e6 else self.high / 16.0


def close_in(
    bracket: Bracket,
    curve: Callable[[float], float],
    start: float,
    *,
    evaluations: int,
    highest: float,
    checks: int = 1,
) -> Bracket:
    """Closes the bracket of the first place where the curve reaches 1, by so many evaluations at most.

    Below a closed bracket's place at least `checks` further points are looked at, so that a curve that went above 1
    and came back is noticed; the search then goes on below it. Nothing above `highest` is tried.
    """
    place = min(start, highest)
    for _ in range(evaluations):
        bracket.add(place, curve(place))
        if bracket.low >= highest:
            break
        if bracket.closed:
            below = [x for x in bracket.values if x < bracket.low]
            if len(below) >= checks:
                break
            place = bracket.low / 2.0 ** (len(below) + 1)
        else:
            place = min(bracket.proposal(), highest)
    return bracket
