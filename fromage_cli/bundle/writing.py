"""Files of a bundle: written one tensor at a time, hashed on the way, and put in place when all are complete."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fromage_cli.checkpoints.formats.bundle import FILES, MANIFEST
from fromage_cli.checkpoints.formats.safetensors_file import DTYPES
from fromage_cli.errors import InputError

PIECE = 1 << 26
"""Bytes that are written at a time."""
_NAMES = {name: short for short, name in DTYPES.items()}


@dataclass(frozen=True)
class Written:
    """A tensor that is to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    get: Callable[[], Tensor]
    """Gives it whole; called on every rank, in the same order."""


def whole(name: str, tensor: Tensor) -> Written:
    """A tensor to be written; one that is spread over ranks is gathered when it is its turn."""
    gather = getattr(tensor, "full_tensor", None)
    return Written(name, tensor.dtype, tuple(tensor.shape), gather or (lambda: tensor))


def write_tensors(path: Path, tensors: Sequence[Written], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file, and give the hash of its bytes; each tensor is read when it is its turn."""
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for one in tensors:
        begin, end = end, end + math.prod(one.shape) * one.dtype.itemsize
        dtype = _NAMES.get(str(one.dtype).removeprefix("torch."))
        if dtype is None:
            raise InputError(f"The tensor {one.name} has the type {one.dtype}, which safetensors does not hold.", "")
        table[one.name] = {"dtype": dtype, "shape": list(one.shape), "data_offsets": [begin, end]}
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in (len(header).to_bytes(8, "little"), header):
            file.write(part)
            digest.update(part)
        for one in tensors:
            found = one.get().detach().to("cpu").contiguous().reshape(-1)
            if found.is_conj() or found.is_neg():
                found = found.resolve_conj().resolve_neg()
            view = memoryview(found.view(torch.uint8).numpy().data) if found.numel() else memoryview(b"")
            for start in range(0, len(view), PIECE):
                file.write(view[start : start + PIECE])
                digest.update(view[start : start + PIECE])
    return digest.hexdigest()


def write_text(path: Path, text: str) -> str:
    """Write a text, and give its hash."""
    data = text.encode()
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new directory beside this one, which takes its place when the block ends without an error.

    Raises InputError where something else than a bundle is there.
    """
    if directory.exists() and not _may_be_replaced(directory):
        raise InputError(
            f"{str(directory)!r} exists and is no bundle, so nothing was written.", "Give the path of a new directory."
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    new = directory.with_name(f".{directory.name}.{os.getpid()}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        old = directory.with_name(f".{directory.name}.{os.getpid()}.old")
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _may_be_replaced(directory: Path) -> bool:
    """Whether a directory is empty, or holds nothing but a bundle."""
    names = {entry.name for entry in directory.iterdir()} if directory.is_dir() else {""}
    return not names or (MANIFEST in names and names <= {MANIFEST, *FILES})
