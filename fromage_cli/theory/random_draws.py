"""What is told of a number under other draws of what a network draws at random."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OtherDraws:
    """The range of a number under draws other than the one that the page is about."""

    count: int
    """How many other draws told it."""
    low: float
    high: float
