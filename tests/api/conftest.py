"""A small network and its rows, as a notebook holds them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.1), nn.Linear(5, 2))


@pytest.fixture
def rows() -> dict[str, Tensor]:
    return {"x": torch.randn(16, 3), "y": torch.randint(2, (16,))}


@pytest.fixture
def trained(network: nn.Module, rows: dict[str, Tensor], tmp_path: Path) -> Callable[[int], Path]:
    """Saves a checkpoint after so many more steps of AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.1)
    steps = 0

    def after(count: int) -> Path:
        nonlocal steps
        for _ in range(count):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(rows["x"]), rows["y"]).backward()
            optimizer.step()
        steps += count
        path = tmp_path / f"step-{steps:06d}.pt"
        torch.save({"model": network.state_dict(), "optimizer": optimizer.state_dict(), "step": steps}, path)
        return path

    return after
