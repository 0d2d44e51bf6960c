"""A single safetensors file: its header checked in full at once, each tensor by one positional read when asked for.

Layout: 8 bytes N, little endian; N bytes of JSON {"__metadata__": {str: str},
name: {"dtype", "shape", "data_offsets"}}; then the data, which the tensors' offsets cover without gap or overlap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.checkpoint import Contents, Span, TensorEntry
from fromage_cli.checkpoints.names.library_files import HEADER_LIMIT
from fromage_cli.checkpoints.names.naming import brief, first_twice
from fromage_cli.checkpoints.names.steps import step_in_metadata
from fromage_cli.checkpoints.storage.files import FileVersion, incomplete, opened, quoted
from fromage_cli.checkpoints.storage.json_file import CROWDED, is_crowded
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import (
    WIDTHS,
    StoredTensor,
    are_whole_numbers,
    contiguous_tensor,
    is_shape,
)
from fromage_cli.errors import InputError

DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8"},
    **{"U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8"},
}
"""torch's names of the dtypes, by safetensors' own."""


@dataclass(frozen=True)
class Header:
    """What a valid header says."""

    version: FileVersion
    entries: Mapping[str, TensorEntry]
    spans: Mapping[str, tuple[int, int]]  # begin and end in the file, bytes
    metadata: Mapping[str, str]


def read_safetensors(path: Path) -> Contents:
    """Read the header of a safetensors file."""
    header = read_header(path)
    return Contents(
        format="safetensors",
        entries=header.entries,
        find=partial(find_tensor, header),
        metadata=header.metadata,
        step=step_in_metadata(header.metadata),
        spans={name: Span(header.version, *ends) for name, ends in header.spans.items()},
    )


def find_tensor(header: Header, name: str) -> StoredTensor:
    """Return one tensor as a place in the file, whose reading raises InputError when the file has changed."""
    entry, begin = header.entries[name], header.spans[name][0]
    source = Source(header.version.path, header.version.size, header.version)
    return contiguous_tensor(entry.dtype, entry.shape, lambda at, view: source.read_into(begin + at, view))


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
    table = _parse_json(path, text)
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise invalid(path, "its __metadata__ is not an object of strings")
    entries, spans = {}, {}
    for name, description in table.items():
        entries[name], begin, end = _check_tensor(path, name, description)
        spans[name] = (8 + length + begin, 8 + length + end)
    position = 8 + length  # from here to the end of the file, the tensors cover each byte once
    for name, (begin, end) in sorted(spans.items(), key=lambda item: item[1]):
        if begin != position:
            raise invalid(path, f"tensor {name!r} {'overlaps' if begin < position else 'leaves a gap after'} another")
        position = end
    if position > version.size:
        raise incomplete(path, position, version.size)
    if position < version.size:
        raise invalid(path, f"{version.size - position} bytes follow the last tensor")
    return Header(version, entries, spans, metadata)


def invalid(path: Path, reason: str) -> InputError:
    """Return the error for a file that breaks the format."""
    return InputError(
        f"{quoted(path)} is not a valid safetensors file: {reason}.",
        hint="The file is damaged; save or download it again.",
    )


def _parse_json(path: Path, text: bytes) -> dict[str, Any]:
    """Return the JSON object of a header, in which no name stands twice."""

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


def _check_tensor(path: Path, name: str, description: Any) -> tuple[TensorEntry, int, int]:
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
    if not are_whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise invalid(path, f"tensor {name!r} has the offsets {brief(offsets)}")
    begin, end = offsets
    expected = math.prod(shape) * WIDTHS[DTYPES[dtype]]
    if end - begin != expected:
        raise invalid(
            path, f"tensor {name!r} ({dtype} {brief(shape)}) needs {expected} bytes, but its offsets span {end - begin}"
        )
    return TensorEntry(name, DTYPES[dtype], tuple(shape)), begin, end
