from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.problem.evaluation.curvature_operators import WeightSpace
from fromage_cli.problem.evaluation.linearised_loss import linearised_losses
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import SmoothedCrossEntropy


@pytest.mark.parametrize("micro_batch", [None, 10])
def test_changes_beyond_first_order_are_those_of_the_linear_network(
    micro_batch: int | None,
    make_problem: Callable[..., Problem],
    perceptron: nn.Sequential,
    classification: dict[str, Tensor],
) -> None:
    model, data = perceptron.double(), {"x": classification["x"].double(), "y": classification["y"]}
    problem = make_problem(model, data, micro_batch=micro_batch)
    space = WeightSpace(problem.receiving)
    size, weights = space.flat(space.weights).numel(), dict(model.named_parameters())
    moves = [torch.randn(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)]
    found = linearised_losses(problem, space, moves, [SmoothedCrossEntropy(0.2), problem.loss])

    def linear(flat: Tensor, smoothing: float) -> Tensor:
        parts = torch.split(flat, [weight.numel() for weight in weights.values()])
        named = {n: part.view(w.shape) for (n, w), part in zip(weights.items(), parts, strict=True)}
        output, pushed = torch.func.jvp(
            lambda held: torch.func.functional_call(model, held, data["x"]), (dict(weights),), (named,)
        )
        return functional.cross_entropy(output + pushed, data["y"], label_smoothing=smoothing)

    still = torch.zeros(size, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(base := linear(still, 0.0), still)
    for move, smoothing, (value, slope) in zip(moves, (0.2, 0.0), found, strict=True):
        flat = move.clone().requires_grad_()
        loss = linear(flat, smoothing)
        assert value == pytest.approx(float(loss.detach() - base.detach() - first @ move), abs=1e-12)
        torch.testing.assert_close(slope, torch.autograd.grad(loss, flat)[0] - first)
