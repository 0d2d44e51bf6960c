"""Formulas in the place of torch's kernels, where a kernel has no derivative or a wrong one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]
BACKWARD_PASSES = (torch.autograd.grad, Tensor.backward)
"""Functions of torch that run a backward pass."""


class ReplacedCalls(TorchFunctionMode):
    """Within the block, each call of one of these functions of torch goes to its replacement, which may call it.

    `recomputed`: also where a backward pass runs a part of the network again.
    """

    def __init__(self, replacements: Mapping[Function, Function], *, recomputed: bool = False) -> None:
        super().__init__()
        self.replacements, self.recomputed = replacements, recomputed

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Takes the place of every call of torch within the block, except those that this makes itself."""
        with self._in_backward_passes() if self.recomputed and func in BACKWARD_PASSES else nullcontext():
            return self.replacements.get(func, func)(*args, **(kwargs or {}))

    @contextmanager
    def _in_backward_passes(self) -> Iterator[None]:
        """The mode in force while torch's engine runs, which is called without it."""
        module: Any = torch.autograd
        engine = module._engine_run_backward

        def run(*args: Any, **kwargs: Any) -> Any:
            with self:
                return engine(*args, **kwargs)

        module._engine_run_backward = run
        try:
            yield
        finally:
            module._engine_run_backward = engine
