"""Weights that are put together from all ranks where a network uses them, and let go when it has.

A parameter holds this rank's rows. What the network sees is the whole tensor, gathered anew for each use; gradients of
it are added up over ranks and cut into rows. Both are differentiable without end, each being the other's derivative.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor, Partial
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import parametrize

from fromage_cli.problem.networks.layers import GATHERS
from fromage_cli.shards import is_sharded, together, whole


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
    def forward(ctx: Any, own: Tensor, like: DTensor, number: int) -> Tensor:
        """Adds them up; `like`: spread as the sum is to be."""
        ctx.number = number
        own = own.detach().to_dense() if own.is_sparse else own.detach().contiguous()

        def reduce() -> DTensor:
            parts = DTensor.from_local(own, like.device_mesh, [Partial()], run_check=False)
            return parts.redistribute(like.device_mesh, like.placements)

        return together(-number, reduce)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """All rows of the gradient."""
        return cast(Tensor, Gather.apply(gradients[0], ctx.number)), None, None  # type: ignore[no-untyped-call]


class Gathered(nn.Module):
    """A parametrisation: the module's tensor is the whole one, its parameter this rank's rows."""

    def __init__(self, weights: "GatheredWeights") -> None:
        super().__init__()
        self.weights = weights
        setattr(self, GATHERS, True)

    def forward(self, spread: Tensor) -> Tensor:
        """The whole tensor."""
        return self.weights.gather(spread)


class GatheredBefore(nn.Module):
    """A parametrisation of the user's, which is given whole tensors."""

    def __init__(self, inner: nn.Module, weights: "GatheredWeights") -> None:
        super().__init__()
        self.inner, self.weights = inner, weights

    def forward(self, *spread: Tensor) -> Tensor:
        """What the inner one makes of them."""
        made: Tensor = self.inner(*map(self.weights.gather, spread))
        return made


class GatheredWeights:
    """Which memory holds gathered weights: a graph keeps where they come from in their place."""

    def __init__(self, model: nn.Module) -> None:
        self._numbers = {id(parameter): number for number, parameter in enumerate(model.parameters(), 1)}
        self._known: dict[int, tuple[StorageWeakRef, Tensor, int]] = {}

    def gather(self, spread: Tensor) -> Tensor:
        """All rows of a parameter, with their graph; what is whole already stays."""
        if not is_sharded(spread):
            return spread
        number = self._numbers[id(spread)]
        found: Tensor = Gather.apply(spread, number)  # type: ignore[no-untyped-call]
        self._know(found, spread, number)
        return found

    def _know(self, found: Tensor, spread: Tensor, number: int) -> None:
        """Remembers the memory of a gathered tensor as long as it lasts."""
        storage = found.untyped_storage()
        self._known = {at: known for at, known in self._known.items() if not known[0].expired()}
        self._known[storage.data_ptr()] = StorageWeakRef(storage), spread.detach(), number

    @contextmanager
    def left_out_of_graphs(self) -> Iterator[None]:
        """Within it graphs hold no gathered weights: these are gathered again when a backward pass needs them."""

        def pack(tensor: Tensor) -> Any:
            if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout is not torch.strided:
                return tensor
            known = self._known.get(tensor.untyped_storage().data_ptr())
            if known is None or known[0].expired():
                return tensor
            return (*known[1:], tensor.shape, tensor.stride(), tensor.storage_offset())

        def unpack(packed: Any) -> Tensor:
            if isinstance(packed, Tensor):
                return packed
            spread, number, shape, stride, offset = packed
            found = whole(spread, number)
            self._know(found, spread, number)
            return found.as_strided(shape, stride, offset)

        with saved_tensors_hooks(pack, unpack):
            yield


def gather_in_forward(model: nn.Module) -> GatheredWeights:
    """Lets every parameter of the model, each spread over ranks, be seen whole by the modules that use it."""
    weights = GatheredWeights(model)
    for module in list(model.modules()):
        if isinstance(module, parametrize.ParametrizationList):
            module[0] = GatheredBefore(module[0], weights)
        else:
            for name in list(module._parameters):
                if module._parameters[name] is not None:
                    parametrize.register_parametrization(module, name, Gathered(weights), unsafe=True)
    return weights
