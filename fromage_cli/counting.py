"""Counts and lists of names, as every room says them."""

from collections.abc import Sequence

NAMED = 3
"""Names that a sentence can hold; whoever wants all of them has a table."""


def counted(count: int, what: str) -> str:
    """So many of it: `1 step`, `2 steps`."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def first_names(names: Sequence[str]) -> str:
    """The first few names, and a sign where there are more: `a, b, c …`."""
    return f"{', '.join(names[:NAMED])}{' …' if len(names) > NAMED else ''}"
