"""What a graph may allocate: as much as this machine has, looked at before each operator of the first pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fromage_cli.errors import ResourceError
from fromage_cli.problem.data.pytrees import map_tensors, named_tensors
from fromage_cli.process_memory import available_memory

HARMLESS = 1 << 26
"""Bytes of results, one or several, after which the free memory is looked at: 64 MB."""


class Allowance:
    """Looks at the size of each result before it is made, until the graph has been run once."""

    def __init__(self) -> None:
        self.passed = False
        """Whether the whole graph was run."""
        self._made = 0
        """Bytes of results since the free memory was last looked at."""

    def check(
        self, name: str, function: Callable[..., Any], arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> None:
        """Raises ResourceError where the result would not fit into memory.

        Operators whose size depends on the numbers in their input, as `nonzero`, are not looked at. Those on the list
        give at most a few numbers for each number of the input.
        """
        tensors = [tensor for _, tensor in named_tensors((list(arguments), dict(named)))]
        if any(type(tensor) not in (Tensor, torch.nn.Parameter) for tensor in tensors):
            return  # spread over ranks: of what a part allocates nothing is known here
        try:
            with torch.no_grad(), torch._C.DisableTorchFunction():  # nobody who watches the pass sees it
                given, given_named = map_tensors(
                    (list(arguments), dict(named)),
                    lambda each: torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device="meta"),
                )
                given_named = {
                    key: torch.device("meta") if isinstance(value, torch.device) else value
                    for key, value in given_named.items()
                }
                if not tensors and "device" not in given_named:
                    given_named["device"] = torch.device("meta")
                found = function(*given, **given_named)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
            return  # what is wrong with it shows when it is run
        size = sum(tensor.numel() * tensor.itemsize for _, tensor in named_tensors([found]) if tensor.is_meta)
        self._made += size
        if self._made <= HARMLESS:
            return
        self._made, free = 0, available_memory()
        if free is not None and size > free - (HARMLESS if size <= HARMLESS else 0):  # small ones add up
            raise ResourceError(
                f"The graph's operator {name} would make {size:.3g} bytes, and {free:.3g} are free.",
                "Give --micro-batch N. If the bundle is not your own, its graph may be made to fill the memory.",
            )
