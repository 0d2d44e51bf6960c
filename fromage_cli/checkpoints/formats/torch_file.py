"""A PyTorch file: what its pickle describes, by a reader that runs nothing; each tensor is read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Contents, Span, TensorEntry
from fromage_cli.checkpoints.formats.torch_archive import TorchArchive
from fromage_cli.checkpoints.formats.torch_legacy import LegacyFile
from fromage_cli.checkpoints.formats.torch_package import TorchPackage
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.names.steps import step_in_metadata
from fromage_cli.checkpoints.nested.candidates import Candidate
from fromage_cli.checkpoints.nested.choosing import ANY, Choice, ancestors, choose
from fromage_cli.checkpoints.optimizers.saved_optimizer import optimizer_state
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.pickled_names import dangerous, refused, said
from fromage_cli.checkpoints.pickles.unpickling import PickledName
from fromage_cli.checkpoints.pickles.whole_modules import opened_up
from fromage_cli.checkpoints.storage.files import FileVersion, quoted
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor
from fromage_cli.errors import FromageError, InputError

if TYPE_CHECKING:
    import torch

PART = (1_000_000, 0.1)
"""Bytes and seconds that are granted to a part of a file whatever its length: there may be many."""
BASE_SHARED, SHARED = 64_000_000, 16
"""Bytes that all tensors may have: BASE_SHARED, or SHARED times the file where that is more; views share memory."""


@dataclass(frozen=True)
class Loaded:
    """Everything in a file."""

    root: object
    """Containers, plain values, and tensors as places in the file."""
    names: tuple[PickledName, ...]
    """The classes and functions that its pickle names."""
    notes: tuple[str, ...]
    spans: Callable[[Mapping[str, StoredTensor]], Mapping[str, Span]] = lambda tensors: {}
    """Where the elements of tensors lie in the file as they are."""


def read_torch(path: Path, kind: str, choice: Choice = ANY, allowance: Allowance | None = None) -> Contents:
    """Read the structure of a file (`kind` "torch" or "torch-legacy") and choose the dictionary that is the weights.

    Raises UnsafeError where it holds no weights and would run code, InputError for all else that cannot be read.
    """
    version = FileVersion.of(path)
    loaded = load(Source.of_file(path), kind, allowance)
    try:
        chosen, note = choose(loaded.root, choice)
    except InputError as error:
        if dangerous(loaded.names):
            raise refused(path, loaded.names) from error
        raise _told(path, error) from None
    except FromageError as error:
        raise _told(path, error) from None
    _refuse_much(version, chosen.tensors)
    around = list(ancestors(loaded.root, chosen.path))
    steps = (step_in_metadata(_whole_numbers(mapping)) for mapping in around)
    return Contents(
        format=kind,
        entries={name: TensorEntry(name, _dtype(tensor), tensor.shape) for name, tensor in chosen.tensors.items()},
        read=lambda name: _read(chosen.tensors[name], name, version),
        metadata=_scalars(around[0]) if around else {},
        step=next((step for step in steps if step is not None), None),
        key=".".join(chosen.path) or None,
        notes=tuple(text for text in (note, _left_out(chosen), *loaded.notes) if text),
        tied=_tied(chosen.tensors),
        read_optimizer=lambda: optimizer_state(around),
        spans=loaded.spans(chosen.tensors),
        names=loaded.names,
    )


def load_file(path: Path, kind: str, allowance: Allowance | None = None) -> object:
    """Everything in a file (`kind` "torch" or "torch-legacy"), as containers, plain values and unread tensors."""
    return load(Source.of_file(path), kind, allowance).root


def load_part(path: Path, begin: int, size: int) -> object:
    """Everything that torch.save wrote into some bytes of a file, likewise."""
    source = Source.of_part(path, begin, size)
    with source.open() as file:
        kind = "torch" if file.read(2) == b"PK" else "torch-legacy"
    return load(source, kind, Allowance(size, *PART)).root


def load(source: Source, kind: str, allowance: Allowance | None = None) -> Loaded:
    """Everything in a file in the ZIP format or older ("torch-legacy"), a pickle of another origin too."""
    if kind == "torch-legacy":
        unpickled = LegacyFile(source, allowance).load()
        return Loaded(opened_up(unpickled.value), unpickled.names, said(unpickled.names))
    if kind == "torch-package":
        held, names = TorchPackage(source).load()
        return Loaded(opened_up(held), names, said(names))
    archive = TorchArchive(source)
    unpickled = archive.load(allowance)
    unchecked = () if archive.container.has_checksums else (f"{quoted(source.path)} was saved without checksums.",)
    return Loaded(opened_up(unpickled.value), unpickled.names, (*said(unpickled.names), *unchecked), archive.spans)


def _told(path: Path, error: FromageError) -> FromageError:
    return type(error)(f"{quoted(path)}: {error.message}", error.hint, error.details)


def _read(tensor: StoredTensor, name: str, version: FileVersion) -> torch.Tensor:
    """Return a tensor with memory of its own; one whose elements are not stored one by one raises InputError."""
    if tensor.peculiarity:
        raise InputError(
            f"Tensor {name!r} in {quoted(version.path)} is {tensor.peculiarity}; dense tensors are expected.",
            hint="Convert it where the checkpoint was made, then save again.",
        )
    version.check_unchanged()
    return tensor.read()


def _dtype(tensor: StoredTensor) -> str:
    """The dtype; of a tensor that cannot be read, what it is instead of plain numbers."""
    return f"{tensor.peculiarity} {tensor.dtype}" if tensor.peculiarity else tensor.dtype


def _refuse_much(version: FileVersion, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise InputError where views of the same bytes, all together, are very much more than the file."""
    total = sum({tensor.place: tensor.numel() * tensor.width for tensor in tensors.values()}.values())
    if total > max(BASE_SHARED, SHARED * version.size):
        raise InputError(
            f"{quoted(version.path)} describes tensors of {total} bytes and has {version.size}: they share memory.",
            hint="Save them as they are in use, each once, or expanded ones before they are expanded.",
        )


def _tied(tensors: Mapping[str, StoredTensor]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of names whose tensors are one and the same memory."""
    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(tensor.place, []).append(name)
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)


def _left_out(chosen: Candidate) -> str:
    names = chosen.left_out
    return f"Left out {len(names)} entries that are not plain tensors: {listed(names)}." if names else ""


def _scalars(mapping: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in mapping.items() if isinstance(value, str | int | float)}


def _whole_numbers(mapping: Mapping[str, object]) -> dict[str, object]:
    """Return the integers in a dictionary, those saved as tensors too."""
    return {name: number for name, value in mapping.items() if (number := _whole_number(value)) is not None}


def _whole_number(value: Any) -> int | None:
    if isinstance(value, StoredTensor) and value.dtype == "int64" and not value.shape and not value.peculiarity:
        return int(value.item())
    return value if type(value) is int else None
