"""How the names of layers are shown: what all of them share is said once, digits stay, and no two look alike."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

DOTS = "…"


@dataclass(frozen=True)
class ShownNames:
    """Names without the beginning and the end that all of them share."""

    names: tuple[str, ...]
    prefix: str = ""
    """With its last dot; empty where they share none."""
    suffix: str = ""
    """With its first dot."""

    @property
    def pattern(self) -> str:
        """What the names stand in, as a pattern that `--include` takes: `model.*.weight`; empty where it is all."""
        return f"{self.prefix}*{self.suffix}" if self.prefix or self.suffix else ""


def shown_names(names: Sequence[str]) -> ShownNames:
    """Drops the dotted parts that all names begin with and end in; a part that a number follows stays before it.

    Of a single name, and where a name would vanish, nothing is dropped.
    """
    parts = [name.split(".") for name in names]
    if len(set(names)) < 2:
        return ShownNames(tuple(names))
    least = min(map(len, parts)) - 1
    first = next((place for place in range(least) if len({part[place] for part in parts}) > 1), least)
    while first and any(part[first].isdigit() for part in parts):
        first -= 1
    left = least - first
    last = next((place for place in range(left) if len({part[-1 - place] for part in parts}) > 1), left)
    ends = [part[first : len(part) - last] for part in parts]
    prefix, suffix = parts[0][:first], parts[0][len(parts[0]) - last :]
    return ShownNames(
        tuple(".".join(end) for end in ends),
        "".join(f"{part}." for part in prefix),
        "".join(f".{part}" for part in suffix),
    )


def fitted(names: Sequence[str], width: int, dots: str = DOTS) -> list[str]:
    """The names in at most `width` cells where that is possible; different ones differ, and no digit is cut.

    Dots replace dotted parts without digits in all names alike, those first that most of them have; then long
    words are shortened. A name that would look like another one stays as long as it takes to tell them apart.
    """
    parts = {name: name.split(".") for name in names}
    found = Counter(part for each in parts.values() for part in dict.fromkeys(each[:-1]) if not re.search(r"\d", part))
    order = [part for part, _ in found.most_common()]
    ways = {name: [name] for name in parts}
    for count in range(1, len(order) + 1):
        if all(cell_len(way[-1]) <= width for way in ways.values()):
            break
        gone = set(order[:count])
        for name, each in parts.items():
            kept = [None if part in gone else part for part in each[:-1]]
            ways[name].append(_joined([*kept, each[-1]], dots))
    for way in ways.values():
        whole = way[-1]
        for letters in (8, 5, 3) if cell_len(way[-1]) > width else ():
            way.append(re.sub(rf"([^\W\d_]{{{letters}}})[^\W\d_]{{{len(dots) + 1},}}", rf"\1{dots}", whole))
            if cell_len(way[-1]) <= width:
                break
    while True:
        seen = Counter(way[-1] for way in ways.values())
        alike = [way for way in ways.values() if seen[way[-1]] > 1 and len(way) > 1]
        if not alike:
            return [ways[name][-1] for name in names]
        for way in alike:
            way.pop()


def _joined(parts: Sequence[str | None], dots: str) -> str:
    """The parts that are left, one sign for neighbours that are gone: `…0…q_proj`."""
    text = ""
    for part in parts:
        if part is None:
            text += "" if text.endswith(dots) else dots
        else:
            text += part if not text or text.endswith(dots) else f".{part}"
    return text
