"""Adjoints in closed form, against those through torch's own step with its graph."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from fromage_cli.optimizers.rule import ADAM, ADAMW, LION, SGD, Rule
from fromage_cli.probes.hypergradients import closed_forms
from fromage_cli.probes.hypergradients.closed_forms import pull_back_step
from fromage_cli.probes.hypergradients.differentiable_step import DifferentiableStep, StepAdjoint, StepInputs

BETAS = {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.3}
CASES: dict[str, tuple[Rule, Mapping[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1, "weight_decay": 0.3}),
    "maximize": (SGD, {"lr": 0.1, "weight_decay": 0.3, "maximize": True}),
    "momentum": (SGD, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3}),
    "dampened": (SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.4, "weight_decay": 0.3, "maximize": True}),
    "nesterov": (SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.3, "maximize": True}),
    "without decay": (SGD, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.0}),
    "adam": (ADAM, BETAS),
    "adam, maximize": (ADAM, BETAS | {"maximize": True}),
    "adam, amsgrad": (ADAM, BETAS | {"amsgrad": True}),
    "adam without decay": (ADAM, BETAS | {"weight_decay": 0.0}),
    "adamw": (ADAMW, BETAS),
    "adamw, maximize": (ADAMW, BETAS | {"maximize": True, "eps": 1e-3}),
    "adamw, amsgrad": (ADAMW, BETAS | {"amsgrad": True, "maximize": True}),
    "adamw without decay": (ADAMW, BETAS | {"weight_decay": 0.0}),
}
SHAPE = (2, 3, 4)


def drawn(seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def inputs_of(name: str, steps: int, dtype: torch.dtype, seed: int = 0) -> StepInputs:
    """One tensor, and what the optimizer remembers of it after some steps."""
    rule, given = CASES[name]
    settings = {**rule.defaults, **given}
    weight = drawn(seed, dtype).requires_grad_()
    optimizer: Any = rule.load_class()([{"params": [weight], **settings}])
    for step in range(steps):
        weight.grad = drawn(seed + 10 + step, dtype)
        optimizer.step()
    return StepInputs(weight.detach(), drawn(seed + 20, dtype), dict(optimizer.state[weight]), settings)


def after(name: str, steps: int, dtype: torch.dtype) -> tuple[Tensor, dict[str, Tensor]]:
    """Adjoints of a weight and of all that is remembered of it after the step."""
    rule, _ = CASES[name]
    step = DifferentiableStep(rule, [inputs_of(name, steps, dtype)])
    ((_, state),) = step.ends
    names = [key for key, value in state.items() if isinstance(value, Tensor) and key != "step"]
    return drawn(1, dtype), {key: drawn(30 + number, dtype) for number, key in enumerate(names)}


def require_same(found: StepAdjoint, expected: StepAdjoint, dtype: torch.dtype) -> None:
    close = 100.0 * torch.finfo(dtype).eps
    assert found.slot.keys() == expected.slot.keys()
    pairs = [(found.weight, expected.weight), (found.gradient, expected.gradient)]
    for one, other in [*pairs, *((found.slot[key], expected.slot[key]) for key in found.slot)]:
        torch.testing.assert_close(one, other, rtol=close, atol=close)
    assert (found.rate, found.decay) == pytest.approx((expected.rate, expected.decay), rel=close, abs=close)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("at_once", [1 << 16, 7])
@pytest.mark.parametrize("name", CASES)
def test_they_are_those_through_torchs_step(
    name: str, at_once: int, steps: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closed_forms, "AT_ONCE", at_once)
    rule, _ = CASES[name]
    weight, slot = after(name, steps, dtype)
    for given in ({}, slot):
        (expected,) = DifferentiableStep(rule, [inputs_of(name, steps, dtype)]).pull_back([weight], [given])
        copies = {key: value.clone() for key, value in given.items()}
        (found,) = pull_back_step(rule, [inputs_of(name, steps, dtype)], [weight.clone()], [copies])
        require_same(found, expected, dtype)


def test_tensors_in_another_layout_and_several_at_once() -> None:
    (weight, slot), rule = after("adamw", 3, torch.float64), ADAMW
    inputs = [inputs_of("adamw", 3, torch.float64, seed) for seed in (0, 5)]
    expected = DifferentiableStep(rule, inputs).pull_back([weight, 2.0 * weight], [slot, slot])
    turned = [
        StepInputs(_turned(each.weight), _turned(each.gradient), each.slot, each.settings)
        for each in (inputs_of("adamw", 3, torch.float64, seed) for seed in (0, 5))
    ]
    copies = [{key: _turned(value) for key, value in slot.items()} for _ in inputs]
    found = pull_back_step(rule, turned, [_turned(weight), 2.0 * weight], copies)
    for one, other in zip(found, expected, strict=True):
        require_same(one, other, torch.float64)


def _turned(value: Tensor) -> Tensor:
    """The same numbers, stored last dimension first."""
    return value.permute(2, 1, 0).contiguous().permute(2, 1, 0)


@pytest.mark.parametrize("name", ["adam", "adamw", "adamw, amsgrad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [0, 2])
def test_where_a_second_moment_is_zero_they_are_finite(name: str, dtype: torch.dtype, steps: int) -> None:
    rule, _ = CASES[name]
    begin = inputs_of(name, steps, dtype)
    slot = {key: torch.zeros_like(value) if "sq" in key else value for key, value in begin.slot.items()}
    inputs = StepInputs(begin.weight, torch.zeros_like(begin.gradient), slot, begin.settings)
    weight = torch.ones_like(begin.weight)
    (found,) = pull_back_step(rule, [inputs], [weight], [{"exp_avg_sq": torch.ones_like(weight)}])
    numbers = [found.weight, found.gradient, *found.slot.values(), torch.tensor([found.rate, found.decay])]
    assert all(bool(each.isfinite().all()) for each in numbers)


def test_optimizers_without_a_closed_form_are_taken_with_their_graph() -> None:
    settings = {**LION.defaults, "lr": 0.1}
    inputs = StepInputs(drawn(0, torch.float64), drawn(1, torch.float64), {}, settings)
    weight = drawn(2, torch.float64)
    (expected,) = DifferentiableStep(LION, [inputs]).pull_back([weight], [{}])
    (found,) = pull_back_step(LION, [inputs], [weight], [{}])
    require_same(found, expected, torch.float64)
