import time

import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading import reading_cost as module
from fromage_cli.checkpoints.reading.reading_cost import reading_cost, reduction_cost


def test_a_part_tells_the_whole(tmp_path, monkeypatch):
    save_file({f"w{index}": torch.ones(1000) for index in range(10)}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    monkeypatch.setattr(module, "SAMPLE", 1500)  # two tensors of ten
    clock = iter((1.0, 3.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert reduction_cost([checkpoint] * 3).seconds == 2.0 * 3 * 10 / 2


def test_memory_is_that_of_buffers_whatever_the_size(tmp_path):
    save_file({"w": torch.ones(1 << 20), "i": torch.ones(3, dtype=torch.int8)}, tmp_path / "c.safetensors")
    found = reduction_cost([open_checkpoint(tmp_path / "c.safetensors")], ["w"])
    assert 3e7 < found.bytes < 1e8
    assert reduction_cost([open_checkpoint(tmp_path / "c.safetensors")], []).seconds == 0.0


def test_more_to_read_takes_longer(tmp_path):
    save_file({"small": torch.ones(10, 10), "large": torch.ones(1000, 3000)}, tmp_path / "c.safetensors")
    checkpoint = open_checkpoint(tmp_path / "c.safetensors")
    (memory, small), (_, large) = (reading_cost([checkpoint] * 3, [name]) for name in ("small", "large"))
    assert memory > 10**7 and 0.0 < small < large
