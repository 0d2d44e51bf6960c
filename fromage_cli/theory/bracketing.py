"""Closing in on the place where a rising positive curve reaches 1, with few evaluations, in log-log coordinates."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

PRECISION = 1.05
"""How far apart the ends of the bracket may be in the end."""
ASIDE = 1.022
"""How far beside the expected place a point is set, so that two of them close the bracket."""
LONGER = 1.1
"""Each point is set so many times further than the last one, while one side is not known."""
STEEPEST = 1e6
"""Values above this say nothing of how far the place is below them."""
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
        stride = ASIDE * math.pow(LONGER, len(self.values) - 1)
        if not math.isfinite(self.high):
            value = self.values[self.low]
            return self.low * min(stride / value, FARTHEST) if value > 0.0 else FARTHEST * self.low
        if self.low == 0.0:
            value = self.values[self.high]
            return self.high / (value * stride) if value < STEEPEST else self.high / 16.0
        last, low, high = next(reversed(self.values)), self.values[self.low], self.values[self.high]
        follows = len(self.values) <= SECANTS and low > 0.0 and math.isfinite(high)
        if self.high <= PRECISION**2 * self.low or not follows:
            return math.sqrt(self.low * self.high)
        share = -math.log(low) / math.log(high / low)
        root = self.low * math.pow(self.high / self.low, share)
        aside = root / ASIDE if self.values[last] >= 1.0 else root * ASIDE
        return min(max(aside, self.low * ASIDE), self.high / ASIDE)


def close_in(
    bracket: Bracket, curve: Callable[[float], float], start: float, *, evaluations: int, highest: float
) -> Bracket:
    """Closes the bracket of the first place where the curve reaches 1, by so many evaluations at most.

    Below a closed bracket's place at least one further point is looked at. So a curve that went above 1 and came back
    is noticed; the search then goes on below it. Nothing above `highest` is tried.
    """
    place = min(start, highest)
    for _ in range(evaluations):
        bracket.add(place, curve(place))
        if bracket.low >= highest:
            break
        if bracket.closed:
            if any(tried < bracket.low for tried in bracket.values):
                break
            place = bracket.low / 2.0
        else:
            place = min(bracket.proposal(), highest)
    return bracket
