"""What pictures are made of: the title, a legend, words where nothing can be drawn, and a row for each layer."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from fromage_cli.counting import counted, first_names
from fromage_cli.terminal.names import fitted
from fromage_cli.terminal.pictures import BLUE, LARGEST, log_ticks
from fromage_cli.terminal.words import middle, number, visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY, PALE, QUIET = "#9a9a9a", "#e4e4e4", "#666666"
"""What stands back: layers without a name, lines that guide the eye, and words where nothing is drawn."""
MARKERS = "os^DvPX*"
"""Signs of curves that are named, one after the other."""
NAME_WIDTH = 36
"""Cells of a layer's name."""
MOST_ROWS = 24
"""Layers up to which each has a row and a name."""
NAMED_ROWS = 16
"""Layers that are named where there are more."""
BAND = 6
"""Rows that the layers without a name share."""
LINE_WIDTH = 128
"""Characters of a line below the title."""
MOST_LINES = 6
"""Lines below the title at most, so that the panels keep their room."""

Entry = tuple[Any, str]
"""Something drawn, and what the legend calls it."""


def drawable(value: float | None) -> TypeGuard[float]:
    """Whether it is a number that matplotlib's axes can hold."""
    return value is not None and abs(value) < LARGEST


def head(figure: Figure, subject: str, *lines: str) -> float:
    """The title and the lines below it, which are broken where they are long; too many end in `…`.

    Returns the height below them, as a share of the figure's.
    """
    points = 72.0 * figure.get_figheight()
    figure.text(0.02, 1.0 - 12.0 / points, middle(visible(subject), 88), fontsize=11, weight="bold", va="top")
    broken = [part for line in lines for part in textwrap.wrap(visible(line), LINE_WIDTH)]
    if len(broken) > MOST_LINES:
        broken[MOST_LINES - 1 :] = [f"{broken[MOST_LINES - 1]} …"]
    for place, line in enumerate(broken):
        figure.text(0.02, 1.0 - (31.0 + 14.0 * place) / points, line, color="#444444", va="top")
    return float(1.0 - (42.0 + 14.0 * len(broken)) / points)


def say_instead(axes: Axes, words: str) -> None:
    """Words in the middle of a panel that has nothing to draw."""
    axes.set_axis_off()
    broken = "\n".join(textwrap.wrap(visible(words), 72))
    axes.text(0.5, 0.5, broken, ha="center", va="center", color=QUIET, transform=axes.transAxes)


def legend(axes: Axes, entries: Sequence[Entry], **place: Any) -> None:
    """A legend, right of the panel by default; words are set last, as a label that begins with `_` is left out."""
    beside = {"loc": "upper left", "bbox_to_anchor": (1.015, 1.02), "borderaxespad": 0.0}
    made = axes.legend([drawn for drawn, _ in entries], ["?"] * len(entries), **{**beside, **place})
    for text, (_, words) in zip(made.get_texts(), entries, strict=True):
        text.set_text(words)


def legend_below(axes: Axes, entries: Sequence[Entry], columns: int = 1) -> None:
    """A legend below the label of the horizontal axis, whatever the height of the panel."""
    figure: Any = axes.figure
    inches = axes.get_position().height * figure.get_figheight()
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.42 / inches), "columnspacing": 1.0, "handlelength": 1.6}
    legend(axes, entries, ncols=columns, **place)


def mark(axes: Axes, place: float, words: str, color: str, marker: str) -> Entry:
    """A thin line across the panel, with a sign at its foot."""
    axes.axvline(place, color=color, linewidth=0.9)
    foot: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "ls": "", "ms": 6.5}
    return axes.plot([place], [0.0], color=color, marker=marker, zorder=4.0, **foot)[0], words


def short_names(names: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """Layers' names as a picture has room for them: digits stay, and none looks like one of `others`."""
    fit = fitted([*map(visible, names)], NAME_WIDTH, all_names=[*map(visible, others)])
    return [middle(name, NAME_WIDTH) for name in fit]


def left_out(names: Sequence[str], what: str, why: str) -> list[str]:
    """A sentence on what is not drawn, and why; none where everything is."""
    if not names:
        return []
    are = "is" if len(names) == 1 else "are"
    return [f"{counted(len(names), what)} {are} not drawn ({why}): {first_names(short_names(names))}."]


@dataclass(frozen=True)
class Rows:
    """Layers below each other: a row with a name for each, or for the first of many and a band for the others."""

    names: tuple[str, ...]
    """The layers that are to be named stand first where not all are."""

    @property
    def named(self) -> int:
        """How many have a name."""
        return len(self.names) if len(self.names) <= MOST_ROWS else NAMED_ROWS

    @property
    def count(self) -> int:
        """Rows that they take, the band among them."""
        return self.named + (BAND if self.named < len(self.names) else 0)

    @property
    def heights(self) -> list[float]:
        """Where each layer stands; the first is at the top, at 0, and a row is 1 high."""
        rest = len(self.names) - self.named
        band = [-self.named + 0.2 - (BAND - 0.4) * (index + 0.5) / rest for index in range(rest)]
        return [-float(place) for place in range(self.named)] + band

    def rule(self, chosen: str) -> str:
        """Which layers are named, as a sentence; empty where all are. `chosen`: by what they were."""
        rest = len(self.names) - self.named
        return f"Named are the {self.named} layers {chosen}; {rest} more are grey." if rest else ""

    def frame(self, axes: Axes, labelled: bool) -> None:
        """Sets up the vertical axis, with names on its ticks or without."""
        axes.set_ylim(0.6 - self.count, 0.6)
        places = [-float(place) for place in range(self.named)]
        for place in places:
            axes.axhline(place, color=PALE, linewidth=0.7, zorder=0.1)
        words = short_names(self.names[: self.named], self.names)
        if (rest := len(self.names) - self.named) > 0:
            places.append(-self.named + 0.2 - (BAND - 0.4) / 2.0)
            words.append(f"{rest} more layers")
            axes.axhspan(0.6 - self.count, 0.4 - self.named, color="#f4f4f4", linewidth=0, zorder=0.0)
        axes.set_yticks(places, labels=words if labelled else [""] * len(places), fontsize=8.5)
        axes.tick_params(axis="y", length=0)

    def dots(
        self, axes: Axes, values: Sequence[float | None], marker: str = "o", color: str = BLUE, size: float = 5.5
    ) -> Any:
        """A sign for each value that can be drawn, small and grey in the band; on a logarithmic axis not for 0.

        Returns what was drawn of the layers with a name.
        """
        least = 1.0 / LARGEST if axes.get_xscale() == "log" else -LARGEST
        points = [(x, y) for x, y in zip(values, self.heights, strict=True) if drawable(x) and x > least]
        drawn: dict[bool, Any] = {}
        first = 0.5 - self.named  # the band begins below it
        for named, points_wide, shade in ((False, size / 2.0, GREY), (True, size, color)):
            part = [point for point in points if (point[1] > first) == named]
            places = [x for x, _ in part], [y for _, y in part]
            drawn[named], *_ = axes.plot(
                *places, ls="", marker=marker, ms=points_wide, color=shade, clip_on=False, zorder=3.0
            )
        return drawn[True]

    def log_dots(self, axes: Axes, values: Sequence[float | None]) -> None:
        """A logarithmic axis with a dot for each value, its number beside a named one, and an arrow for 0."""
        logarithmic(axes, values)
        self.dots(axes, values)
        style: dict[str, Any] = {"xytext": (6.0, 0.0), "textcoords": "offset points", "va": "center", "fontsize": 7.5}
        for value, height in [*zip(values, self.heights, strict=True)][: self.named]:
            if drawable(value):
                axes.annotate(number(value), (max(value, axes.get_xlim()[0]), height), color=QUIET, **style)
        self.dots(axes, [axes.get_xlim()[0] if value == 0.0 else None for value in values], "<", QUIET)


ARROWS = "An arrow at the left edge stands for 0."


def logarithmic(axes: Axes, values: Sequence[float | None]) -> None:
    """A logarithmic horizontal axis around the values; from 0.1 to 1 where none is positive."""
    positive = [value for value in values if drawable(value) and value > 1.0 / LARGEST] or [0.25, 0.4]
    low, high = min(positive) / 2.5, max(positive) * 2.5
    high *= min((high / low) ** 0.15, 30.0)  # room for a number beside the largest
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    log_ticks(axes.xaxis, low, high)
