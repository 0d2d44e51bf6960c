"""Memory that runs out on one of several ranks, made an error of all: none waits for another one."""

from collections.abc import Iterator
from contextlib import contextmanager

from fromage_cli.problem.user_code.named_code import out_of_memory
from fromage_cli.ranks import OUT_OF_MEMORY, OutOfMemoryOfRanks, Ranks


@contextmanager
def failing_together(ranks: Ranks) -> Iterator[None]:
    """Where memory runs out on one rank within the block, OutOfMemory is raised on all: no sum waits for that one."""
    lacking: Exception | None = None
    try:
        yield
    except Exception as error:
        if not ranks.several or not out_of_memory(error):
            raise
        if ranks.sharded:  # the others wait for this one to gather a weight, or have heard of it there
            if not isinstance(error, OutOfMemoryOfRanks):
                ranks.require_next(OUT_OF_MEMORY)
            raise OutOfMemoryOfRanks from error
        lacking = error
    if not ranks.sharded and ranks.any(lacking is not None):
        raise lacking or OutOfMemoryOfRanks
