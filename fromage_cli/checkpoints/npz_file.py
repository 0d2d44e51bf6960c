"""A NumPy archive: each member's header at once, its data when it is asked for; pickled members are refused."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fromage_cli.checkpoints.checkpoint import Contents, TensorEntry
from fromage_cli.checkpoints.files import FileVersion, opened, quoted
from fromage_cli.checkpoints.naming import listed
from fromage_cli.errors import InputError, UnsafeError

if TYPE_CHECKING:
    import torch

DTYPES = frozenset(
    (
        *("float64", "float32", "float16", "complex128", "complex64", "bool"),
        *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    )
)
_DAMAGE = (
    ValueError,
    EOFError,
    KeyError,
    NotImplementedError,
    OverflowError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


def read_npz(path: Path) -> Contents:
    """Read the headers of the arrays in a .npz file."""
    version = FileVersion.of(path)
    entries: dict[str, TensorEntry] = {}
    left_out = []
    for member in _members(path):
        name = member.removesuffix(".npy")
        if name in entries or name in left_out:
            raise InputError(f"{quoted(path)} holds the array {name!r} twice.", hint="It is damaged; save it again.")
        dtype, shape = _header(path, member)
        if dtype.hasobject:
            raise UnsafeError(
                f"{quoted(path)}: array {name!r} holds pickled Python objects. Nothing was executed.",
                hint="Save plain numbers only.",
            )
        if dtype.name in DTYPES:
            entries[name] = TensorEntry(name, dtype.name, shape)
        else:
            left_out.append(name)
    note = f"Left out {len(left_out)} arrays that are not plain numbers: {listed(left_out)}."
    return Contents(
        format="npz",
        entries=entries,
        read=lambda name: _read(version, name),
        notes=(note,) if left_out else (),
    )


def _members(path: Path) -> list[str]:
    with opened(path) as file, zipfile.ZipFile(file) as archive:
        return archive.namelist()


def _header(path: Path, member: str) -> tuple[Any, tuple[int, ...]]:
    from numpy.lib import format as npy

    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive, archive.open(member) as array:
            version = npy.read_magic(array)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, _, dtype = read(array)
            expected, actual = math.prod(shape) * dtype.itemsize, archive.getinfo(member).file_size - array.tell()
            if expected != actual and not dtype.hasobject:
                raise ValueError(f"its header claims {expected} bytes, {actual} are there")
    except _DAMAGE as error:
        raise _damaged(path, member, error) from error
    return dtype, shape


def _read(version: FileVersion, name: str) -> torch.Tensor:
    """Read one array into a tensor with memory of its own, bytes in this machine's order."""
    import numpy
    import torch

    version.check_unchanged()
    try:
        with opened(version.path) as file, numpy.load(file, allow_pickle=False) as archive:
            array = archive[name]
    except _DAMAGE as error:
        raise _damaged(version.path, name, error) from error
    return torch.from_numpy(numpy.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _damaged(path: Path, name: str, error: Exception) -> InputError:
    return InputError(
        f"{quoted(path)}: array {name.removesuffix('.npy')!r} cannot be read: {error}.",
        hint="It is damaged; save or copy it again.",
    )
