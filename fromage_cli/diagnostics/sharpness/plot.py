"""The picture of the quadratic model: the loss along the next step, and a training simulated in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fromage_cli.diagnostics.sharpness.conclusion import optimizer_at_rate
from fromage_cli.diagnostics.sharpness.result import QuadraticModel, SharpnessResult
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.charts import drawable, head, legend_below, mark, say_instead
from fromage_cli.terminal.pictures import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    ORANGE,
    RED,
    log_ticks,
    loss_window,
    picture,
)
from fromage_cli.terminal.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = 20.0
"""Largest over smallest loss from which on the axis is logarithmic."""
MODEL, RADIUS, RATE, CRITICAL = BLUE, ORANGE, RED, GREEN


@picture("sharpness of {}")
def draw(result: SharpnessResult, subject: str) -> Figure:
    """Two panels beside each other with a title; the legends stand below them.

    `subject`: what was measured, for the title. Values that are not finite are left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.6))
    top = head(figure, subject, conditions(result))
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.08, "right": 0.975, "bottom": 0.27, "top": top})
    if isinstance(result.quadratic, Missing):
        say_instead(left, "no quadratic model was measured")
        say_instead(right, "no training was simulated")
        return figure
    _line_panel(left, result, result.quadratic)
    _training_panel(right, result.quadratic)
    return figure


def conditions(result: SharpnessResult) -> str:
    """The numbers below the title."""
    words = [f"sharpness {number(result.eigenvalues[0].value)}"] if result.eigenvalues else []
    words += [optimizer_at_rate(result)] if result.optimizer is not None else []
    words += [f"ratio to what it tolerates {number(result.ratio)}"] if known(result.ratio) is not None else []
    return "; ".join(words)


def _line_panel(axes: Axes, result: SharpnessResult, model: QuadraticModel) -> None:
    """Both losses against the learning rate of the next step."""
    axes.set_xscale("log")
    log_ticks(axes.xaxis, model.rates[0], model.rates[-1])
    axes.set_xlabel("learning rate of the next step")
    axes.set_ylabel("loss on the batch")
    low, high = loss_window(result.loss, model.line_losses)
    axes.set_ylim(low, high)
    entries = [
        (_curve(axes, model.rates, model.line_losses, color=BLACK, marker="."), "the network"),
        (_curve(axes, model.rates, model.line_model_losses, color=MODEL, linestyle=DASHED), "its quadratic model"),
    ]
    axes.axhline(result.loss, color=BLACK, linewidth=0.7, linestyle=(0, (1, 2)))
    critical = known(result.critical_sharpness)
    marks = (
        (known(model.radius), RADIUS, "D", "model accurate to"),
        (known(result.learning_rate), RATE, "v", "your rate"),
        (2.0 / critical if critical else None, CRITICAL, "^", "loss rises"),
    )
    entries += [mark(axes, rate, f"{words}: {number(rate)}", *sign) for rate, *sign, words in marks if rate is not None]
    legend_below(axes, entries, columns=3)


def _training_panel(axes: Axes, model: QuadraticModel) -> None:
    """The loss of the quadratic model, step by step."""
    from matplotlib.ticker import MaxNLocator

    if not model.losses:
        return say_instead(axes, "no training was simulated")
    axes.set_xlabel("step of training in the quadratic model")
    axes.set_ylabel("its loss")
    shown = [loss for loss in model.losses if drawable(loss)]
    if 0.0 < WIDE * min(shown) < max(shown):
        axes.set_yscale("log")
        log_ticks(axes.yaxis, min(shown), max(shown))
    curve = _curve(axes, range(len(model.losses)), model.losses, color=MODEL, marker=".")
    start = axes.axhline(model.losses[0], color=BLACK, linewidth=0.9, linestyle=DASHED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    entries = [(curve, f"the loss {model.outcome}"), (start, f"start: {number(model.losses[0])}")]
    return legend_below(axes, entries, columns=3)


def _curve(axes: Axes, places: Sequence[float], values: Sequence[float], **style: Any) -> Any:
    """The curve, with a gap where a value cannot be drawn."""
    return axes.plot(places, [value if drawable(value) else math.nan for value in values], **style)[0]
