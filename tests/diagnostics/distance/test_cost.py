import pytest
import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.distance import cost
from fromage_cli.diagnostics.distance.cost import measure_cost


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "chunk_seconds", lambda: 1e-3)  # what is timed differs from call to call
    monkeypatch.setattr(cost, "_trial_seconds", lambda: 1e-2)
    save_file({"w": torch.ones(1100, 1200), "v": torch.ones(10, 10), "b": torch.ones(9)}, tmp_path / "c.safetensors")
    return open_checkpoint(tmp_path / "c.safetensors")


def test_larger_tensors_cost_more(checkpoint):
    small, large = (measure_cost(checkpoint, checkpoint, [name], True) for name in ("v", "w"))
    assert 0.0 < small.seconds < large.seconds and large.bytes - small.bytes >= 2 * 4 * 1000 * 1200


def test_the_spectrum_is_most_of_it(checkpoint):
    with_it, without = (measure_cost(checkpoint, checkpoint, ["w", "v", "b"], spectrum) for spectrum in (True, False))
    assert without.seconds < with_it.seconds and without.bytes < with_it.bytes


def test_what_is_timed_takes_time():
    assert cost._trial_seconds() > 0.0
