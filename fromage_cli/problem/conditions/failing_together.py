"""What fails on one of several ranks, made an error of all: none waits for another one, and none goes on alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from fromage_cli.errors import MismatchError
from fromage_cli.problem.user_code.named_code import out_of_memory
from fromage_cli.ranks import FAILED, OUT_OF_MEMORY, FailedOnRanks, OutOfMemoryOfRanks, Ranks


@contextmanager
def failing_together(ranks: Ranks) -> Iterator[None]:
    """Where memory runs out on one rank within the block, or an evaluation fails, an error is raised on all.

    Memory that ran out anywhere is OutOfMemory on all of them, and any other failure MismatchError.
    """
    own: Exception | None = None
    try:
        yield
    except Exception as error:
        if not ranks.several or not (out_of_memory(error) or isinstance(error, MismatchError)):
            raise
        own = error
    heard = isinstance(own, OutOfMemoryOfRanks | FailedOnRanks)
    lacking = own is not None and out_of_memory(own)
    if isinstance(own, MismatchError) and not heard:
        ranks.tell_failure(own)
    says = OUT_OF_MEMORY if lacking else FAILED if own is not None else 0
    if not ranks.sharded:
        gravest = max(ranks.of_each(float(says)))
        if gravest == OUT_OF_MEMORY:
            raise (own if lacking else None) or OutOfMemoryOfRanks
        if gravest == FAILED:
            raise own or ranks.failure_told()
    elif own is not None:  # the others wait for this one to gather a weight, or have heard of it there
        if not heard:
            ranks.require_next(says)
        if lacking:
            raise OutOfMemoryOfRanks from own
        assert isinstance(own, MismatchError)
        raise own if heard else FailedOnRanks(own.message, own.hint, own.details) from own
