"""The page a person sees: a sentence, and the layers that grow though they need not, then those that changed most."""

import math
from collections.abc import Sequence

from rich.console import Group, RenderableType

from fromage_cli.counting import counted
from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import NAME_IT
from fromage_cli.terminal.answer import PageStyle, Table
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known, prose
from fromage_cli.terminal.words import number, sparkline
from fromage_cli.theory.scale_invariance import Invariance

ROWS = 12
"""Layers shown without `--all`."""
SPARKS = 24
"""Steps that are drawn, the last ones: more do not fit beside the numbers."""
GROWTH = (
    "× first: the norm over that of the first checkpoint. growth: robust slope of ln ‖W‖ a step, ± its standard error."
)
RATE = "rate ×: what its norm alone made of the layer's effective learning rate; above 1 it rose."
LAW = "law: that of a scale-invariant layer under this optimizer."
UNTESTED = (
    "Whether a layer is scale-invariant was not tested: that needs the model; --model SPEC (and --batch SPEC) "
    "turns the test on."
)
UNKNOWN = f"The optimizer is not known, so that law and effective rates are missing. {NAME_IT}."
TESTED = (
    "invariant: whether the network feels the layer's scale, and which parts may be scaled on their own; D(2), D(0.5): "
    "how far outputs move when it is doubled and halved."
)


def render(result: NormsResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""

    def urgency(layer: LayerNorms) -> tuple[bool, float, float]:
        """Invariant layers that grow first, then by change, at last by growth."""
        invariant = layer.invariance.verdict not in ("untested", "none")
        growth = known(layer.growth_per_step) or 0.0
        return not (invariant and known(layer.overflow_step) is not None), -_change(layer), -growth

    shown = result.layers if style.show_all else sorted(result.layers, key=urgency)[:ROWS]
    # an optimizer that is not known is spoken of in the legend
    law_asked = len(result.steps) > 1 and result.optimizer is not None
    return Group(
        prose(summary(result), style),
        *_layers(result, shown, style),
        *(not_known(result.layers, {"predicted_growth": "law"}, style) if law_asked else []),
    )


def summary(result: NormsResult) -> str:
    """The answer in a sentence or two."""
    layers, series = counted(len(result.layers), "layer"), len(result.steps) > 1
    growing = [layer for layer in result.layers if known(layer.overflow_step) is not None]
    span = f"From step {result.steps[0]} to {result.steps[-1]} ({len(result.steps)} checkpoints)"
    if not series:
        said = f"The norms of {layers} at one step; growth needs a second checkpoint."
    elif not growing:
        most = max(result.layers, key=_change)
        ends = f"from {number(most.norms[0])} to {number(most.norms[-1])}"
        changed = f"{span} the norm of {most.name} changed most: {ends}. No" if _change(most) > 0.0 else f"{span} no"
        said = f"{changed} norm grows steadily, of {layers}."
    else:
        fastest = max(growing, key=lambda layer: known(layer.growth_per_step) or 0.0)
        grow = "grow steadily" if len(result.steps) > 2 else "grow"
        said = f"{span} the norms of {len(growing)} of {layers} {grow}, fastest that of {fastest.name}: "
        said += f"from {number(fastest.norms[0])} to {number(fastest.norms[-1])}."
    tested = [layer for layer in result.layers if layer.invariance.verdict != "untested"]
    invariant = [layer for layer in tested if layer.invariance.verdict != "none"]
    if tested and not invariant:
        said += f" None of {len(tested)} tested layers is scale-invariant."
    elif tested:
        count = sum(known(layer.overflow_step) is not None for layer in invariant)
        verb = "is" if len(invariant) == 1 else "are"
        said += f" {len(invariant)} of {len(tested)} tested layers {verb} scale-invariant"
        said += f"; {count} of them grow." if count and series else "."
    return said


def _change(layer: LayerNorms) -> float:
    """|ln| of the last norm over the first; 0 where it is not known."""
    return abs(math.log(known(layer.first_to_last) or 1.0))


def _inverse(fall: float | Missing) -> float | Missing:
    """By what a rate was multiplied that fell by so much, which may be too little for a number."""
    return fall if isinstance(fall, Missing) else 1.0 / fall if fall else math.inf


def _layers(result: NormsResult, shown: Sequence[LayerNorms], style: PageStyle) -> list[RenderableType]:
    """A row for each layer, how many are not shown, and what the columns are."""
    series = len(result.steps) > 1
    law = series and any(known(layer.predicted_growth) is not None for layer in result.layers)
    tested = any(layer.invariance.verdict != "untested" for layer in result.layers)
    effective = any(known(layer.effective_learning_rate[-1]) is not None for layer in result.layers)
    # where the norm itself divides the rate, "× first" tells it already
    scaled = series and any(known(layer.effective_rate_fall) not in (None, layer.first_to_last) for layer in shown)
    columns = {
        "name": (True, Column("layer", name=True)),
        "shape": (True, Column("shape", optional=7)),
        "first": (series, Column("first", optional=9)),
        "norm": (True, Column("norm")),
        "first_to_last": (series, Column("× first", optional=1)),
        "growth_per_step": (series, Column("growth")),
        "growth_stderr": (series, Column("±", optional=3)),
        "predicted_growth": (law, Column("law", optional=1)),
        "verdict": (tested, Column("invariant", left=True)),
        "cosine": (tested, Column("cos", optional=5)),
        "response_double": (tested, Column("D(2)", optional=2)),
        "response_half": (tested, Column("D(0.5)", optional=4)),
        "effective_rate": (effective, Column("effective rate", optional=6)),
        "rate_factor": (scaled, Column("rate ×", optional=2)),
        "curve": (series, Column("norms", left=True, optional=8)),
    }
    kept = {field: column for field, (holds, column) in columns.items() if holds}
    rows = [
        {
            **vars(layer),
            **vars(layer.invariance),
            "shape": "×".join(map(str, layer.shape)),
            "first": layer.norms[0],
            "norm": layer.norms[-1],
            "growth_per_step": "unchanged" if layer.unchanged else layer.growth_per_step,
            "verdict": _verdict(layer.invariance),
            "effective_rate": layer.effective_learning_rate[-1],
            "rate_factor": _inverse(layer.effective_rate_fall),
            "curve": sparkline(layer.norms[-SPARKS:], ascii_only=style.ascii_only),
        }
        for layer in shown
    ]
    unknown = series and result.optimizer is None
    legend = " ".join(
        [*[GROWTH] * series, *[RATE] * scaled, *[LAW] * law, TESTED if tested else UNTESTED, *[UNKNOWN] * unknown]
    )
    return [
        house_table(list(kept.values()), [[row[field] for field in kept] for row in rows], style),
        *hidden_rows(len(shown), len(result.layers)),
        prose(legend, style, "dim"),
    ]


def _verdict(found: Invariance) -> str:
    """`per channel`, `per head, eps-limited` … ; `no` where the scale is felt."""
    if found.verdict in ("untested", "none"):
        return "no" if found.verdict == "none" else "untested"
    part = {"tensor": "whole", "joint": "with bias"}.get(found.granularity or "", f"per {found.granularity}")
    return part if found.verdict == "invariant" else f"{part}, {found.verdict}"


def curve(result: NormsResult) -> Table:
    """One row for each layer and step."""
    rows = [
        (layer.name, step, norm)
        for layer in result.layers
        for step, norm in zip(result.steps, layer.norms, strict=True)
    ]
    return Table(("layer", "step", "norm"), tuple(rows))
