"""The picture of a drop of the rate: every layer's effective rate against the steps that follow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fromage_cli.diagnostics.intrinsic_lr.findings import untested_layers
from fromage_cli.diagnostics.intrinsic_lr.result import Drop, IntrinsicResult
from fromage_cli.missing import Missing
from fromage_cli.terminal.pictures import log_ticks, picture
from fromage_cli.terminal.words import middle, number, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMED = 10
"""Different curves that are named one by one."""
NAME_WIDTH = 32
"""Cells of a layer's name in the legend."""
BEFORE = 0.08
"""Part of the time after the drop for which the rate before it is drawn too."""
BRIGHTEST = 0.88
"""Share of the colour scale that is used: its last colours are hard to see on white."""


@picture("effective rate of {} after a drop")
def draw(result: IntrinsicResult, subject: str) -> Figure:
    """One panel with a title; the legend stands right of it.

    `subject`: what was measured, for the title.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.0))
    axes = figure.subplots(1, 1)
    figure.subplots_adjust(left=0.09, right=0.66, top=0.84, bottom=0.15)
    figure.text(0.02, 0.93, middle(visible(subject), 80), fontsize=11, weight="bold")
    rate = number(result.drop_factor)
    figure.text(
        0.02, 0.88, f"effective rate relative to now, after the learning rate is divided by {rate}", color="#444444"
    )
    if untested_layers(result):
        figure.text(0.02, 0.02, "Warning: this holds for scale-invariant layers only, which was not tested.")
    axes.set_xlabel("steps after the drop")
    axes.set_ylabel("effective rate / effective rate now")
    axes.set_yscale("log")
    colours, found = matplotlib.colormaps["viridis"], curves(result)
    lines = []
    for index, (drop, _) in enumerate(found):
        steps, ratios = (-BEFORE * drop.steps[-1], 0.0, *drop.steps), (1.0, 1.0, *drop.ratios)
        lines += axes.plot(steps, ratios, color=colours(BRIGHTEST * index / max(len(found) - 1, 1)))
    lines = lines[:NAMED]
    # names are set one by one, because a legend leaves out those that begin with an underscore
    legend = axes.legend(lines, ["?"] * len(lines), loc="upper left", bbox_to_anchor=(1.02, 1.0))
    for text, (_, names) in zip(legend.get_texts(), found, strict=False):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        text.set_text(middle(visible(names[0]), NAME_WIDTH) + more)
    heights = [ratio for drop, _ in found for ratio in (1.0, *drop.ratios)] or [1.0]
    log_ticks(axes.yaxis, min(heights), max(heights))
    return figure


def curves(result: IntrinsicResult) -> list[tuple[Drop, list[str]]]:
    """The courses, each with the layers that share it."""
    found: dict[Drop, list[str]] = {}
    for layer in result.layers:
        if not isinstance(layer.drop, Missing):
            found.setdefault(layer.drop, []).append(layer.name)
    return list(found.items())
