"""Weights stored as small numbers beside their scales: multiplied where one product makes them whole, else named.

W[i, j] = q[i, j] · s[i // b, j // b]. There is one scale for all, for each row, or for each block of b × b; scales are
no layers.
Layouts that pack several numbers into one are not unpacked; what belongs to them is no plain numbers.
Sources: DeepSeek-V3's inference/fp8_cast_bf16.py; compressed-tensors; the files that AutoGPTQ, AutoAWQ, bitsandbytes,
ModelOpt, MLX and others write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from fromage_cli.checkpoints.checkpoint import Contents, TensorEntry
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.storage.peculiarities import remedy
from fromage_cli.checkpoints.storage.stored_tensor import WIDTHS, StoredTensor, WholeTensor
from fromage_cli.counting import counted

if TYPE_CHECKING:
    import torch

SCALES = ("_scale_inv", "_scale")
"""What follows a weight's own name in that of its scale."""
WEIGHT, BITSANDBYTES, LARGEST_INT8 = ".weight", ".SCB", 127
"""bitsandbytes keeps the largest absolute value of each row, which stands for 127."""
ACTIVATIONS = (".input_scale", ".output_scale", ".input_scale_inv", ".activation_scale")
"""Scales of what goes through the layer."""
BLOCKS = (128, 64, 32, 16, 256)
"""Sizes of blocks, the usual first: the last block of an axis may be smaller."""
PACKED = (  # the layout; the ending of its packed numbers; those of what belongs to them, the first always there
    ("GPTQ", ".qweight", (".scales", ".qzeros", ".g_idx")),
    ("MXFP4", "_blocks", ("_scales",)),
    ("bitsandbytes-4bit", ".weight", (".weight.absmax", ".weight.quant_map", ".weight.nested_absmax")),
    ("bitsandbytes-4bit", ".weight", (".weight.nested_absmax", ".weight.nested_quant_map")),
    ("bitsandbytes-4bit", ".weight", (".weight.quant_state.bitsandbytes__nf4",)),
    ("bitsandbytes-4bit", ".weight", (".weight.quant_state.bitsandbytes__fp4",)),
    ("NVFP4", ".weight", (".weight_scale_2", ".weight_scale")),
    ("packed", ".weight", (".weight_scale",)),
    ("compressed-tensors", ".weight_packed", (".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx")),
    ("compressed-tensors", ".weight_packed", (".weight_global_scale", ".input_global_scale")),
    ("MLX", ".weight", (".scales", ".biases")),
    ("AQLM", ".codes", (".codebooks", ".scales")),
    ("HQQ", ".W_q", (".scale", ".zero")),
    ("EXL2", ".q_weight", (".q_scale", ".q_scale_max", ".q_groups", ".q_group_map", ".q_invperm")),
    ("QuIP#", ".Qidxs", (".SU", ".SV", ".Wscale")),
    ("quanto", ".weight._data", (".weight._scale", ".weight._shift")),
)


@dataclass(frozen=True)
class Scaled:
    """A weight that one product makes whole."""

    scale: str
    blocks: tuple[int, ...]
    """Elements along each dimension that share a scale."""
    divisor: int = 1


def with_whole_weights(contents: Contents) -> Contents:
    """Return the same with weights multiplied by their scales, and with what is packed called so in its dtype."""
    stored = contents.entries
    scaled = {name: found for name, entry in stored.items() if (found := _scale_of(name, entry, stored))}
    scales = {found.scale for found in scaled.values()}
    scales |= {f"{name.removesuffix(WEIGHT)}{ending}" for name in scaled for ending in ACTIVATIONS}
    packed: dict[str, str] = {}
    for member, layout in chain.from_iterable(_packed(name, stored) for name in stored if name not in scaled):
        packed.setdefault(member, layout)
    entries = {}
    for name, entry in stored.items():
        if name in scaled:
            entries[name] = replace(entry, dtype="float32")
        elif name not in scales:
            entries[name] = replace(entry, dtype=f"{packed[name]} {entry.dtype}") if name in packed else entry

    def find(name: str) -> StoredTensor:
        if name not in scaled:
            return contents.find(name)
        return WholeTensor("float32", stored[name].shape, make=lambda: _multiplied(contents, name, scaled[name]))

    note = f"Multiplied {counted(len(scaled), 'weight')} of 8 bits by the scales: {listed(list(scaled))}."
    return replace(
        contents,
        entries=entries,
        find=find,
        notes=(*contents.notes, *((note,) if scaled else ()), *_unread(entries)),
        tied=tuple(group for group in contents.tied if all(name in entries for name in group)),
        spans={name: span for name, span in contents.spans.items() if name in entries and name not in scaled},
    )


def _scale_of(name: str, entry: TensorEntry, stored: Mapping[str, TensorEntry]) -> Scaled | None:
    """Return how a weight of 8 bits becomes whole; None where it is none, or where no product does it."""
    if not entry.dtype.startswith(("float8", "int8")) or f"{name}_zero_point" in stored:
        return None
    stem = name.removesuffix(WEIGHT)
    for scale in (*(f"{name}{ending}" for ending in SCALES), f"{stem}.scale", f"{stem}{BITSANDBYTES}"):
        found = stored.get(scale)
        if found is not None and found.floating and scale != name and (blocks := _blocks(entry.shape, found.shape)):
            return Scaled(scale, blocks, LARGEST_INT8 if scale.endswith(BITSANDBYTES) else 1)
    return None


def _blocks(shape: tuple[int, ...], scale: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return how many elements along each dimension share a scale; None where that cannot be told."""
    if len(scale) < 2:  # one for all, or one for each row
        scale = (*(scale or (1,)), *(1,) * (len(shape) - 1))
    if len(scale) != len(shape) or not shape:
        return None
    blocks = []
    for size, count in zip(shape, scale, strict=True):
        fitting = (block for block in BLOCKS if count and -(-size // block) == count)
        whole = {1: size, size: 1}.get(count) or next(fitting, None)
        if whole is None and count and size % count == 0:
            whole = size // count
        if not whole:
            return None
        blocks.append(whole)
    return tuple(blocks)


def _multiplied(contents: Contents, name: str, scaled: Scaled) -> torch.Tensor:
    """Read a weight and its scales, and return their product in float32."""
    weight, scale = contents.read(name).float(), contents.read(scaled.scale).float() / scaled.divisor
    scale = scale.reshape(*scale.shape, *(1,) * (weight.dim() - scale.dim()))
    if all(count in (1, size) for count, size in zip(scale.shape, weight.shape, strict=True)):
        return weight.mul_(scale)
    for place in range(scale.shape[0]):  # little memory at a time
        factors, begin = scale[place : place + 1], place * scaled.blocks[0]
        for axis in range(1, weight.dim()):
            if factors.shape[axis] > 1:
                factors = factors.repeat_interleave(scaled.blocks[axis], axis).narrow(axis, 0, weight.shape[axis])
        weight[begin : begin + scaled.blocks[0]] *= factors
    return weight


def _packed(name: str, stored: Mapping[str, TensorEntry]) -> Iterator[tuple[str, str]]:
    """Yield what belongs to packed numbers, where `name` is them, each with its layout."""
    entry = stored[name]
    if entry.floating and not entry.dtype.startswith("float8"):
        return
    for layout, ending, others in PACKED:
        stem = name.removesuffix(ending)
        if stem == name or f"{stem}{others[0]}" not in stored:
            continue
        by_rows = layout == "GPTQ" and entry.shape[-1:] != stored[f"{stem}{others[0]}"].shape[-1:]
        members = (member for member in (name, *(f"{stem}{other}" for other in others)) if member in stored)
        yield from ((member, "AWQ" if by_rows else layout) for member in members)


def _unread(entries: Mapping[str, TensorEntry]) -> tuple[str, ...]:
    """Return a note on the tensors that are no plain numbers, which no command measures; none where there are none."""
    names = [name for name, entry in entries.items() if entry.dtype not in WIDTHS]
    if not names:
        return ()
    kinds = list(dict.fromkeys(entries[name].dtype for name in names))
    these = "1 tensor that is" if len(names) == 1 else f"{len(names)} tensors that are"
    said = f"Did not read {these} not stored as plain numbers ({', '.join(kinds[:3])}): {listed(names)}."
    return (f"{said} {remedy(kinds)}",)
