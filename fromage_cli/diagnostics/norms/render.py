"""The page a person sees: a sentence, and the layers whose norms grow fastest first."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.counting import counted
from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.missing import known
from fromage_cli.terminal.answer import PageStyle, Table
from fromage_cli.terminal.tables import Column, hidden_rows, house_table, not_known
from fromage_cli.terminal.words import number, sparkline, visible

ROWS = 12
"""Layers shown without `--all`."""
GROWTH = "growth: robust slope of ln ‖W‖ a step, ± its standard error, the larger of noise's and a walk's."
LAW = "law: that of a scale-invariant layer under this optimizer."
UNTESTED = (
    "Whether a layer is scale-invariant was not tested: that needs the model; --model SPEC (and --batch SPEC) "
    "turns the test on."
)
UNKNOWN = "The optimizer is not known: --optimizer NAME adds the law and effective rates."
TESTED = (
    "invariant: whether the network feels the layer's scale, and which parts may be scaled on their own; D(2), D(0.5): "
    "how far outputs move when it is doubled and halved."
)


def render(result: NormsResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    shown = result.layers if style.show_all else sorted(result.layers, key=_urgency)[:ROWS]
    return Group(
        Text(summary(result)),
        _layers(result, shown, style),
        *hidden_rows(len(shown), len(result.layers)),
        Text(_legend(result), style="dim"),
        *_no_law(result, style),
    )


def summary(result: NormsResult) -> str:
    """The answer in a sentence or two."""
    layers = counted(len(result.layers), "layer")
    if len(result.steps) < 2:
        return f"The norms of {layers} at one step; growth needs a second checkpoint.{_invariant(result)}"
    growing = [layer for layer in result.layers if known(layer.overflow_step) is not None]
    span = f"From step {result.steps[0]} to {result.steps[-1]} ({len(result.steps)} checkpoints)"
    if not growing:
        return f"{span} the norm of no layer grows steadily, of {layers}.{_invariant(result)}"
    fastest = max(growing, key=lambda layer: known(layer.growth_per_step) or 0.0)
    grow = "grow steadily" if len(result.steps) > 2 else "grow"
    return (
        f"{span} the norms of {len(growing)} of {layers} {grow}, fastest that of {visible(fastest.name)}: "
        f"from {number(fastest.norms[0])} to {number(fastest.norms[-1])}.{_invariant(result)}"
    )


def _invariant(result: NormsResult) -> str:
    """How many layers are scale-invariant, and how many of those grow; nothing without a test."""
    tested = [layer for layer in result.layers if layer.invariance.verdict != "untested"]
    if not tested:
        return ""
    invariant = [layer for layer in tested if layer.invariance.verdict != "none"]
    growing = sum(known(layer.overflow_step) is not None for layer in invariant)
    if not invariant:
        return f" None of {len(tested)} tested layers is scale-invariant."
    grow = f"; {growing} of them grow" if growing and len(result.steps) > 1 else ""
    verb = "is" if len(invariant) == 1 else "are"
    return f" {len(invariant)} of {len(tested)} tested layers {verb} scale-invariant{grow}."


def _legend(result: NormsResult) -> str:
    series = len(result.steps) > 1
    law = series and any(known(layer.predicted_growth) is not None for layer in result.layers)
    unknown = series and result.optimizer is None
    tested = TESTED if _is_tested(result) else UNTESTED
    return " ".join([*[GROWTH] * series, *[LAW] * law, tested, *[UNKNOWN] * unknown])


def _no_law(result: NormsResult, style: PageStyle) -> list[Text]:
    """Why there is no law; an optimizer that is not known is spoken of elsewhere."""
    asked = len(result.steps) > 1 and result.optimizer is not None
    return not_known(result.layers, {"predicted_growth": "law"}, style) if asked else []


def _is_tested(result: NormsResult) -> bool:
    return any(layer.invariance.verdict != "untested" for layer in result.layers)


def _urgency(layer: LayerNorms) -> tuple[bool, float]:
    """Invariant layers that grow first, then by growth."""
    invariant = layer.invariance.verdict not in ("untested", "none")
    return not (invariant and known(layer.overflow_step) is not None), -(known(layer.growth_per_step) or 0.0)


def _layers(result: NormsResult, shown: Sequence[LayerNorms], style: PageStyle) -> RenderableType:
    columns = [Column("layer", name=True), Column("shape", optional=7), Column("norm")]
    series = len(result.steps) > 1
    columns += [Column("growth"), Column("±", optional=3)] if series else []
    predicted = any(known(layer.predicted_growth) is not None for layer in result.layers)
    columns += [Column("law", optional=1)] if predicted and series else []
    if _is_tested(result):
        columns += [Column("invariant", left=True), Column("cos", optional=5)]
        columns += [Column("D(2)", optional=2), Column("D(0.5)", optional=4)]
    effective = any(known(layer.effective_learning_rate[-1]) is not None for layer in result.layers)
    columns += [Column("effective rate", optional=6)] if effective else []
    columns += [Column("norms", left=True, optional=8)] if series else []
    rows = [[_cells(layer, style)[column.header] for column in columns] for layer in shown]
    return house_table(columns, rows, style)


def _cells(layer: LayerNorms, style: PageStyle) -> dict[str, object]:
    return {
        "layer": layer.name,
        "shape": "×".join(map(str, layer.shape)),
        "norm": layer.norms[-1],
        "growth": layer.growth_per_step,
        "±": layer.growth_stderr,
        "law": layer.predicted_growth,
        "invariant": _verdict(layer),
        "cos": layer.invariance.cosine,
        "D(2)": layer.invariance.response_double,
        "D(0.5)": layer.invariance.response_half,
        "effective rate": layer.effective_learning_rate[-1],
        "norms": sparkline(layer.norms[-24:], ascii_only=style.ascii_only),
    }


def _verdict(layer: LayerNorms) -> str:
    """`channel`, `eps-limited head` … ; `no` where the scale is felt."""
    found = layer.invariance
    if found.verdict in ("untested", "none"):
        return "no" if found.verdict == "none" else "untested"
    part = {"tensor": "whole", "joint": "with bias"}.get(found.granularity or "", f"per {found.granularity}")
    return part if found.verdict == "invariant" else f"{part}, {found.verdict}"


def curve(result: NormsResult) -> Table:
    """One row for each layer and step."""
    points = [(layer.name, zip(result.steps, layer.norms, strict=True)) for layer in result.layers]
    return Table(
        ("layer", "step", "norm"), tuple((name, step, norm) for name, series in points for step, norm in series)
    )
