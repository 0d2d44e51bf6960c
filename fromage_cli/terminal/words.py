"""How numbers, names and curves are written, on any stream: nothing here prints."""

import codecs
import math
import unicodedata
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from fromage_cli.missing import Missing
from fromage_cli.optimizers.rule import RULES

ASCII_WORDS = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "ε": "eps",
    "η": "eta",
    "θ": "theta",
    "κ": "kappa",
    "λ": "lambda",
    "μ": "mu",
    "π": "pi",
    "ρ": "rho",
    "σ": "sigma",
    "τ": "tau",
    "φ": "phi",
    "ω": "omega",
    "Δ": "Delta",
    "Σ": "Sum",
    "Π": "Prod",
    "∇": "grad ",
    "∞": "inf",
    "√": "sqrt",
    "‖": "||",
    "×": "x",
    "÷": "/",
    "·": "*",
    "±": "+-",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "←": "<-",
    "≤": "<=",
    "≥": ">=",
    "≈": "~",
    "≠": "!=",
    "∝": "~",
    "²": "^2",
    "³": "^3",
    "°": "deg",
    "•": "-",
    "✓": "ok",
    "✗": "x",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
    "─": "-",
    "│": "|",
    "╭": "+",
    "╮": "+",
    "╰": "+",
    "╯": "+",
}
"""What a sign of ours is called where only ASCII can be written."""

OPTIMIZER_TITLES = {rule.name: rule.title for rule in RULES.values()}
"""What the optimizers are called in a sentence."""

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*#%@"

_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
ASCII_ERRORS = "fromage-ascii"
"""Error handler of the codecs: spell in ASCII what an encoding lacks."""


def nearest(given: str, known: Iterable[str]) -> str:
    """The known word nearest to what was given, as the beginning of a hint: `Nearest: adamw. `."""
    near = get_close_matches(given.lower()[:100], [*known], n=1, cutoff=0.0)
    return f"Nearest: {near[0]}. " if near else ""


def number(value: float | Missing | None, ascii_only: bool = False) -> str:
    """Three significant digits for a person: `0.00431`, `1.2e-05`, `31400`; a dash where there is no number."""
    if value is None or isinstance(value, Missing):
        return "-" if ascii_only else "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if 999.5 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:.3g}"


def number_range(low: float | None, high: float) -> str:
    """`0.05 to 1.5`, or one number where there is no other or both look the same."""
    bounds = [number(high)] if low is None else dict.fromkeys((number(low), number(high)))
    return " to ".join(bounds)


_UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def in_bytes(count: int) -> str:
    """Bytes in decimal units: `1.2 GB`."""
    for unit, size in _UNITS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def in_seconds(seconds: float) -> str:
    """A duration to two digits, in the unit in which one would say it: `20 s`, `9.4 min`, `2 h`."""
    if seconds < 1.0:
        return "1 s"
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * length:
            return f"{number(float(f'{seconds / length:.2g}'))} {unit}"
    return f"{seconds:.2g} s"


def visible(text: str) -> str:
    r"""The text with every control, bidirectional or unprintable character spelled out, as in `\x1b`."""
    return "".join(_spelled(one) if unicodedata.category(one) in _INVISIBLE else one for one in text)


def visible_lines(text: str) -> str:
    """The same for a text of several lines, which stay apart."""
    return "\n".join(map(visible, text.splitlines()))


def _spelled(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def middle(text: str, width: int, ascii_only: bool = False, head_share: float = 1 / 3) -> str:
    """The text cut in its middle to at most `width` cells; the end, where most names differ, keeps the larger part."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    dots = ".." if ascii_only else "…"
    if width <= len(dots) + 1:
        return set_cell_size(text, max(width, 0))
    head = int((width - len(dots)) * head_share)
    tail = width - len(dots) - head
    backwards = set_cell_size(text[::-1], tail)[::-1]
    return set_cell_size(text, head) + dots + backwards


def sparkline(
    values: Sequence[float | Missing | None],
    *,
    log: bool = False,
    ascii_only: bool = False,
    scale: tuple[float, float] | None = None,
) -> str:
    """One character per value, by height; with `log` on a logarithmic scale, where zero and below are lowest.

    The scale runs from the least to the greatest value, or over `scale` where curves are to be compared. A value that
    is missing or not a number is a blank; an infinite one stands at the edge of the scale.
    """
    blocks = (ASCII_BLOCKS if ascii_only else BLOCKS)[1:]
    heights: list[float | None] = []
    for value in values:
        if value is None or isinstance(value, Missing) or math.isnan(value):
            heights.append(None)
        elif log:
            heights.append(math.log(value) if value > 0 else -math.inf)
        else:
            heights.append(float(value))
    finite = [height for height in heights if height is not None and math.isfinite(height)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    if scale is not None:
        low, high = (math.log(end) if log else end for end in scale)
    drawn = []
    for height in heights:
        if height is None:
            drawn.append(" ")
        elif height <= low:
            drawn.append(blocks[0])
        elif height >= high:
            drawn.append(blocks[-1])
        else:
            fraction = (height / 2 - low / 2) / (high / 2 - low / 2)  # halved, so that no difference overflows
            drawn.append(blocks[min(int(fraction * len(blocks)), len(blocks) - 1)])
    return "".join(drawn)


def ascii_words(text: str) -> str:
    r"""The text in ASCII alone: `η` becomes `eta`, accents fall, what has no name is spelled as `\u....`."""
    if text.isascii():
        return text
    return "".join(_ascii_word(character) for character in text)


def _ascii_word(character: str) -> str:
    if character.isascii():
        return character
    if character in ASCII_WORDS:
        return ASCII_WORDS[character]
    if character in BLOCKS:
        return ASCII_BLOCKS[BLOCKS.index(character)]
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode("ascii")
    return plain or _spelled(character)


def _ascii_errors(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_ascii_word(character) for character in error.object[error.start : error.end]), error.end


codecs.register_error(ASCII_ERRORS, _ascii_errors)
