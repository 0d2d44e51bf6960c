"""Pictures of a page as inline SVG: a ruler of learning rates, curves, a map of layers and steps, bars.

They take their colours from the page's style, so that they follow its light and dark ground.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from markupsafe import Markup

from fromage_cli.report.told import known, step_text
from fromage_cli.terminal.pictures import tick
from fromage_cli.terminal.words import middle, number, visible

WIDTH = 720
"""Of every picture, in its own units; a narrow screen scrolls it sideways."""
LABEL = 190
"""Room for the names of layers."""
LEVELS = 7
"""Shades of a map."""
NAMED = 6
"""Curves that have a name and a line style of their own; all others are grey."""
MOST_ROWS = 40
"""Layers of a map or of bars."""
MOST_COLUMNS = 60
"""Steps of a map."""
FARTHEST = 1e20
"""Factor beyond which bars are drawn no longer."""
_LETTER = 6.4
"""Width of a letter at the size of labels, on average."""


@dataclass(frozen=True)
class Mark:
    """A number on a ruler."""

    value: float
    words: str
    kind: str = "limit"
    """`limit`, `you` or `advice`: how it is drawn."""


@dataclass(frozen=True)
class Curve:
    """One line of a picture, drawn where both numbers are there and above zero."""

    name: str
    x: Sequence[float | None]
    y: Sequence[float | None]


def svg(height: float, title: str, description: str, content: Sequence[str]) -> Markup:
    """A picture with its title and description for those who cannot see it."""
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(visible(f"{title}. {description}"))}">'
        f"{''.join(content)}</svg>"
    )


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """A line of text, which holds whatever characters."""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    kind = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{place}{kind}>{escape(visible(words))}</text>'


def ruler(marks: Sequence[Mark], title: str, unit: str) -> Markup | None:
    """Numbers above zero on a logarithmic line, each with its words; None where there is none."""
    placed = sorted((mark for mark in marks if mark.value > 0.0), key=lambda mark: mark.value)
    if not placed:
        return None
    scale = Logarithmic(placed[0].value, placed[-1].value, 30.0, WIDTH - 30.0, margin=0.15)
    ends: list[float] = []
    labels, top = [], 16.0
    for mark in placed:
        words = f"{mark.words}: {number(mark.value)}"
        x, width = scale(mark.value), len(words) * _LETTER + 12.0
        left = min(max(x - width / 2.0, 0.0), WIDTH - width)
        row = next((row for row, end in enumerate(ends) if end <= left), len(ends))
        ends[row : row + 1] = [left + width]
        labels.append((mark, words, x, left + width / 2.0, row))
    base = top + 22.0 * len(ends) + 8.0
    drawn = [f'<path class="axis" d="M30 {base:.1f}H{WIDTH - 30}"/>']
    for value in scale.ticks():
        drawn.append(f'<path class="axis" d="M{scale(value):.1f} {base:.1f}v5"/>')
        drawn.append(text(scale(value), base + 19.0, tick(value), "tick", "middle"))
    written = []  # over all stems, which else would cross the words
    for mark, words, x, middle_of, row in labels:
        y = top + 22.0 * (len(ends) - 1 - row)
        drawn.append(f'<path class="stem" d="M{x:.1f} {base:.1f}V{y + 4.0:.1f}"/>')
        shape = "M-5 -5h10v10h-10z" if mark.kind == "you" else "M0 -6L6 0L0 6L-6 0z"
        drawn.append(f'<path class="mark {mark.kind}" transform="translate({x:.1f} {base:.1f})" d="{shape}"/>')
        written.append(text(middle_of, y, words, mark.kind, "middle"))
    drawn += written
    drawn.append(text(WIDTH - 30.0, base + 36.0, unit, "tick", "end"))
    told = "; ".join(f"{mark.words} {number(mark.value)}" for mark in placed)
    return svg(base + 42.0, title, told, drawn)


def curves(
    given: Sequence[Curve], title: str, axes: tuple[str, str], level: float | None = None, *, steps: bool = False
) -> Markup | None:
    """Curves on two logarithmic axes; the first NAMED are told apart. `level`: a height that is marked.

    `steps`: the first axis counts steps, and is linear. None where no curve has two points.
    """
    drawn = [(curve, _points(curve, steps)) for curve in given]
    drawn = [(curve, points) for curve, points in drawn if len(points) > 1]
    if not drawn:
        return None
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points] + ([level] if level else [])
    height, bottom = 340.0, 300.0
    across = (Linear if steps else Logarithmic)(min(xs), max(xs), 60.0, WIDTH - 20.0)
    up = Logarithmic(max(min(ys), max(ys) * 1e-12), max(ys), bottom, 12.0)
    least = up.inverse(bottom) * 0.999
    parts = [f'<path class="axis" d="M60 12V{bottom:.0f}H{WIDTH - 20}"/>']
    for value in across.ticks():
        parts.append(f'<path class="grid" d="M{across(value):.1f} 12V{bottom:.0f}"/>')
        words = step_text(value) if steps else tick(value)
        parts.append(text(across(value), bottom + 16.0, words, "tick", "middle"))
    for value in up.ticks():
        parts.append(f'<path class="grid" d="M60 {up(value):.1f}H{WIDTH - 20}"/>')
        parts.append(text(54.0, up(value) + 4.0, tick(value), "tick", "end"))
    if level is not None and level > 0.0:
        parts.append(f'<path class="level" d="M60 {up(level):.1f}H{WIDTH - 20}"/>')
    for place, (_, points) in reversed([*enumerate(drawn)]):
        way = " ".join(f"{across(x):.0f},{up(y):.0f}" for x, y in points if y >= least)
        kind = f"curve c{place}" if place < NAMED else "curve rest"
        parts.append(f'<polyline class="{kind}" points="{way}"/>')
    parts.append(text((60.0 + WIDTH - 20.0) / 2.0, height - 6.0, axes[0], "tick", "middle"))
    parts.append(text(60.0, 8.0, axes[1], "tick"))
    names = [curve.name for curve, _ in drawn[:NAMED]]
    for place, name in enumerate(names):
        x, y = 60.0 + 220.0 * (place % 3), height + 14.0 + 18.0 * (place // 3)
        parts.append(f'<path class="curve c{place}" d="M{x:.0f} {y - 4.0:.1f}h26"/>')
        parts.append(text(x + 32.0, y, middle(visible(name), 28)))
    rows = (len(names) + 2) // 3
    rest = f" and {len(drawn) - len(names)} more in grey" if len(drawn) > len(names) else ""
    return svg(height + 8.0 + 18.0 * rows, title, f"{axes[1]} over {axes[0]}: {', '.join(names)}{rest}", parts)


def _points(curve: Curve, steps: bool) -> list[tuple[float, float]]:
    pairs = zip(curve.x, curve.y, strict=False)
    return [(x, y) for x, y in pairs if x is not None and y is not None and (steps or x > 0.0) and y > 0.0]


class Linear:
    """Places on an axis that counts."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        """From `low` at `start` to `high` at `end`."""
        self.low, self.high = low, max(high, low + 1.0)
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        """Where a number stands."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round numbers along it, three to nine of them."""
        rough = (self.high - self.low) / 8.0
        power = 10.0 ** math.floor(math.log10(rough))
        apart = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough)
        first = math.ceil(self.low / apart)
        return [apart * place for place in range(first, math.floor(self.high / apart) + 1)]


@dataclass(frozen=True)
class MapRow:
    """One layer of a map."""

    name: str
    values: Sequence[float | None]
    """At each step; None where it is not known."""


def step_map(rows: Sequence[MapRow], steps: Sequence[str], title: str) -> Markup | None:
    """Rows of shades, from the least value to the largest on a logarithmic scale; None where no value is above zero.

    Of more than MOST_COLUMNS steps evenly spaced ones are drawn, the first and the last among them.
    """
    chosen = evenly(len(steps), MOST_COLUMNS)
    values = [value for row in rows for value in known(row.values) if value > 0.0]
    if not values or not chosen:
        return None
    scale = Logarithmic(min(values), max(values), 0.0, LEVELS)
    room, high = (WIDTH - LABEL - 10.0) / len(chosen), 16.0
    runs: list[list[str]] = [[] for _ in range(LEVELS)]
    parts = []
    for line, row in enumerate(rows):
        parts.append(text(LABEL - 6.0, line * high + 12.0, middle(visible(row.name), 28), "name", "end"))
        held = [row.values[place] if place < len(row.values) else None for place in chosen]
        shades = [min(int(scale(value)), LEVELS - 1) if value is not None and value > 0.0 else None for value in held]
        start = 0
        for column, shade in enumerate(shades):
            if column + 1 == len(shades) or shades[column + 1] != shade:
                if shade is not None:
                    runs[shade].append(f"M{start} {line}h{column + 1 - start}")
                start = column + 1
    cells = "".join(f'<path class="s{shade}" d="{"".join(run)}"/>' for shade, run in enumerate(runs) if run)
    parts.append(f'<g transform="translate({LABEL} {high / 2.0:g}) scale({room:.4f} {high:g})">{cells}</g>')
    bottom = len(rows) * high
    for place in dict.fromkeys((0, len(chosen) // 2, len(chosen) - 1)):
        x = LABEL + (place + 0.5) * room
        anchor = "middle" if 0 < place < len(chosen) - 1 else "end" if place else "start"
        parts.append(text(x, bottom + 14.0, steps[chosen[place]], "tick", anchor))
    for shade in range(LEVELS):
        x = LABEL + 62.0 * shade
        parts.append(
            f'<path class="s{shade}" transform="translate({x:.0f} {bottom + 32.0:.0f}) scale(60 14)" d="M0 0h1"/>'
        )
        parts.append(text(x, bottom + 52.0, number(scale.inverse(shade)), "tick"))
    least, largest = number(min(values)), number(max(values))
    parts.append(text(LABEL - 6.0, bottom + 36.0, "shade from", "tick", "end"))
    return svg(bottom + 58.0, title, f"{len(rows)} layers at {len(chosen)} steps, {least} to {largest}", parts)


def evenly(count: int, most: int) -> list[int]:
    """At most so many places of a list, evenly spaced, the first and the last among them."""
    if count <= most:
        return [*range(count)]
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def balance(rows: Sequence[tuple[str, float]], title: str, ends: tuple[str, str]) -> Markup | None:
    """A bar for each factor, from 1 to the left or to the right; None without rows."""
    drawn = [(name, min(max(factor, 1.0 / FARTHEST), FARTHEST)) for name, factor in rows if factor > 0.0]
    if not drawn:
        return None
    reach = max(2.0, *(max(factor, 1.0 / factor) for _, factor in drawn))
    scale = Logarithmic(1.0 / reach, reach, LABEL, WIDTH - 60.0)
    bottom = 16.0 * len(drawn)
    parts = [f'<path class="axis" d="M{scale(1.0):.1f} 0V{bottom:.0f}"/>']
    for line, (name, factor) in enumerate(drawn):
        y = 16.0 * line + 8.0
        parts.append(text(LABEL - 6.0, y + 4.0, middle(visible(name), 28), "name", "end"))
        parts.append(f'<path class="bar" d="M{scale(1.0):.1f} {y:.1f}H{scale(factor):.1f}"/>')
        parts.append(text(WIDTH - 52.0, y + 4.0, f"{number(factor)} ×", "tick"))
    parts.append(text(LABEL, bottom + 14.0, ends[0], "tick"))
    parts.append(text(WIDTH - 60.0, bottom + 14.0, ends[1], "tick", "end"))
    return svg(bottom + 20.0, title, "; ".join(f"{name} {number(factor)}" for name, factor in drawn[:NAMED]), parts)


class Logarithmic:
    """Places on an axis of powers of ten."""

    def __init__(self, low: float, high: float, start: float, end: float, margin: float = 0.0) -> None:
        """From `low` at `start` to `high` at `end`; one number alone stands in the middle. `margin`: of the length."""
        first, last = math.log(low), math.log(high)
        if last - first < 1e-6:
            first, last = first - math.log(2.0), last + math.log(2.0)
        spare = margin * (last - first)
        self.first, self.last = first - spare, last + spare
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        """Where a number above zero stands."""
        share = (math.log(value) - self.first) / (self.last - self.first)
        return self.start + share * (self.end - self.start)

    def inverse(self, place: float) -> float:
        """The number at a place, as far as floats hold it."""
        share = (place - self.start) / (self.end - self.start)
        return math.exp(max(-708.0, min(709.0, self.first + share * (self.last - self.first))))

    def ticks(self) -> list[float]:
        """Round numbers along it: powers of ten, between which few decades have 2 and 5 times them too."""
        decade = math.log(10.0)
        first, last = math.floor(self.first / decade), math.ceil(self.last / decade)
        factors = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
        powers = range(max(first, -307), min(last, 307) + 1, max(1, (last - first) // 8))
        found = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in found if self.first - 1e-3 <= math.log(value) <= self.last + 1e-3]
