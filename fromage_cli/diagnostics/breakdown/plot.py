"""The picture of a breakdown, Fig. 1 of the paper for one checkpoint: loss and gradient breakdown against eta."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fromage_cli.counting import counted
from fromage_cli.diagnostics.breakdown.direction_option import RANDOM, TO
from fromage_cli.diagnostics.breakdown.result import BreakdownResult
from fromage_cli.missing import Missing, known
from fromage_cli.optimizers.rule import ADAM, SGD
from fromage_cli.terminal.charts import MARKERS, Entry, drawable, head, legend, mark, short_names
from fromage_cli.terminal.pictures import (
    BLACK,
    BLUE,
    DASHED,
    LARGEST,
    ORANGE,
    RED,
    VERMILION,
    last_two,
    log_ticks,
    loss_window,
    picture,
)
from fromage_cli.terminal.words import middle, number, visible
from fromage_cli.theory.relative_trust import lemma2_rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 8
"""Layers named one by one; more of them are told apart by depth alone."""
DOTTED = 1000
"""Points of all layers up to which each is marked, so that one between two overflows is seen."""
LARGEST_BREAKDOWN = 1e3
"""How far curves are followed: nothing is left of the first gradient there."""
LIGHTEST = 0.88
"""Where the colours of depth end: the yellow beyond does not show on white."""
LEAST, INCREASE = BLUE, VERMILION
TRUST, COSINE, COSINES, SPECTRAL, NOISE = RED, ORANGE, "#f9e8cf", "#888888", "#e4e4e4"


@picture("breakdown of {}")
def draw(result: BreakdownResult, subject: str) -> Figure:
    """Two panels above each other, with a title and one axis of eta; the legends stand right of them.

    `subject`: what was measured, for the title. Values that are not finite are left out.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.0, 7.2))
    direction = result.direction
    if direction.startswith(TO):
        direction = TO + last_two(direction.removeprefix(TO))
    points = counted(len(result.etas), "step") + " tried" if result.etas else "no step was measured"
    conditions = f"direction {middle(visible(direction), 60)}; {counted(len(result.layers), 'layer')}; {points}"
    grid = {"height_ratios": (1.0, 1.7), "left": 0.085, "right": 0.635, "bottom": 0.08, "hspace": 0.09}
    grid["top"] = head(figure, subject, conditions)
    top, bottom = figure.subplots(2, 1, sharex=True, gridspec_kw=grid)
    etas = result.etas or (1e-4, 1.0)
    margin = max(etas[-1] ** 0.02 / etas[0] ** 0.02, 1.05)
    low, high = max(etas[0] / margin, 1.0 / LARGEST), min(etas[-1] * margin, LARGEST)
    bottom.set_xscale("log")
    bottom.set_xlim(min(low, LARGEST / 10.0), max(high, 10.0 / LARGEST))
    log_ticks(bottom.xaxis, *bottom.get_xlim())
    label = "fraction η of the way (no unit)" if direction.startswith(TO) else "relative step η (no unit)"
    rate = f"; learning rate = {number(result.step_scale)} × η" if direction in (SGD.name, ADAM.name) else ""
    bottom.set_xlabel(label + rate)
    _loss_panel(top, result)
    _breakdown_panel(bottom, result)
    return figure


def _finite(values: Iterable[float | None]) -> list[float]:
    """The values that can be drawn."""
    return [value for value in values if drawable(value)]


def _curve(axes: Axes, etas: Sequence[float], values: Sequence[float | None], **style: Any) -> Any:
    """The curve, with a gap where a value is missing or not finite."""
    shown = [value if drawable(value) else math.nan for value in values]
    return axes.plot(etas, shown, **style)[0]


def _dots(points: int, size: float) -> dict[str, Any]:
    """The style that marks the points, where they are few enough to be told apart."""
    return {"marker": ".", "markersize": size} if points <= DOTTED else {}


def _loss_panel(axes: Axes, result: BreakdownResult) -> None:
    """The loss against eta with its start, its least point and where it is above its start again."""
    finite = _finite(result.losses)
    low, high = loss_window(result.loss, result.losses)
    axes.set_ylim(low, high)
    axes.set_ylabel("loss on the batch")
    axes.tick_params(labelbottom=False)
    above = f", rising to {number(max(finite))}" if finite and max(finite) > high else ""
    curve = _curve(axes, result.etas, result.losses, color=BLACK, **_dots(len(result.etas), 3.5))
    start = axes.axhline(result.loss, color=BLACK, linestyle=DASHED, linewidth=0.9)
    entries = [(curve, f"loss{above}"), (start, f"loss at η = 0: {number(result.loss)}")]
    if (least := known(result.argmin_loss_eta)) is not None:
        entries.append(mark(axes, least, f"least loss: η = {number(least)}", LEAST, "o"))
    if (rise := known(result.first_increase_eta)) is not None:
        entries.append(mark(axes, rise, f"loss rises: η = {number(rise)}", INCREASE, "^"))
    _trust_lines(axes, result)
    legend(axes, entries)


def _trust_lines(axes: Axes, result: BreakdownResult) -> list[Entry]:
    """How far a step is sure in every layer and, for comparison, the relative step of Lemma 2."""
    entries = []
    if not isinstance(result.trust_eta, Missing):
        line = axes.axvline(result.trust_eta, color=TRUST, linewidth=1.3)
        first = result.limiting_layer or ""
        every = [layer.name for layer in result.layers]
        failing = short_names([first], every)[0] + ("" if first in every else " (not drawn)")
        entries.append((line, f"sure in every layer: η = {number(result.trust_eta)}\nfirst to fail: {failing}"))
    lemma = lemma2_eta(result)
    if lemma is not None:
        line = axes.axvline(lemma, color=TRUST, linestyle=(0, (1, 1.6)), linewidth=1.6)
        low, high = axes.get_xlim()
        beyond = "" if low <= lemma <= high else ", off this axis"
        entries.append((line, f"Lemma 2 (theory), depth {result.depth.count}: η = {number(lemma)}{beyond}"))
    return entries


def lemma2_eta(result: BreakdownResult) -> float | None:
    """The largest eta for which every relative step is within Lemma 2; None where that promises nothing."""
    cosine = min(_cosines(result), default=0.0)
    step = max((known(layer.relative_step) or 0.0 for layer in result.layers), default=0.0)
    if result.direction == RANDOM or cosine <= 0.0 or step <= 0.0:
        return None
    return lemma2_rate(cosine, result.depth.count) / step


def _layers(axes: Axes, result: BreakdownResult) -> list[Entry]:
    """The curve of every layer, from the first in blue to the last in green.

    Few have a sign each; of too many the first to fail is red, and the colours stand beside them.
    """
    from matplotlib import colormaps

    few = len(result.layers) <= NAMED
    style: dict[str, Any] = {"linewidth": 1.5, "fillstyle": "none"} if few else {"linewidth": 0.8, "alpha": 0.85}
    style |= _dots(len(result.layers) * len(result.etas), 4.0 if few else 2.0)
    last = max(len(result.layers) - 1, 1)
    colours = [colormaps["viridis"](LIGHTEST * index / last) for index in range(len(result.layers))]
    entries, names = [], short_names([layer.name for layer in result.layers])
    for place, (layer, colour) in enumerate(zip(result.layers, colours, strict=True)):
        own: dict[str, Any] = {"color": colour, **({"marker": MARKERS[place]} if few else {})}
        if not few and layer.name == result.limiting_layer:
            own = {"color": TRUST, "linewidth": 1.8, "zorder": 2.9}
        values = [value if value is not None and value > 0.0 else None for value in map(known, layer.breakdown)]
        rounding = ", only rounding" if layer.name in result.noise else ""
        entries.append((_curve(axes, result.etas, values, **style | own), names[place] + rounding))
    if few:
        return entries
    bar = axes.inset_axes((1.03, 0.06, 0.4, 0.035))  # one strip per layer
    bar.bar(range(len(colours)), 1.0, width=1.0, color=colours, edgecolor=colours, linewidth=0.3)
    bar.set(xlim=(-0.5, len(colours) - 0.5), ylim=(0.0, 1.0), xticks=[], yticks=[])
    for end, words, side in ((0.0, "first layer", "left"), (1.0, "last layer", "right")):
        bar.text(end, -0.4, words, transform=bar.transAxes, ha=side, va="top", fontsize=8.5)
    bar.spines[:].set_visible(False)
    return []


def _breakdown_panel(axes: Axes, result: BreakdownResult) -> None:
    """Every layer's curve, coloured by depth; prediction, cosine, the first layer to fail and rounding beside it."""
    low, high = breakdown_window(result)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    log_ticks(axes.yaxis, low, high)
    axes.set_ylabel("relative change of the gradient (no unit)")
    entries, cosines = _layers(axes, result), _cosines(result)
    # what the breakdown is held against: a line where all layers agree
    least, most = min(cosines, default=0.0), max(cosines, default=0.0)
    if most > 0.0 and result.direction != RANDOM:
        held: Any
        if most - least <= 1e-3 * most:
            held, words = axes.axhline(most, color=COSINE, linewidth=1.4), number(most)
        else:
            style: dict[str, Any] = {"facecolor": COSINES, "edgecolor": COSINE, "linewidth": 0.8, "zorder": 0.5}
            held, words = axes.axhspan(max(least, low), most, **style), f"{number(least)} to {number(most)}"
        entries.append((held, f"a layer helps while below {words}"))
    entries += _trust_lines(axes, result)
    style = {"linestyle": DASHED, "zorder": 3, **(_dots(1, 5.0) if len(result.etas) == 1 else {})}
    frobenius = _curve(axes, result.etas, result.predicted, color=BLACK, **style)
    spectral = _curve(axes, result.etas, result.predicted_spectral, color=SPECTRAL, **style)
    entries += [(frobenius, "predicted change"), (spectral, "predicted, spectral norm")]
    noise = max(_finite([known(one.noise_floor) for one in result.layers if one.name not in result.noise]), default=0.0)
    if noise > 0.0:  # what repeating the evaluation changes, up to the noisiest layer
        band = axes.axhspan(low, max(noise, low), color=NOISE, linewidth=0, zorder=0.2)
        entries.append((band, f"rounding changes it by {number(noise)}{'' if noise > low else ', below this axis'}"))
    legend(axes, entries)


def breakdown_window(result: BreakdownResult) -> tuple[float, float]:
    """From the least to the largest of all curves, as far as it says anything."""
    rows = (result.predicted, result.predicted_spectral, *(map(known, layer.breakdown) for layer in result.layers))
    values = [value for row in rows for value in _finite(row) if value > 0.0] or [1e-2]
    lowest_layer = min(
        (value for layer in result.layers for value in _finite(map(known, layer.breakdown))), default=0.0
    )
    low = max(min((*values, 0.5)), 1e-9)
    high = max(min(max(values), max(LARGEST_BREAKDOWN, lowest_layer)), 2.0)
    return low / 1.5, high * 1.5


def _cosines(result: BreakdownResult) -> list[float]:
    """Of every layer whose gradient is more than rounding."""
    return [layer.cosine for layer in result.layers if layer.name not in result.noise]
