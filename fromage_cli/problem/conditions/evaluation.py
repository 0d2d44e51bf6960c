"""What makes two evaluations of one loss comparable: the same modes, the same random draws, the same state."""

import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any, Literal, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrize import ParametrizationList

from fromage_cli.errors import MismatchError
from fromage_cli.problem.conditions.kept_state import KeptState, may_hold_state
from fromage_cli.problem.user_code.generators import (
    OWN_GENERATORS,
    Draws,
    Generators,
    seed_all,
    seed_own,
    seed_torch,
)
from fromage_cli.shards import NAMES_BEFORE

Mode = Literal["auto", "train", "eval"]
Found = TypeVar("Found")

_BATCH_NORMS = [name for name, value in vars(nn).items() if isinstance(value, type) and issubclass(value, _NormBase)]


def scripted_from(module: nn.Module) -> str | None:
    """The class that a scripted module was; None for any other module."""
    return getattr(module, "original_name", None) if isinstance(module, torch.jit.ScriptModule) else None


class Conditions:
    """The conditions under which one model is evaluated; its structure does not change between two evaluations."""

    def __init__(self, model: nn.Module, loss: object = None) -> None:
        self.model = model
        self.modules = list(model.modules())
        stateful = [module for module in self.modules if may_hold_state(module)]
        self.stateful = [*stateful, loss, *_generators_beside(loss, *stateful)]
        """What may hold something from one call to the next; `loss` is the user's function."""
        self.batch_norms = [m for m in self.modules if isinstance(m, _NormBase) or scripted_from(m) in _BATCH_NORMS]
        """The modules that normalise by the statistics of the batch while they train."""
        self.recurrent = [module for module in self.modules if isinstance(module, nn.RNNBase)]
        self.drew: bool | None = None
        """Whether the first evaluation drew random numbers; None before there was one."""
        self.drew_elsewhere = False
        """Whether it drew from other generators than torch's, whose numbers are not seen."""
        self.differentiates = False
        """Whether an evaluation takes derivatives of its own, such as by the input, and so needs a graph."""
        self._settled: dict[Mode, tuple[list[bool], list[float]]] = {}
        """What the switches are in each mode, once it was set."""

    @contextmanager
    def comparable(self, mode: Mode, seed: int, *, generators_kept: bool = False) -> Iterator[None]:
        """One evaluation under the same conditions as every other, leaving modes, state and generators as found.

        `auto`: evaluation behaviour, except that normalisation by batch statistics behaves as in training;
        `train`: training behaviour, every module drawing its random numbers from a seed of its own. So a dropout layer
        that draws nothing does not shift the masks of the later ones.
        `generators_kept`: a surrounding `steady` puts the generators back. What is compiled runs as it was written: to
        compile it for every kind of pass takes many times longer than the passes, and hooks would go unseen.
        """
        generators, state = None if generators_kept else Generators(), KeptState(self.stateful)
        try:
            with self._switched(mode), nullcontext() if generators_kept else _uncompiled():
                seed_all(seed)
                for generator in state.generators:
                    seed_own(generator, seed)
                draws = Draws(state.generators) if self.drew is None else None
                with _seeded_modules(self.model, draws) if mode == "train" else nullcontext():
                    yield
                    if draws is not None:
                        self.drew, self.drew_elsewhere = draws.look(), draws.look_elsewhere()
        finally:
            state.put_back()
            if generators is not None:
                generators.restore()

    @contextmanager
    def steady(self, mode: Mode) -> Iterator[None]:
        """Modes set once for many evaluations, and generators put back once after them."""
        generators = Generators()
        try:
            with self._switched(mode), _uncompiled():
                yield
        finally:
            generators.restore()

    def without_graph(self, evaluate: Callable[[], Found]) -> Found:
        """What an evaluation gives, without the memory of a graph; with it from where on one has failed without."""
        if not self.differentiates:
            with suppress(MismatchError), torch.no_grad():
                return evaluate()
        with torch.enable_grad():
            found = evaluate()
        self.differentiates = True
        return found

    @contextmanager
    def _switched(self, mode: Mode) -> Iterator[None]:
        """The model in a mode, and then as it was; where the mode is set already, nothing is written."""
        before = self._switches()
        if self._settled.get(mode) != before:
            self.model.train(mode == "train")
            if mode == "auto":
                for module in self.batch_norms:
                    module.train()
                for recurrence in self.recurrent:  # the fused kernels have no backward pass in evaluation behaviour
                    recurrence.train()
                    recurrence.dropout = 0.0
            self._settled[mode] = self._switches()
        try:
            yield
        finally:
            if self._switches() != before:
                for module, training in zip(self.modules, before[0], strict=True):
                    module.training = training
                for recurrence, dropout in zip(self.recurrent, before[1], strict=True):
                    recurrence.dropout = dropout

    def _switches(self) -> tuple[list[bool], list[float]]:
        """What distinguishes one mode from another: training flags, and the dropout of recurrent modules."""
        return [module.training for module in self.modules], [module.dropout for module in self.recurrent]


def _uncompiled() -> AbstractContextManager[Any]:
    """Nothing is compiled within it; where nothing was, importing the compiler would take a second and 70 MB."""
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _generators_beside(*users: object) -> list[object]:
    """The random generators in the files and classes of a user's modules and loss."""
    sources = {getattr(user, "__module__", "") for user in users}
    holders: list[Mapping[str, object]] = [vars(sys.modules[name]) for name in sources if name in sys.modules]
    holders += [vars(kind) for kind in {type(user) for user in users}]
    return [value for holder in holders for value in holder.values() if isinstance(value, OWN_GENERATORS)]


@contextmanager
def _seeded_modules(model: nn.Module, draws: Draws | None) -> Iterator[None]:
    """Reseeds on entering and on leaving every module, from the seed before and the module's name.

    The seeds depend on which modules were run and not on how much they drew. A block that is recomputed during the
    backward pass starts from the seed it had, which is part of the generator's state, and so draws the same again.
    Scripted modules take no hooks: they draw from the seed that the whole evaluation starts with. `draws` looks before.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule) or _gathers_weights(module):
                continue
            stack.callback(module.register_forward_pre_hook(_reseeder(f"into {name}", draws)).remove)
            stack.callback(module.register_forward_hook(_reseeder(f"out of {name}", draws)).remove)
        yield


def _gathers_weights(module: nn.Module) -> bool:
    """Whether sharding has put it there, so that the network draws the same without."""
    first = module[0] if isinstance(module, ParametrizationList) else module
    return hasattr(first, NAMES_BEFORE)


def _reseeder(place: str, draws: Draws | None) -> Callable[..., None]:
    def reseed(*_: Any) -> None:
        if draws is not None:
            draws.look()
        seed_torch(zlib.crc32(f"{torch.default_generator.initial_seed()} {place}".encode()))

    return reseed
