"""Small files that would take much: what is said once and used ten thousand times, what doubles, what is compressed."""

import io
import json
import struct
import zipfile
import zlib

import pytest

PROTOCOL = b"\x80\x02"
DOUBLED = b")" + b"2\x86" * 60
DEEP = b")" + b"\x85" * 50_000


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def named(dotted):
    module, _, name = dotted.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def grouped(*parts):
    return b"(" + b"".join(parts) + b"t"


def called(dotted, *arguments):
    return named(dotted) + grouped(*arguments) + b"R"


def kept(place):
    return b"r" + struct.pack("<I", place)


def again(place):
    return b"j" + struct.pack("<I", place)


def long(number):
    content = number.to_bytes((number.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def mapping(**items):
    return b"}(" + b"".join(text(name) + value for name, value in items.items()) + b"u"


def storage(kind="torch.FloatStorage", key=None):
    return grouped(text("storage"), named(kind), text("0") if key is None else key, text("cpu"), b"K\x01") + b"Q"


def tensor(shape=b"K\x01"):
    view = (grouped(shape), grouped(b"K\x01"), b"\x89", b"}")
    return called("torch._utils._rebuild_tensor_v2", storage(), b"K\x00", *view)


def without_data(sizes):
    return called("torch._utils._rebuild_meta_tensor_no_storage", named("torch.float32"), grouped(*sizes), b"\x89")


def array(sizes):
    dtype = called("numpy.dtype", text("f4"))
    state = grouped(b"K\x01", grouped(*sizes), dtype, b"\x89", b"C\x00")
    return called("numpy.core.multiarray._reconstruct") + state + b"b"


MANY = 10_000
SHARED = b"}" + kept(1) + b"(" + text("a0") + tensor() + kept(2)
SHARED += b"".join(text(f"a{index}") + again(2) for index in range(1, MANY)) + b"u"
"""A dictionary of one tensor under many names, kept under 1."""


def module(parameters, modules):
    return named("m.M") + b")\x81" + mapping(_parameters=parameters, _modules=modules) + b"b"


def many(of):
    return mapping(shared=SHARED, **{f"k{index}": of for index in range(MANY)})


def nested_loads(function):
    inner = PROTOCOL + b"](" + b"N" * 200_000 + b"e."
    stored = b"B" + struct.pack("<I", len(inner)) + inner + kept(1) + b"0"
    return stored + b"](" + called(function, again(1)) * 500 + b"e"


PICKLES = {
    "a persistent id that doubles": DOUBLED + b"Q",
    "a deep persistent id": DEEP + b"Q",
    "a storage's key that doubles": storage(key=DOUBLED),
    "a shape that doubles": tensor(DOUBLED),
    "an encoding that doubles": called("_codecs.encode", text("x"), DOUBLED),
    "a flat setting that doubles": mapping(w=tensor(), optimizer=mapping(**{"param_groups.w.lr": DOUBLED})),
    "300 dimensions": mapping(w=without_data([long(2**62)] * 300)),
    "20 000 dimensions": mapping(w=without_data([long(2**62)] * 20_000)),
    "an array of 8000 dimensions": mapping(w=array([long(2**60)] * 8000)),
    "a size copied again and again": grouped(*[b"K\x01"] * 100_000)
    + kept(1)
    + b"0]("
    + called("torch._tensor._rebuild_from_type_v2", named("torch.Size"), b"N", grouped(again(1)), b"N") * 3000
    + b"e",
    "many names of one dictionary": many(again(1)),
    "many dictionaries around one": many(b"}" + text("b") + again(1) + b"s"),
    "many objects of one state": many(named("a.B") + b")\x81" + again(1) + b"b"),
    "many networks around one": mapping(
        shared=module(SHARED, b"}") + kept(3),
        **{f"k{index}": module(b"}", mapping(b=again(3))) for index in range(MANY // 2)},
    ),
    "pickles in a pickle": nested_loads("pickle.loads"),
    "storages in a pickle": nested_loads("torch.storage._load_from_bytes"),
}


@pytest.mark.parametrize("kind", sorted(PICKLES))
def test_pickles_that_are_small(ask, tmp_path, kind):
    path = tmp_path / "x.pt"
    content = PROTOCOL + PICKLES[kind] + b"."
    with zipfile.ZipFile(path, "w") as archive:
        for name, member in {"x/data.pkl": content, "x/data/0": bytes(4), "x/version": b"3"}.items():
            archive.writestr(name, member)
    ask("inspect", path, codes=(0, 3, 4))
    ask("inspect", "--safety", path, codes=(0,))
    path.write_bytes(content)
    ask("inspect", path, codes=(3, 4))


def compressed(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_pickles_that_are_compressed(ask, tmp_path):
    for content in (b"}" * 900_000, b"N" * 10_000_000, b"}0" * 500_000):
        path = compressed(tmp_path / "x.pt", {"x/version": b"3", "x/data.pkl": PROTOCOL + b"(" + content + b"l."})
        ask("inspect", path)
        ask("inspect", "--safety", path, codes=(0,))


def test_a_package_of_many_pickles(ask, tmp_path):
    bombs = {f"x/m/{index}.pkl": PROTOCOL + b"](" + b"}" * 300_000 + b"e." for index in range(60)}
    path = compressed(tmp_path / "x.pt", {"x/.data/extern_modules": b"", **bombs})
    ask("inspect", path)
    ask("inspect", "--safety", path, codes=(0,))


def test_many_shards_that_are_pickles(ask, tmp_path):
    names = {f"w{index}": f"s{index}.bin" for index in range(20)}
    for name, file in names.items():
        compressed(tmp_path / file, {"x/data.pkl": PROTOCOL + mapping(**{name: tensor()}) + b"}" * 900_000 + b"\x85."})
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    ask("inspect", tmp_path)


def test_an_array_that_is_compressed(ask, tmp_path):
    for elements in (5_500_000, 15_000_000):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({elements},), }}".encode().ljust(118)
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(4 * elements)
        ask("inspect", compressed(tmp_path / "x.npz", {"w.npy": content}), codes=(0, 3))


def header(path, table, data=b""):
    content = table if isinstance(table, bytes) else json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)
    return path


def test_headers_that_are_searched(ask, tmp_path):
    names = b",".join(b'"%d":1' % index for index in range(60_000))
    ask("inspect", header(tmp_path / "x.safetensors", b"{" + names + b',"z":1,"z":1}'))
    sizes = b",".join([b"9"] * 200_000)
    entry = b'{"a":{"dtype":"F32","shape":[' + sizes + b'],"data_offsets":[0,4]}}'
    ask("inspect", header(tmp_path / "x.safetensors", entry, bytes(4)))


@pytest.mark.parametrize("unit", [b"{},", b"[],", b'{"":1},', b'"ab",', b"1.5,"])
def test_texts_that_take_more_than_they_are(ask, tmp_path, unit):
    content = b'{"weight_map":[' + unit * (4_000_000 // len(unit)) + b"1]}"
    ask("inspect", header(tmp_path / "x.safetensors", content))
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    ask("inspect", tmp_path / "model.safetensors.index.json")


def test_long_names_are_not_repeated(ask, tmp_path):
    table = {"n" * 1_000_000: {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}
    assert len(ask("inspect", header(tmp_path / "x.safetensors", table, bytes(4))).err) < 5000


def test_an_index_of_very_many_files(ask, tmp_path):
    files = {str(index): f"s{index}" for index in range(60_000)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    ask("inspect", tmp_path)


def test_an_archive_that_names_a_member_twice_among_very_many(ask, tmp_path):
    content, table = io.BytesIO(), io.BytesIO()
    names = [f"x/{index}".encode() for index in range(40_000)] + [b"x/data.pkl"] * 2
    for name in names:
        sizes = (zlib.crc32(b""), 0, 0, len(name), 0)
        where = content.tell()
        content.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, *sizes) + name)
        table.write(struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, *sizes, 0, 0, 0, 0, where) + name)
    size = len(table.getvalue())
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, len(names), len(names), size, content.tell(), 0)
    (tmp_path / "x.pt").write_bytes(content.getvalue() + table.getvalue() + end)
    ask("inspect", tmp_path / "x.pt")


def test_names_without_a_common_beginning(ask, tmp_path):
    table = {f"a{index}.weight": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for index in range(10_000)}
    path = header(tmp_path / "x.safetensors", table)
    ask(
        "breakdown",
        path,
        "--model",
        "torch.nn:Linear",
        "--model-arg",
        "in_features=2",
        "--model-arg",
        "out_features=2",
        codes=(5,),
    )
