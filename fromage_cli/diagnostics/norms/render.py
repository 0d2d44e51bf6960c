"""The page a person sees: a sentence, and the layers whose norms grow fastest first."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.terminal.answer import PageStyle, Table
from fromage_cli.terminal.tables import Column, hidden_rows, house_table
from fromage_cli.terminal.words import number, sparkline, visible

ROWS = 12
"""Layers shown without `--all`."""
LEGEND = (
    "growth: robust slope of ln ‖W‖ a step, ± its standard error; law: that of a scale-invariant layer under this "
    "optimizer. Whether a layer is scale-invariant was not tested: that needs the model."
)


def render(result: NormsResult, style: PageStyle) -> RenderableType:
    """The whole page, without findings."""
    shown = result.layers if style.show_all else sorted(result.layers, key=_slowness)[:ROWS]
    hidden = [hidden_rows(len(shown), len(result.layers))] if len(shown) < len(result.layers) else []
    legend = [Text(LEGEND, style="dim")] if len(result.steps) > 1 else []
    return Group(Text(summary(result)), _layers(result, shown, style), *hidden, *legend)


def summary(result: NormsResult) -> str:
    """The answer in a sentence or two."""
    layers = f"{len(result.layers)} layer{'s' if len(result.layers) != 1 else ''}"
    if len(result.steps) < 2:
        return f"The norms of {layers} at one step; growth needs a second checkpoint."
    growing = [layer for layer in result.layers if layer.overflow_step is not None]
    span = f"From step {result.steps[0]} to {result.steps[-1]} ({len(result.steps)} checkpoints)"
    if not growing:
        return f"{span} the norm of no layer grows steadily, of {layers}."
    fastest = max(growing, key=lambda layer: layer.growth_per_step or 0.0)
    return (
        f"{span} the norms of {len(growing)} of {layers} grow, fastest that of {visible(fastest.name)}: "
        f"from {number(fastest.norms[0])} to {number(fastest.norms[-1])}."
    )


def _slowness(layer: LayerNorms) -> float:
    return -(layer.growth_per_step or 0.0)


def _layers(result: NormsResult, shown: Sequence[LayerNorms], style: PageStyle) -> RenderableType:
    columns = [Column("layer", name=True), Column("shape", optional=3), Column("norm")]
    series = len(result.steps) > 1
    columns += [Column("growth"), Column("±", optional=1)] if series else []
    predicted = any(layer.predicted_growth is not None for layer in result.layers)
    columns += [Column("law")] if predicted and series else []
    effective = any(layer.effective_learning_rate[-1] is not None for layer in result.layers)
    columns += [Column("effective rate", optional=2)] if effective else []
    columns += [Column("norms", left=True, optional=4)] if series else []
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
        "effective rate": layer.effective_learning_rate[-1],
        "norms": sparkline(layer.norms[-24:], ascii_only=style.ascii_only),
    }


def curve(result: NormsResult) -> Table:
    """One row for each layer and step."""
    points = [(layer.name, zip(result.steps, layer.norms, strict=True)) for layer in result.layers]
    return Table(
        ("layer", "step", "norm"), tuple((name, step, norm) for name, series in points for step, norm in series)
    )
