"""Small pickles that share or collide: doubling keys of storages, numbers of one hash, one list for many groups."""

import io
import pickle
import struct
import zipfile

import pytest

PROTOCOL = b"\x80\x02"
MAGIC = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
DOUBLED = b")" + b"2\x86" * 60
COLLIDING = 20_000


def number(value: int) -> bytes:
    content = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def of_one_hash(after: bytes = b"") -> bytes:
    """Multiples of the modulus of Python's hashes of numbers."""
    return b"".join(number(factor * (2**61 - 1)) + after for factor in range(1, COLLIDING))


def archive(path, content):
    with zipfile.ZipFile(path, "w") as made:
        for name, member in {"x/data.pkl": content, "x/data/0": bytes(4), "x/version": b"3"}.items():
            made.writestr(name, member)
    return path


@pytest.mark.parametrize("keys", [DOUBLED, b"](" + DOUBLED + b"e", b"](" + (DOUBLED + b"0") * 200 + DOUBLED + b"e"])
def test_keys_of_storages_that_double(ask, tmp_path, keys):
    path = tmp_path / "x.pt"
    path.write_bytes(MAGIC + PROTOCOL + b"}." + PROTOCOL + keys + b".")
    ask("inspect", path)
    ask("inspect", "--safety", path, codes=(0,))


COLLISIONS = {
    "set of a list": b"c__builtin__\nset\n](" + of_one_hash() + b"e\x85R",
    "frozenset of a list": b"cbuiltins\nfrozenset\n](" + of_one_hash() + b"e\x85R",
    "set of a tuple": b"c__builtin__\nset\n(" + of_one_hash() + b"t\x85R",
    "dict of pairs": b"c__builtin__\ndict\n](" + of_one_hash(b"N\x86") + b"e\x85R",
    "ordered dictionary of pairs": b"ccollections\nOrderedDict\n](" + of_one_hash(b"N\x86") + b"e\x85R",
    "counter of pairs": b"ccollections\nCounter\n](" + of_one_hash(b"N\x86") + b"e\x85R",
    "default dictionary": b"ccollections\ndefaultdict\nN](" + of_one_hash(b"N\x86") + b"e\x86R",
    "set": b"\x8f(" + of_one_hash() + b"\x90",
    "frozenset": b"(" + of_one_hash() + b"\x91",
    "dictionary": b"(" + of_one_hash(b"N") + b"d",
    "places of the memo": b"N" + b"".join(b"p%d\n" % (factor * (2**61 - 1)) for factor in range(1, COLLIDING)),
}


@pytest.mark.parametrize("kind", sorted(COLLISIONS))
def test_numbers_of_one_hash(ask, tmp_path, kind):
    path = archive(tmp_path / "x.pt", PROTOCOL + COLLISIONS[kind] + b".")
    ask("inspect", path, codes=(3, 4))
    ask("inspect", "--safety", path, codes=(0,))
    path.write_bytes(PROTOCOL + COLLISIONS[kind] + b".")
    ask("inspect", path, codes=(3, 4))
    ask("inspect", "--safety", path, codes=(0,))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu")
)
TENSOR += b"K\x01tQK\x00K\x01\x85K\x01\x85\x89}tR"
PARAMETERS = b"](" + b"".join(b"M" + struct.pack("<H", index) for index in range(10_000)) + b"e"
GROUPS = {
    "one group": b"}(" + text("params") + PARAMETERS + text("lr") + b"K\x01uq\x010](" + b"h\x01" * 20_000 + b"e",
    "one list of parameters": PARAMETERS + b"q\x010](" + (b"}" + text("params") + b"h\x01s") * 3_000 + b"e",
    "one list of names": b"](" + text("a") * 10_000 + b"eq\x010](" + (b"}" + text("params") + b"h\x01s") * 3_000 + b"e",
}


@pytest.mark.parametrize("kind", sorted(GROUPS))
def test_one_group_of_parameters_for_many(ask, tmp_path, kind):
    optimizer = b"}(" + text("state") + b"}" + text("param_groups") + GROUPS[kind] + b"u"
    content = (
        PROTOCOL + b"}(" + text("model") + b"}" + text("w") + TENSOR + b"s" + text("optimizer") + optimizer + b"u."
    )
    ask("inspect", archive(tmp_path / "x.pt", content), codes=(0, 3))


def test_flat_settings_of_one_hash(ask, tmp_path):
    settings = b"".join(text(f"param_groups.w{factor}.lr") + number(factor * (2**61 - 1)) for factor in range(1, 8_000))
    content = PROTOCOL + b"}(" + text("model") + b"}" + text("w") + TENSOR + b"s" + text("optimizer")
    ask("inspect", archive(tmp_path / "x.pt", content + b"}(" + settings + b"uu."), codes=(0, 3))


def test_what_is_shared_by_right_is_read(ask, tmp_path):
    stream = io.BytesIO()
    pickle.dump({"lr": 10**18, "betas": (0.9, 0.99), "seed": -(2**63)}, stream, 2)
    (tmp_path / "x.pkl").write_bytes(stream.getvalue())
    assert "without tensors" in ask("inspect", tmp_path / "x.pkl", codes=(3,)).err
