"""A PyTorch file, read by PyTorch's restricted loader: tensors and plain containers, never a call into other code.

Files in the ZIP format are mapped into memory, so that only the tensors that are asked for are read; older files are
read as a whole.
"""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.candidates import Candidate
from fromage_cli.checkpoints.checkpoint import Contents, TensorEntry
from fromage_cli.checkpoints.files import FileVersion, opened, quoted
from fromage_cli.checkpoints.naming import listed
from fromage_cli.checkpoints.nested import ANY, Choice, ancestors, choose
from fromage_cli.checkpoints.refusal import explain_failure
from fromage_cli.checkpoints.saved_optimizer import optimizer_state
from fromage_cli.checkpoints.steps import step_in_metadata
from fromage_cli.errors import FromageError, InputError

if TYPE_CHECKING:
    import torch


def read_torch(path: Path, kind: str, choice: Choice = ANY) -> Contents:
    """Read the structure of a file (`kind` "torch" or "torch-legacy") and choose the dictionary that is the weights."""
    version = FileVersion.of(path)
    root = load_file(path, kind)
    try:
        chosen, note = choose(root, choice)
    except FromageError as error:
        raise type(error)(f"{quoted(path)}: {error.message}", error.hint, error.details) from None
    around = list(ancestors(root, chosen.path))
    steps = (step_in_metadata(_whole_numbers(mapping)) for mapping in around)
    return Contents(
        format=kind,
        entries={name: _entry(name, tensor) for name, tensor in chosen.tensors.items() if not tensor.is_nested},
        read=lambda name: _copy(chosen.tensors[name], name, version),
        metadata=_scalars(around[0]) if around else {},
        step=next((step for step in steps if step is not None), None),
        key=".".join(chosen.path) or None,
        notes=tuple(text for text in (note, _left_out(chosen)) if text),
        tied=_tied(chosen.tensors),
        read_optimizer=lambda: optimizer_state(around),
    )


def load_file(path: Path, kind: str) -> object:
    """Everything in a file (`kind` "torch" or "torch-legacy"), as containers, plain values and tensors."""
    return _load(path, mapped=kind == "torch" and _can_be_mapped(path))


def _load(path: Path, mapped: bool) -> object:
    import torch

    try:
        with warnings.catch_warnings(), opened(path) as file:
            warnings.simplefilter("ignore")
            source: Any = os.fspath(path) if mapped else file
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)
    except FromageError:
        raise
    except Exception as error:  # a damaged file makes the loader raise anything
        raise explain_failure(path, error) from error


def _can_be_mapped(path: Path) -> bool:
    """Return whether the tensors' bytes lie in the file as they are, and the loader can be given its name.

    The loader would take a name that ends in ".safetensors" for the content, and cannot map a name that is not Unicode.
    """
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        plain = all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())
    return plain and path.suffix != ".safetensors" and str(path).isprintable()


def _entry(name: str, tensor: torch.Tensor) -> TensorEntry:
    return TensorEntry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def _copy(tensor: torch.Tensor, name: str, version: FileVersion) -> torch.Tensor:
    """Return a tensor with memory of its own; one whose elements are not stored one by one raises InputError."""
    import torch

    kinds = {
        "quantised": tensor.is_quantized,
        "sparse": tensor.layout != torch.strided,
        "without data (on the meta device)": tensor.is_meta,
    }
    for kind, applies in kinds.items():
        if applies:
            raise InputError(
                f"Tensor {name!r} in {quoted(version.path)} is {kind}; dense tensors are expected.",
                hint="Convert it where the checkpoint was made, then save again.",
            )
    version.check_unchanged()  # reading a mapped file that has become shorter would end the process
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _tied(tensors: Mapping[str, torch.Tensor]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of names whose tensors are one and the same memory."""
    import torch

    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        if tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta and tensor.numel():
            place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            groups.setdefault(place, []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _left_out(chosen: Candidate) -> str:
    nested = [name for name, tensor in chosen.tensors.items() if tensor.is_nested]
    names = [*chosen.left_out, *nested]
    return f"Left out {len(names)} entries that are not plain tensors: {listed(names)}." if names else ""


def _scalars(mapping: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in mapping.items() if isinstance(value, str | int | float)}


def _whole_numbers(mapping: Mapping[str, object]) -> dict[str, object]:
    """Return the integers in a dictionary, those saved as tensors too."""
    import torch

    numbers: dict[str, object] = {}
    for name, value in mapping.items():
        if type(value) is int:
            numbers[name] = value
        elif isinstance(value, torch.Tensor) and value.dtype == torch.int64 and value.dim() == 0 and not value.is_meta:
            numbers[name] = int(value)
    return numbers
