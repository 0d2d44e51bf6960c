"""The few functions whose work is done when a pickle calls them: containers, numbers, and tensors as places in a file.

Nothing here is the function that was named; each is written for plain values, and raises where it gets others.
Source of the arguments: torch/_utils.py and torch/_tensor.py of PyTorch 0.4 to 2.13, numpy/core/multiarray.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fromage_cli.checkpoints.names.naming import brief
from fromage_cli.checkpoints.pickles.machine import Constructor, Unusable, is_key
from fromage_cli.checkpoints.pickles.numpy_pickles import NUMPY
from fromage_cli.checkpoints.pickles.placeholders import Global
from fromage_cli.checkpoints.storage.stored_tensor import (
    COUNT_LIMIT,
    ELEMENT_BYTES,
    OutsideStorage,
    Storage,
    StoredTensor,
    dense,
    is_shape,
)

NESTED = "torch.storage._load_from_bytes"
"""What stands in a pickle for a storage that was pickled without torch.save: a whole file in bytes."""
STORAGES = {
    **{"DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16"},
    **{"ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64", "BoolStorage": "bool"},
    **{"LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8"},
    **{"QInt8Storage": "qint8", "QInt32Storage": "qint32", "QUInt8Storage": "quint8", "QUInt4x2Storage": "quint4x2"},
    **{"QUInt2x4Storage": "quint2x4", "ByteStorage": "uint8", "UntypedStorage": "uint8"},
}
"""The dtype of the elements, by the name of the class of storage."""
ALIASES = {
    **{"half": "float16", "float": "float32", "double": "float64", "short": "int16", "int": "int32", "long": "int64"},
    **{"cfloat": "complex64", "cdouble": "complex128", "chalf": "complex32"},
}
"""torch's other names of dtypes."""


def dtype_of(value: object) -> str:
    """Return the name of the dtype that a global stands for; Unusable for anything else."""
    name = ALIASES.get(value.name, value.name) if isinstance(value, Global) and value.module == "torch" else ""
    if name not in ELEMENT_BYTES:
        raise Unusable
    return name


def parse_storage_id(identifier: object) -> tuple[str, str, int]:
    """Return key, dtype and bytes of the storage that torch.save names ("storage", class, key, device, elements, …).

    Raises OutsideStorage for any other persistent id.
    """
    if not isinstance(identifier, tuple) or len(identifier) < 5 or identifier[0] != "storage":
        raise OutsideStorage(f"a storage named {brief(identifier)}")
    _, kind, key, _, elements = identifier[:5]
    known = isinstance(kind, Global) and kind.module in ("torch", "torch.storage", "torch.cuda")
    dtype = STORAGES.get(kind.name) if known else None
    counts = type(elements) is int and 0 <= elements < COUNT_LIMIT
    if dtype is None or type(key) not in (int, str) or not counts:
        raise OutsideStorage(f"a storage of {brief(kind)} named {brief(key)} with {brief(elements)} elements")
    return str(key), dtype, elements * ELEMENT_BYTES[dtype]


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> StoredTensor:
    if not isinstance(storage, Storage):
        raise Unusable
    return _lazily(dense(storage, storage.dtype, offset, shape, stride), rest)


def _lazily(tensor: StoredTensor, rest: tuple[Any, ...]) -> StoredTensor:
    """Mark a tensor whose stored elements are to be conjugated or negated when they are used."""
    for metadata in rest:
        if isinstance(metadata, dict) and (metadata.get("conj") or metadata.get("neg")):
            tensor.peculiarity = "lazily conjugated or negated"
    return tensor


def _tensor_of_dtype(
    storage: Any, offset: Any, shape: Any, stride: Any, _gradient: Any, _hooks: Any, dtype: Any, *rest: Any
) -> StoredTensor:
    return _lazily(dense(storage, dtype_of(dtype), offset, shape, stride), rest)


def _sparse(_layout: Any, data: Any) -> StoredTensor:
    """Return a sparse tensor, of which only dtype and shape are known here."""
    values = data[-2] if isinstance(data[-2], StoredTensor) else data[-3]
    shape = data[-1] if isinstance(data[-1], tuple) else data[-2]
    if not isinstance(values, StoredTensor):
        raise Unusable
    return StoredTensor(values.dtype, _size(shape), peculiarity="sparse")


def _meta(dtype: Any, shape: Any, *_rest: Any) -> StoredTensor:
    return StoredTensor(dtype_of(dtype), _size(shape), peculiarity="without data (on the meta device)")


def _wrapped(kind: Any, dtype: Any, shape: Any, *_rest: Any) -> StoredTensor:
    """Return a tensor of a class of its own around others, such as a part of a distributed one."""
    tensor = _meta(dtype, shape)
    tensor.peculiarity = f"a {kind.name}" if isinstance(kind, Global) else "of another class"
    return tensor


def _of_type(function: Any, _kind: Any, args: Any, _state: Any) -> Any:
    """Return of a tensor of a subclass, or with attributes, the plain tensor inside."""
    plain = TENSORS.get(function.dotted) if isinstance(function, Global) else None
    if plain is None or plain is _of_type:
        raise Unusable
    return plain(*args)


def _first(value: Any, *_rest: Any) -> Any:
    """Return a tensor that was wrapped: what it is wrapped into adds nothing to its numbers."""
    if not isinstance(value, StoredTensor):
        raise Unusable
    return value


def _dictionary(items: Any = ()) -> dict[Any, Any]:
    """Return a dictionary of pairs, each with a key that can be hashed at once."""
    pairs = list(items.items()) if isinstance(items, dict) else items
    if not isinstance(pairs, list | tuple):
        raise Unusable
    made = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not _plain(pair[0]):
            raise Unusable
        made[pair[0]] = pair[1]
    return made


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, list | tuple | set | frozenset) or not all(_plain(item) for item in items):
        raise Unusable
    return set(items)


def _plain(value: object) -> bool:
    return is_key(value) and (value is None or isinstance(value, str | bytes | int | float | Global))


def _sequence(items: Any = ()) -> list[Any]:
    if not isinstance(items, list | tuple):
        raise Unusable
    return list(items)


def _size(items: Any = ()) -> tuple[int, ...]:
    if not is_shape(items):
        raise Unusable
    return tuple(items)


def _encoded(text: Any, encoding: Any = "latin1", *_errors: Any) -> bytes:
    """Return bytes, which protocol 2 writes as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise Unusable
    return text.encode(encoding)


def _bytes(value: Any = b"", *_rest: Any) -> bytes:
    if not isinstance(value, bytes):
        raise Unusable
    return value


TENSORS: dict[str, Constructor] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_of_dtype,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_qtensor": lambda *args: replace(_tensor(*args[:4]), peculiarity="quantised"),
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_sparse_csr_tensor": _sparse,
    "torch._utils._rebuild_meta_tensor_no_storage": _meta,
    "torch._utils._rebuild_wrapper_subclass": _wrapped,
    "torch._tensor._rebuild_from_type_v2": _of_type,
}
_CONTAINERS: dict[str, Constructor] = {
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": lambda _factory=None, items=(): _dictionary(items),
    "collections.Counter": _dictionary,
    **{f"{module}.dict": _dictionary for module in ("builtins", "__builtin__")},
    **{f"{module}.list": _sequence for module in ("builtins", "__builtin__")},
    **{f"{module}.tuple": lambda items=(): tuple(_sequence(items)) for module in ("builtins", "__builtin__")},
    **{f"{module}.set": _set for module in ("builtins", "__builtin__")},
    **{f"{module}.frozenset": lambda items=(): frozenset(_set(items)) for module in ("builtins", "__builtin__")},
    **{f"{module}.bytes": _bytes for module in ("builtins", "__builtin__")},
    **{f"{module}.bytearray": _bytes for module in ("builtins", "__builtin__")},
    **{
        f"{module}.complex": lambda real=0.0, imaginary=0.0: complex(float(real), float(imaginary))
        for module in ("builtins", "__builtin__")
    },
    "torch.Size": _size,
    "_codecs.encode": _encoded,
}
CONSTRUCTORS: Mapping[str, Constructor] = {**_CONTAINERS, **TENSORS, **NUMPY}
"""By dotted name, everything that a file of tensors and settings asks for."""
