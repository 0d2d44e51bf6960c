from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from fromage_cli.checkpoints import Checkpoint, open_checkpoint
from fromage_cli.checkpoints.runs.layer_settings import LayerSettings, layer_settings, run_settings
from fromage_cli.optimizers.settings import Given


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


def test_a_run_has_what_is_given_before_what_its_states_tell_before_what_is_declared(tmp_path: Path) -> None:
    checkpoint, declared = saved(tmp_path, 1, lr=0.2, weight_decay=0.5), Given(learning_rate=7.0, weight_decay=7.0)
    found = run_settings([checkpoint], ("a", "b"), Given(), declared)
    assert (found.name, found.rates("b"), found.decay("b"), found.rates(None)) == ("adamw", (0.2,), 0.5, (7.0,))
    assert found.found[-1].mixed_decay and found.optimizer_of("a").betas == (0.9, 0.999)
    assert run_settings([checkpoint], ("a",), Given(weight_decay=0.0), declared).decay("a") == 0.0
    other = run_settings([checkpoint], ("a",), Given("sgd"), declared)
    assert (other.name, other.rates("a"), other.decay("a")) == ("sgd", (7.0,), 7.0)


def test_a_run_of_nobody_knows_what_has_settings_all_the_same(tmp_path: Path) -> None:
    checkpoint = saved(tmp_path, 1)
    save_file({"a": torch.ones(2, 3)}, tmp_path / "plain.safetensors")
    plain = run_settings([open_checkpoint(tmp_path / "plain.safetensors")], ("a",), Given(), Given())
    assert (plain.name, plain.rates("a"), plain.decay("a"), plain.notes) == (None, (None,), None, ())
    series = run_settings([open_checkpoint(tmp_path / "plain.safetensors"), checkpoint], ("a",), Given(), Given())
    assert series.rates("a") == (None, 0.1)
