"""The picture of an optimizer's state: how far each layer's last update went, what of it is lost, and the run."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

from fromage_cli.diagnostics.state.discontinuities import short_name
from fromage_cli.diagnostics.state.findings import judge
from fromage_cli.diagnostics.state.render import decay_fact, header, outstanding_first, verdict
from fromage_cli.diagnostics.state.result import FileState, LayerState, StateResult
from fromage_cli.missing import known
from fromage_cli.terminal.charts import ARROWS, Rows, drawable, head, left_out, legend, legend_below, say_instead
from fromage_cli.terminal.pictures import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    LARGEST,
    ORANGE,
    VERMILION,
    log_ticks,
    picture,
)
from fromage_cli.terminal.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COURSE = 2.3
"""Inches that the panel of the run so far takes."""


@picture("optimizer state of {}")
def draw(result: StateResult, subject: str) -> Figure:
    """A row for each layer, the one that moves most at the top, and below them the run so far.

    `subject`: the last checkpoint, for the title. Layers without a known update are left out, and it is said.
    """
    from matplotlib.figure import Figure

    ordered = outstanding_first(result)
    layers = [layer for layer in ordered if drawable(known(layer.relative_update))]
    named = Rows(tuple(layer.name for layer in layers)).named
    layers = _largest_first(layers[:named]) + _largest_first(layers[named:])
    rows = Rows(tuple(layer.name for layer in layers))
    files = [one for one in result.files if _has_place(one)]
    notes = [rows.rule("most unlike the whole network, matrices first")]
    notes += [ARROWS] * any(known(layer.relative_update) == 0.0 for layer in layers)
    unknown = [layer.name for layer in ordered if not drawable(known(layer.relative_update))]
    notes += left_out(unknown, "tensor", "its update is not known")
    if len(result.files) > 1:
        beside = [short_name(one.path) for one in result.files if not _has_place(one)]
        notes += left_out(beside, "checkpoint", "its step or its update is not known")
    below = COURSE if len(files) > 1 else 0.0
    figure = Figure(figsize=(10.0, 2.9 + 0.23 * max(rows.count, 6) + below))
    top = head(figure, subject, verdict(result, judge(result)), _whole(result), *filter(None, notes))
    height = figure.get_figheight()
    if not layers:
        say_instead(figure.subplots(), "No layer's update can be held against its weights.")
        return figure
    shares = {
        "decay's share of the step (%)": [known(layer.decay_share) for layer in layers],
        "entries lost to rounding (%)": [
            None if (lost := known(layer.lost)) is None else known(lost.entries) for layer in layers
        ],
    }
    told = {label: values for label, values in shares.items() if any(map(drawable, values))}
    grid = {"left": 0.27, "right": 0.975, "top": top, "bottom": (0.95 + below) / height, "wspace": 0.12}
    ratios = [1.4] + [1.0] * len(told)
    panels = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios, gridspec_kw=grid)[0]
    for place, axes in enumerate(panels):
        rows.frame(axes, labelled=place == 0)
    _updates(panels[0], rows, layers, result)
    for axes, (label, values), (marker, colour) in zip(
        panels[1:], told.items(), (("s", GREEN), ("D", ORANGE)), strict=False
    ):
        percent = [None if value is None else 100.0 * value for value in values]
        axes.set_xlim(0.0, 1.15 * max(filter(drawable, percent)) or 1.0)
        rows.dots(axes, percent, marker, colour)
        axes.set_xlabel(label)
    if below:
        panel = figure.add_axes((0.085, 0.6 / height, 0.515, (COURSE - 0.75) / height))
        _run_so_far(panel, files, {one.last for one in result.continuity if one.broken})
    return figure


def _has_place(one: FileState) -> bool:
    """Whether a checkpoint can be drawn in the panel of the run so far."""
    return drawable(known(one.relative_update)) and known(one.step) is not None


def _largest_first(layers: Sequence[LayerState]) -> list[LayerState]:
    return sorted(layers, key=lambda layer: known(layer.relative_update) or 0.0, reverse=True)


def _whole(result: StateResult) -> str:
    """Optimizer and rate, how far the network moves as a whole, and how fast weight decay replaces the weights."""
    said = [part for part in header(result) if part]
    if (step := known(result.totals.relative_update)) is not None:
        said.append(f"relative update of the whole network {number(step)}")
    fact = decay_fact(result)
    return "; ".join([*said, *([] if fact is None else [f"{fact.label.lower()}: {fact.value} {fact.words}"])])


def _updates(axes: Axes, rows: Rows, layers: Sequence[LayerState], result: StateResult) -> None:
    """How far the last update moved each layer, with the whole network's and with moments that cannot be."""
    steps = [known(layer.relative_update) for layer in layers]
    rows.log_dots(axes, steps)
    axes.set_xlabel("relative update: ‖ηu‖ / ‖W‖ (no unit)")
    entries = []
    whole = known(result.totals.relative_update)
    if drawable(whole) and whole > 0.0:
        entries.append((axes.axvline(whole, color=BLACK, linestyle=DASHED, linewidth=1.0), "whole network"))
    broken = [(found := known(layer.violations)) is not None and found.total > 0 for layer in layers]
    if any(broken):
        least = axes.get_xlim()[0]
        places = [max(step or 0.0, least) if bad else None for step, bad in zip(steps, broken, strict=True)]
        entries.append((rows.dots(axes, places, "X", VERMILION, size=9.5), "moments that no gradients can have made"))
    legend_below(axes, entries, columns=2)


def _run_so_far(axes: Axes, files: Sequence[FileState], broken: Set[str]) -> None:
    """The network's relative update and the learning rate at each checkpoint; `broken`: files out of line."""
    courses = (
        ("relative update (no unit)", BLUE, "o", "-", [known(one.relative_update) for one in files]),
        ("learning rate", ORANGE, "s", DASHED, [known(one.learning_rate) for one in files]),
    )
    entries, heights = [], []
    steps = [known(one.step) for one in files]
    for words, colour, marker, line, values in courses:
        points = [(x, y) for x, y in zip(steps, values, strict=True) if drawable(y) and y > 1.0 / LARGEST]
        if points:
            heights += [y for _, y in points]
            (drawn,) = axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=line, ms=5.0)
            entries.append((drawn, f"{words}, last {number(points[-1][1])}"))
    if not heights:
        return say_instead(axes, "The last update is 0 at every checkpoint.")
    if steps_broken := [one.step for one in files if one.path in broken]:
        lines = [axes.axvline(known(step) or 0.0, color=VERMILION, linestyle=(0, (1, 1.6))) for step in steps_broken]
        entries.append((lines[0], "does not follow from the file before"))
    axes.set_yscale("log")
    axes.set_ylim(min(heights) / 1.3, max(heights) * 1.3)
    log_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel("training step")
    axes.set_ylabel("whole network")
    return legend(axes, entries)
