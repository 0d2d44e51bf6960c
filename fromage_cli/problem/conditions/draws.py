"""Random numbers at torch's dispatcher: the same in both precisions, and those of a batch for each of its rows."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
UNLIKE = {
    ATEN.rand, ATEN.randn, ATEN.rand_like, ATEN.randn_like, ATEN.normal_, ATEN.uniform_, ATEN.log_normal_, ATEN.cauchy_,
    ATEN.exponential_, ATEN.geometric_, ATEN.bernoulli,
}  # fmt: skip
"""Of one seed they draw other numbers in float64 than in float32."""
Draw = tuple[Any, tuple[float, ...], Tensor | None]
"""What was called, its plain numbers, and what it drew, where that is one tensor."""


class _Watch(TorchDispatchMode):
    """A mode with types."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def itself(self) -> "_Watch":
        """The mode, where what makes one is asked for."""
        return self


class SinglePrecisionDraws(_Watch):  # type: ignore[no-untyped-call]
    """Within it numbers in float64 are drawn in float32, so that both precisions draw the same."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the operation, in float32 where it draws."""
        kwargs = kwargs or {}
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        dtype = kwargs.get("dtype") or (torch.get_default_dtype() if tensor is None else tensor.dtype)
        if func.overloadpacket not in UNLIKE or dtype is not torch.float64:
            return func(*args, **kwargs)
        narrow = (args[0] if tensor is None else tensor.float(), *args[1:])
        if func.overloadpacket.__name__.endswith("_"):
            assert tensor is not None
            return tensor.copy_(func(*narrow, **kwargs))
        if tensor is None or "dtype" in kwargs:
            kwargs = {**kwargs, "dtype": torch.float32}
        return func(*narrow, **kwargs).double()


class RecordedDraws(_Watch):  # type: ignore[no-untyped-call]
    """Keeps what is drawn within it."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the operation, and keeps a copy of what it draws."""
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.draws.append((func, _numbers(args), result.clone() if isinstance(result, Tensor) else None))
        return result


class ShareOfDraws(_Watch):  # type: ignore[no-untyped-call]
    """Within it some rows of a batch draw what they drew as part of all of them."""

    def __init__(self, draws: Sequence[Draw], rows: int, start: int, stop: int) -> None:
        super().__init__()
        self.draws, self.rows, self.start, self.stop = draws, rows, start, stop
        self.taken = 0
        self.lost = False
        """Whether something was drawn that cannot be told by rows, and all from there on is another draw."""
        self.guessed = False
        """Whether a row drew several times along one dimension: taken to follow each other, but they may not."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls the operation, and puts the rows' share in the place of what it draws."""
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags and not self.lost:
            share = self._share(func, _numbers(args), result)
            self.lost = share is None
            if share is not None:
                result.copy_(share)
        return result

    @property
    def complete(self) -> bool:
        """Whether every draw of the batch was shared."""
        return not self.lost and self.taken == len(self.draws)

    def _share(self, func: Any, numbers: tuple[float, ...], result: Any) -> Tensor | None:
        """The rows of what was drawn in this place, along the one dimension that grows with them; None without one."""
        same, given, whole = self.draws[self.taken] if self.taken < len(self.draws) else (None, (), None)
        self.taken += 1
        if same is None or func is not same or numbers != given or func.overloadpacket is ATEN.randperm:
            return None
        if whole is None or whole.dim() != result.dim():
            return None
        growing = [d for d in range(whole.dim()) if whole.shape[d] != result.shape[d]]
        if not growing:
            return whole
        if len(growing) > 1 or whole.shape[growing[0]] % self.rows:
            return None
        each = whole.shape[growing[0]] // self.rows
        self.guessed = self.guessed or each > 1
        share = whole.narrow(growing[0], self.start * each, (self.stop - self.start) * each)
        return share if share.shape == result.shape else None


def _numbers(args: Sequence[Any]) -> tuple[float, ...]:
    """The plain numbers among arguments: bounds and probabilities, which may depend on how many rows there are."""
    return tuple(value for value in args if isinstance(value, int | float))
