"""What a bundle says of an optimizer is what a checkpoint of torch says of it."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli import bundle
from fromage_cli.checkpoints import OptimizerState, match_parameters, open_checkpoint
from fromage_cli.checkpoints.optimizers.optimizer_state import as_stored

MODEL = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 3))
"""One for all tests, so that its graphs are made once."""


def two_groups(model: nn.Module) -> list[dict[str, Any]]:
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return [{"params": matrices, "weight_decay": 0.1, "lr": 0.02}, {"params": vectors, "weight_decay": 0.0}]


MAKERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.8, 0.95), weight_decay=0.2),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "two groups": lambda model: torch.optim.AdamW(two_groups(model), lr=1e-3),
    "names": lambda model: torch.optim.AdamW(reversed(list(model.named_parameters())), lr=1e-3),
    "a rate that is a tensor": lambda model: torch.optim.AdamW(
        model.parameters(), lr=torch.tensor(1e-3), foreach=False
    ),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=1e-3, centered=True),
    "adafactor": lambda model: torch.optim.Adafactor(model.parameters(), lr=1e-2),
}


def trained(model: nn.Module, *optimizers: torch.optim.Optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        model.zero_grad()
        model(torch.randn(4, 5)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()


def states(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[OptimizerState, OptimizerState]:
    """What is read of a checkpoint of torch, and what is read of a bundle."""
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}, folder / "c.pt")
    rows = {"x": torch.randn(4, 5), "y": torch.tensor([0, 1, 2, 0])}
    bundle.save(folder / "b", model, rows, "cross-entropy", optimizer, 3, strict=True)
    found = [open_checkpoint(str(folder / place)).optimizer for place in ("c.pt", "b")]
    assert found[0] is not None and found[1] is not None
    return found[0], found[1]


def by_name(state: OptimizerState, model: nn.Module) -> dict[str, dict[str, Any]]:
    """What is remembered of each tensor, read."""
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    numbers = match_parameters(state, shapes)
    return {name: plain(state.slots[numbers[name]]) for name in shapes if numbers[name] in state.slots}


def plain(slot: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, stored in as_stored(slot).items():
        value = stored.read() if hasattr(stored, "read") else stored
        found[name] = value.item() if isinstance(value, Tensor) and value.dim() == 0 else value
    return {name: value for name, value in found.items() if value is not None}


def is_same(first: Any, second: Any) -> bool:
    if isinstance(first, dict):
        return set(first) == set(second) and all(is_same(first[name], second[name]) for name in first)
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return bool(first == second)


def settings_of(state: OptimizerState) -> list[dict[str, Any]]:
    """Those of each group, with lists as tuples and tensors as numbers."""
    found = []
    for group in state.groups:
        numbers = {key: tuple(each) if isinstance(each, list) else each for key, each in group.settings.items()}
        numbers = {key: each.item() if isinstance(each, Tensor) else each for key, each in numbers.items()}
        found.append({key: each for key, each in numbers.items() if key not in ("params", "param_names")})
    return found


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("kind", MAKERS)
def test_settings_and_slots_are_those_of_a_checkpoint(tmp_path: Path, kind: str, steps: int) -> None:
    model = MODEL
    optimizer = MAKERS[kind](model)
    trained(model, optimizer, steps=steps)
    live, bundled = states(tmp_path, model, optimizer)
    assert (bundled.kind, bundled.steps) == (live.kind, live.steps)
    for one, other in zip(settings_of(live), settings_of(bundled), strict=True):
        assert {key: other.get(key) for key in one} == one
    if steps == 0:
        assert not live.slots and not bundled.slots
        return
    slots = by_name(live, model), by_name(bundled, model)
    assert slots[0].keys() == slots[1].keys()
    assert is_same(*slots)
    assert kind == "sgd" or len(slots[0]) == 8


def test_what_a_command_takes_from_it_is_the_same(tmp_path: Path) -> None:
    model = MODEL
    optimizer = MAKERS["two groups"](model)
    trained(model, optimizer)
    live, bundled = states(tmp_path, model, optimizer)
    for name in (None, "adamw"):
        first, second = live.settings_for(name), bundled.settings_for(name)
        assert replace(first, groups=()) == replace(second, groups=())
        for found in (first, second):
            assert [(group["weight_decay"], group["lr"]) for group in found.groups] == [(0.1, 0.02), (0.0, 1e-3)]


def test_several_optimizers_are_groups_of_one_state(tmp_path: Path) -> None:
    model = MODEL
    groups = two_groups(model)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SGD(groups[0]["params"], lr=0.1, momentum=0.9),
        torch.optim.AdamW(groups[1]["params"], lr=1e-3),
    ]
    trained(model, *optimizers)
    rows = {"x": torch.randn(4, 5), "y": torch.tensor([0, 1, 2, 0])}
    bundle.save(tmp_path / "b", model, rows, "cross-entropy", optimizers, 3, strict=True)
    state = open_checkpoint(str(tmp_path / "b")).optimizer
    assert state is not None
    slots = by_name(state, model)
    for name, parameter in model.named_parameters():
        own = optimizers[parameter.dim() < 2].state[parameter]
        for slot in ("momentum_buffer",) if parameter.dim() >= 2 else ("exp_avg", "exp_avg_sq"):
            assert torch.equal(slots[name][slot], own[slot])
    assert [group.settings["lr"] for group in state.groups] == [0.1, 1e-3]


def test_no_optimizer_is_none(tmp_path: Path) -> None:
    rows = {"x": torch.randn(4, 5), "y": torch.tensor([0, 1, 2, 0])}
    bundle.save(tmp_path / "b", MODEL, rows, "cross-entropy", None, strict=True)
    assert open_checkpoint(str(tmp_path / "b")).optimizer is None
