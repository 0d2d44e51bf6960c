"""The picture of a distance: how far each layer moved, by which angle, and how large each step must have been."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fromage_cli.counting import counted
from fromage_cli.diagnostics.distance.render import sentence, share, training_steps
from fromage_cli.diagnostics.distance.result import DistanceResult, LayerDistance
from fromage_cli.missing import known
from fromage_cli.terminal.charts import (
    ARROWS,
    QUIET,
    Rows,
    drawable,
    head,
    left_out,
    legend_below,
    logarithmic,
    say_instead,
)
from fromage_cli.terminal.pictures import BLACK, DASHED, GREEN, ORANGE, picture
from fromage_cli.terminal.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@picture("distance of {}")
def draw(result: DistanceResult, subject: str) -> Figure:
    """A row for each layer, the one that moved most at the top, in two panels or three.

    `subject`: the two networks, for the title. Layers without a distance are left out, and it is said.
    """
    from matplotlib.figure import Figure

    def moved(layer: LayerDistance) -> float:
        return known(layer.relative_distance) or 0.0

    layers = [layer for layer in result.layers if drawable(known(layer.relative_distance))]
    layers.sort(key=moved, reverse=True)
    rows = Rows(tuple(layer.name for layer in layers))
    missing = [layer.name for layer in result.layers if not drawable(known(layer.relative_distance))]
    notes = [rows.rule("that moved most"), ARROWS if any(not moved(layer) for layer in layers) else ""]
    notes += left_out(missing, "layer", "zero or not finite")
    figure = Figure(figsize=(10.0, 2.6 + 0.23 * max(rows.count, 6)))
    top = head(figure, subject, sentence(result), networks(result), *filter(None, notes))
    stepped = any(known(layer.implied_step.straight) is not None for layer in layers)
    grid = {"left": 0.27, "right": 0.975, "top": top, "bottom": 0.95 / figure.get_figheight(), "wspace": 0.1}
    panels = figure.subplots(1, 3 if stepped else 2, squeeze=False, gridspec_kw=grid)[0]
    if not layers:
        figure.clear()
        head(figure, subject, networks(result), *notes)
        say_instead(figure.subplots(), sentence(result))
        return figure
    for place, axes in enumerate(panels):
        rows.frame(axes, labelled=place == 0)
    rows.log_dots(panels[0], [known(layer.relative_distance) for layer in layers])
    panels[0].set_xlabel("moved: ‖W~ − W‖ / ‖W‖ (no unit)")
    _angles(panels[1], rows, layers)
    if stepped:
        _steps(panels[2], rows, layers)
    return figure


def networks(result: DistanceResult) -> str:
    """How far apart the two are as a whole, in one line."""
    steps, product = training_steps(result), known(result.product)
    apart, worst = known(result.function_distance), known(result.largest_function_distance)
    said = [] if steps is None else [counted(steps, "step")]
    said += [] if product is None else [f"product over the layers Π(1 + moved) − 1: {number(product)}"]
    if apart is None:
        return "; ".join([*said, "outputs not compared"])
    said.append("outputs differ {} {}".format(*share(apart)))
    return "; ".join([*said, *([] if worst is None else [f"worst row {share(worst)[0]}"])])


def _angles(axes: Axes, rows: Rows, layers: Sequence[LayerDistance]) -> None:
    """The angle between both versions of each layer, with a line where nothing is left of the first."""
    degrees = [None if (angle := known(layer.angle)) is None else math.degrees(angle) for layer in layers]
    beyond = max(filter(drawable, degrees), default=0.0) > 90.0
    axes.set_xlim(0.0, 180.0 if beyond else 95.0)
    axes.set_xticks([*range(0, 181 if beyond else 91, 30)])
    line = axes.axvline(90.0, color=BLACK, linestyle=DASHED, linewidth=1.0)
    rows.dots(axes, degrees, "s", GREEN)
    axes.set_xlabel("turned (degrees)")
    legend_below(axes, [(line, "nothing left of the first")])


def _steps(axes: Axes, rows: Rows, layers: Sequence[LayerDistance]) -> None:
    """The relative step of each training step that would explain the distance, both ways."""
    straight = [known(layer.implied_step.straight) for layer in layers]
    wandering = [known(layer.implied_step.wandering) for layer in layers]
    logarithmic(axes, [*straight, *wandering])
    signs = [
        (rows.dots(axes, straight, ">", ORANGE), "all the same way"),
        (rows.dots(axes, wandering, "D", QUIET), "to and fro at random"),
    ]
    axes.set_xlabel("each step: ‖ΔW‖ / ‖W‖ (no unit)")
    legend_below(axes, signs)
