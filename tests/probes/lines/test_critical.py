from collections.abc import Callable

import pytest
import torch
from torch import nn

from fromage_cli.errors import NumericalError
from fromage_cli.probes.lines.critical import critical_rate
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


def regression() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "x": torch.randn(20, 5, generator=generator).double(),
        "y": torch.randn(20, 1, generator=generator).double(),
    }


def plain(problem: Problem) -> dict[str, torch.Tensor]:
    return dict(problem.base.gradients)


@pytest.mark.parametrize("start", [1e-6, 1e-2, 1.0, 1e3])
def test_on_a_quadratic_it_is_twice_the_best_step(make_problem: Maker, start: float) -> None:
    torch.manual_seed(0)
    data = regression()
    problem = make_problem(nn.Linear(5, 1, bias=False).double(), data)
    gradient = plain(problem)["weight"].reshape(-1)
    hessian = 2.0 / 20 * data["x"].T @ data["x"]
    exact = float(2 * gradient @ gradient / (gradient @ hessian @ gradient))
    before = problem.trainable[0].parameter.detach().clone()
    assert critical_rate(problem, plain(problem), start) == pytest.approx(exact, rel=0.025)
    assert problem.evaluations.forwards <= 4
    assert torch.equal(before, problem.trainable[0].parameter.detach())


def test_below_it_the_loss_falls_and_above_it_rises(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    base, step = problem.base.loss, plain(problem)
    rate = critical_rate(problem, step, 0.01)
    assert rate is not None
    assert problem.evaluations.forwards <= 10
    losses = []
    for factor in (0.5, 0.96, 1.04):
        with problem.displaced(problem.receiving) as origin, torch.no_grad():
            for tensor in problem.receiving:
                tensor.parameter.copy_(origin[tensor.name] - factor * rate * step[tensor.name])
            losses.append(problem.value())
    assert losses[0] < base and losses[1] < base < losses[2]


def test_a_step_uphill_has_none(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    assert critical_rate(problem, {name: -part for name, part in plain(problem).items()}, 0.1) is None


def test_a_loss_that_never_rises_has_none(make_problem: Maker) -> None:
    class Falling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.weight).sum()

    problem = make_problem(Falling(), {"x": torch.ones(3, 2)}, "output")
    assert critical_rate(problem, plain(problem), 0.1) is None


def test_an_overflow_counts_as_a_rise(make_problem: Maker) -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((1, 1), -3.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.weight.square().square().exp()).sum()

    problem = make_problem(Steep(), {"x": torch.ones(1, 1)}, "output")
    step = {name: torch.full_like(part, -1.0) for name, part in plain(problem).items()}
    assert critical_rate(problem, step, 100.0) == pytest.approx(6.0, rel=0.03)


class Plateau(nn.Module):
    """Falls from w = 1 to 0, is flat down to -50, then rises again; as high as before at -51."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weight.relu().square() + x * (-50.0 - self.weight).relu().square()).sum()


def test_a_plateau_is_crossed_in_doubling_steps(make_problem: Maker) -> None:
    problem = make_problem(Plateau(), {"x": torch.ones(1, 1)}, "output")
    assert critical_rate(problem, plain(problem), 0.4) == pytest.approx(26.0, rel=0.025)
    assert problem.evaluations.forwards <= 14


def test_less_precision_takes_fewer_passes_and_their_number_can_be_limited(make_problem: Maker) -> None:
    problem = make_problem(Plateau(), {"x": torch.ones(1, 1)}, "output")
    assert critical_rate(problem, plain(problem), 0.4, precision=1.5) == pytest.approx(26.0, rel=0.25)
    assert problem.evaluations.forwards <= 11
    few = make_problem(Plateau(), {"x": torch.ones(1, 1)}, "output")
    assert critical_rate(few, plain(few), 0.4, attempts=3) is None
    assert few.evaluations.forwards == 4  # the base among them


@pytest.mark.parametrize(("size", "told"), [(1e-2, True), (1e-4, False), (1e-5, False)])
@pytest.mark.parametrize("start", [1e-3, 1.0, 1e3])
def test_a_fall_that_rounding_hides_is_refused(make_problem: Maker, start: float, size: float, told: bool) -> None:
    """A minimum of height 1 seen from nearby: float64 finds the rate at every distance."""

    class Bowl(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.full((3,), size))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1.0 + self.weight.square().sum() * x.mean()

    problem = make_problem(Bowl(), {"x": torch.ones(2)}, "output")
    exact = make_problem(Bowl().double(), {"x": torch.ones(2).double()}, "output")
    assert critical_rate(exact, plain(exact), start) == pytest.approx(1.0, rel=0.03)
    if told:
        assert critical_rate(problem, plain(problem), start) == pytest.approx(1.0, rel=0.05)
    else:
        with pytest.raises(NumericalError, match="which is almost lost in the rounding of float32"):
            critical_rate(problem, plain(problem), start)
    assert float(problem.model.weight.detach()[0]) == pytest.approx(size)
