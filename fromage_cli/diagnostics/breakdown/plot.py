"""The picture of a breakdown, Fig. 1 of the paper for one checkpoint: loss and gradient breakdown against eta."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fromage_cli.counting import counted
from fromage_cli.diagnostics.breakdown.direction_option import TO
from fromage_cli.diagnostics.breakdown.result import BreakdownResult
from fromage_cli.terminal.pictures import last_two, saved
from fromage_cli.terminal.words import middle, visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(result: BreakdownResult, subject: str, format: str) -> bytes:
    """Draws the picture as `svg` or `png`, the same bytes for the same result; values that are not finite are left out.

    `subject`: what was measured, for the title. Raises UsageError where matplotlib is missing.
    """
    return saved(lambda: _figure(result, subject), f"breakdown of {visible(subject)}", format)


def _figure(result: BreakdownResult, subject: str) -> Figure:
    """Two panels above each other with a title; the legends stand right of them."""
    from matplotlib.figure import Figure

    from fromage_cli.diagnostics.breakdown.panels import breakdown_panel, eta_axis, loss_panel

    figure = Figure(figsize=(10.0, 7.2))
    grid = {"height_ratios": (1.0, 1.7), "left": 0.085, "right": 0.635, "top": 0.89, "bottom": 0.08, "hspace": 0.09}
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw=grid)
    figure.text(0.02, 0.955, middle(visible(subject), 88), fontsize=11, weight="bold")
    direction = result.direction
    if direction.startswith(TO):
        direction = TO + last_two(direction.removeprefix(TO))
    points = counted(len(result.etas), "point") if result.etas else "no point was measured"
    conditions = f"direction {middle(visible(direction), 60)}; {counted(len(result.layers), 'layer')}; {points}"
    figure.text(0.02, 0.922, conditions, color="#444444")
    eta_axis(bottom, result)
    loss_panel(top, result)
    breakdown_panel(bottom, result)
    return figure
