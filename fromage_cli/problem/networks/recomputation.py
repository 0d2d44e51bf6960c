"""Activations that are computed again in the backward pass instead of being kept: memory for time."""

import math
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from fromage_cli.errors import MismatchError

Forward = Callable[..., Any]
_BLOCKS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""How many blocks each network has: a factory may give the same one again."""


def recompute_activations(model: nn.Module) -> int:
    """From now on each block of a network keeps only its inputs for the backward pass; gives the number of blocks.

    Blocks are the members of a ModuleList or Sequential of two or more, the outermost where they are nested. Of a
    Sequential of n single layers about √n runs of neighbours are blocks: each layer alone would keep as much as before.
    A block draws the same random numbers again. Raises MismatchError where there are no blocks. Source: Chen et al.,
    *Training Deep Nets with Sublinear Memory Cost*, 2016.
    """
    if model in _BLOCKS:
        return _BLOCKS[model]
    blocks = 0
    for holder in _outermost(model):
        if isinstance(holder, nn.Sequential) and not any(len(list(member.modules())) > 1 for member in holder):
            size = math.isqrt(len(holder))
            holder.forward = wraps(holder.forward)(_in_runs(holder, size))  # type: ignore[method-assign]
            blocks += -(-len(holder) // size)
        else:
            for member in holder:
                member.forward = _recomputed(member.forward)
                blocks += 1
    if blocks == 0:
        raise MismatchError(
            "--recompute found no blocks: the network has no ModuleList or Sequential of two or more modules.",
            "Leave --recompute out, and give --micro-batch N to save memory.",
        )
    _BLOCKS[model] = blocks
    return blocks


def _outermost(module: nn.Module) -> Iterator[nn.ModuleList | nn.Sequential]:
    """The lists of two or more modules that lie in no other such list."""
    scripted = isinstance(module, torch.jit.ScriptModule)  # its calls cannot be replaced
    if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 1 and not scripted:
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def _recomputed(forward: Forward) -> Forward:
    """The same function, whose activations are computed again where they are needed."""
    from torch.utils.checkpoint import checkpoint

    @wraps(forward)
    def light(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, use_reentrant=False, **named)

    return light


def _in_runs(sequential: nn.Sequential, size: int) -> Forward:
    """The forward pass of a Sequential in runs of so many neighbours, of which each is a block."""

    def run(start: int, value: Any) -> Any:
        for member in list(sequential)[start : start + size]:
            value = member(value)
        return value

    light = _recomputed(run)

    def forward(input: Any) -> Any:
        for start in range(0, len(sequential), size):
            input = light(start, input)
        return input

    return forward
