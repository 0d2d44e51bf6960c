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


def fitted(names: Sequence[str], width: int, dots: str = DOTS, all_names: Sequence[str] = ()) -> list[str]:
    """The names in at most `width` cells where that is possible; no digit is cut.

    A name that fits stays whole. In others dots replace dotted parts without digits, those first that most names
    have; then long words are shortened. What could be read as another name, of these or of `all_names`, stays.
    """
    every = {name: name.split(".") for name in dict.fromkeys([*names, *all_names])}
    found = Counter(part for each in every.values() for part in dict.fromkeys(each[:-1]) if not re.search(r"\d", part))
    order, alike = [part for part, _ in found.most_common()], dict[tuple[str, ...], list[list[str]]]()
    for each in every.values():
        alike.setdefault(_kept(each), []).append(each)
    ways = {name: [name] for name in names}
    for name, way in ways.items():
        each, gone = every[name], set[str]()
        others = [other for other in alike[_kept(each)] if other != each]
        for part in (part for part in order if part in each[:-1]) if cell_len(name) > width else ():
            if not any(_could_be(other, [one for one in each if one not in {*gone, part}]) for other in others):
                gone.add(part)
                way.append(_without(each, gone, dots))
                if cell_len(way[-1]) <= width:
                    break
        whole = way[-1]
        for letters in (8, 5, 3) if cell_len(whole) > width else ():
            cut = re.sub(rf"([^\W\d_]{{{letters}}})[^\W\d_]{{{len(dots) + 1},}}", rf"\1{dots}", whole)
            way.append(re.sub(f"({re.escape(dots)})+", dots, cut))
            if cell_len(way[-1]) <= width:
                break
    while True:
        seen = Counter(way[-1] for way in ways.values())
        doubled = [way for way in ways.values() if seen[way[-1]] > 1 and len(way) > 1]
        if not doubled:
            return [ways[name][-1] for name in names]
        for way in doubled:
            way.pop()


def _kept(parts: Sequence[str]) -> tuple[str, ...]:
    """The parts that no shortening leaves out."""
    return (*(part for part in parts[:-1] if re.search(r"\d", part)), parts[-1])


def _could_be(parts: Sequence[str], left: Sequence[str]) -> bool:
    """Whether a name has the parts that are left of a shortened one, in their order."""
    rest = iter(parts)
    return all(part in rest for part in left)


def _without(parts: Sequence[str], gone: set[str], dots: str) -> str:
    """A name without some of its parts, one sign for neighbours that are gone: `…0…q_proj`. The last part stays."""
    text = ""
    for part in [*(None if part in gone else part for part in parts[:-1]), parts[-1]]:
        if part is None:
            text += "" if text.endswith(dots) else dots
        else:
            text += part if not text or text.endswith(dots) else f".{part}"
    return text
