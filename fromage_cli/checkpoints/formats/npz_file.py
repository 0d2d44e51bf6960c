"""A NumPy archive: each member's header at once, its data when it is asked for; pickled members are refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Contents, TensorEntry
from fromage_cli.checkpoints.formats.npy_header import ArrayHeader, header_length, parse_header
from fromage_cli.checkpoints.formats.zip_container import INFLATION, ZipContainer
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import Storage, StoredTensor
from fromage_cli.errors import InputError, UnsafeError

SUFFIX = ".npy"


def read_npz(path: Path, inflation: int = INFLATION) -> Contents:
    """Read the headers of the arrays in a .npz file, which may inflate to so many times its size."""
    container = ZipContainer(Source.of_file(path), inflation)
    tensors: dict[str, StoredTensor] = {}
    left_out = []
    for member in container.members:
        name = member.removesuffix(SUFFIX)
        if name in tensors or name in left_out:
            raise InputError(f"{quoted(path)} holds the array {name!r} twice.", hint="It is damaged; save it again.")
        header = _header(container, member)
        if header.objects:
            raise UnsafeError(
                f"{quoted(path)}: array {name!r} holds pickled Python objects. Nothing was executed.",
                hint="Save plain numbers only; `fromage-diag inspect --safety` lists what it would run.",
            )
        if header.dtype is None:
            left_out.append(name)
        else:
            tensors[name] = _tensor(container, member, header, header.dtype)
    note = f"Left out {len(left_out)} arrays that are not plain numbers: {listed(left_out)}."
    return Contents(
        format="npz",
        entries={name: TensorEntry(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()},
        read=lambda name: tensors[name].read(),
        notes=(note,) if left_out else (),
    )


def _header(container: ZipContainer, member: str) -> ArrayHeader:
    size = container.member(member).size
    try:
        begin, length = header_length(container.head(member, 12))
        header = parse_header(container.head(member, begin + length)[begin:], begin + length)
        if header.dtype is not None and header.size != size - header.begin:
            raise ValueError(f"its header claims {header.size} bytes, {size - header.begin} are there")
    except ValueError as error:
        raise InputError(
            f"{quoted(container.path)}: array {member.removesuffix(SUFFIX)!r} cannot be read: {error}.",
            hint="It is damaged; save or copy it again.",
        ) from error
    return header


def _tensor(container: ZipContainer, member: str, header: ArrayHeader, dtype: str) -> StoredTensor:
    """The array as a place in the archive."""
    read_into = partial(_read_into, container, member, header.begin)
    storage = Storage(member, dtype, header.size, read_into, header.big_endian)
    return StoredTensor(dtype, header.shape, header.stride, 0, storage).check()


def _read_into(container: ZipContainer, member: str, data: int, begin: int, view: memoryview) -> None:
    container.read_into(member, data + begin, view)
