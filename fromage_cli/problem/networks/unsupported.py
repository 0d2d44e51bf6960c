"""What cannot be measured, refused by name before anything is computed."""

import re
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.counting import counted
from fromage_cli.errors import InputError

_ADAPTERS = re.compile(r"(^|\.)(lora_|ia3_|vera_|adapter_|prompt_encoder)", re.IGNORECASE)
"""Beginnings of the names that adapter libraries give to their tensors."""
_QUANTISED = (
    "torch.ao.nn",
    "torch.nn.quantized",
    "torchao",
    "bitsandbytes",
    "auto_gptq",
    "gptqmodel",
    "awq",
    "hqq",
    "quanto",
    "optimum.quanto",
    "compressed_tensors",
    "transformer_engine.pytorch.tensor",
)
"""Packages whose modules or tensors hold quantised weights."""


def refuse_unsupported(model: nn.Module) -> None:
    """Raises InputError for quantised, complex and overlapping weights and for adapters, naming the first ones."""
    quantised = [name for name, module in model.named_modules() if type(module).__module__.startswith(_QUANTISED)]
    for name, value in model.named_parameters():  # whole numbers, floating ones of a byte, and classes for either
        narrow = value.itemsize == 1 if value.is_floating_point() else not value.is_complex()
        if narrow or any(type(held).__module__.startswith(_QUANTISED) for held in (value, value.data)):
            quantised.append(name)
    if quantised:
        raise InputError(
            f"The model holds {counted(len(quantised), 'quantised part')} ({listed(quantised)}), without "
            "a gradient to measure.",
            "Measure the checkpoint that they were made from, or dequantise the model in the factory.",
            quantised,
        )
    complex_ = [name for name, value in model.named_parameters() if value.is_complex()]
    if complex_:
        raise InputError(
            f"The model holds {counted(len(complex_), 'complex tensor')} ({listed(complex_)}). Only real "
            "tensors are supported.",
            "In the factory store them as real and imaginary parts (torch.view_as_real).",
            complex_,
        )
    adapters = [name for name, _ in model.named_parameters() if _ADAPTERS.search(name)]
    if adapters:
        raise InputError(
            f"The model holds {counted(len(adapters), 'adapter tensor')} ({listed(adapters)}). Adapters "
            "are not supported.",
            "Merge them into the weights in the factory (merge_and_unload() in peft).",
            adapters,
        )
    for first, second in _overlaps(model):
        if first == second:
            raise InputError(
                f"The elements of the trainable tensor {first!r} share memory with each other: it was expanded.",
                "Make the small tensor the parameter, and expand it in forward().",
            )
        raise InputError(
            f"The trainable tensors {first!r} and {second!r} are two parameters in the same memory. A "
            "step would move them twice.",
            f"In the factory make them one parameter ({second} = {first}), or copy one with clone().",
        )


def _overlaps(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of trainable tensors with common elements in memory; a tensor with itself where it repeats elements.

    One parameter under several names is an ordinary tie; two would be moved once each.
    """
    by_storage: dict[int, list[tuple[str, Tensor]]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad and not value.is_meta and not nn.parameter.is_lazy(value) and value.numel() > 0:
            by_storage.setdefault(value.untyped_storage().data_ptr(), []).append((name, value.detach()))
    for tensors in by_storage.values():
        spans = sorted((t.storage_offset() * t.itemsize, t.numel() * t.itemsize, t.is_contiguous()) for _, t in tensors)
        follow = all(start + size <= later for (start, size, _), (later, _, _) in pairwise(spans))
        if follow and all(contiguous for _, _, contiguous in spans):
            continue  # one behind the other, as flattened recurrent weights are
        owners = torch.full((tensors[0][1].untyped_storage().nbytes() // tensors[0][1].itemsize,), -1)
        for number, (name, tensor) in enumerate(tensors):
            elements = torch.arange(len(owners)).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            elements = elements.flatten()
            found = int(owners[elements].max())
            if found >= 0:
                yield tensors[found][0], name
            if bool((elements.sort().values.diff() == 0).any()):
                yield name, name
            owners[elements] = number
