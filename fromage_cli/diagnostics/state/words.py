"""Phrases that several findings of a state share."""


def entries(count: int) -> str:
    """So many entries."""
    return "1 entry" if count == 1 else f"{count:,} entries"
