from pathlib import Path
from typing import Any

import torch

from fromage_cli.checkpoints import Checkpoint, open_checkpoint
from fromage_cli.checkpoints.runs.layer_settings import LayerSettings, layer_settings


def saved(tmp_path: Path, steps: int, **second: Any) -> Checkpoint:
    """Two matrices in two groups of AdamW, after some steps."""
    weights = {"a": torch.nn.Parameter(torch.ones(2, 3)), "b": torch.nn.Parameter(torch.ones(3, 2))}
    optimizer = torch.optim.AdamW([{"params": [weights["a"]]}, {"params": [weights["b"]], **second}], lr=0.1)
    for _ in range(steps):
        for weight in weights.values():
            weight.grad = torch.ones_like(weight)
        optimizer.step()
    model = {name: weight.data for name, weight in weights.items()}
    torch.save({"model": model, "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    return open_checkpoint(tmp_path / "c.pt")


def test_each_layer_has_its_group(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 1, lr=0.2)
    found = layer_settings(checkpoint, checkpoint.optimizer, ("a", "b"))
    assert (found.of("a")["lr"], found.of("b")["lr"], found.untold) == (0.1, 0.2, False)
    assert "lr" not in found.common and found.common["weight_decay"] == 0.01


def test_where_groups_are_not_told_apart_what_they_share_is_left(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 0, lr=0.2)
    found = layer_settings(checkpoint, checkpoint.optimizer, ("a", "b"))
    assert (found.of("a").get("lr"), found.of("b")["weight_decay"], found.untold) == (None, 0.01, True)


def test_without_a_state_there_is_nothing(tmp_path: Path) -> None:
    assert layer_settings(saved(tmp_path, 0), None, ("a", "b")) == LayerSettings()
