import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fromage_cli.diagnostics.breakdown.derived import NOWHERE
from fromage_cli.diagnostics.breakdown.grid import DEFAULT, eta_grid
from fromage_cli.diagnostics.breakdown.measure import measure, measure_batches
from fromage_cli.diagnostics.breakdown.result import BreakdownResult
from fromage_cli.missing import found_of, known
from fromage_cli.probes.lines.direction import moving_tensors
from fromage_cli.probes.lines.updates import fromage_direction, sgd_direction
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
GRID = eta_grid(DEFAULT)


def curve(problem: Problem, etas: tuple[float, ...] = GRID, tensors: str = "matrices") -> BreakdownResult:
    moving, skipped = moving_tensors(problem, tensors)
    direction = fromage_direction(problem, moving)
    return found_of(measure(problem, direction, etas, show_vectors=tensors == "all", skipped=skipped))[0]


class ScalarChain(nn.Module):
    """f(x) = w_L ... w_1 x with 1 x 1 matrices."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.tensor([[w]], dtype=torch.float64) for w in weights])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            x = x @ weight
        return x


@pytest.mark.parametrize("depth", [1, 2, 5, 16])
def test_a_deep_linear_network_has_the_curve_of_its_closed_form(make_problem: Maker, depth: int) -> None:
    weights = [0.9 + 0.02 * index for index in range(depth)]
    target = 3.0
    data = {"x": torch.ones(1, 1, dtype=torch.float64), "y": torch.full((1, 1), target, dtype=torch.float64)}
    result = curve(make_problem(ScalarChain(weights), data))
    start = math.prod(weights)
    sign = 1.0 if (start - target) * start > 0 else -1.0
    for index, eta in enumerate(GRID):
        scale = 1 - sign * eta
        end = start * scale**depth
        assert result.losses[index] == pytest.approx((end - target) ** 2, rel=1e-9, abs=1e-12)
        exact = abs((end - target) * end / scale / ((start - target) * start) - 1)
        for layer in result.layers:
            assert layer.breakdown[index] == pytest.approx(exact, rel=1e-6, abs=1e-12)
            assert layer.cosine == 1.0
            assert layer.relative_step == 1.0


@pytest.mark.parametrize("depth", [2, 8])
def test_aligned_rank_one_layers_meet_deep_relative_trust_exactly(make_problem: Maker, depth: int) -> None:
    """With L = -u^T W_L ... W_1 u and W_l = c_l u u^T the step is along W_l: b = (1 + eta)^(L-1) - 1 in every layer."""
    direction = torch.nn.functional.normalize(torch.arange(1.0, 6.0, dtype=torch.float64), dim=0)

    class Aligned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            matrix = torch.outer(direction, direction)
            self.weights = nn.ParameterList([(1 + 0.1 * k) * matrix for k in range(depth)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for weight in self.weights:
                x = x @ weight.T
            return -(x @ direction).sum()

    result = curve(make_problem(Aligned(), {"x": direction[None]}, "output"))
    for layer in result.layers:
        exact = [(1 + eta) ** (depth - 1) - 1 for eta in GRID]
        assert layer.breakdown == pytest.approx(exact, rel=1e-8)
    assert result.predicted == pytest.approx([(1 + eta) ** depth - 1 for eta in GRID], rel=1e-9)
    assert result.predicted_spectral == pytest.approx(result.predicted, rel=1e-6)
    assert result.linear_trust_eta == pytest.approx(1 / (depth - 1), rel=1e-6)
    if depth == 8:
        exact_trust = 2 ** (1 / (depth - 1)) - 1
        assert result.trust_eta == pytest.approx(exact_trust, rel=0.02)
        assert result.layers[0].implied_depth == pytest.approx(depth - 1, rel=0.02)
        assert result.tail_slope == pytest.approx(depth - 1, rel=0.02)


def relu_network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3)).double()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.floats(0.05, 20.0), st.sampled_from([(0, 2), (2, 4)]))
def test_rescaling_adjacent_relu_layers_changes_nothing(
    make_problem: Maker, seed: int, factor: float, pair: tuple[int, int]
) -> None:
    """W -> c W, b -> c b below and W -> W / c above leave the function, and every relative step, as they were."""
    model = relu_network(seed)
    data = {"x": torch.randn(20, 6, dtype=torch.float64), "y": torch.randint(3, (20,))}
    etas = (1e-3, 1e-2, 1e-1)
    before = curve(make_problem(model, data), etas)
    below, above = model[pair[0]], model[pair[1]]
    with torch.no_grad():
        below.weight.mul_(factor)
        below.bias.mul_(factor)
        above.weight.div_(factor)
    after = curve(make_problem(model, data), etas)
    for first, second in zip(before.layers, after.layers, strict=True):
        assert second.breakdown == pytest.approx(first.breakdown, rel=1e-7, abs=1e-12)
    assert after.losses == pytest.approx(before.losses, rel=1e-9)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from(["matrices", "all"]))
def test_the_loss_stays_below_lemma_1_up_to_the_sampling_of_the_path(
    make_problem: Maker, seed: int, tensors: str
) -> None:
    model = relu_network(seed)
    data = {"x": torch.randn(20, 6, dtype=torch.float64), "y": torch.randint(3, (20,))}
    etas = tuple(0.002 * k for k in range(1, 101))
    result = curve(make_problem(model, data), etas, tensors)
    scale = max(abs(bound) for bound in result.loss_bounds)
    for loss, bound in zip(result.losses, result.loss_bounds, strict=True):
        assert loss - result.loss <= bound + 0.02 * scale


def test_a_step_below_the_aggregate_trust_lowers_the_loss(make_problem: Maker) -> None:
    data = {"x": torch.randn(40, 6, dtype=torch.float64), "y": torch.randint(3, (40,))}
    problem = make_problem(relu_network(0), data)
    result = curve(problem, eta_grid("1e-3:1:200"), "all")
    assert known(result.trust_eta) is not None
    assert known(result.aggregate_trust_eta) is not None
    assert result.trust_eta <= result.aggregate_trust_eta * 1.0001
    within = [x for eta, x in zip(result.etas, result.losses, strict=True) if eta < result.aggregate_trust_eta]
    assert within and max(within) < result.loss


def test_the_slope_by_one_product_is_that_of_the_curve_for_smooth_networks(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    problem = make_problem(model, {"x": torch.randn(20, 6, dtype=torch.float64), "y": torch.randint(3, (20,))})
    result = curve(problem, (1e-7, 1e-6))
    steepest = max(layer.breakdown[0] / result.etas[0] for layer in result.layers if layer.breakdown[0] is not None)
    assert result.linear_trust_eta == pytest.approx(1 / steepest, rel=1e-4)
    assert problem.evaluations.hessian_vector_products == 1
    assert problem.evaluations.gradients == len(result.etas) + 2


@pytest.mark.parametrize(
    ("build", "rows"),
    [
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)),
            (3, 8, 8),
        ),
        (lambda: nn.Sequential(nn.Linear(12, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4)), (12,)),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(288, 4)),
            (3, 8, 8),
        ),
    ],
    ids=["batchnorm", "layernorm", "groupnorm"],
)
def test_float32_agrees_with_float64_wherever_the_breakdown_counts(
    make_problem: Maker, build: Callable[[], nn.Module], rows: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    model = build()
    data = {"x": torch.randn(24, *rows), "y": torch.randint(4, (24,))}
    single = curve(make_problem(model, data))
    double = curve(make_problem(model.double(), {**data, "x": data["x"].double()}))
    for first, second in zip(single.layers, double.layers, strict=True):
        pairs = list(zip(first.breakdown, second.breakdown, strict=True))
        counting = [(value, exact) for value, exact in pairs if exact is not None and 1e-3 < exact < math.inf]
        assert counting
        for value, exact in counting:
            assert value == pytest.approx(exact, rel=0.01)


def test_values_that_overflow_are_ordinary_results(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(layer for _ in range(60) for layer in (nn.Linear(4, 4, bias=False),)))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(1.5 * torch.eye(4))
    result = curve(make_problem(model, {"x": torch.ones(2, 4), "y": torch.zeros(2, 4)}), (1e-3, 1e3, 1e6))
    assert not math.isfinite(result.losses[-1])
    assert result.layers[0].path_breakdown[-1] == math.inf
    assert result.first_increase_relation in ("crossing", "above-grid")


def test_vectors_move_and_are_shown_when_all_tensors_are_asked_for(make_problem: Maker) -> None:
    data = {"x": torch.randn(20, 6, dtype=torch.float64), "y": torch.randint(3, (20,))}
    problem = make_problem(relu_network(0), data)
    assert len(curve(problem, (0.01,)).layers) == 3
    shown = curve(problem, (0.01,), "all")
    assert [layer.name for layer in shown.layers] == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]
    assert shown.predicted == pytest.approx([1.01**3 - 1])


def test_tied_tensors_count_once_in_the_prediction(make_problem: Maker) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.embedding(x) @ self.embedding.weight.T

    tokens = {"x": torch.randint(7, (3, 4)), "y": torch.randint(7, (3, 4))}
    result = curve(make_problem(Tied(), tokens), (0.1,))
    assert [layer.name for layer in result.layers] == ["embedding.weight"]
    assert result.predicted == pytest.approx([0.1])
    assert (result.depth.count, result.depth.path) == (1, 2)


def test_a_gradient_that_is_only_rounding_limits_nothing(make_problem: Maker) -> None:
    """The bias of a convolution before BatchNorm has no gradient in exact arithmetic."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    problem = make_problem(model, {"x": torch.randn(32, 2, 8), "y": torch.randint(3, (32,))})
    result = found_of(measure(problem, sgd_direction(problem, problem.receiving), GRID, show_vectors=True))[0]
    assert result.noise == ("0.bias",)
    dead = next(layer for layer in result.layers if layer.name == "0.bias")
    assert dead.trust_eta.code == dead.trust_relation == "uncertifiable"
    assert result.trust_relation == "crossing"
    assert result.limiting_layer != "0.bias"


def test_a_batch_whose_order_matters_has_a_noise_floor_too(make_problem: Maker) -> None:
    class Ordered(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x * torch.arange(len(x))[:, None])

    result = curve(make_problem(Ordered(), {"x": torch.randn(20, 6), "y": torch.randint(3, (20,))}), (0.1,))
    assert 0.0 < (result.layers[0].noise_floor or 0.0) < 1e-4


def test_a_noisy_model_has_a_noise_floor(make_problem: Maker) -> None:
    class Noisy(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Noisy.calls += 1
            return self.linear(x * (1 + 0.1 * self.calls))

    data = {"x": torch.randn(20, 6), "y": torch.randint(3, (20,))}
    result = curve(make_problem(Noisy(), data), (1e-4, 1e-3))
    assert known(result.layers[0].noise_floor) is not None
    assert result.layers[0].noise_floor > 0.01
    assert known(result.layers[0].violation) is None


def test_a_batch_along_which_nothing_moves_gives_no_certificate(make_problem: Maker) -> None:
    class Slopes(nn.Module):
        """The gradient of its weight is the mean of the batch."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.weight).mean() * self.weight.sum()

    problem = make_problem(Slopes(), {"x": torch.ones(4, 1)}, "output")
    problem.further = (as_batch({"x": torch.zeros(4, 1)}, "a batch of zeros"),)
    found, stopped = found_of(measure_batches(problem, lambda alone: sgd_direction(alone, alone.receiving), GRID))
    assert stopped is None
    assert [batch.trust_relation for batch in found] == ["crossing", "uncertifiable"]
    assert found[1].loss == 0.0
    assert found[1].trust_eta == found[1].aggregate_trust_eta == NOWHERE["uncertifiable"]


def test_vectors_are_reported_where_nothing_else_has_a_gradient(make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)  # no unit of the hidden layer is ever active
    problem = make_problem(model, {"x": torch.randn(32, 8), "y": torch.randint(0, 3, (32,))}, "cross-entropy")
    moving, skipped = moving_tensors(problem, "all")
    result = found_of(measure(problem, sgd_direction(problem, moving), GRID, skipped=skipped))[0]
    assert [layer.name for layer in result.layers] == ["2.bias"]
    assert {tensor.name: tensor.reason for tensor in result.skipped} == dict.fromkeys(
        ("0.weight", "0.bias", "2.weight"), "zero gradient"
    )
