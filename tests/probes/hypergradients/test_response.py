from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import MismatchError
from fromage_cli.missing import Why
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.hypergradients.hyperparameters import values_of
from fromage_cli.probes.hypergradients.response import Response, no_response
from fromage_cli.probes.hypergradients.validation import Validation
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


@pytest.fixture
def problem(make_problem: Maker, perceptron: nn.Module, classification: dict[str, Tensor]) -> Problem:
    return make_problem(perceptron, classification, mode="train")


@pytest.mark.parametrize("name", ["lion", "fromage", "muon", "lamb", "adafactor"])
def test_rules_that_rest_nowhere_are_refused(name: str, problem: Problem) -> None:
    matched = MatchedState(problem, Optimizer(name, 0.1))
    why = no_response(matched)
    assert why is not None and why.code is Why.NO_FORMULA and "rests at no point" in why.words
    names = [tensor.name for tensor in problem.receiving]
    with pytest.raises(MismatchError, match="no implicit answer here, because a run of"):
        Response(matched, values_of(matched, 0.1, {}, names))


@pytest.mark.parametrize("name", ["sgd", "adam", "lars", None])
def test_decay_in_the_loss_needs_no_state(name: str | None, problem: Problem) -> None:
    assert no_response(MatchedState(problem, Optimizer(name, 0.1))) is None


def test_adam_without_second_moments_is_refused_where_they_matter(problem: Problem) -> None:
    for name, by_steps in (("adamw", False), ("adam", True)):
        why = no_response(MatchedState(problem, Optimizer(name, 0.1)), by_steps=by_steps)
        assert why is not None and why.code is Why.NO_STATE and "ten times off" in why.words
    why = no_response(MatchedState(problem, Optimizer("lars", 0.1)), by_steps=True)
    assert why is not None and "not linear in the gradient" in why.words


class Normalised(nn.Module):
    """Two layers before BatchNorm, whose scale does not matter, and an output that it does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.norm = nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6, eps=1e-12)
        self.output = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.output(self.norm(self.hidden(x)).tanh())
        return found


def test_the_validation_gradient_follows_running_statistics(
    make_problem: Maker, classification: dict[str, Tensor]
) -> None:
    """It equals differences of the loss in evaluation mode with statistics of the training rows at moved weights."""
    model = Normalised().double()
    data = {"x": classification["x"].double(), "y": classification["y"]}
    held_out = {"x": data["x"][:9] * 1.3 + 0.2, "y": data["y"][:9].flip(0)}
    problem = make_problem(model, data, mode="train")
    matched = MatchedState(problem, Optimizer("sgd", 0.1))
    names = [tensor.name for tensor in problem.receiving]
    response = Response(matched, values_of(matched, 0.1, {}, names))
    rows = make_problem(model, held_out, mode="eval")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss, gradient = response.validation_gradient(Validation(rows, ()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.norm.momentum == 0.1

    def value() -> float:
        with torch.no_grad():
            inside = data["x"] @ model.hidden.weight.T
            centred = (held_out["x"] @ model.hidden.weight.T - inside.mean(0)) / inside.var(0).sqrt()
            hidden = (centred * model.norm.weight + model.norm.bias).tanh()
            return float(nn.functional.cross_entropy(model.output(hidden), held_out["y"]))

    assert loss == pytest.approx(value(), rel=1e-12)
    (flat,) = (part for part in response.space.split(gradient) if part.shape == (6, 8))
    for index in ((0, 0), (3, 5)):
        ends = []
        for step in (1e-6, -2e-6):
            model.hidden.weight.data[index] += step
            ends.append(value())
        model.hidden.weight.data[index] += 1e-6
        assert float(flat[index]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
    assert abs(float((flat * model.hidden.weight.detach()).sum())) < 1e-10
