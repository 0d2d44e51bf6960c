import gzip
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.formats.content import kind_of
from fromage_cli.errors import InputError


@pytest.mark.parametrize(
    ("content", "words", "hint"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page", "download it again"),
        (b"\n <html>", "web page", "download it again"),
        (gzip.compress(b"x", mtime=0), "gzip", "Unpack"),
        (b"\x89HDF\r\n\x1a\n", "HDF5", "safetensors"),
        (b"GGUF\x03", "GGUF", "quantised"),
        (b"\x93NUMPY\x01", "single NumPy array", "numpy.savez"),
        (b"plain words", "not a checkpoint in a known format", ".safetensors"),
        (b'{"a": 1}', "JSON", ".safetensors"),
        (b"\x80\x02\x00garbage", "not a checkpoint", ".safetensors"),
    ],
)
@pytest.mark.parametrize("name", ["x.pt", "x"])
def test_foreign_content_is_named(tmp_path, content, words, hint, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_checkpoint(path)
    assert words in caught.value.message
    assert hint in caught.value.hint


def test_a_pointer_named_safetensors_is_still_a_pointer(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="Git LFS pointer"):
        open_checkpoint(tmp_path)


def test_a_tar_archive(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 600)
    with tarfile.open(tmp_path / "x.pt", "w") as archive:
        archive.add(tmp_path / "a", arcname="a")
    with pytest.raises(InputError, match="tar archive"):
        open_checkpoint(tmp_path / "x.pt")


def test_another_zip_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(InputError, match="ZIP archive, but neither"):
        open_checkpoint(tmp_path / "x.pt")


def test_a_header_length_that_looks_like_a_pickle(tmp_path):
    """640 is the bytes 80 02 00 …, which is how pickles of protocol 2 begin."""
    content = save({"w": torch.ones(1)}, {"fill": ""})
    missing = 640 - int.from_bytes(content[:8], "little")
    path = tmp_path / "x.bin"
    path.write_bytes(save({"w": torch.ones(1)}, {"fill": "x" * missing}))
    assert path.read_bytes()[:3] == b"\x80\x02\x00"
    assert kind_of(path) == "safetensors"
    assert open_checkpoint(path).tensor("w").item() == 1
