"""Each formula against the class that steps, in float64."""

from typing import Any

import numpy
import pytest
import torch
from torch import nn

from fromage_cli.optimizers.rule import RULES
from fromage_cli.optimizers.streamed import orthogonalised, orthogonalised_norm, saved_update

CASES: list[tuple[str, dict[str, Any]]] = [
    ("sgd", {"momentum": 0.9, "dampening": 0.1}),
    ("adam", {"betas": (0.8, 0.95), "eps": 1e-3}),
    ("adamw", {"amsgrad": True, "weight_decay": 0.1}),
    ("lars", {"momentum": 0.9, "weight_decay": 0.1}),
    ("lamb", {"weight_decay": 0.1}),
    ("lamb", {"trust_clip": True, "eps": 1e-2}),
]


def trained(name: str, settings: dict[str, Any], steps: int = 4) -> tuple[Any, Any, Any]:
    """The optimizer, its weights after some steps, and before the last of them."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 4, dtype=torch.float64, generator=generator))
    optimizer: Any = RULES[name].load_class()([weight], lr=0.01, **settings)
    before = weight.detach().clone()
    for _ in range(steps):
        before = weight.detach().clone()
        weight.grad = torch.randn(6, 4, dtype=torch.float64, generator=generator)
        optimizer.step()
    return optimizer, weight, before


def arrays(slot: dict[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in slot.items()}


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_the_saved_moments_make_the_last_update(name: str, settings: dict[str, Any]) -> None:
    optimizer, weight, before = trained(name, settings)
    found = saved_update(RULES[name], arrays(optimizer.state[weight]), before.numpy(), settings)
    assert found is not None
    decay = settings.get("weight_decay", 0.0) if RULES[name].decay == "decoupled" else 0.0
    expected = (before - weight.detach()).numpy() / 0.01 - decay * before.numpy()
    numpy.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("setting", ["bias_correction", "correct_bias"])
def test_means_that_are_not_corrected_for_their_start_are_taken_as_they_are(setting: str) -> None:
    optimizer, weight, _ = trained("adamw", {})
    slot = arrays(optimizer.state[weight])
    found = saved_update(RULES["adamw"], slot, weight.detach().numpy(), {setting: False})
    assert found is not None
    numpy.testing.assert_allclose(found, slot["exp_avg"] / (numpy.sqrt(slot["exp_avg_sq"]) + 1e-8), rtol=1e-12)


def test_lion_follows_its_moment_where_there_is_no_gradient() -> None:
    optimizer, weight, _ = trained("lion", {})
    found = saved_update(RULES["lion"], arrays(optimizer.state[weight]), weight.detach().numpy(), {})
    before, weight.grad = weight.detach().clone(), torch.zeros_like(weight)
    optimizer.step()
    numpy.testing.assert_allclose(found, (before - weight.detach()).numpy() / 0.01, rtol=1e-12)


@pytest.mark.parametrize("adjustment", [None, "match_rms_adamw"])
def test_muon_draws_the_singular_values_of_its_buffer_near_1(adjustment: str | None) -> None:
    settings = {"nesterov": False, "weight_decay": 0.0, "adjust_lr_fn": adjustment}
    optimizer, weight, before = trained("muon", settings)
    found = saved_update(RULES["muon"], arrays(optimizer.state[weight]), before.numpy(), settings)
    expected = (before - weight.detach()).numpy() / 0.01  # by iterations in bfloat16
    assert found is not None and numpy.abs(found - expected).max() < 0.03 * numpy.abs(expected).max()
    singular = numpy.linalg.svd(orthogonalised(before.numpy(), (3.4445, -4.775, 2.0315), 5, 1e-7))[1]
    assert 0.6 < singular.min() <= singular.max() < 1.3


def test_without_a_first_moment_there_is_no_update() -> None:
    for name in ("adafactor", "fromage", "sgd"):
        optimizer, weight, before = trained(name, {})
        assert saved_update(RULES[name], arrays(optimizer.state[weight]), before.numpy(), {}) is None


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5), (1, 7)])
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_norm_of_an_orthogonalised_matrix_needs_only_its_singular_values(shape: tuple[int, int], rank: int) -> None:
    generator = numpy.random.default_rng(0)
    matrix = generator.normal(size=(shape[0], rank)) @ generator.normal(size=(rank, shape[1]))
    settings = ((3.4445, -4.775, 2.0315), 5, 1e-7)
    expected = numpy.linalg.norm(orthogonalised(matrix, *settings))
    assert orthogonalised_norm(matrix, *settings) == pytest.approx(expected, rel=1e-5)
    assert orthogonalised_norm(0.0 * matrix, *settings) == 0.0
