"""Files that are cut off, changed or contradict themselves: each is refused in a sentence, and quickly."""

import io
import json
import pickle
import struct
import zipfile
import zlib

import numpy
import pytest
import torch
from safetensors.torch import save, save_file

LEGACY = {"_use_new_zipfile_serialization": False}
STATE = {"a.weight": torch.arange(600.0).reshape(20, 30), "a.bias": torch.ones(20)}
PICKLE = pickle.dumps


def written(**options):
    stream = io.BytesIO()
    torch.save(STATE, stream, **options)
    return stream.getvalue()


def npz():
    stream = io.BytesIO()
    numpy.savez_compressed(stream, **{name: tensor.numpy() for name, tensor in STATE.items()})
    return stream.getvalue()


def boundaries(content):
    """Where structures begin: members, headers, pickles, tensors; and one byte before and after."""
    places = {0, 1, 8, 9, len(content) // 2, len(content) - 1, len(content) - 22}
    for mark in (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x07\x08", b"\x80\x02", b"}", b"."):
        place = content.find(mark)
        while place >= 0 and len(places) < 40:
            places |= {place, place + 1, place + len(mark)}
            place = content.find(mark, place + 97)
    return sorted(place for place in places if 0 < place < len(content))


@pytest.mark.parametrize(
    "content", [save(STATE), written(), written(**LEGACY), npz()], ids=["safetensors", "zip", "legacy", "npz"]
)
def test_truncation_at_every_boundary(ask, tmp_path, content):
    path = tmp_path / "x"
    for length in boundaries(content):
        path.write_bytes(content[:length])
        ask("inspect", path)


@pytest.mark.parametrize("content", [written(), npz()], ids=["zip", "npz"])
def test_every_checksum_counts(ask, tmp_path, content):
    path = tmp_path / "x"
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [
            entry for entry in archive.infolist() if entry.file_size > 60 and "serialization" not in entry.filename
        ]
    for member in members:
        begin = member.header_offset + 30 + sum(struct.unpack_from("<2H", content, member.header_offset + 26))
        changed = bytearray(content)
        changed[begin + member.compress_size // 2] ^= 0x10
        path.write_bytes(changed)
        ask("inspect", path)


def safetensors(table, data=b"", length=None):
    header = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BROKEN = {
    "length 2^62": safetensors({}, length=2**62),
    "length 2^64 - 1": safetensors({}, length=2**64 - 1),
    "length beyond": safetensors({"w": entry([1], 0, 4)}, bytes(4), length=5000),
    "overlapping": safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "same bytes": safetensors({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, bytes(8)),
    "gap": safetensors({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, bytes(12)),
    "trailing": safetensors({"a": entry([1], 0, 4)}, bytes(40)),
    "duplicate": safetensors(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2 + b'"x":1}', bytes(4)),
    "negative shape": safetensors({"a": entry([-1, -1], 0, 4)}, bytes(4)),
    "shape 2^62": safetensors({"a": entry([2**62, 2**62], 0, 4)}, bytes(4)),
    "shape 2^62 of nothing": safetensors({"a": entry([2**62, 0, 2**62], 0, 0)}),
    "negative offsets": safetensors({"a": entry([1], -4, 0)}, bytes(4)),
    "backwards": safetensors({"a": entry([1], 4, 0)}, bytes(4)),
    "fractions": safetensors({"a": entry([1.5], 0, 6)}, bytes(6)),
    "truths": safetensors({"a": entry([True], 0, 4)}, bytes(4)),
    "huge number": safetensors(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}', bytes(4)),
    "unknown dtype": safetensors({"a": entry([1], 0, 4, "O")}, bytes(4)),
    "dtype of an object": safetensors({"a": entry([1], 0, 4, {})}, bytes(4)),
    "no object": safetensors([1, 2]),
    "entries that are lists": safetensors({"a": [1]}),
    "metadata of numbers": safetensors({"__metadata__": {"a": 1}, "w": entry([1], 0, 4)}, bytes(4)),
    "no text": safetensors(b"{\xff\xfe}"),
    "half of a character": safetensors(b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
    "deep": safetensors(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep objects": safetensors(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "blanks": safetensors(b"{" + b" " * 1_000_000),
    "NaN": safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', bytes(4)),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_headers_of_safetensors(ask, tmp_path, kind):
    (tmp_path / "x.safetensors").write_bytes(BROKEN[kind])
    ask("inspect", tmp_path / "x.safetensors")


def archive(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def tensor_pickle(key="0", elements=1, offset=0, shape=(1,), stride=(1,), storage="FloatStorage"):
    """{"w": tensor} as torch.save describes it, with any numbers."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            kind = getattr(torch, storage)
            return ("storage", kind, key, "cpu", elements) if isinstance(value, Storage) else None

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, shape, stride, False, {})

    stream = io.BytesIO()
    Pickler(stream, 2).dump({"w": Tensor()})
    return stream.getvalue()


@pytest.mark.parametrize(
    "numbers",
    [
        {"elements": 2**62},
        {"elements": -1},
        {"elements": 2},
        {"elements": 1.0},
        {"shape": (2,)},
        {"shape": (2**62, 2**62), "stride": (0, 0)},
        {"shape": (2**40,), "stride": (0,)},
        {"shape": (-1,)},
        {"shape": (1,), "stride": (1, 1)},
        {"shape": (2,), "stride": (-1,)},
        {"shape": (2,), "stride": (2**62,)},
        {"offset": 1},
        {"offset": -1},
        {"offset": 2**62},
        {"shape": tuple([1] * 100), "stride": tuple([1] * 100)},
        {"key": "../../../etc/passwd"},
        {"key": "missing"},
        {"key": "\x1b[31mred"},
        {"storage": "DoubleStorage"},
    ],
    ids=str,
)
def test_tensors_that_do_not_lie_in_their_storage(ask, tmp_path, numbers):
    members = {"x/data.pkl": tensor_pickle(**numbers), "x/data/0": bytes(4), "x/version": b"3"}
    ask("inspect", archive(tmp_path / "x.pt", members))


PICKLES = {
    "nested lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "nested tuples": b"\x80\x02)" + b"\x85" * 100_000 + b".",
    "nested tuples as a key": b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
    "tuples that double as a key": b"\x80\x02})" + b"2\x86" * 60 + b"Ns.",
    "marks": b"\x80\x02" + b"(" * 200_000 + b".",
    "dictionaries": b"\x80\x02" + b"}" * 1_000_000 + b".",
    "sets": b"\x80\x04" + b"\x8f" * 500_000 + b".",
    "memo": b"\x80\x02Nr\xff\xff\xff\xff0N.",
    "memo of everything": b"\x80\x04" + b"N\x94" * 500_000 + b".",
    "long bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",
    "long text": b"\x80\x02X\xff\xff\xff\xffx.",
    "long number": b"\x80\x02\x8b\xff\xff\xff\x7fx.",
    "digits": b"\x80\x02I" + b"9" * 60_000 + b"\n.",
    "a line without end": b"\x80\x02c" + b"a" * 1_000_000,
    "frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.",
    "cycle": b"\x80\x02}q\x00U\x01wh\x00s.",
    "cyclic list": b"\x80\x02]q\x00h\x00ah\x00a.",
    "colliding keys": b"\x80\x02}("
    + b"".join(b"\x8a\x0c" + (k * (2**61 - 1)).to_bytes(12, "little", signed=True) + b"N" for k in range(1, 20_000))
    + b"u.",
    "colliding tuples and numbers": b"\x80\x02}("
    + b"".join(b"\x8a\x08" + (k << 40).to_bytes(8, "little") + b"N" for k in range(1, 20_000))
    + b"u.",
    "ordered dictionary copied": b"\x80\x02c__builtin__\nlist\nq\x00]("
    + b"N" * 50_000
    + b"eq\x01"
    + b"0h\x00h\x01\x85R" * 5_000
    + b".",
    "empty": b"\x80\x02.",
    "underflow": b"\x80\x02R.",
    "no stop": b"\x80\x02}",
    "unknown opcode": b"\x80\x02\xff.",
    "unhashable": b"\x80\x02}]Ns.",
    "call of a number": b"\x80\x02K\x01)R.",
    "arguments that are none": b"\x80\x02ccollections\nOrderedDict\nNR.",
    "buffer": b"\x80\x05\x97.",
    "extension": b"\x80\x02\x84\xff\xff\xff\x7f.",
    "name of numbers": b"\x80\x04K\x01K\x02\x93.",
    "a class as the root": b"\x80\x02cos\nsystem\n.",
}


@pytest.mark.parametrize("kind", sorted(PICKLES))
@pytest.mark.parametrize("place", ["bare", "zip"])
def test_pickles_that_exhaust_or_contradict(ask, tmp_path, kind, place):
    path = tmp_path / "x.pt"
    if place == "bare":
        path.write_bytes(PICKLES[kind])
    else:
        archive(path, {"x/data.pkl": PICKLES[kind], "x/version": b"3"})
    ask("inspect", path, codes=(3, 4))
    ask("inspect", "--safety", path, codes=(0,))


def test_networks_that_hold_themselves(ask, tmp_path):
    class Module:
        def __init__(self):
            self._parameters, self._modules = {"w": torch.ones(2)}, {}

    Module.__qualname__ = "Module"
    globals()["Module"] = Module
    loop, doubled = Module(), Module()
    loop._modules["self"] = loop
    for _ in range(60):
        outer = Module()
        outer._modules = {"a": doubled, "b": doubled}
        doubled = outer
    for network in (loop, doubled):
        torch.save(network, tmp_path / "x.pt")
        ask("inspect", tmp_path / "x.pt")


@pytest.mark.parametrize("size", [200_000_000])
def test_decompression_bombs(ask, tmp_path, size):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(size // 1_000_000)) + packer.flush()
    checksum = 0
    for _ in range(size // 1_000_000):
        checksum = zlib.crc32(bytes(1_000_000), checksum)
    elements = size // 4
    for name in ("x/data/0", "x/data.pkl", "w.npy"):
        members = {"x/data.pkl": tensor_pickle(elements=elements, shape=(elements,)), "x/version": b"3"}
        members = {} if name == "w.npy" else members
        members.pop(name, None)
        path = tmp_path / name.replace("/", "-")
        path.write_bytes(deflated(members, name, packed, size, checksum))
        ask("inspect", path)


def deflated(members, name, packed, size, checksum):
    """An archive of plain members and one of any compressed content."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for other, content in members.items():
            made.writestr(other, content)
        made.writestr(name, packed)
    content = bytearray(stream.getvalue())
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as read:
        local = read.getinfo(name).header_offset
    central = content.rindex(b"PK\x01\x02")
    for place, method, sizes in ((local, 8, 14), (central, 10, 16)):
        struct.pack_into("<H", content, place + method, 8)
        struct.pack_into("<3L", content, place + sizes, checksum, len(packed), size)
    return bytes(content)


def test_archives_that_contradict_themselves(ask, tmp_path):
    path = archive(tmp_path / "x.pt", {"x/data.pkl": tensor_pickle(), "x/data/0": bytes(4), "x/version": b"3"})
    content = path.read_bytes()
    central, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    changes = {
        "members": (end + 10, "<H", 60_000),
        "size of the table": (end + 12, "<L", 2**31),
        "place of the table": (end + 16, "<L", 2**31),
        "comment": (end + 20, "<H", 1000),
        "method": (central + 10, "<H", 14),
        "encrypted": (central + 8, "<H", 1),
        "stored size": (central + 20, "<L", 2**31),
        "size": (central + 24, "<L", 2**31),
        "name": (central + 28, "<H", 60_000),
        "place": (central + 42, "<L", 2**31),
        "overlap": (central + 42, "<L", 1),
        "local name": (26, "<H", 60_000),
        "local mark": (0, "<L", 0x04034B51),
    }
    for place, form, value in changes.values():
        changed = bytearray(content)
        struct.pack_into(form, changed, place, value)
        path.write_bytes(changed)
        ask("inspect", path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_twice(ask, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as made:
        for content in (tensor_pickle(), PICKLE({"w": 1})):
            made.writestr("x/data.pkl", content)
        made.writestr("x/data/0", bytes(4))
    ask("inspect", tmp_path / "x.pt")


def npy(header, data=b""):
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 1900 + ",), }"),
        npy("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "1," * 70 + "), }", bytes(4)),
        npy("{'descr': '<f4', 'fortran_order': __import__('os').system('touch canary'), 'shape': (1,), }", bytes(4)),
        npy("(" * 60_000),
        npy(""),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
        b"\x93NUMPY\x09\x00\x10\x00",
        b"",
    ],
    ids=range(10),
)
def test_headers_of_arrays(ask, tmp_path, content):
    ask("inspect", archive(tmp_path / "x.npz", {"w.npy": content}))


def test_weights_that_are_not_finite(ask, tmp_path):
    save_file({"w": torch.full((3, 3), float("nan"))}, tmp_path / "x.safetensors")
    done = ask("inspect", tmp_path / "x.safetensors", "--json", codes=(0,))
    assert "NaN" not in done.out.replace("9 NaN of", "")
