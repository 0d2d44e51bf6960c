import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.distance import cost
from fromage_cli.diagnostics.distance.cost import measure_cost


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "chunk_seconds", lambda: 1e-3)  # what is timed differs from call to call
    save_file({"w": torch.ones(1100, 1200), "v": torch.ones(10, 10), "b": torch.ones(9)}, tmp_path / "c.safetensors")
    return open_checkpoint(tmp_path / "c.safetensors")


def test_larger_tensors_cost_more(checkpoint):
    small, large = (measure_cost(checkpoint, checkpoint, [name], True) for name in ("v", "w"))
    assert 0.0 < small[0] < large[0] and large[1] - small[1] >= 2 * 4 * 1000 * 1200


def test_the_spectrum_is_most_of_it(checkpoint):
    with_it, without = (measure_cost(checkpoint, checkpoint, ["w", "v", "b"], spectrum) for spectrum in (True, False))
    assert without[0] < with_it[0] and without[1] < with_it[1]


def test_decompositions_take_time(checkpoint, monkeypatch):
    monkeypatch.setattr(cost, "chunk_seconds", lambda: 0.0)
    seconds, _ = measure_cost(checkpoint, checkpoint, ["w"], True)
    assert seconds > 0.0
