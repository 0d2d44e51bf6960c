"""Weights that are put together from all ranks where a network uses them, and let go when it has.

A parameter holds this rank's rows. What the network sees is the whole tensor, gathered anew for each use; gradients of
it are added up over ranks and cut into rows. Both are differentiable without end, each being the other's derivative.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.nn.utils import parametrize

from fromage_cli.problem.conditions.replaced_calls import ReplacedCalls
from fromage_cli.shards import NAMES_BEFORE, is_sharded, rows_added_up, whole


class Gather(torch.autograd.Function):
    """All rows of a spread tensor on every rank."""

    @staticmethod
    def forward(ctx: Any, spread: Tensor, number: int) -> Tensor:
        """Gathers them; `number`: which tensor it is."""
        ctx.like, ctx.number = spread.detach(), number
        found = whole(spread.detach(), number)
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """The sum of all ranks' gradients, each rank its rows."""
        return cast(Tensor, AddUp.apply(gradients[0], ctx.like, ctx.number)), None  # type: ignore[no-untyped-call]


class AddUp(torch.autograd.Function):
    """The sum over ranks of a tensor that each has whole, cut into rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, like: Tensor, number: int) -> Tensor:
        """Adds them up; `like`: spread as the sum is to be."""
        ctx.number = number
        return rows_added_up(own.detach().to_dense() if own.is_sparse else own.detach(), like, number)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """All rows of the gradient."""
        return cast(Tensor, Gather.apply(gradients[0], ctx.number)), None, None  # type: ignore[no-untyped-call]


class Linear(torch.autograd.Function):
    """`functional.linear` with a weight that is spread over ranks.

    Its backward pass gathers the weight by itself. What a second derivative adds to the weight's gradient is then added
    up over ranks at once. Else every rank would hold it whole, for all weights, until the pass comes by again.
    """

    @staticmethod
    def forward(
        ctx: Any, data: Tensor, spread: Tensor, bias: Tensor | None, held: tuple["GatheredWeights", Tensor]
    ) -> Tensor:
        """`data`: (…, in); `spread`: the weight's rows, (out, in) in all, which `held` has gathered already."""
        ctx.save_for_backward(data)
        ctx.weights, gathered = held
        ctx.spread = spread  # a parameter: what is saved comes back as another object
        kind = data.device.type
        ctx.autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        return functional.linear(data, gathered, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of the data, of the weight's rows and of the bias."""
        (data,), spread = ctx.saved_tensors, ctx.spread
        rows = gradients[0].reshape(-1, gradients[0].shape[-1])  # (n, out)
        by_data = by_weight = by_bias = None
        with torch.autocast(data.device.type, dtype=ctx.autocast, enabled=ctx.autocast is not None):
            if ctx.needs_input_grad[0]:
                narrow = ctx.autocast if ctx.autocast and spread.dtype is torch.float32 else spread.dtype
                by_data = (rows @ ctx.weights.gather(spread, narrow)).to(data.dtype).view(data.shape)
            if ctx.needs_input_grad[1]:
                product = (rows.T @ data.reshape(-1, data.shape[-1])).to(spread.dtype)
                number = ctx.weights.number(spread)
                by_weight = AddUp.apply(product, spread.detach(), number)  # type: ignore[no-untyped-call]
            if ctx.needs_input_grad[2]:
                by_bias = rows.sum(0)
        return by_data, by_weight, by_bias, None


class Gathered(nn.Module):
    """A parametrisation: the module's tensor is the whole one, its parameter this rank's rows."""

    def __init__(self, weights: "GatheredWeights") -> None:
        super().__init__()
        self.weights = weights
        setattr(self, NAMES_BEFORE, weights.names)

    def forward(self, spread: Tensor) -> Tensor:
        """The whole tensor."""
        return self.weights.gather(spread)


class GatheredWeights:
    """Which memory holds gathered weights: a graph keeps where they come from in their place."""

    def __init__(self, model: nn.Module) -> None:
        self.names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        """Of the parameters, as long as they are not gathered."""
        self._numbers = {id(parameter): number for number, parameter in enumerate(model.parameters(), 1)}
        self._known: dict[StorageWeakRef, tuple[int, Tensor, int]] = {}

    def gather(self, spread: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """All rows of a parameter, with their graph, in a precision or their own; what is whole already stays."""
        if not is_sharded(spread):
            return spread
        number = self.number(spread)
        found: Tensor = Gather.apply(spread, number)  # type: ignore[no-untyped-call]
        self._know(found, spread, number)
        if dtype not in (None, found.dtype):
            found = found.to(dtype)
            self._know(found, spread, number)
        return found

    def number(self, spread: Tensor) -> int:
        """Which of the model's parameters it is."""
        return self._numbers[id(spread)]

    def _know(self, found: Tensor, spread: Tensor, number: int) -> None:
        """Remembers the memory of a gathered tensor as long as it lasts."""
        self._known = {memory: known for memory, known in self._known.items() if not memory.expired()}  # type: ignore[no-untyped-call]
        memory = StorageWeakRef(found.untyped_storage())  # type: ignore[no-untyped-call]
        self._known[memory] = found._version, spread, number

    def _gathered(self, tensor: Tensor) -> tuple[Tensor, int] | None:
        """The parameter that was gathered to the memory of a tensor, and its number; none once it was written into."""
        if is_sharded(tensor) or tensor.layout is not torch.strided:
            return None
        known = self._known.get(StorageWeakRef(tensor.untyped_storage()))  # type: ignore[no-untyped-call]
        return None if known is None or known[0] != tensor._version else known[1:]

    def linear(self, data: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
        """`functional.linear` where the weight was gathered as a whole; None for any other."""
        known = self._gathered(weight)
        if known is None or not weight.is_contiguous() or weight.shape != known[0].shape:
            return None
        if known[0].requires_grad and not weight.requires_grad:  # detached
            return None
        found: Tensor = Linear.apply(data, known[0], bias, (self, weight.detach()))  # type: ignore[no-untyped-call]
        return found

    @contextmanager
    def left_out_of_graphs(self) -> Iterator[None]:
        """Within it graphs hold no gathered weights: these are gathered again when a backward pass needs them."""

        def linear(data: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            found = self.linear(data, weight, bias) if torch.is_grad_enabled() else None
            return functional.linear(data, weight, bias) if found is None else found

        def pack(tensor: Tensor) -> Any:
            known = self._gathered(tensor)
            if known is None:
                return tensor
            return (*known, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset())

        def unpack(packed: Any) -> Tensor:
            if isinstance(packed, Tensor):
                return packed
            spread, number, dtype, shape, stride, offset = packed
            found = whole(spread.detach(), number).to(dtype)
            self._know(found, spread, number)
            return found.as_strided(shape, stride, offset)

        with saved_tensors_hooks(pack, unpack), ReplacedCalls({functional.linear: linear}, recomputed=True):
            yield


def whole_numbers() -> AbstractContextManager[object]:
    """Within it a number that is read from a spread tensor is that of the whole tensor."""

    def of_whole(read: Callable[..., Any]) -> Callable[..., Any]:
        return lambda tensor, *more, **named: read(whole(tensor.detach()), *more, **named)

    readers = (
        Tensor.item,
        Tensor.tolist,
        Tensor.numpy,
        Tensor.__float__,
        Tensor.__int__,
        Tensor.__bool__,
        Tensor.__index__,
    )
    return ReplacedCalls({read: of_whole(read) for read in readers}, recomputed=True)


def gather_in_forward(model: nn.Module) -> GatheredWeights:
    """Lets every parameter of the model, each spread over ranks, be seen whole by the modules that use it."""
    weights = GatheredWeights(model)
    for module in list(model.modules()):
        if isinstance(module, parametrize.ParametrizationList):  # the user's: it is given whole tensors
            module[0].forward = _given_whole(module[0].forward, weights)
        else:
            for name in list(module._parameters):
                if module._parameters[name] is not None:
                    parametrize.register_parametrization(module, name, Gathered(weights), unsafe=True)
    return weights


def _given_whole(forward: Callable[..., Tensor], weights: GatheredWeights) -> Callable[..., Tensor]:
    return lambda *spread: forward(*map(weights.gather, spread))
