"""What cannot be measured, refused by name before anything is computed."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn

from fromage_cli.errors import InputError

_ADAPTERS = ("lora_", "ia3_", "vera_", "adapter_", "prompt_encoder")
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
    quantised += [name for name, value in model.named_parameters() if _is_quantised(value)]
    if quantised:
        raise InputError(
            f"The model holds {len(quantised)} quantised tensors or modules, first {_some(quantised)}: they have no "
            "gradient to measure.",
            "Measure the checkpoint that they were made from, or dequantise the model in the factory.",
            quantised,
        )
    complex_ = [name for name, value in model.named_parameters() if value.is_complex()]
    if complex_:
        raise InputError(
            f"The model holds {len(complex_)} complex tensors, first {_some(complex_)}: relative steps are measured of "
            "real ones only.",
            "Store them as real and imaginary parts (torch.view_as_real) in the factory.",
            complex_,
        )
    adapters = [name for name, _ in model.named_parameters() if _is_adapter(name)]
    if adapters:
        raise InputError(
            f"The model holds {len(adapters)} adapter tensors, first {_some(adapters)}: adapters are not supported.",
            "Merge them into the weights in the factory (merge_and_unload() in peft), then measure.",
            adapters,
        )
    _refuse_shared_memory(model)


def _is_quantised(value: Tensor) -> bool:
    """Whole numbers, floating ones of a byte, and tensor classes that stand for either."""
    narrow = value.itemsize == 1 if value.is_floating_point() else not value.is_complex()
    return narrow or any(type(held).__module__.startswith(_QUANTISED) for held in (value, value.data))


def _refuse_shared_memory(model: nn.Module) -> None:
    """Different parameters on the same memory would be moved once each, and a step would not be the one that is meant.

    One parameter under several names is an ordinary tie.
    """
    for first, second in _overlaps(model):
        if first == second:
            raise InputError(
                f"The elements of the trainable tensor {first!r} share memory with each other: it was expanded.",
                "Make the small tensor the parameter in the factory, and expand it in forward().",
            )
        raise InputError(
            f"The trainable tensors {first!r} and {second!r} are two parameters that share memory: a step would move "
            "it twice.",
            f"Tie them as one parameter in the factory ({second} = {first}), or give each its own memory with clone().",
        )


def _overlaps(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Pairs of trainable tensors with common elements in memory; a tensor with itself where it repeats elements."""
    by_storage: dict[int, list[tuple[str, Tensor]]] = {}
    for name, value in model.named_parameters():
        if value.requires_grad and not value.is_meta and not nn.parameter.is_lazy(value) and value.numel() > 0:
            by_storage.setdefault(value.untyped_storage().data_ptr(), []).append((name, value.detach()))
    for tensors in by_storage.values():
        if not _plainly_apart([value for _, value in tensors]):
            yield from _common_elements(tensors)


def _plainly_apart(tensors: list[Tensor]) -> bool:
    """Whether they are contiguous stretches, one behind the other, as flattened recurrent weights are."""
    spans = sorted((t.storage_offset() * t.itemsize, t.numel() * t.itemsize, t.is_contiguous()) for t in tensors)
    follow = all(start + size <= later for (start, size, _), (later, _, _) in pairwise(spans))
    return follow and all(contiguous for _, _, contiguous in spans)


def _common_elements(tensors: list[tuple[str, Tensor]]) -> Iterator[tuple[str, str]]:
    """The pairs among tensors of one storage, element by element."""
    elements = tensors[0][1].untyped_storage().nbytes() // tensors[0][1].itemsize
    owners = torch.full((elements,), -1)
    for number, (name, tensor) in enumerate(tensors):
        places = torch.arange(elements).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).flatten()
        found = owners[places].max().item()
        if found >= 0:
            yield tensors[int(found)][0], name
        if bool((places.sort().values.diff() == 0).any()):
            yield name, name
        owners[places] = number


def _is_adapter(name: str) -> bool:
    return any(part.lower().startswith(_ADAPTERS) for part in name.split("."))


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:3])
