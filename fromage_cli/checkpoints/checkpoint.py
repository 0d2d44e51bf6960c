"""A checkpoint: named tensors on disk, of which only names, dtypes and shapes are known until one is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fromage_cli.checkpoints.names.naming import nearest
from fromage_cli.checkpoints.optimizers.optimizer_state import OptimizerState
from fromage_cli.checkpoints.pickles.unpickling import PickledName
from fromage_cli.checkpoints.storage.files import FileVersion
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import Storage, StoredTensor, WholeTensor, contiguous_strides
from fromage_cli.errors import InputError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TensorEntry:
    """What is known of one tensor without reading its data."""

    name: str  # after wrapper prefixes are stripped
    dtype: str  # torch's name without "torch.": "float32", "bfloat16", "int64", …
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return math.prod(self.shape)

    @property
    def floating(self) -> bool:
        """Tell whether the elements are real floating-point numbers."""
        return self.dtype.startswith(("float", "bfloat"))


def entries_of(tensors: Mapping[str, StoredTensor]) -> dict[str, TensorEntry]:
    """Return what is known of tensors that lie in files; one that cannot be read says in its dtype what it is."""
    return {
        name: TensorEntry(name, f"{tensor.peculiarity} {tensor.dtype}".lstrip(), tensor.shape)
        for name, tensor in tensors.items()
    }


@dataclass(frozen=True)
class Span:
    """Where the plain bytes of one tensor lie."""

    version: FileVersion
    begin: int  # bytes from the start of the file
    end: int
    verify: Callable[[], None] | None = field(default=None, repr=False, compare=False)  # compares their checksum

    def check(self) -> None:
        """Raise InputError when the bytes are not those that were written, as far as the format can tell."""
        if self.verify is not None:
            self.verify()

    def tensor(self, dtype: str, shape: tuple[int, ...]) -> StoredTensor:
        """Return what lies there as a tensor that can be read a part at a time."""
        source = Source(self.version.path, self.end - self.begin, self.version, self.begin)
        storage = Storage("", dtype, source.size, source.read_into, verify=self.check)
        return StoredTensor(dtype, shape, contiguous_strides(shape), 0, storage)


def stored_in(entry: TensorEntry, span: Span | None, read: Callable[[], torch.Tensor]) -> StoredTensor:
    """Return a tensor as a place in its file, or as one to read whole where it has no span."""
    if span is not None:
        return span.tensor(entry.dtype, entry.shape)
    return WholeTensor(entry.dtype, entry.shape, make=read)


@dataclass(frozen=True)
class Copy:
    """One place where the content of a tensor lies."""

    tensor: StoredTensor
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Replica:
    """What a checkpoint stores more than once, and should be the same everywhere."""

    name: str
    copies: tuple[Copy, ...]  # the first is the one that is read
    kind: Literal["tensor", "buffer", "setting"] = "tensor"  # what is trained, what is not, a number of the optimizer's

    @property
    def elements(self) -> int:
        """Return the number of elements to compare, over all further copies."""
        return sum(copy.tensor.numel() for copy in self.copies[1:])


@dataclass(frozen=True)
class Contents:
    """What one reader found in a file or a set of shards, under the names that are stored there."""

    format: str
    entries: Mapping[str, TensorEntry]
    find: Callable[[str], StoredTensor]  # raises InputError for what cannot be read
    metadata: Mapping[str, str] = field(default_factory=dict)
    step: int | None = None  # from inside the file, never from its name
    key: str | None = None
    notes: tuple[str, ...] = ()
    tied: tuple[tuple[str, ...], ...] = ()
    read_optimizer: Callable[[], OptimizerState | None] | None = None  # None: there is none
    spans: Mapping[str, Span] = field(default_factory=dict)  # where the format keeps elements as they are
    names: tuple[PickledName, ...] = ()  # classes and functions that pickles in it name
    describe_rest: Callable[[], Mapping[str, object]] | None = None  # what else there is; None: the metadata alone
    find_replicas: Callable[[], tuple[Replica, ...]] = tuple

    def read(self, name: str) -> torch.Tensor:
        """Read one tensor into memory of its own, in the stored dtype."""
        return self.find(name).read()

    def stored(self, name: str) -> StoredTensor:
        """Return a tensor as a place in its file; it is read in parts where its elements lie there as they are."""
        return stored_in(self.entries[name], self.spans.get(name), partial(self.read, name))


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors on disk."""

    path: Path
    format: str  # "safetensors", "torch", "torch-legacy", "npz", …; with "-sharded" or "-distributed" of several files
    step: int | None  # from the file's own metadata or entries, else from the name of the file or its directory
    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    stripped: tuple[str, ...]  # wrapper prefixes that were removed: "module.", "_orig_mod.", …
    key: str | None  # dotted path of the nested dictionary that was chosen
    notes: tuple[str, ...]  # sentences for the user
    tied: tuple[tuple[str, ...], ...] = ()  # names that share storage, offset, shape and strides
    weights: Path | None = None  # the file that was read, where `path` is a directory
    stored_names: Mapping[str, str] = field(default_factory=dict, repr=False)  # name -> name in the file
    find: Callable[[str], StoredTensor] | None = field(default=None, repr=False, compare=False)  # by stored name
    spans: Mapping[str, Span] = field(default_factory=dict, repr=False)  # by name; little endian, where bytes are plain
    read_optimizer: Callable[[], OptimizerState | None] | None = field(default=None, repr=False, compare=False)
    names: tuple[PickledName, ...] = field(default=(), repr=False)  # classes and functions that pickles in it name

    describe_rest: Callable[[], Mapping[str, object]] = field(default=dict, repr=False, compare=False)
    find_replicas: Callable[[], tuple[Replica, ...]] = field(default=tuple, repr=False, compare=False)
    picked: tuple[str, ...] = ()  # which of a directory's steps it is, in a sentence
    bundle: Path | None = None  # the directory, where the weights are those of a bundle
    url: str | None = None  # where it really is, if not on a local disk; `path` is then a temporary copy

    @property
    def place(self) -> str:
        """Return where the user finds it: the URL or the path."""
        return self.url or str(self.path)

    @cached_property
    def saved_optimizer(self) -> OptimizerState | None:
        """Return the optimizer's state saved with the weights, or named by the user; read when it is first asked for.

        Raises InputError when its file cannot be read.
        """
        return self.read_optimizer() if self.read_optimizer is not None else None

    @cached_property
    def also_holds(self) -> Mapping[str, object]:
        """Return what it holds beside weights and optimizer, by name in JSON's own types, within bounds."""
        return self.describe_rest()

    def stored(self, name: str) -> StoredTensor:
        """Return a tensor as a place in its file; it is read in parts where its elements lie there as they are."""
        return stored_in(self.entries[name], self.spans.get(name), partial(self.tensor, name))

    @cached_property
    def replicas(self) -> tuple[Replica, ...]:
        """Return what it stores more than once; none of it is read. Raises InputError where a file cannot be opened."""
        return self.find_replicas()

    @cached_property
    def optimizer(self) -> OptimizerState | None:
        """Return the same, with settings that can be computed with; raises InputError where they are none."""
        from fromage_cli.checkpoints.optimizers.validation import require_sound

        if self.saved_optimizer is not None:
            require_sound(self.saved_optimizer)
        return self.saved_optimizer

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor into memory of its own, in the stored dtype.

        Raises InputError when there is no such tensor, or when the file changed since it was opened.
        """
        return self.unread(name).read()

    def rows(self, name: str, begin: int, end: int) -> torch.Tensor:
        """Read rows `begin` to `end` − 1 of one tensor into memory of their own, in the stored dtype.

        Rows count along the first dimension. Where elements are stored as they are, no others are read or held.
        A checksum over more than these rows is compared first, a block at a time. Raises InputError as `tensor` does,
        and ValueError for rows that the tensor does not have; a scalar has none.
        """
        return self.unread(name).rows(begin, end)

    def unread(self, name: str) -> StoredTensor:
        """Return a tensor that its format's reader can read, whole or by rows; InputError when there is none."""
        if name not in self.entries or self.find is None:
            raise InputError(
                f"{self.place!r} has no tensor {name!r}.", hint=nearest(name, self.entries), details=list(self.entries)
            )
        return self.find(self.stored_names.get(name, name))

    def items(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Read the tensors one after another, in the order in which they are stored."""
        for name in self.entries:
            yield name, self.tensor(name)

    @property
    def ordered(self) -> bool:
        """Tell whether the tensors stand in the model's order, not in that of their names."""
        return not self.format.startswith("safetensors")

    @property
    def parameters(self) -> int:
        """Return the number of floating-point elements, tied ones counted once; saved buffers cannot be told apart."""
        copies = {name for group in self.tied for name in group[1:]}
        return sum(entry.elements for entry in self.entries.values() if entry.floating and entry.name not in copies)
