"""Formulas in the place of torch's kernels, where a kernel has no derivative or a wrong one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]


class ReplacedCalls(TorchFunctionMode):
    """Within the block, each call of one of these functions of torch goes to its replacement, which may call it."""

    def __init__(self, replacements: Mapping[Function, Function]) -> None:
        super().__init__()
        self.replacements = replacements

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Takes the place of every call of torch within the block, except those that this makes itself."""
        return self.replacements.get(func, func)(*args, **(kwargs or {}))
