"""What the growth of norms means for the user: codes, default limits and words."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.findings import Finding
from fromage_cli.missing import known
from fromage_cli.theory.growth import is_drift

REMEDY = "Divide the update by √(1+η²) as Fromage does, decay the weights, or bound their norm."
DECAYED = (
    "The weight decay slows this down until the norm settles; intrinsic-lr tells where and when. Dividing the update "
    "by √(1+η²) as Fromage does, or a bound on the norm, holds it at once."
)
"""Where the optimizer decays the weights already."""
FELT = "none"
"""Verdict on a layer whose scale the network feels."""


@dataclass(frozen=True)
class Limits:
    """Where a number becomes a finding."""

    law: float = 0.1
    """Relative distance within which growth is that of the law."""
    significant: float = 2.0
    """Standard errors by which a norm must grow; of less than seven checkpoints Student's 95th percentile."""
    doubling: float = 10.0
    """Growth of an invariant layer is a warning when its norm doubles within so many times the series' length."""
    horizon: float = 10.0
    """An overflow is a warning when it is no further away than so many times the series is long."""
    uneven: float = 0.1
    """Share of a layer's rows that may be dead."""


def judge(result: NormsResult, limits: Limits | None = None) -> tuple[Finding, ...]:
    """The findings of a series of norms, the gravest kinds first."""
    judging = _Judging(result, limits or Limits())
    kinds = (judging.not_finite, judging.overflow, judging.growth, judging.dead_rows, judging.dead_bias)
    return tuple(finding for kind in kinds for layer in result.layers for finding in kind(layer))


class _Judging:
    def __init__(self, result: NormsResult, limits: Limits) -> None:
        self.result, self.limits = result, limits
        steps = [step for step in result.steps if step is not None]
        self.length = steps[-1] - steps[0] if len(steps) > 1 else 0
        self.end = steps[-1] if steps else 0

    def not_finite(self, layer: LayerNorms) -> Iterator[Finding]:
        bad = sum(not math.isfinite(norm) for norm in layer.norms)
        if bad:
            yield Finding(
                code="norm-not-finite",
                severity="fail",
                layer=layer.name,
                message=f"its norm is not finite at {bad} of {len(layer.norms)} steps",
                hint="Go back to the last checkpoint before; inspect counts the entries.",
            )

    def overflow(self, layer: LayerNorms) -> Iterator[Finding]:
        reached = getattr(layer.overflow_step, layer.dtype, None)
        entries = known(reached.entries) if reached is not None else None
        end = self.end + self.limits.horizon * self.length
        if entries is not None and entries <= end:
            yield Finding(
                code="norm-overflows",
                severity="warn",
                layer=layer.name,
                message=f"if it goes on growing its largest entry leaves {layer.dtype} at step {entries:.0f}"
                f"{self._epoch(entries)}",
                value=entries,
                limit=end,
                hint=REMEDY,
            )

    def growth(self, layer: LayerNorms) -> Iterator[Finding]:
        """An invariant layer that grows; one that was not tested but follows the law, which hints at invariance."""
        growth, verdict = known(layer.growth_per_step), layer.invariance.verdict
        if growth is None or verdict == FELT:
            return
        if not is_drift(growth, known(layer.growth_stderr), len(layer.norms), self.limits.significant):
            return
        if verdict != "untested" and math.log(2) / growth <= self.limits.doubling * self.length:
            said = "scale-invariant" if verdict == "invariant" else f"scale-invariant ({verdict})"
            yield self._grows("invariant-layer-grows", layer, growth, f"is {said} and grows")
        elif verdict == "untested" and self._follows_law(growth, known(layer.predicted_growth)):
            yield self._grows("norm-follows-law", layer, growth, "grows")

    def _follows_law(self, growth: float, law: float | None) -> bool:
        return law is not None and law > 0.0 and abs(growth - law) <= self.limits.law * law

    def _grows(self, code: str, layer: LayerNorms, growth: float, what: str) -> Finding:
        law = known(layer.predicted_growth)
        beside = f", where the law says {law:.4g}" if law is not None else ""
        doubling, decays = math.log(2) / growth, bool(known(self.result.weight_decay))
        return Finding(
            code=code,
            severity="warn",
            layer=layer.name,
            message=f"{what} by {growth:.4g} a step in ln ‖W‖{beside}: its norm doubles every {doubling:.0f} steps"
            f"{self._epochs(doubling)}{' at this pace' if decays else ''}{self._consequence(layer)}",
            value=growth,
            limit=law,
            hint=DECAYED if decays else REMEDY,
        )

    def _consequence(self, layer: LayerNorms) -> str:
        halved = known(layer.halved_step)
        if halved is None:
            return ""
        verb = "halved" if halved <= self.end else "will have halved"
        return f", its effective learning rate {verb} since the first checkpoint by step {halved:.0f}"

    def dead_rows(self, layer: LayerNorms) -> Iterator[Finding]:
        channels = known(layer.channels)
        if channels is not None and channels.dead > self.limits.uneven * channels.count:
            yield Finding(
                code="rows-dead",
                severity="info",
                layer=layer.name,
                message=f"{channels.dead} of its {channels.count} rows are zero, or nearly",
                value=float(channels.dead),
                limit=self.limits.uneven * channels.count,
                hint="Pruned, never used, or decayed away: channels whose gain went to zero, tokens that never occur.",
            )

    def dead_bias(self, layer: LayerNorms) -> Iterator[Finding]:
        if layer.dead_bias:
            yield Finding(
                code="bias-dead",
                severity="info",
                layer=layer.name,
                message="its bias has no effect: what follows takes it away, and its gradient is nothing but rounding",
                hint="Leave the bias out before a norm over the batch or over positions, and of a projection to keys.",
            )

    def _epoch(self, step: float) -> str:
        return f" (epoch {step / self.result.steps_per_epoch:.0f})" if self.result.steps_per_epoch else ""

    def _epochs(self, steps: float) -> str:
        return f" ({steps / self.result.steps_per_epoch:.0f} epochs)" if self.result.steps_per_epoch else ""
