"""The picture of a drop of the rate: every layer's effective rate against the steps that follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fromage_cli.diagnostics.intrinsic_lr.result import Drop, IntrinsicResult
from fromage_cli.missing import Missing
from fromage_cli.terminal.pictures import saved
from fromage_cli.terminal.words import middle, number, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 10
"""Different curves that are named one by one."""
NAME_WIDTH = 32
"""Cells of a layer's name in the legend."""


def draw(result: IntrinsicResult, subject: str, format: str) -> bytes:
    """The picture as `svg` or `png`, the same bytes for the same result.

    `subject`: what was measured, for the title. Raises UsageError where matplotlib is missing.
    """
    return saved(lambda: _figure(result, subject), f"effective rate of {visible(subject)} after a drop", format)


def _figure(result: IntrinsicResult, subject: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.0))
    axes = figure.subplots(1, 1)
    figure.subplots_adjust(left=0.09, right=0.66, top=0.84, bottom=0.11)
    figure.text(0.02, 0.93, middle(visible(subject), 80), fontsize=11, weight="bold")
    rate = number(result.drop_factor)
    figure.text(0.02, 0.88, f"effective rate relative to now, after the rate is divided by {rate}", color="#444444")
    axes.set_xlabel("steps after the drop")
    axes.set_ylabel("effective rate / effective rate now")
    axes.set_yscale("log")
    _curves(axes, curves(result))
    _ticks(axes)
    return figure


def _ticks(axes: Axes) -> None:
    """Plain numbers at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def curves(result: IntrinsicResult) -> list[tuple[list[str], Drop]]:
    """The courses, each with the layers that share it."""
    found: list[tuple[list[str], Drop]] = []
    for layer in result.layers:
        drop = layer.drop
        if isinstance(drop, Missing):
            continue
        for names, other in found:
            if other == drop:
                names.append(layer.name)
                break
        else:
            found.append(([layer.name], drop))
    return found


def _curves(axes: Axes, found: Sequence[tuple[list[str], Drop]]) -> None:
    import matplotlib

    colours = matplotlib.colormaps["viridis"]
    drawn = []
    for index, (_, drop) in enumerate(found):
        colour = colours(0.88 * index / max(len(found) - 1, 1))
        steps, ratios = (-0.08 * drop.steps[-1], 0.0, *drop.steps), (1.0, 1.0, *drop.ratios)
        drawn.append(axes.plot(steps, ratios, color=colour)[0])
    named = list(zip(drawn, found, strict=True))[:NAMED]
    legend = axes.legend([line for line, _ in named], ["?"] * len(named), loc="upper left", bbox_to_anchor=(1.02, 1.0))
    for text, (_, (names, _)) in zip(legend.get_texts(), named, strict=True):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        text.set_text(middle(visible(names[0]), NAME_WIDTH) + more)
