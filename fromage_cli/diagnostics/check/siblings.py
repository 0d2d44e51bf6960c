"""Which layer is out of line with its siblings: those of the same name and shape in other blocks.

Their root mean squares are compared in logarithms, without the trend along the depth. That is the median of all
slopes between two blocks (Theil and Sen).
"""

import math
import re
from collections.abc import Iterable, Iterator
from itertools import combinations
from statistics import median

from fromage_cli.diagnostics.check.result import Sibling

FEWEST = 4
"""Siblings of which one can be out of line: of three, two lie on any trend."""
FEWEST_DIMENSIONS = 2
"""Biases and gains of one kind differ more, and mean less."""
_BLOCK = re.compile(r"(?<![^.])\d+(?![^.])")


def family(name: str) -> tuple[str, int] | None:
    """The name without the number of its block, and that number; None where there is none."""
    found = _BLOCK.search(name)
    return None if found is None else (f"{name[: found.start()]}#{name[found.end() :]}", int(found.group()))


def compare_siblings(layers: Iterable[tuple[str, tuple[int, ...], float]]) -> Iterator[Sibling]:
    """Yield each layer that has enough siblings, beside them; `layers`: name, shape and root mean square."""
    families: dict[tuple[str, tuple[int, ...]], list[tuple[int, str, float]]] = {}
    for name, shape, rms in layers:
        told = family(name)
        if told is not None and len(shape) >= FEWEST_DIMENSIONS and 0.0 < rms < math.inf:
            families.setdefault((told[0], shape), []).append((told[1], name, math.log(rms)))
    for members in families.values():
        if len(members) < FEWEST:
            continue
        slopes = [(b[2] - a[2]) / (b[0] - a[0]) for a, b in combinations(members, 2) if a[0] != b[0]]
        slope = median(slopes) if slopes else 0.0
        level = median(size - slope * block for block, _, size in members)
        for block, name, size in members:
            yield Sibling(name, math.exp(size - slope * block - level), len(members) - 1)
