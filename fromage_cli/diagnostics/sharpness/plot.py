"""The picture of the quadratic model: the loss along the next step, and a training simulated in it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fromage_cli.diagnostics.sharpness.conclusion import optimizer_at_rate
from fromage_cli.diagnostics.sharpness.result import QuadraticModel, SharpnessResult
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.pictures import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    LARGEST,
    ORANGE,
    RED,
    log_ticks,
    loss_window,
    picture,
)
from fromage_cli.terminal.words import middle, number, visible

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
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.08, "right": 0.975, "bottom": 0.27, "top": 0.82})
    figure.text(0.02, 0.935, middle(visible(subject), 88), fontsize=11, weight="bold")
    figure.text(0.02, 0.885, conditions(result), color="#444444")
    if isinstance(result.quadratic, Missing):
        _nothing(left, "no quadratic model was measured")
        _nothing(right, "no training was simulated")
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


def _nothing(axes: Axes, words: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, words, ha="center", va="center", color="#666666")


def _line_panel(axes: Axes, result: SharpnessResult, model: QuadraticModel) -> None:
    """Both losses against the learning rate of the next step."""
    axes.set_xscale("log")
    log_ticks(axes.xaxis, model.rates[0], model.rates[-1])
    axes.set_xlabel("learning rate of the next step")
    axes.set_ylabel("loss on the batch")
    low, high = loss_window(result.loss, model.line_losses)
    axes.set_ylim(low, high)
    _curve(axes, model.rates, model.line_losses, color=BLACK, marker=".", label="the network")
    _curve(axes, model.rates, model.line_model_losses, color=MODEL, linestyle=DASHED, label="its quadratic model")
    axes.axhline(result.loss, color=BLACK, linewidth=0.7, linestyle=(0, (1, 2)))
    critical = known(result.critical_sharpness)
    marks = (
        (known(model.radius), RADIUS, "model accurate to"),
        (known(result.learning_rate), RATE, "your rate"),
        (2.0 / critical if critical else None, CRITICAL, "loss rises"),
    )
    for rate, colour, words in marks:
        if rate is not None:
            axes.axvline(rate, color=colour, linewidth=1.1, label=f"{words}: {number(rate)}")
    _legend(axes)


def _training_panel(axes: Axes, model: QuadraticModel) -> None:
    """The loss of the quadratic model, step by step."""
    from matplotlib.ticker import MaxNLocator

    if not model.losses:
        return _nothing(axes, "no training was simulated")
    axes.set_xlabel("step of training in the quadratic model")
    axes.set_ylabel("its loss")
    shown = [loss for loss in model.losses if abs(loss) < LARGEST]
    if 0.0 < WIDE * min(shown) < max(shown):
        axes.set_yscale("log")
        log_ticks(axes.yaxis, min(shown), max(shown))
    _curve(axes, range(len(model.losses)), model.losses, color=MODEL, marker=".", label=f"the loss {model.outcome}")
    start = model.losses[0]
    axes.axhline(start, color=BLACK, linewidth=0.9, linestyle=DASHED, label=f"start: {number(start)}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _legend(axes)


def _curve(axes: Axes, places: Sequence[float], values: Sequence[float], **style: Any) -> None:
    axes.plot(places, [value if abs(value) < LARGEST else math.nan for value in values], **style)


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, columnspacing=1.2, handlelength=1.6)
