"""Rows of tensors against slices of the whole, in every format, and how many bytes are read for them."""

import zipfile
from itertools import combinations_with_replacement

import fsspec
import numpy
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.storage import remote
from fromage_cli.checkpoints.storage.sources import Window
from fromage_cli.errors import InputError
from tests.checkpoints.formats.save_zero import save_zero
from tests.checkpoints.test_formats import FORMATS, network, trained

pytestmark = pytest.mark.filterwarnings("ignore")
DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64),
    *(torch.int64, torch.int8, torch.bool),
)
ROWS, COLUMNS = 12, 2000
"""Of a matrix whose rows of 8000 bytes are longer than all else in its file."""
BESIDE = 3000
"""Bytes of pickles and directories, at most."""


def test_rows_of_every_format_are_those_of_the_whole(tmp_path):
    for form, write in FORMATS.items():
        (tmp_path / form).mkdir()
        state = {name: tensor.clone() for name, tensor in trained()[0].state_dict().items()}
        checkpoint = open_checkpoint(write(tmp_path / form, state))
        for name, whole in checkpoint.items():
            assert whole.shape == state[name].shape
            for begin, end in combinations_with_replacement(range(len(whole) + 1 if whole.dim() else 0), 2):
                rows = checkpoint.rows(name, begin, end)
                assert (rows.dtype, rows.is_contiguous()) == (whole.dtype, True)
                assert torch.equal(rows, whole[begin:end])
                assert rows.untyped_storage().nbytes() <= rows.numel() * rows.itemsize


def in_safetensors(tensors, directory):
    save_file(tensors, directory / "x.safetensors")
    return directory / "x.safetensors"


def in_torch(tensors, directory):
    torch.save(tensors, directory / "x.pt")
    return directory / "x.pt"


def in_legacy_torch(tensors, directory):
    torch.save(tensors, directory / "x.pt", _use_new_zipfile_serialization=False)
    return directory / "x.pt"


def in_distributed(tensors, directory):
    dcp.save(tensors, checkpoint_id=directory / "d", no_dist=True)
    return directory / "d"


PLAIN = (in_safetensors, in_torch, in_legacy_torch, in_distributed)


@pytest.mark.parametrize("write", PLAIN)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_every_dtype(tmp_path, write, dtype):
    tensors = {"w": torch.arange(30).reshape(5, 3, 2).to(dtype), "none": torch.empty(0, 4, dtype=dtype)}
    checkpoint = open_checkpoint(write({**tensors, "scalar": torch.ones((), dtype=dtype)}, tmp_path))
    for begin, end in combinations_with_replacement(range(6), 2):
        rows, expected = checkpoint.rows("w", begin, end), tensors["w"][begin:end]
        assert (rows.dtype, rows.shape) == (dtype, expected.shape)
        assert rows.reshape(-1).view(torch.uint8).tolist() == expected.reshape(-1).view(torch.uint8).tolist()
    assert checkpoint.rows("none", 0, 0).shape == (0, 4)
    for name, begin, end in (("w", 4, 6), ("w", -1, 1), ("w", 2, 1), ("none", 0, 1), ("scalar", 0, 1)):
        with pytest.raises(ValueError, match=f"has no rows {begin} to {end}"):
            checkpoint.rows(name, begin, end)


@pytest.mark.parametrize("write", [in_torch, in_legacy_torch])
def test_rows_of_views_that_are_transposed_or_share_memory(tmp_path, write):
    base = torch.randn(6, 8)
    tensors = {"w": base, "turned": base.t(), "columns": base[:, 2:5], "wide": base[0].expand(3, 8)}
    checkpoint = open_checkpoint(write(tensors, tmp_path))
    for name, whole in tensors.items():
        assert torch.equal(checkpoint.rows(name, 1, 3), whole[1:3])


@pytest.mark.parametrize("save", [numpy.savez, numpy.savez_compressed])
def test_rows_of_numpys_arrays(tmp_path, save):
    plain = numpy.arange(24.0).reshape(6, 4)
    arrays = {"w": plain, "turned": numpy.asfortranarray(plain), "big": plain.astype(">f4")}
    save(tmp_path / "x.npz", **arrays)
    checkpoint = open_checkpoint(tmp_path / "x.npz")
    for name, whole in arrays.items():
        assert checkpoint.rows(name, 2, 5).tolist() == whole[2:5].tolist()


@pytest.fixture
def bytes_read(monkeypatch):
    """How many bytes were read into buffers of tensors and pickles since it was last asked."""
    counts = []
    fill = Window.fill

    def counting(window, view):
        counts.append(len(view))
        fill(window, view)

    def since():
        total = sum(counts)
        counts.clear()
        return total

    monkeypatch.setattr(Window, "fill", counting)
    return since


@pytest.fixture
def without_checksums():
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


@pytest.mark.parametrize("write", PLAIN)
@pytest.mark.usefixtures("without_checksums")
def test_only_the_bytes_of_the_rows_are_read(tmp_path, write, bytes_read):
    whole = torch.randn(ROWS, COLUMNS)
    checkpoint = open_checkpoint(write({"w": whole}, tmp_path))
    for begin, end in ((0, 1), (3, 7), (11, 12)):
        bytes_read()
        assert torch.equal(checkpoint.rows("w", begin, end), whole[begin:end])
        assert 0 <= bytes_read() - 4 * COLUMNS * (end - begin) < BESIDE
    assert checkpoint.rows("w", 5, 5).shape == (0, COLUMNS)
    assert bytes_read() == 0


def test_a_checksum_over_more_than_the_rows_is_compared_once(tmp_path, bytes_read):
    whole = torch.randn(ROWS, COLUMNS)
    path = in_torch({"w": whole}, tmp_path)
    checkpoint = open_checkpoint(path)
    for expected in (4 * COLUMNS * (ROWS + 2), 4 * COLUMNS * 2):
        bytes_read()
        assert torch.equal(checkpoint.rows("w", 3, 5), whole[3:5])
        assert bytes_read() == expected
    with zipfile.ZipFile(path) as archive:
        stored = archive.getinfo("x/data/0").header_offset + 1000
    content = bytearray(path.read_bytes())
    content[stored + 4 * COLUMNS * 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="checksum"):
        open_checkpoint(path).rows("w", 0, 1)


def test_of_a_zero_checkpoint_the_vectors_of_other_rows_are_not_read(tmp_path, bytes_read):
    model = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, COLUMNS)).sum().backward()
    optimizer.step()
    save_zero(tmp_path / "global_step1", model, optimizer, 3, ranks=3, step=1)
    checkpoint = open_checkpoint(tmp_path / "global_step1")
    bytes_read()
    assert torch.equal(checkpoint.rows("weight", 1, 2), model.weight[1:2])
    assert bytes_read() == 4 * COLUMNS * (ROWS // 3 + 1)  # the checksum of a rank's vector, and the row


def test_rows_of_a_remote_file_are_read_by_ranges(tmp_path, monkeypatch):
    whole = torch.randn(ROWS, COLUMNS)
    stored = in_safetensors({"w": whole}, tmp_path).read_bytes()
    fsspec.filesystem("memory").pipe_file("/rows/x.safetensors", stored)
    checkpoint, ranges, read = open_checkpoint("memory://rows/x.safetensors"), [], remote.Remote.read

    def counting(files, entry, begin, end):
        ranges.append(end - begin)
        return read(files, entry, begin, end)

    monkeypatch.setattr(remote.Remote, "read", counting)
    assert torch.equal(checkpoint.rows("w", 3, 5), whole[3:5])
    assert ranges == [4 * COLUMNS * 2]


def test_rows_of_weights_with_scales(tmp_path):
    stored, scale = torch.randn(6, 8).to(torch.float8_e4m3fn), torch.rand(6, 1)
    checkpoint = open_checkpoint(in_safetensors({"a.weight": stored, "a.weight_scale": scale}, tmp_path))
    assert torch.equal(checkpoint.rows("a.weight", 2, 5), (stored.float() * scale)[2:5])


@pytest.mark.parametrize("write", [in_safetensors, in_torch])
def test_rows_are_refused_as_tensors_are(tmp_path, write):
    path = write(network().state_dict(), tmp_path)
    checkpoint = open_checkpoint(path)
    with pytest.raises(InputError, match=r"has no tensor '0.weigth'"):
        checkpoint.rows("0.weigth", 0, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="changed while it was being read"):
        checkpoint.rows("0.weight", 0, 1)
