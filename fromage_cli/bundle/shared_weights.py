"""Ranks that hold parts of the weights: what they do together, so that none waits for one that has failed."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from fromage_cli.bundle.writing import Written
from fromage_cli.errors import MismatchError

Found = TypeVar("Found")


def is_shared(network: nn.Module) -> bool:
    """Whether ranks hold parts of its weights."""
    return any(hasattr(parameter, "full_tensor") for parameter in network.parameters())


def all_or_none(shared: bool, prepare: Callable[[], Found]) -> Found:
    """What a rank prepares; where weights are `shared` it fails on all ranks if it fails on one, so that none waits."""
    error: Exception | None = None
    try:
        found = prepare()
    except Exception as raised:
        error = raised
    if shared:
        told: list[bool] = [True] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(told, error is None)
        if error is None and not all(told):
            raise MismatchError(
                f"Rank {told.index(False)} could not prepare its part of the bundle.", "Its own message says why."
            )
    if error is not None:
        raise error
    return found


@contextmanager
def in_turn(*groups: Sequence[Written]) -> Iterator[list[list[Written]]]:
    """The same tensors; those that were not read when the block ends, however it does, are read then.

    To read a tensor that is spread takes all ranks, which would wait for one that stopped.
    """
    read = 0

    def counted(get: Callable[[], Tensor]) -> Tensor:
        nonlocal read
        read += 1
        return get()

    try:
        yield [[replace(one, get=partial(counted, one.get)) for one in group] for group in groups]
    finally:
        for one in [one for group in groups for one in group][read:]:
            one.get()
