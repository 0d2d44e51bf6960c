"""The picture of the short runs: the loss after each against its learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fromage_cli.diagnostics.suggest_lr.result import ProbeRun, SuggestedRates
from fromage_cli.missing import known
from fromage_cli.terminal.pictures import BLACK, BLUE, GREEN, ORANGE, RED, log_ticks, loss_window, picture
from fromage_cli.terminal.words import middle, number, visible
from fromage_cli.theory.rate_calibration import INTERVAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = (BLUE, ORANGE, BLACK)
"""Of runs of a length in turn, the shortest first."""


@picture("learning rate of {}")
def draw(result: SuggestedRates, subject: str) -> Figure:
    """One panel with a title; `subject`: what was measured, for the title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.6))
    axes = figure.subplots(gridspec_kw={"left": 0.08, "right": 0.975, "bottom": 0.27, "top": 0.86})
    figure.text(0.02, 0.935, middle(visible(subject), 88), fontsize=11, weight="bold")
    if result.probe:
        _runs(axes, result)
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no short runs were made", ha="center", va="center", color="#666666")
    return figure


def _runs(axes: Axes, result: SuggestedRates) -> None:
    """A curve for every length, with the runs of each seed as dots, and the rates that matter."""
    rates, finite = [run.learning_rate for run in result.probe], [run.loss for run in result.probe]
    finite = [loss for loss in finite if math.isfinite(loss)]
    axes.set_xscale("log")
    log_ticks(axes.xaxis, min(rates), max(rates))
    axes.set_xlabel("highest learning rate of the run")
    axes.set_ylabel("loss after the run, on rows outside it")
    if finite:
        lowest = min(result.probe, key=lambda run: run.learning_rate)  # it hardly trained
        axes.set_ylim(*loss_window(lowest.loss if math.isfinite(lowest.loss) else min(finite), finite))
    lengths = sorted({run.steps for run in result.probe})
    for place, steps in enumerate(lengths):
        _curve(axes, [run for run in result.probe if run.steps == steps], steps, COLOURS[place % len(COLOURS)])
    low, high, best = (
        known(rate) for rate in (result.recommended.low, result.recommended.high, result.recommended.learning_rate)
    )
    if low is not None and high is not None:
        axes.axvspan(
            low,
            high,
            color=GREEN,
            alpha=0.12,
            label=f"best rate, {100 * INTERVAL:.0f} % likely: {number(low)} to {number(high)}",
        )
    if best is not None:
        axes.axvline(best, color=GREEN, linewidth=1.4, label=f"rate to train at: {number(best)}")
    present = known(result.optimizer.current_learning_rate)
    if present:
        axes.axvline(present, color=RED, linewidth=1.1, label=f"you train at {number(present)}")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, columnspacing=1.2, handlelength=1.6)


def _curve(axes: Axes, runs: list[ProbeRun], steps: int, colour: str) -> None:
    """The mean over seeds as a line, and each run as a dot."""
    places = sorted({run.learning_rate for run in runs})
    means = []
    for place in places:
        losses = [run.loss for run in runs if run.learning_rate == place]
        means.append(math.fsum(losses) / len(losses))
    shown = [mean if math.isfinite(mean) else math.nan for mean in means]
    axes.plot(places, shown, color=colour, linewidth=1.4, label=f"after {steps} steps")
    dots = [(run.learning_rate, run.loss) for run in runs if math.isfinite(run.loss)]
    axes.plot(*zip(*dots, strict=True), color=colour, marker=".", linestyle="none") if dots else None
