"""What each rule makes of a tensor, against one step of the optimizer itself – torch's, or the one in `optim`."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.errors import MismatchError
from fromage_cli.optim import LAMB, LARS, Fromage, Lion
from fromage_cli.optimizers.rule import ADAMW
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.probes.optimizer_step.matched_state import MatchedState, match_state
from fromage_cli.probes.optimizer_step.next_step import measure_next_step
from fromage_cli.probes.optimizer_step.real_step import MomentEstimates, TensorState, load_slot, tensor_step
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.gathering import whole_numbers
from fromage_cli.problem.networks.sharding import spread
from fromage_cli.shards import part_as, whole
from tests.forked_ranks import run_ranks

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]
RULES: list[tuple[Any, dict[str, Any]]] = [
    (LARS, {"momentum": 0.9, "weight_decay": 0.1, "trust_coefficient": 0.02}),
    (LARS, {"momentum": 0.8, "nesterov": True}),
    (LARS, {"trust_coefficient": 0.5}),
    (LAMB, {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    (LAMB, {"eps": 1e-3, "trust_clip": True}),
    (Lion, {"weight_decay": 0.1}),
    (Lion, {"betas": (0.5, 0.7)}),
    (torch.optim.Muon, {"weight_decay": 0.1}),
    (torch.optim.Muon, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3}),
    (torch.optim.Adafactor, {}),
    (torch.optim.Adafactor, {"weight_decay": 0.1, "d": 1.5, "eps": (1e-6, 0.3)}),
]


def train(model: nn.Module, data: Data, optimizer: torch.optim.Optimizer, times: int) -> None:
    for _ in range(times):
        model.zero_grad()
        nn.functional.cross_entropy(model(data["x"]), data["y"]).backward()
        optimizer.step()


def saved(tmp_path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> OptimizerState:
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert state is not None
    return state


@pytest.mark.parametrize(("kind", "settings"), RULES)
def test_the_next_step_is_the_optimizers_own(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path, kind: Any, settings: Any
) -> None:
    rate, muon = 0.01, kind is torch.optim.Muon
    moving = [p for p in perceptron.parameters() if not muon or p.dim() == 2]
    optimizer = kind(moving, lr=rate, **settings)
    train(perceptron, classification, optimizer, 3)
    state = saved(tmp_path, perceptron, optimizer)
    problem = make_problem(perceptron, classification)
    rule = find_settings(Given(), state.settings, Given())
    found = measure_next_step(match_state(problem, rule, state))
    before = {name: value.detach().clone() for name, value in perceptron.named_parameters()}
    train(perceptron, classification, optimizer, 1)
    named = dict(perceptron.named_parameters())
    assert set(found.steps) == {name for name, value in named.items() if any(value is p for p in moving)}
    for tensor in problem.receiving:
        if tensor.name in found.steps:
            step = found.steps[tensor.name]
            expected = before[tensor.name] - rate * (step.update + step.shrinkage * before[tensor.name])
            torch.testing.assert_close(expected, tensor.parameter.detach(), rtol=1e-5, atol=2e-6)


GROUPS: list[tuple[Any, dict[str, Any], dict[str, Any]]] = [
    (torch.optim.AdamW, {}, {"betas": (0.5, 0.9), "eps": 1e-2}),
    (torch.optim.SGD, {"momentum": 0.9}, {"momentum": 0.5, "nesterov": True, "lr": 0.003}),
    (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}, {"momentum": 0.0}),
    (LAMB, {}, {"betas": (0.5, 0.9)}),
    (Lion, {}, {"betas": (0.0, 0.9)}),
]


@pytest.mark.parametrize(("kind", "common", "other"), GROUPS)
def test_each_group_steps_by_its_own_settings(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: Data,
    tmp_path: Path,
    kind: Any,
    common: Any,
    other: Any,
) -> None:
    first, *rest = perceptron.parameters()
    optimizer = kind([{"params": [first]}, {"params": rest, **other}], lr=0.01, **common)
    train(perceptron, classification, optimizer, 3)
    state = saved(tmp_path, perceptron, optimizer)
    problem = make_problem(perceptron, classification)
    found = measure_next_step(match_state(problem, find_settings(Given(), state.settings, Given()), state))
    before = {name: value.detach().clone() for name, value in perceptron.named_parameters()}
    train(perceptron, classification, optimizer, 1)
    for tensor in problem.receiving:
        step = found.steps[tensor.name]
        expected = before[tensor.name] - 0.01 * (step.update + step.shrinkage * before[tensor.name])
        torch.testing.assert_close(expected, tensor.parameter.detach(), rtol=1e-5, atol=2e-6)


def test_what_the_user_says_holds_for_every_group() -> None:
    rule = Optimizer("adamw", betas=(0.8, 0.9), said=("betas",))
    assert rule.of_group({"betas": (0.5, 0.7), "eps": 1e-3}) == replace(rule, eps=1e-3)
    assert rule.of_group({"momentum": 0.3}) == rule


def test_an_optimizer_that_maximizes_is_refused(
    make_problem: Maker, perceptron: nn.Module, classification: Data, tmp_path: Path
) -> None:
    optimizer = torch.optim.SGD(perceptron.parameters(), lr=0.01, momentum=0.9, maximize=True)
    train(perceptron, classification, optimizer, 1)
    state = saved(tmp_path, perceptron, optimizer)
    with pytest.raises(MismatchError, match="maximizes"):
        measure_next_step(
            match_state(
                make_problem(perceptron, classification), find_settings(Given(), state.settings, Given()), state
            )
        )


def test_a_fromage_step_lacks_only_the_prefactor(
    make_problem: Maker, perceptron: nn.Module, classification: Data
) -> None:
    problem = make_problem(perceptron, classification)
    found = measure_next_step(MatchedState(problem, Optimizer("fromage")))
    before = {name: value.detach().clone() for name, value in perceptron.named_parameters()}
    train(perceptron, classification, Fromage(perceptron.parameters(), lr=0.02), 1)
    for name, value in perceptron.named_parameters():
        expected = (before[name] - 0.02 * found.steps[name].update) / (1 + 0.02**2) ** 0.5
        torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        (Optimizer("sgd", momentum=0.9), lambda p: torch.optim.SGD(p, 0.0, momentum=0.9)),
        (Optimizer("sgd", momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.0, momentum=0.9, nesterov=True)),
        (Optimizer("lars", momentum=0.9, weight_decay=0.1), lambda p: LARS(p, 0.0, momentum=0.9, weight_decay=0.1)),
        (Optimizer("adam", weight_decay=0.1), lambda p: torch.optim.Adam(p, 0.0, weight_decay=0.1)),
        (Optimizer("lamb"), lambda p: LAMB(p, 0.0)),
        (Optimizer("lion"), lambda p: Lion(p, 0.0)),
        (Optimizer("adafactor"), lambda p: torch.optim.Adafactor(p, 0.0)),
        (Optimizer("muon", momentum=0.95, nesterov=True), lambda p: torch.optim.Muon(p, 0.0)),
    ],
)
def test_memory_stands_in_for_many_equal_gradients(rule: Optimizer, kind: Any) -> None:
    torch.manual_seed(0)
    weight, gradient = nn.Parameter(torch.randn(6, 4, dtype=torch.float64)), torch.randn(6, 4, dtype=torch.float64)
    optimizer = kind([weight])
    for _ in range(400):
        weight.grad = gradient.clone()
        optimizer.step()
    before = weight.detach().clone()
    optimizer.param_groups[0]["lr"], weight.grad = 1e-3, gradient.clone()
    optimizer.step()
    decay = optimizer.param_groups[0]["weight_decay"]
    square = gradient.square() if decay == 0.0 else (gradient + decay * before).square()
    place = TensorState(before, gradient, decay, estimates=MomentEstimates(gradient, square))
    step = tensor_step(rule, place)
    moved = before - 1e-3 * (step.update + step.shrinkage * before)
    torch.testing.assert_close(moved, weight.detach(), rtol=1e-5, atol=1e-6)


def test_a_tensor_of_zeros_takes_the_plain_step() -> None:
    gradient = torch.ones(3)
    for name in ("fromage", "lars", "lamb"):
        step = tensor_step(Optimizer(name), TensorState(torch.zeros(3), gradient))
        torch.testing.assert_close(step.update, gradient)


@pytest.mark.parametrize("name", ["fromage", "lars", "lamb", "sgd", "adamw", "lion"])
def test_a_single_number_keeps_its_precision(name: str) -> None:
    state = TensorState(torch.tensor(2.0), torch.tensor(0.5))
    assert tensor_step(Optimizer(name), state).update.dtype == torch.float32


def test_a_slot_that_is_loaded_shares_no_memory_with_the_checkpoint() -> None:
    slot = {"exp_avg": torch.ones(2, dtype=torch.complex64), "step": 3}
    assert load_slot(slot, torch.ones(2), ADAMW)["exp_avg"].data_ptr() != slot["exp_avg"].data_ptr()


@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "lamb", "lars", "fromage", "muon", "adafactor"])
@pytest.mark.parametrize("known", [False, True])
def test_a_step_of_a_tensor_that_ranks_hold_in_parts_is_that_of_the_whole(name: str, known: bool) -> None:
    def step(sharded: bool) -> list[float]:
        generator = torch.Generator().manual_seed(0)
        weight, gradient, mean = (torch.randn(7, 4, generator=generator, dtype=torch.float64) for _ in range(3))
        layer = nn.Linear(4, 7, bias=False).double()
        layer.weight.data = weight
        if sharded:
            spread(layer, torch.device("cpu"))
        held = layer.weight.detach()
        estimates = MomentEstimates(part_as(held, mean), part_as(held, mean.square() + 0.1)) if known else None
        state = TensorState(held, part_as(held, gradient), 0.1, None, estimates)
        with whole_numbers() if sharded else nullcontext():
            found = tensor_step(Optimizer(name, learning_rate=0.1, momentum=0.9), state)
        return [found.shrinkage, *(float(x) for x in whole(found.update).flatten())]

    assert run_ranks(3, step, True) == [pytest.approx(step(False), rel=1e-12)] * 3
