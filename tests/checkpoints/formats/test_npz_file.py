import zipfile

import numpy
import pytest
import torch

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import InputError, UnsafeError, UsageError


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "c8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", ">f4"])
@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
def test_round_trip(tmp_path, dtype, save):
    array = numpy.asfortranarray(numpy.arange(6).reshape(2, 3).astype(dtype))
    save(tmp_path / "x.npz", **{"layer.w": array})
    checkpoint = open_checkpoint(tmp_path / "x.npz")
    assert (checkpoint.format, checkpoint.entries["layer.w"].shape) == ("npz", (2, 3))
    read = checkpoint.tensor("layer.w")
    assert str(read.dtype) == f"torch.{checkpoint.entries['layer.w'].dtype}"
    assert torch.equal(read, torch.from_numpy(array.astype(array.dtype.newbyteorder("="))))


def test_text_is_left_out_and_told(tmp_path):
    numpy.savez(tmp_path / "x.npz", w=numpy.ones(2), name=numpy.array("net"))
    checkpoint = open_checkpoint(tmp_path / "x.npz")
    assert list(checkpoint.entries) == ["w"]
    assert "'name'" in checkpoint.notes[0]


def test_pickled_objects_are_refused(tmp_path):
    numpy.savez(tmp_path / "x.npz", w=numpy.array([None, {}]))
    with pytest.raises(UnsafeError, match="pickled Python objects"):
        open_checkpoint(tmp_path / "x.npz")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00\x02\x00{}", b"nonsense"])
def test_damaged_members_are_named(tmp_path, content):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("w.npy", content)
    with pytest.raises(InputError, match=r"Array 'w' in .* cannot be read"):
        open_checkpoint(tmp_path / "x.npz")


def test_a_header_that_claims_too_much_is_refused(tmp_path):
    numpy.save(tmp_path / "w.npy", numpy.ones(4))
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("w.npy", (tmp_path / "w.npy").read_bytes()[:-8])
    with pytest.raises(InputError, match="claims 32 bytes, but 24 are there"):
        open_checkpoint(tmp_path / "x.npz")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_twice_is_refused(tmp_path):
    numpy.savez(tmp_path / "x.npz", w=numpy.ones(2))
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("w.npy", archive.read("w.npy"))
    with pytest.raises(InputError, match=r"'w\.npy' twice"):
        open_checkpoint(tmp_path / "x.npz")


def test_a_key_has_no_meaning(tmp_path):
    numpy.savez(tmp_path / "x.npz", w=numpy.ones(2))
    with pytest.raises(UsageError, match="--key"):
        open_checkpoint(tmp_path / "x.npz", "model")
