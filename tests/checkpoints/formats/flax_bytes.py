"""What flax.serialization.to_bytes writes, for tests: MessagePack with arrays as extensions."""

import struct

import numpy
import torch

ARRAY, COMPLEX, SCALAR = 1, 2, 3


def pack(value):
    """One value: None, numbers, texts, bytes, lists, dictionaries and tensors."""
    return next(write for kind, write in WRITERS if isinstance(value, kind))(value)


def text(value):
    encoded = value.encode()
    return (bytes([0xA0 | len(encoded)]) if len(encoded) < 32 else b"\xdb" + struct.pack(">I", len(encoded))) + encoded


def dictionary(value):
    head = bytes([0x80 | len(value)]) if len(value) < 16 else b"\xde" + struct.pack(">H", len(value))
    return head + b"".join(pack(key) + pack(member) for key, member in value.items())


def tensor(value):
    return extension(ARRAY, pack([list(value.shape), str(value.dtype).removeprefix("torch."), raw(value)]))


def raw(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def extension(code, content):
    return b"\xc9" + struct.pack(">I", len(content)) + struct.pack(">b", code) + content


WRITERS = (
    (torch.Tensor, tensor),
    (numpy.generic, lambda value: extension(SCALAR, pack([[], value.dtype.name, value.tobytes()]))),
    (type(None), lambda value: b"\xc0"),
    (bool, lambda value: b"\xc3" if value else b"\xc2"),
    (int, lambda value: struct.pack(">B", value) if 0 <= value < 128 else b"\xd3" + struct.pack(">q", value)),
    (float, lambda value: b"\xcb" + struct.pack(">d", value)),
    (str, text),
    (bytes, lambda value: b"\xc6" + struct.pack(">I", len(value)) + value),
    (list | tuple, lambda value: b"\xdd" + struct.pack(">I", len(value)) + b"".join(map(pack, value))),
    (dict, dictionary),
)
