"""What makes two evaluations of one loss comparable: the same modes, the same random draws, the same buffers."""

import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

Mode = Literal["auto", "train", "eval"]


def batch_statistics_modules(model: nn.Module) -> list[nn.Module]:
    """The modules that normalise by the statistics of the batch while they train."""
    return [module for module in model.modules() if isinstance(module, _NormBase)]


@contextmanager
def comparable(model: nn.Module, mode: Mode, seed: int) -> Iterator[None]:
    """One evaluation under the same conditions as every other, leaving modes, buffers and generators as found.

    `auto`: evaluation behaviour, except that normalisation by batch statistics behaves as in training;
    `train`: training behaviour, every module drawing its random numbers from a seed of its own, so that a
    dropout layer that draws nothing does not shift the masks of the later ones.
    """
    with ExitStack() as stack:
        stack.enter_context(_behaviour(model, mode))
        stack.enter_context(_buffers_restored(model))
        stack.enter_context(torch.random.fork_rng(devices=_accelerators(model)))
        torch.manual_seed(seed)
        if mode == "train":
            stack.enter_context(_seeded_modules(model, seed))
        yield


@contextmanager
def _behaviour(model: nn.Module, mode: Mode) -> Iterator[None]:
    modules = list(model.modules())
    before = [module.training for module in modules]
    recurrent = [(module, module.dropout) for module in modules if isinstance(module, nn.RNNBase)]
    try:
        model.train(mode == "train")
        if mode == "auto":
            for module in batch_statistics_modules(model):
                module.train()
            for module, _ in recurrent:  # the fused kernels have no backward pass in evaluation behaviour
                module.train()
                module.dropout = 0.0
        yield
    finally:
        for module, training in zip(modules, before, strict=True):
            module.training = training
        for module, dropout in recurrent:
            module.dropout = dropout


@contextmanager
def _buffers_restored(model: nn.Module) -> Iterator[None]:
    """Puts every buffer back that was written or replaced.

    Batch normalisation writes its statistics without counting a version, so floating buffers are always put back.
    """
    kept = [
        (module, name, buffer, buffer._version, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, version, copy in kept:
                if buffer.is_floating_point() or buffer._version != version:
                    buffer.copy_(copy)
                if module._buffers.get(name) is not buffer:
                    module._buffers[name] = buffer


@contextmanager
def _seeded_modules(model: nn.Module, seed: int) -> Iterator[None]:
    """Reseeds on entering and on leaving every module, from its name and how often it was called."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            reseed = _reseeder(name, seed)
            stack.callback(module.register_forward_pre_hook(reseed).remove)
            stack.callback(module.register_forward_hook(reseed).remove)
        yield


def _reseeder(name: str, seed: int) -> Callable[..., None]:
    calls = 0

    def reseed(*_: Any) -> None:
        nonlocal calls
        calls += 1
        torch.manual_seed(zlib.crc32(f"{seed}/{name}/{calls}".encode()))

    return reseed


def _accelerators(model: nn.Module) -> list[int]:
    return sorted({parameter.device.index or 0 for parameter in model.parameters() if parameter.is_cuda})


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Kernels that have a second derivative: attention by matrix products, recurrences unfused."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.cudnn.flags(enabled=False),
        torch.backends.mkldnn.flags(enabled=False),
    ):
        yield
