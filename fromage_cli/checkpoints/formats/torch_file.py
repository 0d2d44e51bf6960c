"""A PyTorch file: what its pickle describes, by a reader that runs nothing; each tensor is read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Contents, Span, entries_of
from fromage_cli.checkpoints.formats.sharded import texts_in
from fromage_cli.checkpoints.formats.torch_archive import TorchArchive
from fromage_cli.checkpoints.formats.torch_legacy import LegacyFile
from fromage_cli.checkpoints.formats.torch_package import load_package
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.names.steps import first_step
from fromage_cli.checkpoints.nested.choosing import ANY, Choice, ancestors, choose
from fromage_cli.checkpoints.nested.optimizers import find_optimizer
from fromage_cli.checkpoints.nested.remainder import beside_weights
from fromage_cli.checkpoints.pickles.allowance import Allowance
from fromage_cli.checkpoints.pickles.pickled_names import dangerous, refusal, warnings_about
from fromage_cli.checkpoints.pickles.unpickling import PickledName
from fromage_cli.checkpoints.pickles.whole_modules import without_placeholders
from fromage_cli.checkpoints.storage.files import FileVersion, quoted
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import StoredTensor, stored_number
from fromage_cli.errors import InputError

PART_BYTES, PART_SECONDS = 1_000_000, 0.1
"""Memory and time that are granted to a part of a file whatever its length: there may be thousands."""
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
        chosen, note = choose(path, loaded.root, choice)
    except InputError as error:
        if dangerous(loaded.names):
            raise refusal(path, loaded.names) from error
        raise
    tensors, names = chosen.tensors, chosen.left_out
    left_out = f"Left out {len(names)} entries that are not plain tensors: {listed(names)}." if names else ""
    around = list(ancestors(loaded.root, chosen.path))
    return Contents(
        format=kind,
        entries=entries_of(tensors),
        find=lambda name: _dense(tensors[name], name, version),
        metadata=texts_in(around[0]) if around else {},
        step=first_step(around, stored_number),
        key=".".join(chosen.path) or None,
        notes=tuple(text for text in (note, left_out, *loaded.notes) if text),
        tied=_tied(version, tensors),
        read_optimizer=lambda: find_optimizer(loaded.root, chosen.path, choice.optimizer),
        spans=loaded.spans(tensors),
        names=loaded.names,
        describe_rest=lambda: beside_weights(loaded.root, chosen.path, chosen.left_out),
    )


def load_file(path: Path, kind: str, allowance: Allowance | None = None) -> object:
    """Return everything in a file (`kind` "torch" or "torch-legacy"): containers, plain values and unread tensors."""
    return load(Source.of_file(path), kind, allowance).root


def load_part(path: Path, begin: int, size: int) -> object:
    """Return everything that torch.save wrote into some bytes of a file, likewise."""
    source = Source.of_part(path, begin, size)
    with source.open() as file:
        kind = "torch" if file.read(2) == b"PK" else "torch-legacy"
    return load(source, kind, Allowance(size, PART_BYTES, PART_SECONDS)).root


def load(source: Source, kind: str, allowance: Allowance | None = None) -> Loaded:
    """Return everything in a file in the ZIP format or older ("torch-legacy"), a pickle of another origin too."""
    if kind == "torch-legacy":
        unpickled = LegacyFile(source, allowance).load()
        return Loaded(without_placeholders(unpickled.value), unpickled.names, warnings_about(unpickled.names))
    if kind == "torch-package":
        held, names = load_package(source)
        return Loaded(without_placeholders(held), names, warnings_about(names))
    archive = TorchArchive(source)
    unpickled = archive.load(allowance)
    notes = warnings_about(unpickled.names)
    if not archive.container.has_checksums:
        notes = (*notes, f"{quoted(source.path)} was saved without checksums.")
    return Loaded(without_placeholders(unpickled.value), unpickled.names, notes, archive.spans)


def _dense(tensor: StoredTensor, name: str, version: FileVersion) -> StoredTensor:
    """Return the tensor itself; raises InputError unless each element is stored, in a file that is as it was."""
    if tensor.peculiarity:
        raise InputError(
            f"Tensor {name!r} in {quoted(version.path)} is {tensor.peculiarity}; expected a dense tensor.",
            hint="Convert the tensor with the training code, then save again.",
        )
    version.check_unchanged()
    return tensor


def _tied(version: FileVersion, tensors: Mapping[str, StoredTensor]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of names whose tensors are one and the same memory.

    Raises InputError where views of the same bytes, all together, are very much more than the file.
    """
    groups: dict[object, list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault(tensor.place, []).append(name)
    firsts = [tensors[names[0]] for names in groups.values()]
    total = sum(max(tensor.numel() * tensor.width, tensor.reach) for tensor in firsts)
    if total > max(BASE_SHARED, SHARED * version.size):
        raise InputError(
            f"{quoted(version.path)} describes tensors of {total} bytes but has only {version.size} "
            "bytes: tensors share memory.",
            hint="Save each tensor once, and small tensors before they are expanded.",
        )
    return tuple(tuple(names) for names in groups.values() if len(names) > 1)
