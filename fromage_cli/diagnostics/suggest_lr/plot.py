"""The picture of the short runs: the loss after each against its learning rate."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from fromage_cli.counting import counted
from fromage_cli.diagnostics.suggest_lr.result import ProbeRun, SuggestedRates
from fromage_cli.missing import known
from fromage_cli.terminal.charts import Entry, drawable, head, legend_below, mark, say_instead
from fromage_cli.terminal.pictures import BLACK, BLUE, DASHED, GREEN, ORANGE, RED, log_ticks, loss_window, picture
from fromage_cli.terminal.words import number
from fromage_cli.theory.rate_calibration import INTERVAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNS = ((BLUE, "o", DASHED), (ORANGE, "s", (0, (1, 1.6))), (BLACK, "D", "-"))
"""Colour, marker and line of runs of a length in turn, the shortest first."""


@picture("learning rate of {}")
def draw(result: SuggestedRates, subject: str) -> Figure:
    """One panel with a title; `subject`: what was measured, for the title. Losses that are not finite are left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 4.8))
    lost = sum(not drawable(run.loss) for run in result.probe)
    told = [counted(len(result.probe), "short run")]
    told += [f"{lost} of them ended without a finite loss and {'is' if lost == 1 else 'are'} not drawn"] * (lost > 0)
    top = head(figure, subject, *(["; ".join(told)] if result.probe else []))
    axes = figure.subplots(gridspec_kw={"left": 0.08, "right": 0.975, "bottom": 0.27, "top": top})
    if result.probe:
        _runs(axes, result)
    else:
        say_instead(axes, "no short runs were made")
    return figure


def _runs(axes: Axes, result: SuggestedRates) -> None:
    """A curve for every length, with the runs of each seed as dots, and the rates that matter."""
    rates, finite = [run.learning_rate for run in result.probe], [run.loss for run in result.probe]
    finite = [loss for loss in finite if drawable(loss)]
    axes.set_xscale("log")
    log_ticks(axes.xaxis, min(rates), max(rates))
    axes.set_xlabel("highest learning rate of the run")
    axes.set_ylabel("loss after the run, on rows outside it")
    if finite:
        lowest = min(result.probe, key=lambda run: run.learning_rate)  # it hardly trained
        axes.set_ylim(*loss_window(lowest.loss if drawable(lowest.loss) else min(finite), finite))
    entries: list[Entry] = []
    for place, steps in enumerate(sorted({run.steps for run in result.probe})):
        color, marker, line = SIGNS[place % len(SIGNS)]
        runs = [run for run in result.probe if run.steps == steps]
        style: dict[str, Any] = {"color": color, "marker": marker, "fillstyle": "none", "ms": 4.0}
        dots = [(run.learning_rate, run.loss) for run in runs if drawable(run.loss)]
        axes.plot([rate for rate, _ in dots], [loss for _, loss in dots], ls="", **style)
        axes.plot(*_means(runs), color=color, ls=line)
        entries.append((axes.plot([], [], ls=line, **style)[0], f"after {steps} steps"))
    low, high = known(result.recommended.low), known(result.recommended.high)
    if low is not None and high is not None:
        words = f"best rate, {100 * INTERVAL:.0f} % likely: {number(low)} to {number(high)}"
        entries.append((axes.axvspan(low, high, color=GREEN, alpha=0.12), words))
    if best := known(result.recommended.learning_rate):
        entries.append(mark(axes, best, f"rate to train at: {number(best)}", GREEN, "^"))
    if present := known(result.optimizer.current_learning_rate):
        entries.append(mark(axes, present, f"you train at {number(present)}", RED, "v"))
    legend_below(axes, entries, columns=3)


def _means(runs: list[ProbeRun]) -> tuple[list[float], list[float]]:
    """The rates in order, and the mean of the losses at each over its seeds; no number where one is not finite."""
    by_rate: dict[float, list[float]] = {}
    for run in sorted(runs, key=lambda run: run.learning_rate):
        by_rate.setdefault(run.learning_rate, []).append(run.loss if drawable(run.loss) else math.nan)
    return [*by_rate], [sum(losses) / len(losses) for losses in by_rate.values()]
