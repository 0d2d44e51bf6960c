"""The optimizers against steps worked out by hand, the laws of the weight norm, and torch's own conventions."""

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fromage_cli.optim import LARS, Fromage

OPTIMIZERS = [Fromage, LARS]


def tensor(values: Sequence[float], gradient: Sequence[float] | None, dtype: torch.dtype = torch.float64):
    parameter = nn.Parameter(torch.tensor(values, dtype=dtype))
    parameter.grad = None if gradient is None else torch.tensor(gradient, dtype=dtype)
    return parameter


def assert_values(parameter: torch.Tensor, expected: Sequence[float], tolerance: float = 1e-15):
    torch.testing.assert_close(
        parameter.detach(), torch.tensor(expected, dtype=parameter.dtype), rtol=tolerance, atol=tolerance
    )


def test_lars_step_worked_out_by_hand():
    weight = tensor([3.0, 4.0], [0.0, 2.0])  # ‖W‖ = 5, ‖g‖ = 2, so g is scaled by .1 · 2.5
    LARS([weight], lr=0.1).step()
    assert_values(weight, [3.0, 3.5])


def test_fromage_step_worked_out_by_hand():
    weight = tensor([3.0, 4.0], [0.0, 2.0])
    Fromage([weight], lr=0.75).step()  # (3, 4 − .75 · 5) / 1.25
    assert_values(weight, [2.4, 0.2])


def test_a_matrix_has_one_norm_over_all_its_entries():
    weight = nn.Parameter(torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64))
    weight.grad = torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    LARS([weight], lr=0.5).step()
    assert weight.tolist() == [[0.0, 1.0], [1.0, 1.0]]


def test_weight_and_bias_have_a_norm_each():
    weight, bias = tensor([3.0, 4.0], [0.0, 2.0]), tensor([-2.0], [8.0])
    LARS([weight, bias], lr=0.1).step()
    assert_values(weight, [3.0, 3.5])
    assert_values(bias, [-2.2])


def test_zero_weight_takes_the_plain_gradient_step():
    first, second = tensor([0.0, 0.0], [1.0, 2.0]), tensor([0.0, 0.0], [1.0, 2.0])
    LARS([first], lr=0.75).step()
    Fromage([second], lr=0.75).step()
    assert_values(first, [-0.75, -1.5])
    assert_values(second, [-0.6, -1.2])


def test_zero_gradient_moves_nothing_but_fromage_still_divides():
    first, second = tensor([3.0, 4.0], [0.0, 0.0]), tensor([3.0, 4.0], [0.0, 0.0])
    LARS([first], lr=0.75).step()
    Fromage([second], lr=0.75).step()
    assert_values(first, [3.0, 4.0])
    assert_values(second, [2.4, 3.2])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_tensor_without_gradient_stays(optimizer):
    weight = tensor([3.0, 4.0], None)
    optimizer([weight], lr=0.75).step()
    assert weight.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_groups_step_at_their_own_rate(optimizer):
    first, second = tensor([3.0, 4.0], [0.0, 2.0]), tensor([3.0, 4.0], [0.0, 2.0])
    alone = tensor([3.0, 4.0], [0.0, 2.0])
    optimizer([{"params": [first]}, {"params": [second], "lr": 0.2}], lr=0.1).step()
    optimizer([alone], lr=0.2).step()
    assert first.tolist() != second.tolist()
    assert second.tolist() == alone.tolist()


def test_p_bound_clamps_to_the_norm_before_the_first_step():
    weight = tensor([3.0, 4.0], [-3.0, -4.0])
    optimizer = Fromage([weight], lr=0.75, p_bound=1.2)  # outward: 1.75 / 1.25 = 1.4 times the norm
    optimizer.step()
    assert_values(weight, [3.6, 4.8])
    optimizer.step()
    assert_values(weight, [3.6, 4.8])


def test_p_bound_leaves_smaller_norms_alone():
    weight = tensor([3.0, 4.0], [3.0, 4.0])
    Fromage([weight], lr=0.75, p_bound=1.2).step()
    assert_values(weight, [0.6, 0.8])


def test_p_bound_keeps_a_zero_tensor_at_zero():
    weight = tensor([0.0, 0.0], [1.0, 2.0])
    Fromage([weight], lr=0.1, p_bound=1.2).step()
    assert weight.tolist() == [0.0, 0.0]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("optimizer", "options"), [(Fromage, {}), (Fromage, {"p_bound": 1.01}), (LARS, {})], ids=["plain", "bound", "lars"]
)
def test_a_saved_state_goes_on_bit_for_bit(optimizer, options, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))
    original = optimizer(model.parameters(), lr=0.1, **options)
    train(model, original, range(3))
    torch.save({"model": model.state_dict(), "optimizer": original.state_dict()}, tmp_path / "state.pt")
    train(model, original, range(3, 8))

    again = copy.deepcopy(model)
    resumed = optimizer(again.parameters(), lr=0.5)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(again, resumed, range(3, 8))
    for expected, actual in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(expected, actual)


def scale_invariant_loss(weight: torch.Tensor) -> torch.Tensor:
    """f(cW) = f(W) for c > 0, so that the gradient is orthogonal to W."""
    target = torch.linspace(-1, 2, weight.numel(), dtype=weight.dtype).reshape(weight.shape)
    return (weight / weight.norm() * target).sum()


def norm_ratio_after(optimizer, rate: float, steps: int) -> float:
    weight = nn.Parameter(torch.randn(6, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    start = weight.norm().item()
    descent = optimizer([weight], lr=rate)
    for _ in range(steps):
        descent.zero_grad()
        scale_invariant_loss(weight).backward()
        descent.step()
    return weight.norm().item() / start


def test_lars_grows_a_scale_invariant_tensor_at_the_known_rate():
    assert norm_ratio_after(LARS, 0.1, 40) == pytest.approx((1 + 0.1**2) ** (40 / 2), rel=1e-12)


def test_fromage_keeps_the_norm_of_a_scale_invariant_tensor():
    assert norm_ratio_after(Fromage, 0.1, 40) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_float32_agrees_with_float64_over_many_steps(optimizer):
    torch.manual_seed(1)
    exact = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    rounded = copy.deepcopy(exact).float()
    for model, dtype in ((exact, torch.float64), (rounded, torch.float32)):
        descent = optimizer(model.parameters(), lr=0.01)
        for step in range(20):
            x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step)).to(dtype)
            descent.zero_grad()
            model(x).square().mean().backward()
            descent.step()
    for expected, actual in zip(exact.parameters(), rounded.parameters(), strict=True):
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_large_float32_tensor_moves_by_the_right_amount():
    """Norms summed in float32 are off by 6e-4 at this size."""
    torch.manual_seed(2)
    weight = nn.Parameter(torch.randn(4_000_000))
    weight.grad = torch.randn(4_000_000)
    before = weight.detach().double()
    LARS([weight], lr=0.1).step()
    relative = (weight.detach().double() - before).norm() / before.norm()
    assert relative.item() == pytest.approx(0.1, rel=1e-7)


def test_tiny_float32_gradients_count_like_any_others():
    weight = tensor([3.0, 4.0], [0.0, 1e-42], torch.float32)  # subnormal: ‖W‖/‖g‖ overflows float32
    LARS([weight], lr=0.1).step()
    assert_values(weight, [3.0, 3.5], 1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_tensor_keeps_its_dtype(dtype):
    weight = tensor([3.0, 4.0], [0.0, 2.0], dtype)
    LARS([weight], lr=0.1).step()
    assert weight.dtype == dtype
    assert_values(weight, [3.0, 3.5])


number = st.floats(-100, 100).filter(lambda value: value == 0 or abs(value) > 1e-6)
pairs = st.lists(st.tuples(number, number), min_size=1, max_size=12)


@settings(deadline=None)
@given(pairs, st.floats(1e-4, 10))
def test_a_lars_step_has_relative_size_exactly_eta(values, rate):
    weight = tensor([pair[0] for pair in values], [pair[1] for pair in values])
    before, gradient = weight.detach().clone(), weight.grad
    LARS([weight], lr=rate).step()
    moved = (weight.detach() - before).norm().item()
    ordinary = before.norm() > 0 and gradient.norm() > 0
    expected = rate * (before.norm() if ordinary else gradient.norm()).item()
    assert moved == pytest.approx(expected, rel=1e-10)


@settings(deadline=None)
@given(pairs, st.floats(1e-4, 10))
def test_fromage_is_lars_divided_by_the_prefactor(values, rate):
    first = tensor([pair[0] for pair in values], [pair[1] for pair in values])
    second = copy.deepcopy(first)
    second.grad = first.grad.clone()
    LARS([first], lr=rate).step()
    Fromage([second], lr=rate).step()
    assert_values(second, (first.detach() / math.sqrt(1 + rate**2)).tolist(), 1e-13)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_closure_is_called_with_gradients_on_and_its_loss_returned(optimizer):
    weight = tensor([3.0, 4.0], None)
    descent = optimizer([weight], lr=0.1)

    def closure():
        descent.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert descent.step(closure).item() == 25.0
    assert weight.norm().item() < 5
    assert descent.step() is None


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_sparse_gradient_is_refused_before_anything_moves(optimizer):
    weight, embedding = tensor([3.0, 4.0], [0.0, 2.0]), nn.Embedding(4, 3, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(RuntimeError, match=r"sparse gradients.*\(4, 3\).*sparse=False"):
        optimizer([weight, embedding.weight], lr=0.1).step()
    assert weight.tolist() == [3.0, 4.0]


def test_a_complex_tensor_is_refused():
    weight = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    weight.grad = torch.ones_like(weight)
    with pytest.raises(RuntimeError, match="real tensors only"):
        LARS([weight], lr=0.1).step()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf])
def test_a_rate_that_is_no_rate_is_refused(optimizer, rate):
    with pytest.raises(ValueError, match="learning rate"):
        optimizer([tensor([1.0], None)], lr=rate)
    with pytest.raises(ValueError, match="learning rate"):
        optimizer([{"params": [tensor([1.0], None)], "lr": rate}], lr=0.1)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.nan])
def test_a_bound_that_is_not_positive_is_refused(bound):
    with pytest.raises(ValueError, match="p_bound"):
        Fromage([tensor([1.0], None)], lr=0.1, p_bound=bound)


def test_no_parameters_are_refused_as_torch_does():
    with pytest.raises(ValueError, match="empty parameter list"):
        LARS([], lr=0.1)


def test_a_learning_rate_schedule_is_followed():
    weight = tensor([3.0, 4.0], [0.0, 2.0])
    descent = LARS([weight], lr=0.2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(descent, 0.5)
    descent.step()
    schedule.step()
    before = weight.detach().clone()
    descent.step()
    assert ((weight - before).norm() / before.norm()).item() == pytest.approx(0.1, rel=1e-12)
