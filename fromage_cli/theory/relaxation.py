"""How a norm comes to its equilibrium, and what a drop of the rate does to the effective rate meanwhile.

‖W‖^p relaxes exponentially, p and the time τ being those of the rule. Sources: as for equilibrium.py.
"""

import math
from dataclasses import dataclass

from fromage_cli.theory.equilibrium import Equilibrium

NEAR = 0.1
"""Relative distance from its end within which a norm, or an effective rate, counts as there."""


def relaxed(ratio: float, times: float, power: int) -> float:
    """‖W‖ / ‖W*‖ after so many relaxation times, from `ratio`: (1 + (r^p − 1) e^(−t/τ))^(1/p)."""
    return float((1.0 + (ratio**power - 1.0) * math.exp(-times)) ** (1.0 / power))


def times_until_near(ratio: float, power: int) -> float:
    """Relaxation times until ‖W‖ is within NEAR of ‖W*‖: ln((r^p − 1) / ((1 ± NEAR)^p − 1)); 0 where it is."""
    if abs(ratio - 1.0) <= NEAR:
        return 0.0
    edge = 1.0 + NEAR if ratio > 1.0 else 1.0 - NEAR
    return math.log((ratio**power - 1.0) / (edge**power - 1.0))


@dataclass(frozen=True)
class AfterDrop:
    """What dropping the rate to η / factor does to the effective rate; everything relative to before."""

    relaxation: float
    """Steps, at the new rate."""
    ratio: float
    """‖W‖ over its new equilibrium norm, at once."""
    at_once: float
    """Effective rate right after the drop: 1 / factor."""
    final: float
    """Effective rate in the end."""
    power: int
    rate_power: int

    def at(self, step: float) -> float:
        """The effective rate so many steps after the drop."""
        now = relaxed(self.ratio, step / self.relaxation, self.power)
        return self.at_once * (self.ratio / now) ** self.rate_power

    def recovery(self) -> float:
        """Steps until the effective rate is within NEAR of its end."""
        start = self.at_once / self.final
        if self.rate_power == 0 or abs(start - 1.0) <= NEAR:
            return 0.0
        edge = (1.0 + NEAR if start > 1.0 else 1.0 - NEAR) ** (-1.0 / self.rate_power)
        return self.relaxation * math.log((self.ratio**self.power - 1.0) / (edge**self.power - 1.0))


def after_drop(equilibrium: Equilibrium, factor: float, ratio: float = 1.0) -> AfterDrop | None:
    """How the effective rate goes on once the rate is divided by `factor`; None without an equilibrium.

    `ratio`: ‖W‖ / ‖W*‖ at the drop. For SGD from equilibrium η_e(t) / η_e(0) = 1/f / √(e^(−t/τ) + (1 − e^(−t/τ))/f).
    """
    if equilibrium.relaxation is None:
        return None
    new_ratio = ratio * factor**equilibrium.norm_exponent
    return AfterDrop(
        relaxation=equilibrium.relaxation * factor**equilibrium.relaxation_exponent,
        ratio=new_ratio,
        at_once=1.0 / factor,
        final=new_ratio**equilibrium.rate_power / factor,
        power=equilibrium.power,
        rate_power=equilibrium.rate_power,
    )
