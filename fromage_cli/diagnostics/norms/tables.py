"""The tables beside the layers: the numbers that the page begins with, and the norm of each layer at each step."""

from collections.abc import Sequence

from fromage_cli.diagnostics.norms.growing import (
    SCALE_DEPENDENT,
    change,
    claimed_first,
    doubling,
    grows,
    grows_endlessly,
    narrow_overflow,
)
from fromage_cli.diagnostics.norms.result import NormsResult
from fromage_cli.findings import Finding
from fromage_cli.missing import known
from fromage_cli.terminal.answer import Table, summary


def headline(result: NormsResult, findings: Sequence[Finding]) -> Table:
    """The numbers that the page begins with."""
    series = len(result.steps) > 1
    growing = [*filter(grows, claimed_first(result.layers, findings))]
    fastest = max(growing, key=lambda layer: known(layer.growth_per_step) or 0.0, default=None)
    most = max(result.layers, key=change, default=None) if series else None
    tested = [layer for layer in result.layers if layer.invariance.verdict != "untested"]
    invariant = sum(layer.invariance.verdict != SCALE_DEPENDENT for layer in tested) if tested else None
    dtype, squares, _ = narrow_overflow(growing)
    return summary(
        [
            ("layers", len(result.layers), "layers"),
            ("growing_steadily", len(growing) if series else None, "layers"),
            ("scale_invariant", invariant, "layers"),
            ("scale_invariant_and_growing", sum(map(grows_endlessly, growing)) if tested else None, "layers"),
            ("grows_fastest", None if fastest is None else fastest.name, "layer"),
            ("doubles_in", None if fastest is None else doubling(fastest), "steps"),
            ("changed_most", None if most is None else most.name, "layer"),
            ("largest_change", None if most is None else most.first_to_last, "times the first norm"),
            (f"squares_overflow_{dtype}", squares, "step"),
        ]
    )


def curve(result: NormsResult) -> Table:
    """One row for each layer and step."""
    rows = [
        (layer.name, step, norm)
        for layer in result.layers
        for step, norm in zip(result.steps, layer.norms, strict=True)
    ]
    return Table(("layer", "step", "norm"), tuple(rows))
