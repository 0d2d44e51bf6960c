"""What is fuzzed: each reader with small files as seeds, and every way in which it is asked.

Whatever the bytes are, a reader returns or raises a FromageError.
"""

import contextlib
import io
import json
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import torch
from safetensors.torch import save

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.formats.distributed_metadata import read_metadata
from fromage_cli.checkpoints.safety.pickle_scan import scan
from fromage_cli.errors import FromageError

STATE = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.bfloat16), "step": 3}
OPTIMIZER = {
    "state": {0: {"exp_avg": torch.ones(2)}},
    "param_groups": [{"params": [0], "lr": 0.1, "betas": (0.9, 0.99)}],
}
MAGIC = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))


def saved(value: object, **options: bool) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, content in members.items():
            made.writestr(name, content)
    return stream.getvalue()


def arrays() -> bytes:
    stream = io.BytesIO()
    numpy.savez_compressed(stream, w=numpy.ones((2, 3)), x=numpy.array(["text"]))
    return stream.getvalue()


def array(value: object) -> bytes:
    stream = io.BytesIO()
    numpy.save(stream, value, allow_pickle=True)
    return stream.getvalue()


def pickled_state() -> bytes:
    with zipfile.ZipFile(
        io.BytesIO(saved({"model": STATE, "optimizer": OPTIMIZER, "net": torch.nn.Linear(2, 1)}))
    ) as read:
        return read.read("archive/data.pkl")


def header() -> bytes:
    content = save({"w": torch.ones(2), "v": torch.ones(1, dtype=torch.int8)}, {"step": "3"})
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


Target = tuple[str, Callable[[bytes], bytes], Callable[[], list[bytes]]]
TARGETS: dict[str, Target] = {
    "file": (
        "x.pt",
        bytes,
        lambda: [save({"a": torch.ones(2, 3), "b": STATE["b"]}), saved(STATE), arrays(), array(numpy.array([None]))],
    ),
    "archive": (
        "x.pt",
        lambda data: archive(
            {"x/data.pkl": data, "x/data/0": bytes(24), "x/data/1": bytes(8), "x/byteorder": b"little"}
        ),
        lambda: [pickled_state(), *(pickle.dumps([1, "a", (2.5, {None: b"x"})], protocol) for protocol in range(6))],
    ),
    "legacy": (
        "x.pt",
        lambda data: MAGIC + data,
        lambda: [saved(STATE, _use_new_zipfile_serialization=False)[len(MAGIC) :], pickle.dumps({}, 2) * 2],
    ),
    "array": (
        "x.npz",
        lambda data: archive({"w.npy": data}),
        lambda: [array(numpy.ones((2, 3), ">f4")), array(numpy.zeros(3, [("a", "f4"), ("b", "i2")]))],
    ),
    "header": (
        "x.safetensors",
        lambda data: len(data).to_bytes(8, "little") + data + bytes(9),
        lambda: [header()],
    ),
    "index": (
        "model.safetensors.index.json",
        bytes,
        lambda: [json.dumps({"metadata": {"step": 1}, "weight_map": {"w": "x.safetensors"}}).encode()],
    ),
    "metadata": (".metadata", bytes, lambda: [distributed()[".metadata"]]),
    "msgpack": (
        "x.msgpack",
        bytes,
        lambda: [
            flax([2, 3], "float32", bytes(24)),
            flax([70], "int8", bytes(70)),
            b"\x81\xa1a\x92\xc3\xcb" + bytes(8),
        ],
    ),
    "package": (
        "x.pt",
        lambda data: archive({"x/.data/extern_modules": b"", "x/.data/0.storage": bytes(24), "x/m/net.pkl": data}),
        lambda: [pickled_state()],
    ),
}
"""By name: what the file is called, how the fuzzer's bytes become one, and the seeds."""


def flax(shape: list[int], dtype: str, content: bytes) -> bytes:
    """{"w": array} as Flax writes it."""
    inner = bytes([0x93, 0x90 + len(shape), *shape, 0xA0 + len(dtype)]) + dtype.encode()
    inner += bytes([0xC4, len(content)]) + content
    return b"\x81\xa1w" + bytes([0xC7, len(inner), 1]) + inner


def distributed() -> dict[str, bytes]:
    """The files of a distributed checkpoint."""
    from torch.distributed import checkpoint

    state = {"model": {"w": torch.ones(2, 3)}, "optimizer": {"param_groups": [{"params": ["w"], "lr": 0.1}]}, "step": 3}
    with tempfile.TemporaryDirectory() as directory:
        checkpoint.save(state, checkpoint_id=directory, no_dist=True)
        return {file.name: file.read_bytes() for file in Path(directory).iterdir()}


def neighbours(directory: Path) -> None:
    """What the files of some targets name: a shard, and the files of a distributed checkpoint."""
    (directory / "x.safetensors").write_bytes(save({"w": torch.ones(2)}))
    for file, content in distributed().items():
        (directory / file).write_bytes(content)


def reader(path: Path, wrapped: Callable[[bytes], bytes]) -> Callable[[bytes], None]:
    """Write the bytes to a file in memory, and read it in every way there is."""

    def read(data: bytes) -> None:
        path.write_bytes(wrapped(data))
        with contextlib.suppress(FromageError):
            if path.name == ".metadata":
                read_metadata(path)
            checkpoint = open_checkpoint(path)
            if sum(entry.elements for entry in checkpoint.entries.values()) < 1_000_000:
                for name in checkpoint.entries:
                    with contextlib.suppress(FromageError):
                        checkpoint.tensor(name)
            if checkpoint.optimizer is not None:
                str(checkpoint.optimizer)
        with contextlib.suppress(FromageError):
            list(scan(path))

    return read
