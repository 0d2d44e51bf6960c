"""What fails on one of several ranks, made an error of all: none waits for another one, and none goes on alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from fromage_cli.errors import MismatchError
from fromage_cli.problem.user_code.named_code import out_of_memory
from fromage_cli.ranks import FAILED, OUT_OF_MEMORY, FailedOnRanks, OutOfMemoryOfRanks, Ranks


@contextmanager
def failing_together(ranks: Ranks) -> Iterator[None]:
    """Where memory runs out on one rank within the block, or an evaluation fails, an error is raised on all.

    That rank raises its own, and the others OutOfMemory or MismatchError.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        if not ranks.several or not (out_of_memory(error) or isinstance(error, MismatchError)):
            raise
        own = error
    lacking = own is not None and out_of_memory(own)
    if not ranks.sharded:
        says = OUT_OF_MEMORY if lacking else FAILED if own is not None else 0
        gravest = max(ranks.of_each(float(says)))
        if gravest == OUT_OF_MEMORY:
            raise (own if lacking else None) or OutOfMemoryOfRanks
        if gravest == FAILED:
            raise own or FailedOnRanks("An evaluation failed on another rank.", "See what that rank says.")
    elif own is not None:  # the others wait for this one to gather a weight, or have heard of it there
        if not isinstance(own, OutOfMemoryOfRanks | FailedOnRanks):
            ranks.require_next(OUT_OF_MEMORY if lacking else FAILED)
        if lacking:
            raise OutOfMemoryOfRanks from own
        raise own
