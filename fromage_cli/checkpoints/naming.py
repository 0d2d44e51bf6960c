"""How names from files are compared and shown in messages."""

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 3  # names spelled out in a message; the complete list goes into its details


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return a sentence with the candidates that look most like `name`, or with the first ones if none does."""
    known = list(candidates)
    if not known:
        return ""
    close = difflib.get_close_matches(name, known[:10_000], n=SHOWN, cutoff=0.6)
    return f"Nearest: {listed(close)}." if close else f"There are: {listed(known)}."


def listed(names: Sequence[str]) -> str:
    """Return the first names, quoted with control characters escaped, and how many more there are."""
    shown = ", ".join(repr(name) for name in names[:SHOWN])
    more = len(names) - SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
