import gzip
import io
import tarfile
import zipfile
import zlib

import pytest
import torch
from safetensors.torch import save

from fromage_cli.checkpoints.safety.other_formats import holds_numbers, unjudged
from fromage_cli.checkpoints.storage.files import HEAD
from fromage_cli.checkpoints.storage.sources import Source


def said(path, content, known=False):
    path.write_bytes(content)
    return unjudged(Source.of_file(path), content[:HEAD], known)


def tar(form):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as made:
        made.addfile(tarfile.TarInfo("x"))
    return stream.getvalue()


def archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("x", b"")
    return stream.getvalue()


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gzip.compress(b"x", mtime=0), "a gzip archive"),
        (zlib.compress(b"x"), "a zlib stream"),
        (tar(tarfile.PAX_FORMAT), "a tar archive"),
        (b"numbers" + archive(), "the ZIP archive at its end"),
        (b"GGUF" + bytes(9), "a GGUF file"),
    ],
)
def test_what_else_a_file_is_comes_before_what_it_begins_with(tmp_path, content, expected, known):
    assert said(tmp_path / "x", content, known).startswith(expected)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x", b"plain words"),
        ("x", b"xyz is no zlib stream"),
        ("x", "größer\n".encode()),
        ("x.yaml", b"a: [1, 2]  # not a tag\n"),
        ("x.json", b'{"module": "keras.layers", "class_name": "Dense"}'),
        ("x.json", b'{"module": "torch.nn", "type": "Linear"}'),
        ("x.png", b"\x89PNG\r\n\x1a\n\0"),
        ("tokenizer.model", b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02"),
        ("events.out.tfevents.1.host", b"\x18" + bytes(30)),
    ],
)
def test_text_and_files_by_their_names_are_left_alone(tmp_path, name, content):
    assert said(tmp_path / name, content) == ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x", bytes(range(200))),
        ("x", b"words\0"),
        ("x", "größer".encode("latin-1")),
        ("x.yaml", b"a: !!python/name:os.system\n"),
        ("x.yaml", b"%TAG ! tag:yaml.org,2002:pyth\n---\na: !on/name:os.system\n"),
        ("x.json", b'{"class_name" : "Lambda"}'),
        ("x.json", b'{"py/reduce": []}'),
        ("x.json", b'{"py\\/reduce": []}'),
        ("x.json", b'{"module": "os", "class_name": "system", "config": {}}'),
        ("x.json", b'{"class_name": "function", "config": "system", "module"\n: "shutil"}'),
        ("x.json", b" " * 1_048_570 + b'{"class_name": "Lambda"}'),
        ("x.json", b'{"class_name":' + b" " * 1_048_570 + b'"Lambda"}'),
        ("x", b" " * 2_000_000 + b"\xff"),
        ("x", b" " * 2_000_000 + "é".encode()[:1]),
        ("x.YAML", b"a: !x\n"),
        ("x.cfg", b"a: !!%70ython/name:os.system\n"),
        ("x.cfg", b"%TAG ! tag:yaml.org,2002:pyth\n---\na: !on/name:os.system\n"),
        ("x.yaml", b"model:\n  _target_: os.system\n"),
        ("x.json", b'{"p\\u0079/object": "os.system"}'),
        ("schema.json", b'{"__class__": "f", "__module__": "os", "__loader__": "FunctionNode"}'),
        ("picture.png", gzip.compress(b"x", mtime=0)),
    ],
)
def test_all_else_is_said(tmp_path, name, content):
    assert said(tmp_path / name, content).endswith("was not looked into")
    assert said(tmp_path / "known", content, known=True) == "" or content.startswith(b"\x1f")


def test_a_character_at_the_end_of_what_is_looked_at_may_be_cut(tmp_path):
    assert said(tmp_path / "x", b"a" + "é".encode() * 600_000) == ""


def test_numbers_are_files_that_are_valid_as_a_whole(tmp_path):
    content = save({"w": torch.ones(2)})
    for stored, expected in [
        (content, True),
        (content[:-1], False),
        (content + b"x", False),
        (b"\x81\xa1w\xc1", False),
    ]:
        (tmp_path / "x").write_bytes(stored)
        assert holds_numbers(Source.of_file(tmp_path / "x"), stored[:HEAD]) == expected
    assert not holds_numbers(Source.of_bytes(tmp_path / "x", content), content)
