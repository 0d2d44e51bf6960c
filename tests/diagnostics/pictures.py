"""What stands in a picture: its words, and the points that it draws."""

from typing import Any
from xml.etree import ElementTree


def words(svg: bytes) -> list[str]:
    """Every piece of text of a picture; it must be well-formed."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("}text")]


def points(axes: Any, marker: str) -> list[tuple[float, float]]:
    """Where a panel draws a sign, in its own units: the named ones and the others, as drawn."""
    drawn = [line for line in axes.lines if line.get_marker() == marker]
    return [(float(x), float(y)) for line in drawn for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)]
