"""What is known of a number under other random draws of the network."""

from dataclasses import dataclass


@dataclass(frozen=True)
class OtherDraws:
    """The range of a number under draws other than the one that the page is about."""

    count: int
    """How many other draws gave it."""
    low: float
    high: float
