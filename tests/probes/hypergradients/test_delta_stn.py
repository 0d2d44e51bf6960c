"""The fitted hypernetwork against dense least squares on the same family, and its conditioning against matrices."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.missing import Interrupted
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.probes.hypergradients.delta_stn import DeltaFit, DeltaSTN, measure_conditioning
from fromage_cli.probes.hypergradients.hyperparameters import Hyperparameter, hyperparameters, values_of
from fromage_cli.probes.hypergradients.implicit import DRAWS
from fromage_cli.probes.hypergradients.response import Response
from fromage_cli.probes.hypergradients.validation import Validation, validation_parts
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.problem.evaluation.curvature_operators import gauss_newton
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING

Maker = Callable[..., Problem]
Data = dict[str, Tensor]
DECAY, SMOOTHING = 0.02, 0.1


def noisy(rows: int, seed: int) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 4, generator=generator).double()
    clean, drawn = x[:, :3].argmax(1), torch.randint(3, (rows,), generator=generator)
    return {"x": x, "y": torch.where(torch.rand(rows, generator=generator) < 0.4, drawn, clean)}


@pytest.fixture
def network() -> nn.Sequential:
    """A tanh network trained on noisy labels, near rest."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)).double()
    data, weights = noisy(40, 1), [*model.parameters()]
    optimizer = torch.optim.LBFGS(weights, max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(data["x"]), data["y"], label_smoothing=SMOOTHING)
        loss = loss + 0.5 * DECAY * torch.stack([weight.square().sum() for weight in weights]).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return model


def setting(make_problem: Maker, model: nn.Module, **more: Any) -> tuple[Response, Validation, list[Hyperparameter]]:
    problem = make_problem(model, noisy(40, 1), mode="train", **more)
    matched = MatchedState(problem, Optimizer("sgd", 0.1, weight_decay=DECAY))
    names = [tensor.name for tensor in problem.receiving]
    values = values_of(matched, 0.1, {LABEL_SMOOTHING: SMOOTHING}, names)
    held_out = make_problem(model, noisy(40, 2), mode="eval")
    rows = Validation(held_out, validation_parts([held_out.batch]))
    asked = [one for one in hyperparameters(matched, values) if one.scope == "all" and one.place != "rate"]
    return Response(matched, values), rows, asked


def dense(response: Response) -> Tensor:
    size = response.space.flat(response.space.weights).numel()
    with response.operator() as product:
        return torch.stack([product(row) for row in torch.eye(size, dtype=torch.float64)])


def best_in_family(matrix: Tensor, forces: Tensor, shapes: Sequence[torch.Size]) -> Tensor:
    """The responses [n, H] of the family that minimise tr(R'MR)/2 + tr(C'R), by alternating least squares."""
    count = forces.shape[1]
    rows = torch.cat([torch.arange(shape.numel()) // (shape.numel() // shape[0]) for shape in shapes])
    starts = torch.tensor([0, *[shape[0] for shape in shapes][:-1]]).cumsum(0)
    offsets = torch.repeat_interleave(starts, torch.tensor([shape.numel() for shape in shapes]))
    rows, best = rows + offsets, None
    for seed in range(3):
        gates = torch.randn(int(rows.max()) + 1, count, generator=torch.Generator().manual_seed(seed)).double()
        for _ in range(400):
            gated = gates[rows]  # n × H, of which each entry of W_resp takes its row
            left = torch.einsum("ih,ij,jh->ij", gated, matrix, gated)
            response = torch.linalg.lstsq(left, -(gated * forces).sum(1)).solution
            spread = functional.one_hot(rows).double() * response[:, None]  # n × rows
            gates = -torch.linalg.lstsq(spread.T @ matrix @ spread, spread.T @ forces).solution
        found = gates[rows] * response[:, None]
        value = float(0.5 * (found * (matrix @ found)).sum() + (forces * found).sum())
        if best is None or value < best[0]:
            best = value, found
    assert best is not None
    return best[1]


@pytest.mark.parametrize("micro_batch", [None, 16])
def test_with_one_hyperparameter_it_is_the_gauss_newton_answer(
    micro_batch: int | None, make_problem: Maker, network: nn.Sequential
) -> None:
    response, rows, (decay, _) = setting(make_problem, network, micro_batch=micro_batch)
    found = DeltaFit(response, [decay]).measure(rows)
    assert isinstance(found, DeltaSTN) and found.unsettled <= 1e-3
    _, gradient = response.validation_gradient(rows)
    expected = -float(torch.linalg.solve(dense(response), gradient) @ response.decay_force)
    assert found.gradients == {("weight-decay", "all"): pytest.approx(expected, rel=0.01)}


def test_dropout_acts_through_the_mean_gradient(make_problem: Maker, network: nn.Sequential) -> None:
    """With the same draws of masks it is the Gauss-Newton answer to a change of the dropout rate."""
    network.insert(2, nn.Dropout(0.3))
    response, rows, (_, _, dropout) = setting(make_problem, network)
    found = DeltaFit(response, [dropout]).measure(rows)
    assert isinstance(found, DeltaSTN) and found.unsettled <= 1e-3
    _, gradient = response.validation_gradient(rows)
    expected = -float(torch.linalg.solve(dense(response), gradient) @ response.force(dropout, DRAWS))
    assert found.gradients == {("dropout", "all"): pytest.approx(expected, rel=0.01)}


def test_large_changes_give_another_answer(make_problem: Maker, network: nn.Sequential) -> None:
    """Neither the output loss is quadratic nor decay linear in its logarithm: a factor of e either way shows it."""
    response, rows, (decay, _) = setting(make_problem, network)
    small, large = (DeltaFit(response, [decay], sigma=sigma).measure(rows) for sigma in (0.05, 1.0))
    assert isinstance(small, DeltaSTN) and isinstance(large, DeltaSTN)
    ratio = large.gradients["weight-decay", "all"] / small.gradients["weight-decay", "all"]
    assert 0.01 < abs(ratio - 1.0) < 0.2


@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_with_two_it_is_the_best_of_the_family(damping: float, make_problem: Maker, network: nn.Sequential) -> None:
    response, rows, asked = setting(make_problem, network)
    found = DeltaFit(response, asked, damping=damping).measure(rows, rounds=60)
    assert isinstance(found, DeltaSTN)
    forces = torch.stack([DECAY * response.decay_force, SMOOTHING * response.loss_forces[LABEL_SMOOTHING]], 1)
    matrix = dense(response) + damping * torch.eye(len(forces), dtype=torch.float64)
    pulls = forces.norm(dim=0)
    best = best_in_family(matrix, forces / pulls, [weight.shape for weight in response.space.weights]) * pulls
    _, gradient = response.validation_gradient(rows)
    expected = gradient @ best / torch.tensor([DECAY, SMOOTHING], dtype=torch.float64)
    answers = torch.tensor([*found.gradients.values()], dtype=torch.float64)
    parts = torch.tensor([*found.by_part.values()], dtype=torch.float64)  # of equal size
    torch.testing.assert_close(parts.mean(1), answers)
    torch.testing.assert_close(answers, expected, rtol=0.01, atol=0.0)
    free = -(torch.linalg.solve(matrix, gradient) @ forces) / torch.tensor([DECAY, SMOOTHING])
    assert not torch.allclose(free, expected, rtol=0.01)


def test_it_says_where_it_has_not_settled(make_problem: Maker, network: nn.Sequential) -> None:
    response, rows, (decay, _) = setting(make_problem, network)
    found = DeltaFit(response, [decay]).measure(rows, rounds=1)
    assert isinstance(found, Interrupted) and "did not settle" in found.error.message
    assert found.found.unsettled > 1e-3 and found.found.passes >= 20


def test_centring_makes_the_fit_better_conditioned(make_problem: Maker, network: nn.Sequential) -> None:
    """Against the Gauss-Newton matrix of a hypernetwork w = base + x response of one layer, for both kinds of x."""
    response, _, (decay, _) = setting(make_problem, network)
    found = measure_conditioning(response, decay, sigma=0.3)
    (layer,) = (tensor for tensor in response.space.tensors if tensor.name == found.layer)
    assert found.layer == "2.weight"
    space = type(response.space)([layer])
    with gauss_newton(response.problem, space) as product:
        matrix = torch.stack([product(row) for row in torch.eye(15, dtype=torch.float64)])
    matrix += DECAY * torch.eye(15)
    numbers = []
    for centre in (0.0, math.log(DECAY)):
        total = torch.zeros(30, 30, dtype=torch.float64)
        for change in (0.3, -0.3):
            jacobian = torch.cat([torch.eye(15), (centre + change) * torch.eye(15)], 1).double()
            total += 0.5 * jacobian.T @ matrix @ jacobian
        numbers.append(float(torch.linalg.cond(total)))
    assert (found.centred, found.uncentred) == pytest.approx(tuple(numbers), rel=1e-5)
    assert found.uncentred > 100.0 * found.centred
