"""A Flax checkpoint: nested dictionaries in MessagePack, whose arrays are read when they are asked for.

An array is extension 1 (3 for a scalar) around [shape, dtype, bytes in C order, little endian]; one above a gigabyte is
{"__msgpack_chunked_array__": true, "shape": …, "chunks": …}. Source: flax/serialization.py of Flax 0.3 to 0.10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fromage_cli.checkpoints.checkpoint import Contents, TensorEntry
from fromage_cli.checkpoints.formats.flat_tensor import FlatTensor
from fromage_cli.checkpoints.formats.msgpack_stream import MsgpackStream, Stretch
from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.names.steps import step_in_metadata
from fromage_cli.checkpoints.nested.candidates import WEIGHTS
from fromage_cli.checkpoints.nested.choosing import ANY, Choice, ancestors, choose
from fromage_cli.checkpoints.storage.sources import Source
from fromage_cli.checkpoints.storage.stored_tensor import ELEMENT_BYTES, Storage, StoredTensor, inline, is_shape
from fromage_cli.errors import FromageError

ARRAY, SCALAR = 1, 3
CHUNKED = "__msgpack_chunked_array__"


def read_flax(path: Path, choice: Choice = ANY) -> Contents:
    """Read the structure of a file and choose the dictionary that is the parameters."""
    source = Source.of_file(path)
    with source.open() as file:
        stream = MsgpackStream(file, source, partial(_array, source))
        root = _joined(stream.value(), stream)
    named = isinstance(root, dict) and (choice.key is not None or any(str(name).lower() in WEIGHTS for name in root))
    root = root if named else {"params": root}
    try:
        chosen, note = choose(root, choice)
    except FromageError as error:
        raise type(error)(f"{str(path)!r}: {error.message}", error.hint, error.details) from None
    around = [{name: _number(value) for name, value in node.items()} for node in ancestors(root, chosen.path)]
    tensors: Mapping[str, Any] = chosen.tensors
    steps = (step_in_metadata(node) for node in around)
    return Contents(
        format="flax-msgpack",
        entries={name: TensorEntry(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()},
        read=lambda name: tensors[name].read(),
        step=next((step for step in steps if step is not None), None),
        key=".".join(chosen.path) if named else None,
        notes=(note,) if note else (),
    )


def _array(source: Source, code: int, stream: MsgpackStream) -> Any:
    """The array in an extension; nothing for other extensions."""
    if code not in (ARRAY, SCALAR):
        return None
    described = stream.value()
    if not isinstance(described, list) or len(described) != 3:
        raise stream.damaged("an array without shape, dtype and content")
    shape, dtype, content = described
    if not is_shape(shape) or not isinstance(dtype, str) or dtype not in ELEMENT_BYTES:
        raise stream.damaged(f"an array of shape {brief(shape)} and dtype {brief(dtype)}")
    size = math.prod(shape) * ELEMENT_BYTES[dtype]
    held = content.size if isinstance(content, Stretch) else len(content) if isinstance(content, bytes) else -1
    if held != size:
        raise stream.damaged(f"an array that needs {size} bytes and has {held}")
    if isinstance(content, Stretch):
        storage = Storage("", dtype, size, partial(_read_into, source, content.begin))
    else:
        storage = inline("", dtype, content)
    stride = tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))
    return StoredTensor(dtype, tuple(shape), stride, 0, storage).check()


def _read_into(source: Source, base: int, begin: int, view: memoryview) -> None:
    with source.open() as file:
        file.seek(base + begin)
        file.fill(view)


def _joined(node: Any, stream: MsgpackStream) -> Any:
    """The same with the parts of large arrays put together."""
    if not isinstance(node, dict):
        return node
    if node.get(CHUNKED) is not True:
        return {name: _joined(value, stream) for name, value in node.items()}
    shape, chunks = (_in_order(node.get(name)) for name in ("shape", "chunks"))
    flat = [chunk for chunk in chunks if isinstance(chunk, StoredTensor) and chunk.dim() == 1]
    whole = bool(flat) and len(flat) == len(chunks) and is_shape(shape)
    if not whole or sum(chunk.numel() for chunk in flat) != math.prod(shape):
        raise stream.damaged("an array whose parts do not add up")
    return FlatTensor(flat[0].dtype, tuple(shape), stretches=flat)


def _in_order(numbered: Any) -> list[Any]:
    """A list, or a dictionary of "0", "1", …, which Flax makes of it."""
    if isinstance(numbered, dict):
        return [numbered.get(str(index)) for index in range(len(numbered))]
    return numbered if isinstance(numbered, list) else [None]


def _number(value: Any) -> Any:
    """A whole number, from an array of one element too."""
    if isinstance(value, StoredTensor) and not value.shape and "int" in value.dtype:
        return int(value.item())
    return value
