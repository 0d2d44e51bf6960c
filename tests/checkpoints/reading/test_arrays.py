import os
import subprocess
import sys

import numpy
import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading import arrays
from fromage_cli.checkpoints.reading.arrays import array_chunks, load_matrix
from fromage_cli.errors import InputError

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["c.safetensors", "c.pt"])
def test_elements_come_in_their_order_whatever_holds_them(dtype, name, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "CHUNK", 10)
    tensor = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    (save_file if name.endswith("safetensors") else torch.save)({"w": tensor}, tmp_path / name)
    checkpoint = open_checkpoint(tmp_path / name)
    chunks = list(array_chunks(checkpoint, "w"))
    assert [len(chunk) for chunk in chunks] == [10, 10, 1]
    assert numpy.concatenate(chunks).tolist() == tensor.double().flatten().tolist()
    assert load_matrix(checkpoint, "w").tolist() == tensor.double().tolist()


def test_a_kernel_is_the_matrix_of_its_map(tmp_path):
    save_file({"w": torch.arange(24.0).reshape(2, 3, 2, 2)}, tmp_path / "c.safetensors")
    assert load_matrix(open_checkpoint(tmp_path / "c.safetensors"), "w").shape == (2, 12)


def test_large_matrices_are_held_as_narrow_as_they_are_stored(tmp_path):
    both = {"w": torch.randn(3, 2).bfloat16(), "d": torch.randn(3, 2).double()}
    save_file(both, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    found = {name: load_matrix(checkpoint, name, narrow=True) for name in both}
    assert (found["w"].dtype, found["d"].dtype) == (numpy.float32, numpy.float64)
    assert found["w"].tolist() == both["w"].double().tolist()


def test_a_file_that_changes_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    save_file({"w": torch.ones(100)}, path)
    checkpoint = open_checkpoint(path)
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(InputError, match="changed while it was being read"):
        list(array_chunks(checkpoint, "w"))


def test_no_torch_for_safetensors(tmp_path):
    save_file({"w": torch.ones(3, 2)}, tmp_path / "c.safetensors")
    code = (
        "import sys\n"
        "from fromage_cli.checkpoints import open_checkpoint\n"
        "from fromage_cli.checkpoints.reading.arrays import load_matrix\n"
        f"assert load_matrix(open_checkpoint({str(tmp_path / 'c.safetensors')!r}), 'w').sum() == 6\n"
        "assert 'torch' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
