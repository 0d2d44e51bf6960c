"""The header of a safetensors file, checked in full before a byte of data is read.

Layout: 8 bytes N, little endian; N bytes of JSON {"__metadata__": {str: str},
name: {"dtype", "shape", "data_offsets"}}; then the data, which the tensors' offsets cover without gap or overlap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from fromage_cli.checkpoints.checkpoint import TensorEntry
from fromage_cli.checkpoints.names.library_files import HEADER_LIMIT
from fromage_cli.checkpoints.names.naming import brief, first_twice
from fromage_cli.checkpoints.storage.files import FileVersion, opened, quoted
from fromage_cli.checkpoints.storage.json_file import CROWDED, is_crowded
from fromage_cli.checkpoints.storage.stored_tensor import is_shape
from fromage_cli.errors import InputError

DTYPES = {  # safetensors' name: torch's name, bytes per element
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    "C64": ("complex64", 8),
    "I64": ("int64", 8),
    "I32": ("int32", 4),
    "I16": ("int16", 2),
    "I8": ("int8", 1),
    "U64": ("uint64", 8),
    "U32": ("uint32", 4),
    "U16": ("uint16", 2),
    "U8": ("uint8", 1),
    "BOOL": ("bool", 1),
}


@dataclass(frozen=True)
class Header:
    """What a valid header says."""

    version: FileVersion
    entries: Mapping[str, TensorEntry]
    spans: Mapping[str, tuple[int, int]]  # begin and end in the file, bytes
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header; whatever is wrong with it raises InputError."""
    version = FileVersion.of(path)
    with opened(path) as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8:
            raise incomplete(path, 8, version.size)
        if length > HEADER_LIMIT:
            raise invalid(path, f"its header claims {length} bytes, more than the format's {HEADER_LIMIT}")
        if 8 + length > version.size:
            raise incomplete(path, 8 + length, version.size)
        text = file.read(length)
    table = _parsed(path, text)
    metadata = _metadata(path, table.pop("__metadata__", {}))
    entries, spans = {}, {}
    for name, description in table.items():
        entries[name], begin, end = _entry(path, name, description)
        spans[name] = (8 + length + begin, 8 + length + end)
    _check_coverage(version, 8 + length, spans)
    return Header(version, entries, spans, metadata)


def incomplete(path: Path, expected: int, actual: int) -> InputError:
    """Return the error for a file that is shorter than it says itself."""
    return InputError(
        f"{quoted(path)} is incomplete: expects {expected} bytes, has {actual}.",
        hint="It was cut off while it was written or copied; take an earlier checkpoint or copy it again.",
    )


def invalid(path: Path, reason: str) -> InputError:
    """Return the error for a file that breaks the format."""
    return InputError(
        f"{quoted(path)} is not a valid safetensors file: {reason}.", hint="It is damaged; save or download it again."
    )


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        members = dict(pairs)
        if len(members) < len(pairs):
            raise invalid(path, f"its header names {brief(first_twice(name for name, _ in pairs))} twice")
        return members

    if not text.startswith(b"{"):
        raise invalid(path, "its header does not begin with '{'")
    if is_crowded(text):
        raise invalid(path, f"its header is not JSON ({CROWDED})")
    try:
        table = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise invalid(path, f"its header is not JSON ({error})") from error
    return dict(table)


def _metadata(path: Path, metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise invalid(path, "its __metadata__ is not an object of strings")
    return metadata


def _entry(path: Path, name: str, description: Any) -> tuple[TensorEntry, int, int]:
    """Return one tensor's entry and its offsets, each checked against the others."""
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise invalid(path, f"the tensor name {name!r} is not valid Unicode")
    if not isinstance(description, dict):
        raise invalid(path, f"the entry of tensor {name!r} is not an object")
    dtype, shape, offsets = [description.get(field) for field in ("dtype", "shape", "data_offsets")]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise invalid(path, f"tensor {name!r} has the dtype {brief(dtype)}; known are {', '.join(DTYPES)}")
    if not is_shape(shape):
        raise invalid(path, f"tensor {name!r} has the shape {brief(shape)}")
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise invalid(path, f"tensor {name!r} has the offsets {brief(offsets)}")
    torch_name, width = DTYPES[dtype]
    expected = math.prod(shape) * width
    if offsets[1] - offsets[0] != expected:
        raise invalid(
            path,
            f"tensor {name!r} ({dtype} {brief(shape)}) needs {expected} bytes, its offsets span "
            f"{offsets[1] - offsets[0]}",
        )
    return TensorEntry(name, torch_name, tuple(shape)), offsets[0], offsets[1]


def _whole_numbers(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_coverage(version: FileVersion, start: int, spans: Mapping[str, tuple[int, int]]) -> None:
    """Raise unless the tensors cover the bytes from `start` to the end of the file, each byte once."""
    position = start
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            raise invalid(
                version.path, f"tensor {name!r} {'overlaps' if begin < position else 'leaves a gap after'} another"
            )
        position = end
    if position > version.size:
        raise incomplete(version.path, position, version.size)
    if position < version.size:
        raise invalid(version.path, f"{version.size - position} bytes follow the last tensor")
