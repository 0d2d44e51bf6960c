"""Implicit answers against closed forms, and against networks that are trained again."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.hypergradients.hyperparameters import values_of
from fromage_cli.probes.hypergradients.implicit import Implicit, ImplicitResponse
from fromage_cli.probes.hypergradients.validation import Validation, validation_parts
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]
Data = dict[str, Tensor]


def response(
    make_problem: Maker,
    model: nn.Module,
    data: Data,
    held_out: Data,
    *,
    loss: str = "auto",
    optimizer: Optimizer,
    in_loss: Mapping[str, float] | None = None,
    micro_batch: int | None = None,
    **settings: Any,
) -> ImplicitResponse:
    """An implicit answer for a model as it is."""
    problem = make_problem(model, data, loss, mode="train", micro_batch=micro_batch)
    matched = MatchedState(problem, optimizer)
    names = [tensor.name for tensor in problem.receiving]
    values = values_of(matched, optimizer.learning_rate or 0.1, in_loss or {}, names)
    rows = Validation(make_problem(model, held_out, loss, mode="eval"), validation_parts([as_batch(held_out, "rows")]))
    return ImplicitResponse(matched, rows, values, tolerance=1e-8, **settings)


def regression(rows: int, seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator).double()
    y = x[:, :1] - 0.5 * x[:, 1:2] + torch.randn(rows, 1, generator=generator).double()
    return {"x": x, "y": y}


def ridge(data: Data, decay: float) -> Tensor:
    """Where mean squared error and decay cancel: (2 X'X/n + decay) w = 2 X'y/n."""
    x, y = data["x"], data["y"]
    return torch.linalg.solve(2.0 / len(x) * x.T @ x + decay * torch.eye(5).double(), 2.0 / len(x) * x.T @ y)


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
@pytest.mark.parametrize("micro_batch", [None, 7])
def test_ridge_regression_follows_its_closed_form(curvature: str, micro_batch: int | None, make_problem: Maker) -> None:
    data, held_out, decay = regression(30, 1), regression(16, 2), 0.3
    model = nn.Linear(5, 1, bias=False).double()
    model.weight.data.copy_(ridge(data, decay).T)
    solve = response(
        make_problem,
        model,
        data,
        held_out,
        loss="mse",
        optimizer=Optimizer("sgd", 0.1, weight_decay=decay),
        micro_batch=micro_batch,
        curvature=curvature,
    )
    found = solve.measure(0.0)
    assert isinstance(found, Implicit)

    def validation_loss(value: float) -> float:
        return float((held_out["x"] @ ridge(data, value) - held_out["y"]).square().mean())

    step = 1e-4
    expected = (validation_loss(decay + step) - validation_loss(decay - step)) / (2.0 * step)
    assert found.at("decay") == pytest.approx({"weight": expected}, rel=1e-6)
    assert found.converged and not found.negative_curvature and found.gradient_norm < 1e-9
    assert found.start_loss == pytest.approx(validation_loss(decay))
    assert found.iterations == 5 and found.answer.damping == 0.0
