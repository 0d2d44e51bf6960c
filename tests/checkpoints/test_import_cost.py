import subprocess
import sys
from functools import partial

import numpy
import pytest
import torch
from safetensors.torch import save_file

PROGRAM = """
import sys
from pathlib import Path
from fromage_cli.checkpoints import find_series, open_checkpoint
names = list(open_checkpoint(sys.argv[1]).entries)
find_series(Path(sys.argv[1]))
assert names == ["w"], names
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""


@pytest.mark.parametrize(
    ("save", "suffix"),
    [
        (save_file, ".safetensors"),
        (torch.save, ".pt"),
        (partial(torch.save, _use_new_zipfile_serialization=False), ".pt"),
        (lambda tensors, path: numpy.savez(path, w=tensors["w"].numpy()), ".npz"),
    ],
    ids=["safetensors", "torch", "torch-legacy", "npz"],
)
def test_opening_imports_neither_torch_nor_numpy(tmp_path, save, suffix):
    for step in (1, 2):
        save({"w": torch.ones(4)}, tmp_path / f"step-{step}{suffix}")
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True)
