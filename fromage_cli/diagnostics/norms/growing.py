"""Which layers of a run grow, how soon their norms double, when a dtype overflows, and which layers come first."""

import math
from collections.abc import Sequence

from fromage_cli.diagnostics.norms.result import LayerNorms
from fromage_cli.findings import Finding
from fromage_cli.missing import known

SCALE_DEPENDENT = "none"
"""Verdict on a layer whose scale changes the outputs."""


def grows(layer: LayerNorms) -> bool:
    """Whether its norm grows steadily."""
    return known(layer.overflow_step) is not None


def grows_endlessly(layer: LayerNorms) -> bool:
    """Whether it grows though nothing depends on its size."""
    return grows(layer) and layer.invariance.verdict not in ("untested", SCALE_DEPENDENT)


def doubling(layer: LayerNorms) -> float:
    """Steps in which the norm of a layer that grows doubles."""
    return math.log(2) / (known(layer.growth_per_step) or math.nan)


def change(layer: LayerNorms) -> float:
    """|ln| of the last norm over the first; 0 where it is not known."""
    return abs(math.log(known(layer.first_to_last) or 1.0))


def claimed_first(layers: Sequence[LayerNorms], findings: Sequence[Finding]) -> list[LayerNorms]:
    """Layers with warnings, then those that grow for ever, those that grow, and the others by how far they changed."""
    warned = {finding.layer for finding in findings if finding.severity != "info"}

    def claim(layer: LayerNorms) -> tuple[bool, bool, float, float]:
        speed = known(layer.growth_per_step) or 0.0
        return layer.name not in warned, not grows_endlessly(layer), -speed if grows(layer) else 0.0, -change(layer)

    return sorted(layers, key=claim)


def narrow_overflow(growing: Sequence[LayerNorms]) -> tuple[str, float | None, float | None]:
    """A narrow dtype for the layers, and the first steps at which their squares and entries leave it."""
    dtype = "bfloat16" if {layer.dtype for layer in growing} == {"bfloat16"} else "float16"
    reached = [getattr(found, dtype) for layer in growing if (found := known(layer.overflow_step)) is not None]

    def first(kind: str) -> float | None:
        return min((step for one in reached if (step := known(getattr(one, kind))) is not None), default=None)

    return dtype, first("squares"), first("entries")
