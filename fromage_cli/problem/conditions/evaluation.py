"""What makes two evaluations of one loss comparable: the same modes, the same random draws, the same buffers."""

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from fromage_cli.problem.user_code.generators import Generators, seed_all, seed_torch

Mode = Literal["auto", "train", "eval"]

_NORMS = [name for name in vars(nn) if isinstance(vars(nn)[name], type) and issubclass(vars(nn)[name], _NormBase)]


def batch_statistics_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that normalise by the statistics of the batch while they train."""
    return [module for module in model.modules() if isinstance(module, _NormBase) or _scripted_from(module) in _NORMS]


def _scripted_from(module: nn.Module) -> str | None:
    """The class that a scripted module was; None for any other module."""
    return getattr(module, "original_name", None) if isinstance(module, torch.jit.ScriptModule) else None


@contextmanager
def comparable(model: nn.Module, mode: Mode, seed: int, *, generators_kept: bool = False) -> Iterator[None]:
    """One evaluation under the same conditions as every other, leaving modes, buffers and generators as found.

    `auto`: evaluation behaviour, except that normalisation by batch statistics behaves as in training;
    `train`: training behaviour, every module drawing its random numbers from a seed of its own, so that a
    dropout layer that draws nothing does not shift the masks of the later ones.
    `generators_kept`: a surrounding `steady` puts the generators back.
    """
    parts = _parts(model)
    kept, generators = _copied_buffers(parts), None if generators_kept else Generators()
    before = _enter_mode(model, parts, mode)
    try:
        seed_all(seed)
        if mode == "train":
            with _seeded_modules(model):
                yield
        else:
            yield
    finally:
        if generators is not None:
            generators.restore()
        if kept:
            _put_back(kept)
        _leave_mode(parts, before)


@contextmanager
def steady(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Modes set once for many evaluations, and generators put back once after them."""
    parts = _parts(model)
    generators, before = Generators(), _enter_mode(model, parts, mode)
    try:
        yield
    finally:
        generators.restore()
        _leave_mode(parts, before)


@dataclass(frozen=True)
class _Parts:
    """What every evaluation of a model looks at; its structure does not change between two of them."""

    modules: list[nn.Module]
    by_batch: list[nn.Module]
    recurrent: list[nn.RNNBase]
    settled: dict[Mode, "_Switches"] = field(default_factory=dict)
    """What the switches are in each mode, once it was set."""

    @property
    def switches(self) -> "_Switches":
        """What distinguishes one mode from another: training flags, and the dropout of recurrent modules."""
        return [module.training for module in self.modules], [module.dropout for module in self.recurrent]


_Switches = tuple[list[bool], list[float]]


@lru_cache(maxsize=1)
def _parts(model: nn.Module) -> _Parts:
    """The parts of the model that was evaluated last; only that one is remembered."""
    modules = list(model.modules())
    return _Parts(
        modules,
        batch_statistics_modules(model),
        [module for module in modules if isinstance(module, nn.RNNBase)],
    )


def _enter_mode(model: nn.Module, parts: _Parts, mode: Mode) -> _Switches:
    """Sets the mode and returns how the switches were; where it is set already, nothing is written."""
    before = parts.switches
    if parts.settled.get(mode) != before:
        _set_mode(model, parts, mode)
        parts.settled[mode] = parts.switches
    return before


def _leave_mode(parts: _Parts, before: _Switches) -> None:
    if parts.switches != before:
        for module, training in zip(parts.modules, before[0], strict=True):
            module.training = training
        for recurrence, dropout in zip(parts.recurrent, before[1], strict=True):
            recurrence.dropout = dropout


def _set_mode(model: nn.Module, parts: _Parts, mode: Mode) -> None:
    model.train(mode == "train")
    if mode == "auto":
        for module in parts.by_batch:
            module.train()
        for recurrence in parts.recurrent:  # the fused kernels have no backward pass in evaluation behaviour
            recurrence.train()
            recurrence.dropout = 0.0


_KeptBuffer = tuple[nn.Module, str, Tensor, int, Tensor]
"""A buffer's module and name, the buffer, its version, and a copy of what it held."""


def _copied_buffers(parts: _Parts) -> list[_KeptBuffer]:
    return [
        (module, name, buffer, buffer._version, buffer.clone())
        for module in parts.modules  # all of them: a forward pass may register one
        if module._buffers or isinstance(module, torch.jit.ScriptModule)
        for name, buffer in _own_buffers(module).items()
    ]


@torch.no_grad()
def _put_back(kept: list[_KeptBuffer]) -> None:
    """Puts every buffer back that was written or replaced.

    Batch normalisation writes its statistics without counting a version, so floating buffers are always put back.
    """
    for module, name, buffer, version, copy in kept:
        if buffer.is_floating_point() or buffer._version != version:
            buffer.copy_(copy)
        if _own_buffers(module).get(name) is not buffer:
            setattr(module, name, buffer)


def _own_buffers(module: nn.Module) -> dict[str, Tensor]:
    """The buffers of the module itself, by name; a scripted module shows them in no other way."""
    if isinstance(module, torch.jit.ScriptModule):
        return dict(module.named_buffers(recurse=False, remove_duplicate=False))
    return {name: buffer for name, buffer in module._buffers.items() if buffer is not None}


@contextmanager
def _seeded_modules(model: nn.Module) -> Iterator[None]:
    """Reseeds on entering and on leaving every module, from the seed before and the module's name.

    The seeds depend on which modules were run and not on how much they drew. A block that is recomputed during the
    backward pass starts from the seed it had, which is part of the generator's state, and so draws the same again.
    Scripted modules take no hooks: they draw from the seed that the whole evaluation starts with.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue
            stack.callback(module.register_forward_pre_hook(_reseeder(f"into {name}")).remove)
            stack.callback(module.register_forward_hook(_reseeder(f"out of {name}")).remove)
        yield


def _reseeder(place: str) -> Callable[..., None]:
    def reseed(*_: Any) -> None:
        seed_torch(zlib.crc32(f"{torch.default_generator.initial_seed()} {place}".encode()))

    return reseed


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Kernels that have a second derivative: attention by matrix products, recurrences unfused, nothing compiled.

    The libraries whose recurrences have none are left on for other models: convolutions are several times slower
    without them.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes a second and 70 MB
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if _is_recurrent(model):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
        yield


def _is_recurrent(model: nn.Module) -> bool:
    return any(isinstance(m, nn.RNNBase) or _scripted_from(m) in {"RNN", "LSTM", "GRU"} for m in model.modules())
