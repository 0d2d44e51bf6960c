"""The replayed step against torch's optimizers, bit for bit, and what rounding takes of it against brute force."""

import math
from functools import reduce
from operator import add
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fromage_cli.optimizers.rounded_step import (
    BLOCK,
    Dtype,
    LostUpdates,
    after_decay,
    critical_rates,
    lost_updates,
    next_weights,
    rounded,
)
from fromage_cli.optimizers.rule import RULES

TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
STORED: list[Dtype] = ["bfloat16", "float16"]
SIZES = [(1,), (7,), (33,), (129, 31), (4096,)]
"""Whole vectors of the processor, their scalar tails, and tails alone."""


def array(tensor: torch.Tensor) -> Any:
    return tensor.detach().float().numpy()


def arrays(slot: dict[str, Any]) -> dict[str, Any]:
    return {name: array(value) if isinstance(value, torch.Tensor) else value for name, value in slot.items()}


def bits(values: Any) -> Any:
    return numpy.asarray(values, numpy.float32).view(numpy.uint32)


def assert_same(found: Any, expected: torch.Tensor) -> None:
    """Bit for bit, but for the sign and the payload of what is no number."""
    unknown = numpy.isnan(array(expected))
    numpy.testing.assert_array_equal(numpy.isnan(found), unknown)
    numpy.testing.assert_array_equal(bits(found)[~unknown], bits(array(expected))[~unknown])


def draw(
    shape: tuple[int, ...], dtype: Dtype, generator: torch.Generator, low: int = -10, high: int = 2
) -> torch.Tensor:
    """Normal numbers times powers of two between two exponents: every scale alike."""
    scale = 2.0 ** (low + (high - low) * torch.rand(shape, generator=generator))
    return (torch.randn(shape, generator=generator) * scale).to(TORCH[dtype])


@pytest.mark.parametrize("dtype", STORED)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=64))
def test_rounding_is_torchs_for_every_float32(dtype: Dtype, patterns: list[int]) -> None:
    values = numpy.array(patterns, numpy.uint32).view(numpy.float32)
    expected = torch.from_numpy(values.copy()).to(TORCH[dtype])
    found = rounded(values, dtype)
    known = ~numpy.isnan(values)
    numpy.testing.assert_array_equal(bits(found)[known], bits(array(expected))[known])
    assert numpy.isnan(found[~known]).all()


@pytest.mark.parametrize("dtype", STORED)
def test_rounding_at_ties_subnormals_overflow_and_what_is_no_number(dtype: Dtype) -> None:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(TORCH[dtype])
    every = every[every.isfinite()].sort().values.float()
    ties = ((every[1:].double() + every[:-1].double()) / 2).float()
    beside = [torch.nextafter(ties, torch.tensor(end)) for end in (-math.inf, math.inf)]
    largest = torch.finfo(torch.float32).max
    special = torch.tensor([math.inf, -math.inf, 0.0, -0.0, largest, -largest, 65519.9, 65520.0])
    for values in (every, ties, *beside, special):
        assert_same(rounded(values.numpy(), dtype), values.to(TORCH[dtype]))
    unknown = numpy.array([0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0xFFFFFFFF], numpy.uint32).view(numpy.float32)
    assert numpy.isnan(rounded(unknown, dtype)).all()
    assert rounded(unknown, "float32") is unknown


REPLAYED: list[tuple[str, dict[str, Any]]] = [
    ("adamw", {"weight_decay": 0.1}),
    ("adamw", {"weight_decay": 0.0, "betas": (0.8, 0.95)}),
    ("adamw", {"weight_decay": 0.1, "amsgrad": True}),
    ("adamw", {"weight_decay": 0.1, "eps": 1.0071e-4}),
    ("adamw", {"weight_decay": 0.1, "maximize": True}),
    ("adam", {"weight_decay": 0.1}),
    ("adam", {"amsgrad": True}),
    ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9, "dampening": 0.1}),
]


def with_tail_of_sgd(new: Any, buffer: Any, old: Any, dtype: Dtype) -> Any:
    """The entries after the last whole vectors as torch makes them, who rounds the product there too."""
    tail = slice(new.size - new.size % 32, None)
    rate = rounded(numpy.array([0.0123], numpy.float32), dtype)
    last = rounded(old.ravel()[tail] - rounded(buffer.ravel()[tail] * rate, dtype), dtype)
    return numpy.concatenate([new.ravel()[: tail.start], last]).reshape(new.shape)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize(("name", "settings"), REPLAYED)
def test_the_last_step_of_a_run_is_replayed_bit_for_bit(
    name: str, settings: dict[str, Any], foreach: bool | None, dtype: Dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [nn.Parameter(draw(shape, dtype, generator)) for shape in SIZES]
    optimizer: Any = RULES[name].load_class()(tensors, lr=0.0123, foreach=foreach, **settings)
    for _ in range(5):
        before = [tensor.detach().clone() for tensor in tensors]
        for tensor in tensors:
            tensor.grad = draw(tuple(tensor.shape), dtype, generator)
        optimizer.step()
        group = optimizer.state_dict()["param_groups"][0]
        for tensor, old in zip(tensors, before, strict=True):
            found = next_weights(RULES[name], arrays(optimizer.state[tensor]), array(old), group, dtype)
            assert found is not None
            if name == "sgd":
                found = with_tail_of_sgd(found, array(optimizer.state[tensor]["momentum_buffer"]), array(old), dtype)
            assert_same(found, tensor)
    assert any(not torch.equal(tensor, old) for tensor, old in zip(tensors, before, strict=True))


def halving(
    name: str, dtype: Dtype, shape: tuple[int, ...], seed: int, settings: dict[str, Any]
) -> tuple[Any, torch.Tensor, dict[str, Any], dict[str, Any]]:
    """A step without a gradient whose betas of 1/2 halve the moments, so that what is saved is what was used.

    The weights after it and before it, the state and the group's settings.
    """
    generator = torch.Generator().manual_seed(seed)
    tensor = nn.Parameter(draw(shape, dtype, generator))
    old = tensor.detach().clone()
    optimizer: Any = RULES[name].load_class()([tensor], lr=0.0123, **settings)
    tensor.grad = torch.zeros_like(tensor)
    even = [draw(shape, dtype, generator, low=-4).abs() for _ in range(3)]
    moments = {"exp_avg": draw(shape, dtype, generator), "exp_avg_sq": even[0], "step": torch.tensor(3.0)}
    if settings.get("amsgrad"):
        moments["max_exp_avg_sq"] = even[1]
    state = {"momentum_buffer": draw(shape, dtype, generator)} if name == "sgd" else moments
    quantum = 2.0**-16
    state = {
        key: ((value.float() / quantum).round() * quantum).to(value.dtype) if key != "step" else value
        for key, value in state.items()
    }
    optimizer.state[tensor] = state
    halves = {key: value / 2 for key, value in state.items() if key in ("exp_avg", "exp_avg_sq", "momentum_buffer")}
    optimizer.step()
    for key, half in halves.items():
        assert torch.equal(optimizer.state[tensor][key], half)
    return tensor, old, arrays(optimizer.state[tensor]), optimizer.state_dict()["param_groups"][0]


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize(("name", "decay"), [("adamw", 0.4), ("adamw", 0.0), ("adam", 0.0)])
def test_a_fused_step_is_replayed_bit_for_bit(
    name: str, decay: float, amsgrad: bool, shape: tuple[int, ...], dtype: Dtype
) -> None:
    settings = {"betas": (0.5, 0.5), "weight_decay": decay, "amsgrad": amsgrad, "fused": True}
    tensor, old, slot, group = halving(name, dtype, shape, 0, settings)
    found = next_weights(RULES[name], slot, array(old), group, dtype)
    assert_same(found, tensor)


@pytest.mark.parametrize("dtype", STORED)
def test_a_fused_step_of_sgd_is_replayed_bit_for_bit(dtype: Dtype) -> None:
    """In tensors shorter than a vector of the processor: torch 2.13 leaves longer ones where they are on a CPU."""
    for seed in range(100):
        tensor, old, slot, group = halving("sgd", dtype, (7,), seed, {"momentum": 0.5, "fused": True})
        assert_same(next_weights(RULES["sgd"], slot, array(old), group, dtype), tensor)


@pytest.mark.parametrize("dtype", STORED)
def test_a_fused_run_is_replayed_but_for_the_digits_that_its_moments_lose_when_saved(dtype: Dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = nn.Parameter(draw((4099,), dtype, generator))
    optimizer = torch.optim.AdamW([tensor], lr=0.0123, fused=True)
    for _ in range(5):
        old = tensor.detach().clone()
        tensor.grad = draw((4099,), dtype, generator)
        optimizer.step()
    group = optimizer.state_dict()["param_groups"][0]
    found = next_weights(RULES["adamw"], arrays(optimizer.state[tensor]), array(old), group, dtype)
    assert found is not None and (found == array(tensor)).mean() > 0.9


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("decay", [0.0, 0.4])
def test_lion_is_replayed_where_there_is_no_gradient(decay: float, dtype: Dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in SIZES:
        tensor = nn.Parameter(draw(shape, dtype, generator))
        optimizer: Any = RULES["lion"].load_class()([tensor], lr=0.00123, weight_decay=decay)
        tensor.grad = draw(shape, dtype, generator)
        optimizer.step()
        slot, old = arrays(optimizer.state[tensor]), tensor.detach().clone()
        tensor.grad = torch.zeros_like(tensor)
        optimizer.step()
        assert_same(next_weights(RULES["lion"], slot, array(old), optimizer.param_groups[0], dtype), tensor)


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize(("low", "high"), [(-140, -110), (-24, -14), (10, 15), (100, 127)])
def test_subnormal_and_large_weights_are_replayed(low: int, high: int, dtype: Dtype) -> None:
    if dtype == "float16" and not -25 < low < 16:
        pytest.skip("float16 has no such numbers")
    generator = torch.Generator().manual_seed(0)
    tensor = nn.Parameter(draw((4099,), dtype, generator, low, high))
    optimizer = torch.optim.AdamW([tensor], lr=2.0**low, eps=0.5, weight_decay=0.4)
    tensor.grad = draw((4099,), dtype, generator)
    old = tensor.detach().clone()
    optimizer.step()
    group = optimizer.state_dict()["param_groups"][0]
    assert_same(next_weights(RULES["adamw"], arrays(optimizer.state[tensor]), array(old), group, dtype), tensor)


@pytest.mark.parametrize("dtype", STORED)
def test_float32_moments_are_rounded_with_the_weights_alone(dtype: Dtype) -> None:
    """No optimizer of torch mixes them; these are its operations on such tensors."""
    generator = torch.Generator().manual_seed(0)
    old, first, second = (draw((4099,), each, generator) for each in (dtype, "float32", "float32"))
    slot = {"exp_avg": first.numpy(), "exp_avg_sq": second.abs().numpy(), "step": 7.0}
    settings = {"lr": 0.0123, "weight_decay": 0.4, "betas": (0.9, 0.99), "eps": 1e-7}
    expected = old.clone().mul_(1 - 0.0123 * 0.4)
    root = second.abs().double().sqrt().float()  # torch's own of float32 is off by one bit on some processors
    denominator = (root / (1 - 0.99**7) ** 0.5).add_(1e-7)
    expected.addcdiv_(first, denominator, value=-0.0123 / (1 - 0.9**7))
    assert_same(next_weights(RULES["adamw"], slot, array(old), settings, dtype, moments="float32"), expected)
    buffer = {"momentum_buffer": first.numpy()}
    expected = old.clone().add_(first, alpha=-0.0123)
    assert_same(next_weights(RULES["sgd"], buffer, array(old), {"lr": 0.0123}, dtype, moments="float32"), expected)


def test_means_that_are_not_corrected_are_taken_as_they_are() -> None:
    slot = {"exp_avg": numpy.ones(3, numpy.float32), "exp_avg_sq": numpy.ones(3, numpy.float32), "step": 1}
    settings = {"lr": 0.5, "weight_decay": 0.0, "correct_bias": False}
    found = next_weights(RULES["adamw"], slot, numpy.ones(3, numpy.float32), settings, "bfloat16")
    assert found is not None and found.tolist() == [0.5] * 3


def test_what_cannot_be_replayed_is_none() -> None:
    weight = numpy.ones(3, numpy.float32)
    slot = {"momentum_buffer": weight, "exp_avg": weight, "exp_avg_sq": weight, "step": 3}
    for name in ("muon", "lars", "lamb", "fromage", "adafactor"):
        assert next_weights(RULES[name], slot, weight, {"lr": 0.1}, "bfloat16") is None
        assert lost_updates(RULES[name], slot, weight, {"lr": 0.1}, "bfloat16") is None
    for name in ("sgd", "adamw", "lion"):
        assert next_weights(RULES[name], {}, weight, {"lr": 0.1}, "bfloat16") is None


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("name", ["adamw", "lion", "muon"])
def test_decay_alone_is_that_of_torch(name: str, dtype: Dtype) -> None:
    old = draw((4099,), dtype, torch.Generator().manual_seed(0))
    found = after_decay(RULES[name], array(old), {"lr": 0.0123, "weight_decay": 0.4}, dtype)
    if name == "lion":
        expected = (old.double() - 0.0123 * (0.4 * old.double())).to(TORCH[dtype])
    else:
        expected = old.clone().mul_(1 - 0.0123 * 0.4)
    assert_same(found, expected)
    assert after_decay(RULES["adam"], array(old), {"lr": 0.0123, "weight_decay": 0.4}, dtype) is None
    assert after_decay(RULES[name], array(old), {"lr": 0.0123, "weight_decay": 0.0}, dtype) is None


def every_weight(dtype: Dtype) -> torch.Tensor:
    every = torch.arange(-(2**15), 2**15).to(torch.int16).view(TORCH[dtype])
    return every[every.isfinite()]


def of_every_weight(rate: float, decay: float) -> LostUpdates:
    """What AdamW's decay does to every normal bfloat16 without an update."""
    weight = array(every_weight("bfloat16"))
    weight = weight[numpy.abs(weight) >= 2.0**-126]
    slot = {"exp_avg": 0.0 * weight, "exp_avg_sq": 0.0 * weight, "step": 5}
    found = lost_updates(RULES["adamw"], slot, weight, {"lr": rate, "weight_decay": decay}, "bfloat16")
    assert found is not None
    return found


def test_decay_is_lost_on_every_bfloat16_below_a_rate_of_2_to_the_minus_9() -> None:
    below, above = of_every_weight(0.999 * 2.0**-9, 1.0), of_every_weight(2.0**-7, 1.0)
    assert below.decay_lost == below.decaying == below.changing == below.lost == below.entries == 2 * 254 * 128
    assert above.decay_lost == above.lost == 0
    assert of_every_weight(1.001 * 2.0**-9, 1.0).decay_lost == below.entries - 2 * 253, "powers of two move"


@pytest.mark.parametrize("dtype", STORED)
def test_an_update_is_lost_below_its_critical_rate_and_not_above(dtype: Dtype) -> None:
    weight = array(every_weight(dtype)).astype(numpy.float64)
    weight = weight[numpy.abs(weight) < numpy.abs(weight).max()]
    for sign in (-1.0, 1.0):
        update = numpy.full(len(weight), sign, numpy.float32)
        rates = critical_rates(weight.astype(numpy.float32), update, dtype).astype(numpy.float64)
        for factor, lost in ((0.999, True), (1.001, False)):
            moved = torch.from_numpy(weight - factor * rates * sign)
            stays = exactly_rounded(moved, dtype) == torch.from_numpy(weight)
            assert (stays == lost).all()
    none = critical_rates(weight.astype(numpy.float32), numpy.zeros(len(weight), numpy.float32), dtype)
    assert numpy.isinf(none).all()


def exactly_rounded(values: torch.Tensor, dtype: Dtype) -> torch.Tensor:
    """float64 values, no ties, rounded once by the nearest of three neighbours."""
    near = values.float().to(TORCH[dtype])
    bits = near.view(torch.int16)
    candidates = torch.stack([(bits + offset).view(TORCH[dtype]).double() for offset in (-1, 0, 1)])
    distance = (candidates - values).abs().nan_to_num(math.inf)
    return candidates.gather(0, distance.argmin(0, keepdim=True))[0]


def adam_case(dtype: Dtype, size: int) -> tuple[dict[str, Any], Any, dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    weight = array(draw((size,), dtype, generator, -8, -4))
    slot = {"exp_avg": array(draw((size,), dtype, generator, -14, -8)), "step": 20}
    slot["exp_avg_sq"] = array(draw((size,), dtype, generator, -12, -8).abs())
    weight[::50], slot["exp_avg"][::7] = 0.0, 0.0
    return slot, weight, {"lr": 3e-4, "weight_decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-6}


@pytest.mark.parametrize("dtype", STORED)
@pytest.mark.parametrize("fused", [None, True])
def test_the_sums_are_those_of_a_loop_over_entries(fused: bool | None, dtype: Dtype) -> None:
    slot, weight, settings = adam_case(dtype, 2003)
    settings["fused"] = fused
    found = lost_updates(RULES["adamw"], slot, weight, settings, dtype)
    new = next_weights(RULES["adamw"], slot, weight, settings, dtype)
    decayed = after_decay(RULES["adamw"], weight, settings, dtype)
    assert found is not None and new is not None and decayed is not None
    changing = lost = decaying = decay_lost = updated = 0
    wanted = survived = 0.0
    for w, after, d, m, v in zip(weight, new, decayed, slot["exp_avg"], slot["exp_avg_sq"], strict=True):
        step = 3e-4 * float(m) / (1 - 0.9**20) / (math.sqrt(v / (1 - 0.99**20)) + 1e-6)
        changing += w != 0 or step != 0
        lost += (w != 0 or step != 0) and after == w
        decaying += w != 0
        decay_lost += w != 0 and d == w
        updated += step != 0
        wanted += abs(step)
        towards = -math.copysign(1.0, step) * (float(after) - float(d))
        assert towards >= 0 or step == 0
        survived += min(max(towards, 0.0), abs(step))
    assert (found.entries, found.changing, found.lost) == (2003, changing, lost)
    assert (found.decaying, found.decay_lost, found.updated) == (decaying, decay_lost, updated)
    assert 0 < lost < changing and 0 < survived < wanted
    assert found.wanted == pytest.approx(wanted, rel=1e-5)
    assert found.survived == pytest.approx(survived, rel=1e-5)


@pytest.mark.parametrize("name", ["adam", "lion", "sgd"])
def test_chunks_join_to_the_whole(name: str) -> None:
    slot, weight, settings = adam_case("bfloat16", 2 * BLOCK + 5)
    slot["momentum_buffer"] = slot["exp_avg"]
    whole = lost_updates(RULES[name], slot, weight, settings, "bfloat16")
    pieces = []
    for start in range(0, len(weight), 5000):
        part = slice(start, start + 5000)
        cut = {key: value if key == "step" else value[part] for key, value in slot.items()}
        pieces.append(lost_updates(RULES[name], cut, weight[part], settings, "bfloat16"))
    assert whole is not None
    joined: LostUpdates = reduce(add, pieces)  # type: ignore[arg-type]
    for field in ("entries", "changing", "lost", "decaying", "decay_lost", "updated"):
        assert getattr(joined, field) == getattr(whole, field)
    assert joined.wanted == pytest.approx(whole.wanted) and joined.survived == pytest.approx(whole.survived)
    assert (joined.critical_rates == whole.critical_rates).all()
    assert (whole.decaying is None) == (name != "lion")


def test_tensors_with_and_without_decay_join() -> None:
    slot, weight, settings = adam_case("bfloat16", 100)
    with_decay = lost_updates(RULES["adamw"], slot, weight, settings, "bfloat16")
    without = lost_updates(RULES["adamw"], slot, weight, {**settings, "weight_decay": 0.0}, "bfloat16")
    assert with_decay is not None and without is not None and without.decaying is None
    for both in (with_decay + without, without + with_decay):
        assert both.entries == 200 and both.decaying == with_decay.decaying and both.decay_lost == with_decay.decay_lost


@pytest.mark.parametrize("dtype", STORED)
def test_half_of_the_updates_are_lost_at_the_half_rate(dtype: Dtype) -> None:
    slot, weight, settings = adam_case(dtype, 20001)
    settings["weight_decay"] = 0.0
    found = lost_updates(RULES["adamw"], slot, weight, settings, dtype)
    assert found is not None and found.half_rate is not None
    updated = slot["exp_avg"] != 0.0
    unit = slot["exp_avg"].astype(numpy.float64) / (1 - 0.9**20)
    unit /= numpy.sqrt(slot["exp_avg_sq"].astype(numpy.float64) / (1 - 0.99**20)) + 1e-6
    grid = 2.0 ** numpy.arange(-20, 0, 1 / 256)
    shares = numpy.array([(rounded((weight - r * unit).astype("f"), dtype) == weight)[updated].mean() for r in grid])
    exact = grid[numpy.flatnonzero(shares > 0.5).max()]
    assert found.half_rate == pytest.approx(exact, rel=0.02)


def test_there_is_no_half_rate_without_an_update() -> None:
    slot, weight, settings = adam_case("bfloat16", 100)
    slot["exp_avg"] = 0.0 * slot["exp_avg"]
    found = lost_updates(RULES["adamw"], slot, weight, settings, "bfloat16")
    assert found is not None and found.half_rate is None and found.updated == found.wanted == found.survived == 0
    empty = lost_updates(
        RULES["adamw"], {**slot, "exp_avg": weight[:0], "exp_avg_sq": weight[:0]}, weight[:0], settings, "bfloat16"
    )
    assert empty is not None and empty.entries == 0 and empty.half_rate is None
