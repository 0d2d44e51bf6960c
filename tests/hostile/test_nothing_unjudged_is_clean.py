"""`inspect --safety --fail-on warn` ends 10 for what may run code in an ordinary loader, and 0 for plain weights."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy
import pytest
import torch
from safetensors.torch import save, save_file

SYSTEM = b"cos\nsystem\n(S'true'\ntR."
LOAD = "torch.storage._load_from_bytes"


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def called(module, name, *arguments):
    return b"\x80\x04" + text(module) + text(name) + b"\x93(" + b"".join(arguments) + b"tR."


def archive(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "/").replace("_DOT_", "."), content)
    return stream.getvalue()


def tar(content, form):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as made:
        entry = tarfile.TarInfo("pickle")
        entry.size = len(content)
        made.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def without_mark(content):
    """The same tar archive as before POSIX: no `ustar`, and the checksum that follows."""
    block = bytearray(content[:512])
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + content[512:]


def array(header, content=SYSTEM):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def one_array(value):
    stream = io.BytesIO()
    numpy.save(stream, value)
    return stream.getvalue()


def inside_of_numbers(content):
    """A safetensors file that is a pickle too: its length begins a text, the rest of the header is another."""
    data = b"\n0" + content
    tensor = {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}
    table = {"__metadata__": {"x": "P" * 500}, "w": tensor}
    header = json.dumps(table).encode()
    header += b" " * ((ord("X") - len(header)) % 256)
    header += b" " * 65536
    place = 5 + (len(header) >> 8) - 8  # what follows the text, which begins at byte 5 of the file
    assert header[place : place + 2] == b"PP"
    return struct.pack("<Q", len(header)) + header[:place] + b"0V" + header[place + 2 :] + data


def numbers_behind_a_number(content):
    """A safetensors file that is a pickle too: its length begins a line of INT, which C ends at the zero byte."""
    tensor = {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, len(content)]}
    header = json.dumps({"w": tensor}).encode()
    header += b" " * ((ord("I") - len(header) - 1) % 256) + b"\n"
    return struct.pack("<Q", len(header)) + header + content


def joblib_of(compress):
    import joblib

    stream = io.BytesIO()
    joblib.dump({"model": os.system}, stream, compress=compress)
    return stream.getvalue()


MEMO = b"\x80\x04Nq\x01q\x00q\x010" + text("collections") + b"q\x030" + text("posix") + b"\x940h\x03" + text("system")
MEMO += b"\x93" + text("true") + b"\x85R."
UNSAFE = {
    "a stale place in the memo": MEMO,
    "a number in base 16": b"I0x10\n0" + SYSTEM,
    "a long number": b"N0\x8b\xc8\x00\x00\x00" + b"\x01" * 200 + b"0" + SYSTEM,
    "a key of 80 bits": b"}\x8a\x0a" + b"\x01" * 10 + b"Ns0" + SYSTEM,
    "a nested tuple as a key": b"})\x85\x85Ns0" + SYSTEM,
    "a line of 100,000 blanks": b"I" + b" " * 100_000 + b"1\n0" + SYSTEM,
    "an item of a list": b"](K\x01eK\x00K\x07s0" + SYSTEM,
    "arguments in a list": b"\x80\x04cmodule\nName\n]\x81.",
    "a buffer": b"\x80\x05\x970" + SYSTEM,
    "a class that is changed": b"\x80\x02ctorch.nn.parameter\nParameter\nN}U\x01ac_codecs\nencode\ns\x86b0N.",
    "an entry of a module's dictionary": b"\x80\x02ccollections\nOrderedDict\nU\x01aNs.",
    "a walk through attributes": called("torch", "os.system", text("true")),
    "another": called("builtins", "print.__self__.eval", text("1")),
    "a method": called("numpy", "ndarray.tofile", text("x")),
    "an unknown function": called("sympy", "sympify", text("1")),
    "a private one": called("typing", "_eval_type", text("1")),
    "an opener": called("gzip", "open", text("x"), text("w")),
    "an import alone": b"\x80\x02cantigravity\nfly\n.",
    "a partial call": called("functools", "partial", b"ctorch.storage\n_load_from_bytes\n", b"C\x01."),
    "a network that is called": b"\x80\x02ctorch.nn.modules.container\nSequential\n)\x81}U\x08_modules}K\x00"
    + b"ctorch.storage\n_load_from_bytes\nssb" + b"C\x01.\x85R.",
    "a network that is called otherwise": b"\x80\x02(ctorch.nn.modules.container\nSequential\n)\x81}U\x08_modules}K\x00"
    + b"ctorch.storage\n_load_from_bytes\nssb" + b"C\x01.o.",
    "an extension that is registered": b"\x80\x02ccopyreg\nadd_extension\n.",
    "a storage that is called": b"\x80\x02(U\x07storagectorch.storage\n_load_from_bytes\nU\x010U\x03cpuC\x01\xffNtQ.",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent class": b"\x80\x02(U\x06modulecos\nsystem\nU\x01aU\x01btQU\x04true\x85R.",
    "a pickle that is rebuilt": called(
        "torch._tensor", "_rebuild_from_type_v2", b"ctorch.storage\n_load_from_bytes\n", b"N", b"C\x01.\x85", b"N"
    ),
    "a pickle in another encoding": called(
        "torch.storage", "_load_from_bytes", b"c_codecs\nencode\n" + text("a") + text("utf-16") + b"\x86R"
    ),
    "a pickle of numbers": called("torch.storage", "_load_from_bytes", b"cbuiltins\nbytes\n](K\x4eK\x2ee\x85R"),
    "a tar archive in a pickle": called(
        "torch.storage", "_load_from_bytes", b"B\x00\x28\x00\x00" + tar(SYSTEM, tarfile.GNU_FORMAT)
    ),
    "what follows a frame": b"\x80\x04\x95\x10\0\0\0\0\0\0\0N.N.N.N.N.N.N.N." + SYSTEM,
    "an opcode across frames": b"\x80\x04\x95\x03\0\0\0\0\0\0\0" + text("os") + b"0" + SYSTEM,
    "gzip": gzip.compress(SYSTEM),
    "bzip2": bz2.compress(SYSTEM),
    "xz": lzma.compress(SYSTEM),
    "lzma": lzma.compress(SYSTEM, lzma.FORMAT_ALONE),
    "zlib": zlib.compress(SYSTEM, 3),
    "a tar archive": tar(SYSTEM, tarfile.PAX_FORMAT),
    "an old tar archive": without_mark(tar(SYSTEM, tarfile.USTAR_FORMAT)),
    "compiled code in an archive": archive(x_DOT_pyc=b"\xa7\r\r\n" + bytes(40)),
    "a library in an archive": archive(data__aotinductor__model__x_DOT_so=b"\x7fELF" + bytes(40)),
    "a lambda of Keras": archive(config_DOT_json=json.dumps({"layers": [{"class_name": "Lambda"}]})),
    "a compressed pickle in an archive": archive(x__data_DOT_pkl=pickle.dumps({}), x__y=zlib.compress(SYSTEM)),
    "a graph in an archive": archive(x__models__decoder_DOT_json=b"{}"),
    "an older graph": archive(serialized_exported_program_DOT_json=b"{}"),
    "a text of jsonpickle in an archive": archive(x__config_DOT_json=b'{"py/object": "os.system"}'),
    "storages of no pickle of torch": archive(x__mydata_DOT_pkl=pickle.dumps({}), x__mydata__0=b"\x00\x01" * 9),
    "an array behind an array": one_array(numpy.ones(3)) + array("{'descr': '|O'}"),
    "storages of no archive of torch": archive(x__data__0=b"\x00\x01" * 9),
    "an archive behind something": b"#!/bin/sh\n" + archive(__main___DOT_py=b"1"),
    "an array with a code of two": array("{'descr': 'f4,O', 'fortran_order': False, 'shape': (1,), }"),
    "an array with two codes": array("{'descr': '<f4', 'descr': '|O', 'fortran_order': False, 'shape': (1,), }"),
    "an array of `object`": array("{'descr': 'object', 'fortran_order': False, 'shape': (1,), }"),
    "an array of an escaped code": array("{'descr': [('a', '\\x4f')], 'fortran_order': False, 'shape': (1,), }"),
    "an array of a code in parts": array("{'descr': [('a', 'ob' 'ject')], 'fortran_order': False, 'shape': (1,), }"),
    "an array of an unknown code": array("{'descr': 'x9', 'fortran_order': False, 'shape': (1,), }"),
    "numbers whose length is a number of a pickle": numbers_behind_a_number(SYSTEM),
    "numbers that are a pickle too": inside_of_numbers(SYSTEM),
    "an unknown format": bytes(range(256)),
    "a text for YAML": b"a: !!python/object/apply:os.system [x]\n",
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(UNSAFE))
@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_what_may_run_code_is_never_clean(ask, tmp_path, kind, name):
    (tmp_path / name).write_bytes(UNSAFE[kind])
    ask("inspect", "--safety", tmp_path / name, "--fail-on", "warn", codes=(10,))
    ask("inspect", "--safety", tmp_path, "--fail-on", "warn", codes=(10,))


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("lzma", 3), ("xz", 3), ("bz2", 3)])
def test_what_joblib_writes_is_never_clean(ask, tmp_path, compress):
    pytest.importorskip("joblib")
    (tmp_path / "x.joblib").write_bytes(joblib_of(compress))
    ask("inspect", "--safety", tmp_path / "x.joblib", "--fail-on", "warn", codes=(10,))


def test_an_archive_inside_of_numbers(ask, tmp_path):
    inner = archive(__main___DOT_py=b"1")
    save_file({"w": torch.frombuffer(bytearray(inner), dtype=torch.uint8)}, tmp_path / "x.safetensors")
    ask("inspect", "--safety", tmp_path / "x.safetensors", "--fail-on", "warn", codes=(10,))


def test_a_directory_behind_a_link_is_not_clean(ask, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.pkl").write_bytes(SYSTEM)
    (tmp_path / "a" / "link").symlink_to(tmp_path / "b")
    ask("inspect", "--safety", tmp_path / "a", "--fail-on", "warn", codes=(10,))


def saved(value, **options):
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def arrays(save_arrays, **named):
    stream = io.BytesIO()
    save_arrays(stream, **named)
    return stream.getvalue()


STATE = {"w": torch.ones(3, 4), "b": torch.nn.Parameter(torch.ones(3)), "step": 3, "n": numpy.float64(2.0)}
OPTIMIZER = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict()
RECORDS = numpy.zeros(3, [("Observation", "f4"), ("", "V4"), ("y", "S3"), ("z", "M8[ns]")])
CLEAN = {
    "torch": saved({"model": STATE, "optimizer": OPTIMIZER}),
    "torch-legacy": saved({"model": STATE, "optimizer": OPTIMIZER}, _use_new_zipfile_serialization=False),
    "network": saved(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())),
    "big integers": pickle.dumps({"seed": 2**500, (1, (2, 3)): 1, 2**80: None}),
    "npz": arrays(numpy.savez, w=numpy.ones(3), x=numpy.ones(3, "f4")),
    "compressed npz": arrays(numpy.savez_compressed, w=numpy.ones(300)),
    "array": one_array(numpy.ones(3)),
    "records": one_array(RECORDS),
    "text array": one_array(numpy.array(["abc"])),
    "safetensors": save({"w": torch.ones(2)}),
    "json": b'{"lr": 0.1}',
    "text": "grösser: 1\n".encode(),
}


@pytest.mark.parametrize("kind", sorted(CLEAN))
def test_plain_weights_are_clean(ask, tmp_path, kind):
    (tmp_path / "x").write_bytes(CLEAN[kind])
    ask("inspect", "--safety", tmp_path / "x", "--fail-on", "warn", codes=(0,))


def test_headers_of_every_length_are_clean(ask, tmp_path):
    for length in (99, 105, 128, 73, 76, 88, 40, 80):  # their first byte is an opcode
        name = "n" * (length + 256 - len(save({"": torch.ones(1)})) % 256)
        content = save({name: torch.ones(1)})
        (tmp_path / f"{content[0]}.safetensors").write_bytes(content)
    (tmp_path / "x.safetensors").write_bytes(save({"n" * 90_000: torch.full((9,), 2.0)}))
    ask("inspect", "--safety", tmp_path, "--fail-on", "warn", codes=(0,))


def test_files_around_a_checkpoint_are_clean(ask, tmp_path):
    for name, content in {
        "README.md": b"---\nlicense: mit\n---\n",
        "merges.txt": b"#version: 0.2\n",
        "training.py": b"import os\nimport sys\n",
        "net.py": b"class Net:\n    pass\n",
        "hparams.yaml": b"callbacks:\n  - x\nlr: 0.1\n",
        "metrics.csv": b"epoch,step\n1,2\n",
        "ids.csv": b"id,loss\n1,2\n",
        "picture.png": b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
        "tokenizer.model": b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02",
    }.items():
        (tmp_path / name).write_bytes(content)
    ask("inspect", "--safety", tmp_path, "--fail-on", "warn", codes=(0,))
