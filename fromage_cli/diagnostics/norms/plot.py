"""The picture of norms: each layer's norm along the run, the ones that grow by name, and when that hurts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fromage_cli.diagnostics.norms.findings import judge, span
from fromage_cli.diagnostics.norms.growing import SCALE_DEPENDENT, claimed_first, doubling, grows, narrow_overflow
from fromage_cli.diagnostics.norms.render import verdict, when_it_hurts
from fromage_cli.diagnostics.norms.result import LayerNorms, NormsResult
from fromage_cli.missing import Missing, known
from fromage_cli.terminal.charts import GREY, QUIET, Entry, drawable, head, left_out, legend, say_instead, short_names
from fromage_cli.terminal.pictures import (
    BLACK,
    BLUE,
    DASHED,
    GREEN,
    LARGEST,
    ORANGE,
    RED,
    VERMILION,
    log_ticks,
    picture,
)
from fromage_cli.terminal.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNS = (
    (BLUE, "o"),
    (ORANGE, "s"),
    (GREEN, "^"),
    (BLACK, "D"),
    (VERMILION, "v"),
    ("#56b4e9", "P"),
    ("#8a4f9e", "X"),
    ("#7a5c00", "*"),
)
"""Colour and marker of the layers that are named, one after the other."""
DOTTED = (0, (1, 1.6))
AHEAD = 1.0
"""Times the run's length by which the axis goes on to a step at which growth hurts."""


@picture("norms of {}")
def draw(result: NormsResult, subject: str) -> Figure:
    """One panel with the norm of each layer over its first one; the legend stands right of it.

    `subject`: the run, for the title. Norms that are zero or not finite are left out, and it is said.
    """
    from matplotlib.figure import Figure

    findings = judge(result)
    figure = Figure(figsize=(10.0, 5.6))
    layers = [layer for layer in claimed_first(result.layers, findings) if _course(result, layer)]
    missing = [layer.name for layer in result.layers if not _course(result, layer)]
    lines = [verdict(result, findings), when_it_hurts(result, verbose=True)]
    if len(result.steps) > 1:
        unnamed = len(layers) - len(SIGNS)
        words = f"Named are {len(SIGNS)} layers: those with warnings, then those that grow or changed most."
        lines += [f"{words} {unnamed} more are grey."] * (unnamed > 0)
        lines += left_out(missing, "layer", "the first norm or its step is no number")
    top = head(figure, subject, *lines)
    axes = figure.subplots(gridspec_kw={"left": 0.085, "right": 0.6, "top": top, "bottom": 0.11})
    if len(result.steps) < 2:
        say_instead(axes, "There is one checkpoint: growth needs a second.")
    elif not layers:
        say_instead(axes, "No layer has norms that can be drawn.")
    else:
        sizes = {one.layer: one.value for one in findings if one.code == "layer-out-of-line"}
        _norms(axes, result, layers, sizes)
    return figure


def _course(result: NormsResult, layer: LayerNorms) -> list[tuple[int, float]]:
    """The steps at which its norm can be drawn, and that norm over the first one; empty without such a first one."""
    first = layer.norms[0]
    if not drawable(first) or first <= 1.0 / LARGEST:
        return []
    pairs = [
        (step, norm / first) for step, norm in zip(result.steps, layer.norms, strict=True) if known(step) is not None
    ]
    return [(step, ratio) for step, ratio in pairs if not isinstance(step, Missing) and 0.0 < ratio < LARGEST]


def _norms(
    axes: Axes, result: NormsResult, layers: Sequence[LayerNorms], sizes: Mapping[str | None, float | None]
) -> None:
    """A curve for each layer, solid where its size changes no output, and the steps at which growth hurts.

    `sizes`: of the layers whose weights are unlike those of their siblings, the factor.
    """
    axes.set_yscale("log")
    axes.set_xlabel("training step")
    axes.set_ylabel("‖W‖ over that of the first checkpoint (no unit)")
    axes.axhline(1.0, color=QUIET, linewidth=0.8, linestyle=DASHED, zorder=0.5)
    entries: list[Entry] = []
    tested = any(layer.invariance.verdict != "untested" for layer in layers)
    names = short_names([layer.name for layer in layers[: len(SIGNS)]], [layer.name for layer in layers])
    for place, layer in enumerate(layers):
        course = _course(result, layer)
        style: dict[str, Any] = {"color": GREY, "linewidth": 0.6, "zorder": 1.0}
        if place < len(SIGNS):
            colour, marker = SIGNS[place]
            style = {
                "color": colour,
                "marker": marker,
                "markersize": 5.0,
                "fillstyle": "none",
                "linewidth": 1.3,
                "zorder": 3.0,
            }
        (line,) = axes.plot(*zip(*course, strict=True), linestyle=_line(layer, tested), **style)
        if place < len(SIGNS):
            factor, pace = known(layer.first_to_last), f"doubles in {number(doubling(layer))} steps"
            came = ["" if factor is None else f"{number(factor)} ×", pace if grows(layer) else ""]
            came += [f"weights {number(size)} × its siblings'"] if (size := sizes.get(layer.name)) else []
            entries.append((line, f"{names[place]}\n{', '.join(filter(None, came))}".rstrip()))
        elif place == len(SIGNS):
            entries.append((axes.plot([], [], color=GREY)[0], f"{len(layers) - len(SIGNS)} more layers"))
    ratios = [ratio for layer in layers for _, ratio in _course(result, layer)]
    low, high = min(ratios) / 1.15, max(ratios) * 1.15
    axes.set_ylim(low, high)
    log_ticks(axes.yaxis, low, high)
    entries += _where_it_hurts(axes, result, layers)
    if tested:
        words = {
            "-": "solid: scale-invariant",
            DASHED: "dashed: its size changes the outputs",
            DOTTED: "dotted: not tested",
        }
        used = [style for style in words if any(_line(layer, tested) == style for layer in layers)]
        entries += [(axes.plot([], [], color=BLACK, linewidth=1.0, linestyle=style)[0], words[style]) for style in used]
    legend(axes, entries)


def _line(layer: LayerNorms, tested: bool) -> Any:
    """Solid for a scale-invariant layer, and for all where none was tested."""
    if layer.invariance.verdict == "untested":
        return DOTTED if tested else "-"
    return DASHED if layer.invariance.verdict == SCALE_DEPENDENT else "-"


def _where_it_hurts(axes: Axes, result: NormsResult, layers: Sequence[LayerNorms]) -> list[Entry]:
    """Lines at the first step where squares overflow a narrow dtype, and where an effective rate has halved.

    The axis goes on to them. Those further away are told above the panel alone.
    """
    growing = [*filter(grows, layers)]
    dtype, squares, _ = narrow_overflow(growing)
    halved = [
        step
        for layer in growing
        if layer.invariance.verdict != SCALE_DEPENDENT and (step := known(layer.halved_step)) is not None
    ]
    end, length = span(result)
    found = []
    for step, words, style in (
        (squares, f"squares overflow {dtype}", {"color": RED, "linestyle": "-"}),
        (min(halved, default=None), "an effective rate has halved", {"color": RED, "linestyle": DOTTED}),
    ):
        if step is not None and step <= end + AHEAD * length:
            line = axes.axvline(step, linewidth=1.3, **style)
            found.append((line, f"{words}: step {number(float(f'{step:.3g}'))}"))
    return found
