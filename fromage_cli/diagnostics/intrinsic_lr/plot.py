"""The picture of a drop of the rate: every layer's effective rate against the steps that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fromage_cli.diagnostics.intrinsic_lr.findings import untested_layers
from fromage_cli.diagnostics.intrinsic_lr.result import Drop, IntrinsicResult
from fromage_cli.missing import Missing
from fromage_cli.terminal.charts import GREY, MARKERS, drawable, head, left_out, legend, say_instead, short_names
from fromage_cli.terminal.pictures import LARGEST, log_ticks, picture
from fromage_cli.terminal.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEFORE = 0.08
"""Part of the time after the drop for which the rate before it is drawn too."""
BRIGHTEST = 0.88
"""Share of the colour scale that is used: its last colours are hard to see on white."""


@picture("effective rate of {} after a drop")
def draw(result: IntrinsicResult, subject: str) -> Figure:
    """One panel with a title; the legend stands right of it.

    `subject`: what was measured, for the title. Layers without a course are left out, and it is said.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.2))
    found = curves(result)
    drawn = {name for _, names in found for name in names}
    rate = number(result.drop_factor)
    lines = [f"effective rate relative to now, after the learning rate is divided by {rate}"]
    if untested_layers(result):
        lines.append("Warning: this holds for scale-invariant layers only, which was not tested.")
    if (more := len(found) - len(MARKERS)) > 0:
        lines.append(f"Named are the first {len(MARKERS)} curves in the order of the network; {more} more are grey.")
    lines += left_out([layer.name for layer in result.layers if layer.name not in drawn], "layer", "no course is known")
    top = head(figure, subject, *lines)
    axes = figure.subplots(gridspec_kw={"left": 0.09, "right": 0.64, "top": top, "bottom": 0.11})
    if found:
        _courses(axes, found)
    else:
        say_instead(axes, "No layer's course after the drop is known.")
    return figure


def _courses(axes: Axes, found: Sequence[tuple[Drop, list[str]]]) -> None:
    """A curve for each course, with a sign of its own for the first of them and in grey for the others."""
    from matplotlib import colormaps

    axes.set_xlabel("steps after the drop")
    axes.set_ylabel("effective rate / effective rate now (no unit)")
    axes.set_yscale("log")
    entries = []
    heads = [names[0] for _, names in found]
    named = short_names(heads[: len(MARKERS)], heads)
    for place, (drop, names) in enumerate(found):
        steps, ratios = (-BEFORE * drop.steps[-1], 0.0, *drop.steps), (1.0, 1.0, *drop.ratios)
        (line,) = axes.plot(steps, ratios, color=GREY, linewidth=0.7, zorder=1.0)
        if place < len(MARKERS):
            colour = colormaps["viridis"](BRIGHTEST * place / max(min(len(found), len(MARKERS)) - 1, 1))
            line.set(color=colour, marker=MARKERS[place], fillstyle="none", markevery=6, linewidth=1.4, zorder=3.0)
        if place <= len(MARKERS):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            entries.append((line, named[place] + more if place < len(MARKERS) else "other curves"))
    legend(axes, entries)
    heights = [1.0, *(ratio for drop, _ in found for ratio in drop.ratios if drawable(ratio) and ratio > 1.0 / LARGEST)]
    log_ticks(axes.yaxis, min(heights), max(heights))


def curves(result: IntrinsicResult) -> list[tuple[Drop, list[str]]]:
    """The courses, each with the layers that share it."""
    found: dict[Drop, list[str]] = {}
    for layer in result.layers:
        if not isinstance(layer.drop, Missing):
            found.setdefault(layer.drop, []).append(layer.name)
    return list(found.items())
