"""The grid of relative steps, as typed."""

import math
from itertools import pairwise

from fromage_cli.errors import UsageError

DEFAULT = "1e-4:1:17"
LARGEST_GRID = 10_000
"""Points at most: each costs a gradient."""


def eta_grid(text: str) -> tuple[float, ...]:
    """Reads `MIN:MAX:COUNT`, log-spaced with both ends, or a comma-separated list; increasing and positive.

    Raises UsageError saying what is wrong with it.
    """
    try:
        if ":" in text:
            first, last, points = text.split(":")
            low, high, count = float(first), float(last), int(points)
            if not (0.0 < low < high < math.inf) or not 2 <= count <= LARGEST_GRID:
                raise _refused(text, f"needs 0 < MIN < MAX and a COUNT between 2 and {LARGEST_GRID}")
            ratio = math.log(high / low) / (count - 1)
            values = (low, *(low * math.exp(ratio * index) for index in range(1, count - 1)), high)
        else:
            values = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise _refused(text, "is neither MIN:MAX:COUNT nor a comma-separated list of numbers") from None
    if not all(math.isfinite(value) and value > 0.0 for value in values):
        raise _refused(text, "holds a step that is not positive and finite")
    if any(second <= first for first, second in pairwise(values)):
        raise _refused(text, "does not increase")
    return values


def _refused(text: str, reason: str) -> UsageError:
    return UsageError(f"--eta {text!r} {reason}.", f"For example --eta {DEFAULT}, or --eta .001,.003,.01,.03.")
