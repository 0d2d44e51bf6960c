"""Pytrees of tensors in dicts, tuples and lists: a batch, or the arguments and the output of a model."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fromage_cli.errors import InputError


def as_tensors(data: Any) -> Any:
    """The same pytree in plain dicts, with tensors for numpy arrays."""
    if isinstance(data, np.ndarray):
        if data.dtype.kind not in "biufc" or data.dtype.itemsize > (16 if data.dtype.kind == "c" else 8):
            raise InputError(
                f"The batch holds an array of type {data.dtype}; expected numbers.", "Convert it to numbers first."
            )
        native = data.astype(data.dtype.newbyteorder("="))  # a copy: the source may be read-only or mapped
        return torch.from_numpy(native)
    if isinstance(data, Mapping):
        return {key: as_tensors(value) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(as_tensors(value) for value in data))
    if isinstance(data, list | tuple):
        return type(data)(as_tensors(value) for value in data)
    return data


def in_precision(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A floating tensor in that precision, a complex one with parts of it, any other as it is."""
    if tensor.is_complex():
        return tensor.to(dtype.to_complex())
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def map_tensors(data: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of a pytree and keep the rest as it is."""
    if isinstance(data, Tensor):
        return function(data)
    if isinstance(data, Mapping):
        return {key: map_tensors(value, function) for key, value in data.items()}
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(map_tensors(value, function) for value in data))
    if isinstance(data, list | tuple):
        return type(data)(map_tensors(value, function) for value in data)
    return data


def named_tensors(data: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a pytree with its path, as `inputs.ids` or `[0]`."""
    if isinstance(data, Tensor):
        yield name or "the tensor", data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from named_tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(data, list | tuple):
        for index, value in enumerate(data):
            yield from named_tensors(value, f"{name}[{index}]")


def checksum(tensors: Iterable[tuple[str, Tensor]]) -> int:
    """Return one number below 2^32 of the names and the bytes of tensors, in whatever order they come."""
    found = 0
    for name, tensor in sorted(tensors, key=itemgetter(0)):  # safetensors gives another order in each process
        stored = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found = zlib.crc32(stored.numpy().data, zlib.crc32(name.encode(), found))
    return found


def describe_shapes(data: Any) -> str:
    """The names, types and shapes of a pytree's first tensors on one line, and how many more there are."""
    tensors, most = list(named_tensors(data)), 6  # which a line of a terminal holds
    described = [
        f"{name if name.isprintable() else repr(name)} {str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
        for name, tensor in tensors[:most]
    ]
    return ", ".join(described) + (f" and {len(tensors) - most} more" if len(tensors) > most else "")
