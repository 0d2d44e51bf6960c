"""One step with its graph, against a step of the optimizer itself, and its derivatives against differences of that."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from fromage_cli.optim import LARS, Fromage, Lion
from fromage_cli.optimizers.rule import ADAFACTOR, ADAM, ADAMW, FROMAGE, LAMB, LION, MUON, RULES, SGD, Rule
from fromage_cli.optimizers.rule import LARS as LARS_RULE
from fromage_cli.probes.hypergradients.differentiable_step import (
    DifferentiableStep,
    StepAdjoint,
    StepInputs,
    differentiable,
    through_a_sign,
)

CASES: dict[str, tuple[Rule, Any, Mapping[str, Any]]] = {
    "sgd": (SGD, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3}),
    "dampened": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.4, "weight_decay": 0.3}),
    "nesterov": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.3}),
    "without decay": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.0}),
    "maximize": (SGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.3, "maximize": True}),
    "adam": (ADAM, torch.optim.Adam, {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.3}),
    "adamw": (ADAMW, torch.optim.AdamW, {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.3}),
    "adamw without decay": (ADAMW, torch.optim.AdamW, {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.0}),
    "amsgrad": (ADAMW, torch.optim.AdamW, {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.3, "amsgrad": True}),
    "lion": (LION, Lion, {"lr": 0.1, "betas": (0.7, 0.9), "weight_decay": 0.3}),
    "fromage": (FROMAGE, Fromage, {"lr": 0.1}),
    "bounded": (FROMAGE, Fromage, {"lr": 0.1, "p_bound": 0.9}),
    "lars": (LARS_RULE, LARS, {"lr": 0.1, "momentum": 0.8, "dampening": 0.2, "weight_decay": 0.3}),
    "lars with a clip": (
        LARS_RULE,
        LARS,
        {"lr": 0.1, "trust_coefficient": 0.05, "trust_clip": True, "weight_decay": 0.3},
    ),
    "plain lars": (LARS_RULE, LARS, {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.0}),
}
DERIVED = [(name, steps) for name in CASES for steps in (0, 3) if (name, steps) != ("bounded", 0)]
"""A bound is set to the norm before the first step, whatever that is."""


def drawn(*shape: int, dtype: torch.dtype, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def stepped(
    kind: Any, settings: Mapping[str, Any], weight: Tensor, gradient: Tensor, slot: Mapping[str, Any]
) -> tuple[Tensor, dict[str, Any]]:
    """What the optimizer itself makes of one tensor, and what it remembers then."""
    moved = weight.clone().requires_grad_()
    optimizer = kind([moved], lr=1.0)
    optimizer.param_groups[0].update(settings)  # also what a constructor refuses, as a decay below 0
    optimizer.state[moved] = deepcopy(dict(slot))
    moved.grad = gradient.clone()
    optimizer.step()
    return moved.detach(), dict(optimizer.state[moved])


def remembered(name: str, weight: Tensor, steps: int) -> dict[str, Any]:
    """A slot after some steps."""
    _, kind, settings = CASES[name]
    slot: dict[str, Any] = {}
    for seed in range(steps):
        weight, slot = stepped(kind, settings, weight, drawn(*weight.shape, dtype=weight.dtype, seed=10 + seed), slot)
    return slot


class OneStep:
    """The step of a single tensor."""

    def __init__(self, name: str, weight: Tensor, gradient: Tensor, slot: Mapping[str, Any]) -> None:
        rule, _, settings = CASES[name]
        inputs = StepInputs(weight, gradient, slot, {"weight_decay": None, **rule.defaults, **settings})
        self.step = DifferentiableStep(rule, [inputs])
        ((self.moved, self.state),) = self.step.ends

    def pull_back(self, weight: Tensor, slot: Mapping[str, Tensor]) -> StepAdjoint:
        (found,) = self.step.pull_back([weight], [slot])
        return found


def finite(adjoint: StepAdjoint) -> bool:
    tensors = [adjoint.weight, adjoint.gradient, *adjoint.slot.values(), torch.tensor([adjoint.rate, adjoint.decay])]
    return all(bool(each.isfinite().all()) for each in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("name", CASES)
def test_the_step_is_the_optimizers(name: str, steps: int, dtype: torch.dtype) -> None:
    weight, gradient = (drawn(4, 3, dtype=dtype, seed=seed) for seed in (1, 2))
    _, kind, settings = CASES[name]
    slot = remembered(name, weight, steps)
    expected, after = stepped(kind, settings, weight, gradient, slot)
    step = OneStep(name, weight, gradient, slot)
    ulps = 4.0 * torch.finfo(dtype).eps
    assert step.moved.dtype == dtype
    torch.testing.assert_close(step.moved.detach(), expected, rtol=ulps, atol=ulps)
    kept = {key: value for key, value in after.items() if isinstance(value, Tensor) and key != "step"}
    assert kept.keys() <= step.state.keys()
    for key, value in kept.items():
        torch.testing.assert_close(step.state[key].detach(), value, rtol=ulps, atol=ulps)


@pytest.mark.parametrize(("name", "steps"), DERIVED)
def test_adjoints_are_derivatives_of_the_optimizers_step(name: str, steps: int) -> None:
    rule, kind, settings = CASES[name]
    weight, gradient = (drawn(4, 3, dtype=torch.float64, seed=seed) for seed in (1, 2))
    slot = remembered(name, weight, steps)
    out = drawn(4, 3, dtype=torch.float64, seed=3)
    step = OneStep(name, weight, gradient, slot)
    kept = [key for key in rule.slots if key in step.state and key != "step"]
    after = {key: drawn(4, 3, dtype=torch.float64, seed=4 + number) for number, key in enumerate(kept)}

    def value(w: Tensor, g: Tensor, s: Mapping[str, Any], **more: float) -> float:
        moved, state = stepped(kind, {**settings, **more}, w, g, s)
        return float((moved * out).sum() + sum((state[k] * each).sum() for k, each in after.items()))

    adjoint = step.pull_back(out, after)
    h = 1e-6
    moves = {"lr": adjoint.rate} | ({"weight_decay": adjoint.decay} if rule.has("weight_decay") else {})
    for key, found in moves.items():
        ends = [value(weight, gradient, slot, **{key: settings[key] + sign * h}) for sign in (1, -1)]
        assert found == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-8), key
    way = drawn(4, 3, dtype=torch.float64, seed=8)
    ends = [value(weight + sign * h * way, gradient, slot) for sign in (1, -1)]
    assert float((adjoint.weight * way).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-8)
    ends = [value(weight, gradient + sign * h * way, slot) for sign in (1, -1)]
    assert float((adjoint.gradient * way).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-6, abs=1e-8)
    for key in [key for key in adjoint.slot if key in slot]:
        ways = {key: slot[key].abs() * way if "sq" in key else way}  # a second moment stays above 0
        ends = [value(weight, gradient, {**slot, key: slot[key] + sign * h * ways[key]}) for sign in (1, -1)]
        expected = (ends[0] - ends[1]) / (2 * h)
        assert float((adjoint.slot[key] * ways[key]).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-8), key


@pytest.mark.parametrize("name", ["adam", "adamw", "amsgrad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_a_second_moment_is_zero_derivatives_are_finite(name: str, dtype: torch.dtype) -> None:
    weight, gradient = drawn(4, 3, dtype=dtype, seed=1), torch.zeros(4, 3, dtype=dtype)
    for steps in (0, 2):
        slot = remembered(name, weight, steps)
        for key in slot.keys() & {"exp_avg_sq", "max_exp_avg_sq"}:
            slot[key] = torch.zeros_like(slot[key])
        step = OneStep(name, weight, gradient, slot)
        assert finite(step.pull_back(torch.ones_like(weight), {"exp_avg_sq": torch.ones_like(weight)}))


@pytest.mark.parametrize("name", ["fromage", "bounded", "lars", "plain lars"])
def test_where_weights_or_gradient_are_zero_derivatives_are_finite(name: str) -> None:
    values, zeros = drawn(4, 3, dtype=torch.float64, seed=1), torch.zeros(4, 3, dtype=torch.float64)
    for weight, gradient in ((values, zeros), (zeros, values), (zeros, zeros)):
        step = OneStep(name, weight, gradient, {})
        expected, _ = stepped(*CASES[name][1:], weight, gradient, {})
        torch.testing.assert_close(step.moved.detach(), expected, rtol=1e-14, atol=0.0)
        assert finite(step.pull_back(torch.ones_like(weight), {}))


def test_through_a_sign_only_decay_and_rate_have_derivatives() -> None:
    weight, gradient = (drawn(4, 3, dtype=torch.float64, seed=seed) for seed in (1, 2))
    step = OneStep("lion", weight, gradient, remembered("lion", weight, 2))
    found = step.pull_back(torch.ones_like(weight), {})
    assert not found.gradient.any() and not found.slot["exp_avg"].any()
    assert found.decay == pytest.approx(-0.1 * float(weight.sum())) and found.rate != 0.0


def test_which_optimizers_have_one() -> None:
    assert {name for name, rule in RULES.items() if not differentiable(rule)} == {
        rule.name for rule in (LAMB, MUON, ADAFACTOR)
    }
    assert [name for name, rule in RULES.items() if through_a_sign(rule)] == [LION.name]
    assert not through_a_sign(None)
