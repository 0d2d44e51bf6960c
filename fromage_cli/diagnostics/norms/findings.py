"""What the growth of norms means for the user: codes, default limits and words."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.findings import Finding

REMEDY = "Divide the update by √(1+η²) as Fromage does, decay the weights, or bound their norm."


@dataclass(frozen=True)
class Limits:
    """Where a number becomes a finding."""

    law: float = 0.1
    """Relative distance within which growth is that of the law."""
    horizon: float = 10.0
    """An overflow is a warning when it is no further away than so many times the series is long."""


def judge(result: NormsResult, limits: Limits | None = None) -> tuple[Finding, ...]:
    """The findings of a series of norms, the gravest kinds first."""
    limits = limits or Limits()
    return (*_not_finite(result.layers), *_overflows(result, limits), *_law(result.layers, limits))


def _not_finite(layers: Sequence[LayerNorms]) -> Iterator[Finding]:
    for layer in layers:
        if not all(math.isfinite(norm) for norm in layer.norms):
            yield Finding(
                code="norm-not-finite",
                severity="fail",
                layer=layer.name,
                message=f"its norm is not finite at {sum(not math.isfinite(norm) for norm in layer.norms)} of "
                f"{len(layer.norms)} steps",
                hint="Go back to the last checkpoint before; inspect counts the entries.",
            )


def _overflows(result: NormsResult, limits: Limits) -> Iterator[Finding]:
    known = [step for step in result.steps if step is not None]
    if len(known) < 2:
        return
    end = known[-1] + limits.horizon * (known[-1] - known[0])
    for layer in result.layers:
        reached = getattr(layer.overflow_step, layer.dtype, None)
        if reached is not None and reached.entries is not None and reached.entries <= end:
            yield Finding(
                code="norm-overflows",
                severity="warn",
                layer=layer.name,
                message=f"if it goes on growing its largest entry leaves {layer.dtype} at step {reached.entries:.0f}",
                value=reached.entries,
                limit=end,
                hint=REMEDY,
            )


def _law(layers: Sequence[LayerNorms], limits: Limits) -> Iterator[Finding]:
    for layer in layers:
        growth, law = layer.growth_per_step, layer.predicted_growth
        if growth is not None and law is not None and law > 0.0 and abs(growth - law) <= limits.law * law:
            yield Finding(
                code="norm-follows-law",
                severity="warn",
                layer=layer.name,
                message=f"grows by {growth:.4g} a step in ln ‖W‖, where a scale-invariant layer grows by {law:.4g}: "
                f"its norm doubles every {math.log(2) / growth:.0f} steps",
                value=growth,
                limit=law,
                hint=REMEDY,
            )
