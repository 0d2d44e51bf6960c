import subprocess
import sys

import torch
from safetensors.torch import save_file

PROGRAM = """
import sys
from fromage_cli.checkpoints import find_series, open_checkpoint
names = list(open_checkpoint(sys.argv[1]).entries)
find_series(sys.argv[1])
assert names == ["w"], names
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""


def test_opening_safetensors_imports_neither_torch_nor_numpy(tmp_path):
    for step in (1, 2):
        save_file({"w": torch.ones(4)}, tmp_path / f"step-{step}.safetensors")
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True)
