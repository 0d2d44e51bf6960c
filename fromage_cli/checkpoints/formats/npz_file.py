"""A NumPy archive: each member's header at once, its data when it is asked for; pickled members are refused."""

from pathlib import Path

from fromage_cli.checkpoints.checkpoint import Contents, entries_of
from fromage_cli.checkpoints.formats.npy_header import read_array_header
from fromage_cli.checkpoints.formats.zip_container import INFLATION, ZipContainer
from fromage_cli.checkpoints.names.naming import listed
from fromage_cli.checkpoints.storage.files import quoted
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import Storage, StoredTensor
from fromage_cli.counting import counted
from fromage_cli.errors import InputError, UnsafeError

ARRAY_SUFFIX = ".npy"
FIRST_BYTES = 256
"""Bytes of an array that are read at once: NumPy's headers have half as many."""


def read_npz(path: Path, inflation: int = INFLATION) -> Contents:
    """Read the headers of the arrays in a .npz file, which may inflate to so many times its size."""
    container = ZipContainer(Source.of_file(path), inflation)
    tensors: dict[str, StoredTensor] = {}
    left_out = []
    heads = container.heads(container.members, FIRST_BYTES)
    for member, head in zip(container.members, heads, strict=True):
        name = member.removesuffix(ARRAY_SUFFIX)
        if name in tensors or name in left_out:
            raise InputError(
                f"{quoted(path)} holds the array {name!r} twice.", hint="The file is damaged; save it again."
            )
        try:
            tensor = _array(container, member, head)
        except ValueError as error:
            raise InputError(
                f"Array {name!r} in {quoted(path)} cannot be read: {error}.",
                hint="The file is damaged; save or copy it again.",
            ) from error
        if tensor is None:
            left_out.append(name)
        else:
            tensors[name] = tensor
    note = f"Left out {counted(len(left_out), 'array')} not of plain numbers: {listed(left_out)}."
    return Contents(
        format="npz",
        entries=entries_of(tensors),
        find=tensors.__getitem__,
        notes=(note,) if left_out else (),
    )


def _array(container: ZipContainer, member: str, head: bytes) -> StoredTensor | None:
    """Return an array as a place in the archive, None for what is no plain numbers; ValueError for a broken header."""

    def first_bytes(count: int) -> bytes:
        return head[:count] if count <= len(head) else next(container.heads((member,), count))

    header = read_array_header(first_bytes)
    if header.objects:
        raise UnsafeError(
            f"Array {member.removesuffix(ARRAY_SUFFIX)!r} in {quoted(container.path)} holds pickled "
            "Python objects. Nothing was executed.",
            hint="Save plain numbers only. `fromage-diag inspect --safety` lists what the array would run.",
        )
    if header.dtype is None:
        return None
    if header.size != (held := container.member(member).size - header.begin):
        raise ValueError(f"its header claims {header.size} bytes, but {held} are there")

    def read_into(begin: int, view: memoryview) -> None:
        container.read_into(member, header.begin + begin, view)

    storage = Storage(member, header.dtype, header.size, read_into, header.big_endian)
    return StoredTensor(header.dtype, header.shape, header.stride, 0, storage).check()
