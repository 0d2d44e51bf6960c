import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fromage_cli.checkpoints import OptimizerState, match_parameters, open_checkpoint
from fromage_cli.checkpoints.optimizers.optimizer_state import ParameterGroup
from fromage_cli.errors import MismatchError


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> torch.optim.Optimizer:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 5)).square().mean().backward()
        optimizer.step()
    return optimizer


def saved(tmp_path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, key: str = "optimizer") -> OptimizerState:
    torch.save({"model": model.state_dict(), key: optimizer.state_dict(), "step": 2}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert state is not None
    return state


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 6), nn.Linear(6, 3))


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def slots_agree(state: OptimizerState, model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    numbers = match_parameters(state, shapes(model))
    return all(
        torch.equal(state.slots[numbers[name]]["exp_avg"], optimizer.state[parameter]["exp_avg"])
        for name, parameter in model.named_parameters()
    )


@pytest.mark.parametrize("key", ["optimizer", "optimizer_state_dict", "optim"])
def test_one_group_is_matched_in_model_order(tmp_path: Path, key: str) -> None:
    model = network()
    optimizer = trained(model, torch.optim.Adam(model.parameters(), lr=1e-3))
    state = saved(tmp_path, model, optimizer, key)
    assert state.has("exp_avg", "exp_avg_sq", "step")
    assert state.groups[0].settings["lr"] == 1e-3
    assert slots_agree(state, model, optimizer)


def test_groups_of_matrices_and_vectors_are_interleaved(tmp_path: Path) -> None:
    model = network()
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = trained(model, torch.optim.AdamW(groups, lr=1e-3))
    assert slots_agree(saved(tmp_path, model, optimizer), model, optimizer)


def test_named_parameters_are_matched_by_name_in_any_order(tmp_path: Path) -> None:
    model = network()
    optimizer = trained(model, torch.optim.AdamW(reversed(list(model.named_parameters())), lr=1e-3))
    assert slots_agree(saved(tmp_path, model, optimizer), model, optimizer)


@pytest.mark.parametrize("inner", ["{}", "net.{}", "body.net.{}", "module.net.{}", "{}.module"])
@pytest.mark.parametrize("outer", ["{}", "net.{}", "trunk.core.{}"])
def test_names_are_compared_without_what_all_of_them_begin_with(inner: str, outer: str) -> None:
    layers = ["a", "b", "c"]
    names = tuple(f"{outer.format(layer)}.weight" for layer in reversed(layers))
    model = {f"{inner.format(layer)}.weight": (2, 2) for layer in layers}
    state = OptimizerState((ParameterGroup({}, (0, 1, 2), names),), {})
    assert list(match_parameters(state, model).values()) == [2, 1, 0]


def test_an_order_that_contradicts_the_names_is_refused() -> None:
    state = OptimizerState((ParameterGroup({}, (0, 1, 2), ("b", "a", "old")),), {})
    with pytest.raises(MismatchError, match="'a' at another place"):
        match_parameters(state, {"a": (2, 2), "b": (2, 2), "new": (2, 2)})
    state = OptimizerState((ParameterGroup({}, (0, 1, 2), ("a", "b", "old")),), {})
    assert match_parameters(state, {"a": (2, 2), "b": (2, 2), "new": (2, 2)}) == {"a": 0, "b": 1, "new": 2}


def test_groups_that_fit_in_two_ways_are_refused(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False))
    groups = [{"params": [model[1].weight]}, {"params": [model[0].weight]}]
    optimizer = trained(model, torch.optim.Adam(groups, lr=1e-3))
    with pytest.raises(MismatchError, match="more than one way"):
        match_parameters(saved(tmp_path, model, optimizer), shapes(model))


class Block(nn.Module):
    """A transformer's block; what it holds of one dimension beside norms and biases, the Trainer decays."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(6, 6)
        self.mlp = nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 6, bias=False))
        self.gamma = nn.Parameter(torch.ones(6)) if scaled else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        mixed = self.out(functional.scaled_dot_product_attention(q, k, v))
        return x + self.mlp(mixed) * (self.gamma if self.gamma is not None else 1.0)


def transformer(scaled: bool) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), Block(scaled), Block(scaled), nn.LayerNorm(6), nn.Linear(6, 3))


def of_nanogpt(model: nn.Module) -> list[list[str]]:
    named = dict(model.named_parameters())
    return [[name for name in named if named[name].dim() >= 2], [name for name in named if named[name].dim() < 2]]


def of_the_trainer(model: nn.Module) -> list[list[str]]:
    trainer = pytest.importorskip("transformers").Trainer
    decayed = set(trainer.get_decay_parameter_names(None, model))
    names = [name for name, _ in model.named_parameters()]
    return [[name for name in names if name in decayed], [name for name in names if name not in decayed]]


def grouped(model: nn.Module, members: list[list[str]], decays: tuple[float, float] = (0.1, 0.0)) -> Any:
    named = dict(model.named_parameters())
    groups = [{"params": [named[name] for name in names], "weight_decay": decay}
              for names, decay in zip(members, decays, strict=True)]  # fmt: skip
    return torch.optim.AdamW(groups, lr=1e-3)


@pytest.mark.parametrize("rule", [of_nanogpt, of_the_trainer])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("steps", [0, 1])
def test_decayed_and_other_tensors_are_told_apart_by_the_rule_that_made_the_groups(
    tmp_path: Path, rule: Any, scaled: bool, steps: int
) -> None:
    model = transformer(scaled)
    members = rule(model)
    optimizer = trained(model, grouped(model, members), steps)
    state = saved(tmp_path, model, optimizer)
    numbers = match_parameters(state, shapes(model))
    assert numbers == {name: number for number, name in enumerate(name for names in members for name in names)}
    assert steps == 0 or slots_agree(state, model, optimizer)
    assert [list(names) for names in state.members_by_rule(shapes(model))] == members
    by_name = dict(sorted(shapes(model).items()))  # as a safetensors file has it
    assert [sorted(names) for names in state.members_by_rule(by_name)] == [sorted(names) for names in members]


def test_groups_that_no_rule_or_several_rules_can_have_made_stay_ambiguous(tmp_path: Path) -> None:
    model = transformer(False)
    first, second = of_nanogpt(model)
    at_random = [first[1:] + second[:1], second[1:] + first[:1]]  # the same counts, but other settings
    optimizer = grouped(model, at_random)
    optimizer.param_groups[1]["lr"] = 1e-4
    with pytest.raises(MismatchError, match="more than one way"):
        match_parameters(saved(tmp_path, model, optimizer), shapes(model))
    for decays in ((0.1, 0.1), (0.0, 0.0), (0.1, 0.2)):
        assert saved(tmp_path, model, grouped(model, of_nanogpt(model), decays)).members_by_rule(shapes(model)) == ()
    model.register_parameter("bias_table", nn.Parameter(torch.ones(6, 2)))  # of two dimensions, which is no bias
    model.register_parameter("scale", nn.Parameter(torch.ones(6)))  # of one, which is
    assert saved(tmp_path, model, grouped(model, of_nanogpt(model))).members_by_rule(shapes(model)) == ()
    state = saved(tmp_path, model, grouped(model, of_nanogpt(model)))
    with pytest.raises(MismatchError, match="more than one way"):
        match_parameters(state, shapes(model))


def test_groups_whose_slots_contradict_a_rule_are_not_of_that_rule(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False), nn.LayerNorm(5))
    odd = [["1.weight", "2.bias"], ["0.weight", "2.weight"]]
    state = saved(tmp_path, model, trained(model, grouped(model, odd), 1))
    assert state.members_by_rule(shapes(model)) == ()


def test_ways_beyond_counting_are_called_ambiguous_at_once() -> None:
    groups = tuple(ParameterGroup({}, tuple(range(12 * group, 12 * group + 12))) for group in range(24))
    began = time.thread_time()
    with pytest.raises(MismatchError, match="too many ways"):
        match_parameters(OptimizerState(groups, {}), {str(number): (3, 3) for number in range(288)})
    assert time.thread_time() - began < 2


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    model = network()
    state = saved(tmp_path, model, trained(model, torch.optim.Adam(model.parameters())))
    with pytest.raises(MismatchError, match="has 8 parameters, but the model has 1"):
        match_parameters(state, {"weight": (5, 6)})
    other = dict.fromkeys(shapes(model), (7, 7))
    with pytest.raises(MismatchError, match="no order"):
        match_parameters(state, other)


def test_a_file_of_weights_alone_has_no_optimizer(tmp_path: Path) -> None:
    torch.save(network().state_dict(), tmp_path / "c.pt")
    assert open_checkpoint(tmp_path / "c.pt").optimizer is None


def test_a_state_before_the_first_step_has_no_slots(tmp_path: Path) -> None:
    model = network()
    state = saved(tmp_path, model, torch.optim.Adam(model.parameters()))
    assert not state.has("exp_avg")
    assert match_parameters(state, shapes(model))["0.weight"] == 0
