"""A Flax checkpoint: nested dictionaries in MessagePack, whose arrays are read when they are asked for.

An array is extension 1 (3 for a scalar) around [shape, dtype, bytes in C order, little endian]; one above a gigabyte is
{"__msgpack_chunked_array__": true, "shape": …, "chunks": …}. Source: flax/serialization.py of Flax 0.3 to 0.10.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.checkpoint import Contents, entries_of
from fromage_cli.checkpoints.formats.flat_tensor import FlatTensor, is_vector
from fromage_cli.checkpoints.formats.msgpack_stream import MsgpackStream, UnreadBytes
from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.names.steps import first_step
from fromage_cli.checkpoints.nested.candidates import WEIGHT_NAMES
from fromage_cli.checkpoints.nested.choosing import ANY, Choice, ancestors, choose
from fromage_cli.checkpoints.nested.remainder import beside_weights
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import (
    ELEMENT_BYTES,
    StoredTensor,
    contiguous_tensor,
    is_shape,
    stored_number,
)

ARRAY, SCALAR = 1, 3
"""Flax's codes of extensions."""
CHUNKED = "__msgpack_chunked_array__"


def read_flax(path: Path, choice: Choice = ANY) -> Contents:
    """Read the structure of a file and choose the dictionary that is the parameters."""
    source = Source.of_file(path)
    with source.open() as file:
        stream = MsgpackStream(file, source, partial(_array, source))
        root = _with_whole_arrays(stream.value(), stream)
    named = isinstance(root, dict) and (
        choice.key is not None or any(str(name).lower() in WEIGHT_NAMES for name in root)
    )
    root = root if named else {"params": root}
    chosen, note = choose(path, root, choice)
    tensors: Mapping[str, Any] = chosen.tensors
    return Contents(
        format="flax-msgpack",
        entries=entries_of(tensors),
        find=tensors.__getitem__,
        step=first_step(ancestors(root, chosen.path), stored_number),
        key=".".join(chosen.path) if named else None,
        notes=(note,) if note else (),
        describe_rest=lambda: beside_weights(root, chosen.path, chosen.left_out),
    )


def _array(source: Source, code: int, stream: MsgpackStream) -> StoredTensor | None:
    """Return the array in an extension; None for extensions that hold something else."""
    if code not in (ARRAY, SCALAR):
        return None
    described = stream.value()
    if not isinstance(described, list) or len(described) != 3:
        raise stream.damaged("an array without shape, dtype and content")
    shape, dtype, content = described
    if not is_shape(shape) or not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        raise stream.damaged(f"an array of shape {brief(shape)} and dtype {brief(dtype)}")
    size = math.prod(shape) * ELEMENT_BYTES[dtype]
    held = content.size if isinstance(content, UnreadBytes) else len(content) if isinstance(content, bytes) else -1
    if held != size:
        raise stream.damaged(f"an array that needs {size} bytes but has {held}")

    def read_into(begin: int, view: memoryview) -> None:
        if isinstance(content, UnreadBytes):
            source.read_into(content.begin + begin, view)
        else:
            view[:] = content[begin : begin + len(view)]

    return contiguous_tensor(dtype, shape, read_into)


def _with_whole_arrays(node: Any, stream: MsgpackStream) -> Any:
    """Return the same nested dictionary with the parts of large arrays put together."""
    if not isinstance(node, dict):
        return node
    if node.get(CHUNKED) is not True:
        return {name: _with_whole_arrays(value, stream) for name, value in node.items()}
    shape, chunks = node.get("shape"), node.get("chunks")
    if isinstance(shape, dict):  # Flax turns lists into dictionaries of "0", "1", …
        shape = [shape.get(str(index)) for index in range(len(shape))]
    if isinstance(chunks, dict):
        chunks = [chunks.get(str(index)) for index in range(len(chunks))]
    if not is_shape(shape) or not isinstance(chunks, list) or not all(map(is_vector, chunks)):
        raise stream.damaged("an array whose parts do not match its size")
    if not chunks or sum(chunk.numel() for chunk in chunks) != math.prod(shape):
        raise stream.damaged("an array whose parts do not match its size")
    return FlatTensor(chunks[0].dtype, tuple(shape), stretches=lambda: chunks)
