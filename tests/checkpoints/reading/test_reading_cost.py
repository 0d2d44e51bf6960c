import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading.reading_cost import reading_cost


def test_more_to_read_takes_longer(tmp_path):
    save_file({"small": torch.ones(10, 10), "large": torch.ones(1000, 3000)}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    (memory, small), (_, large) = (reading_cost([checkpoint] * 3, [name]) for name in ("small", "large"))
    assert memory > 10**7 and 0.0 < small < large
