"""Vectors pulled back through the gradient, against the dense Hessian."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import MismatchError
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation import problem as problem_module
from fromage_cli.problem.evaluation.gradient_pullback import gradient_by_scalars, gradients_of, pull_back_gradient
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING, leaves, training_loss
from fromage_cli.problem.losses.supervised_losses import IGNORED, CrossEntropy

SMOOTHING = 0.2
Make = Callable[..., Problem]


@pytest.fixture
def rows() -> dict[str, Tensor]:
    """Ten rows, of which three count for nothing."""
    generator = torch.Generator().manual_seed(5)
    y = torch.randint(3, (10,), generator=generator)
    y[[1, 2, 8]] = IGNORED
    return {"x": torch.randn(10, 4, dtype=torch.float64, generator=generator), "y": y}


def network() -> nn.Module:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    model.register_parameter("idle", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    return model


def problem_of(model: nn.Module, rows: Mapping[str, Tensor], micro_batch: int | None = None) -> Problem:
    return Problem(model, CrossEntropy(), as_batch(dict(rows), "rows"), micro_batch=micro_batch)


def dense(model: nn.Module, rows: Mapping[str, Tensor]) -> tuple[list[Tensor], Tensor, Tensor]:
    """The gradient, the Hessian over all weights and their gradient's derivative by the smoothing."""
    weights = [parameter for name, parameter in model.named_parameters() if name != "idle"]
    smoothing = leaves({"s": SMOOTHING}, weights[0].device)["s"]
    log, counts = model(rows["x"]).log_softmax(1), rows["y"] != IGNORED
    picked = -log[counts, rows["y"][counts]]
    loss = ((1.0 - smoothing) * picked - smoothing * log[counts].mean(1)).mean()
    gradients = list(torch.autograd.grad(loss, weights, create_graph=True))
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    lines, by_smoothing = [], []
    for entry in flat:
        *line, slope = torch.autograd.grad(entry, [*weights, smoothing], retain_graph=True, materialize_grads=True)
        lines.append(torch.cat([part.flatten() for part in line]))
        by_smoothing.append(slope)
    return [gradient.detach() for gradient in gradients], torch.stack(lines), torch.stack(by_smoothing)


def flat(parts: Any) -> Tensor:
    return torch.cat([part.flatten() for part in parts])


@pytest.mark.parametrize("micro_batch", [None, 2, 4])
def test_it_is_the_hessian_times_the_adjoint(rows: dict[str, Tensor], micro_batch: int | None) -> None:
    """Chunks of two rows hold one in which nothing counts but its fellow, and the adjoint is known to none of them."""
    model = network()
    gradient, hessian, by_smoothing = dense(model, rows)
    problem = problem_of(model, rows, micro_batch)
    in_loss = leaves({LABEL_SMOOTHING: SMOOTHING}, problem.device)
    problem.loss = training_loss(problem.loss, in_loss)
    adjoints = [torch.randn(each.shape, dtype=torch.float64) for each in gradient]
    seen = []

    def adjoint_of(known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen.append(dict(known))
        return dict(zip(known, adjoints, strict=True))

    found = pull_back_gradient(problem, problem.trainable, in_loss, adjoint_of)
    names = [name for name, _ in model.named_parameters() if name != "idle"]
    assert [list(known) for known in seen] == [names], "a tensor without a gradient is left out"
    for name, expected in zip(names, gradient, strict=True):
        torch.testing.assert_close(seen[0][name], expected, rtol=1e-12, atol=1e-15)
    by_tensor = {tensor.name: slope for tensor, slope in zip(problem.trainable, found[:-1], strict=True)}
    assert not by_tensor["idle"].any()
    torch.testing.assert_close(
        flat(by_tensor[name] for name in names), hessian @ flat(adjoints), rtol=1e-11, atol=1e-14
    )
    assert float(found[-1]) == pytest.approx(float(by_smoothing @ flat(adjoints)), rel=1e-11)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_terms_are_added(rows: dict[str, Tensor]) -> None:
    model = network()
    problem, (_, hessian, _) = problem_of(model, rows), dense(model, rows)
    smooth = leaves({LABEL_SMOOTHING: SMOOTHING}, problem.device)
    problem.loss = training_loss(problem.loss, smooth)
    weight: Tensor = model[0].weight  # type: ignore[index,union-attr,assignment]
    tensors = [tensor for tensor in problem.trainable if tensor.name != "idle"]
    for size in (0.0, 1.0):
        found = pull_back_gradient(
            problem,
            tensors,
            {},
            lambda known, size=size: {name: torch.full_like(each, size) for name, each in known.items()},
            lambda: [weight.pow(3).sum()],
        )
        expected = size * hessian.sum(1)
        expected[: weight.numel()] += 3.0 * weight.detach().square().flatten()
        torch.testing.assert_close(flat(found), expected, rtol=1e-11, atol=1e-14)


def test_an_adjoint_of_zero_costs_no_second_pass(rows: dict[str, Tensor]) -> None:
    problem = problem_of(network(), rows)
    found = pull_back_gradient(
        problem, problem.trainable, {}, lambda known: {name: torch.zeros_like(each) for name, each in known.items()}
    )
    assert not any(each.any() for each in found)


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_the_gradient_by_each_scalar(rows: dict[str, Tensor], micro_batch: int | None) -> None:
    model = network()
    *_, by_smoothing = dense(model, rows)
    problem = problem_of(model, rows, micro_batch)
    in_loss = leaves({LABEL_SMOOTHING: SMOOTHING}, problem.device)
    problem.loss = training_loss(problem.loss, in_loss)
    tensors = [tensor for tensor in problem.trainable if tensor.name != "idle"]
    found = gradient_by_scalars(problem, tensors, in_loss)
    torch.testing.assert_close(flat(found[LABEL_SMOOTHING]), by_smoothing, rtol=1e-11, atol=1e-14)


def test_gradients_by_name(rows: dict[str, Tensor]) -> None:
    model = network()
    problem = problem_of(model, rows)
    loss, found = gradients_of(problem)
    assert loss == pytest.approx(problem.value()) and "idle" not in found
    loss_of_all = nn.functional.cross_entropy(model(rows["x"]), rows["y"])
    for name, each in found.items():
        (expected,) = torch.autograd.grad(loss_of_all, model.get_parameter(name), retain_graph=True)
        torch.testing.assert_close(each, expected, rtol=1e-12, atol=1e-15)


def test_a_loss_without_a_second_derivative_is_refused(tanh_once: nn.Module, rows: dict[str, Tensor]) -> None:
    model = nn.Sequential(nn.Linear(4, 3), tanh_once, nn.Linear(3, 3)).double()
    problem = problem_of(model, rows)
    with pytest.raises(MismatchError, match="second derivative"):
        pull_back_gradient(problem, problem.trainable, {}, dict)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_no_visitor_of_an_earlier_pass_takes_the_result(
    rows: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within many evaluations of a large network hooks stay on its tensors."""
    found = []
    for small in (1 << 18, 0):
        monkeypatch.setattr(problem_module, "SMALL", small)
        problem = problem_of(network(), rows)
        with problem.steady():
            gradients_of(problem)
            found.append(flat(pull_back_gradient(problem, problem.trainable, {}, dict)))
            _, again = gradients_of(problem)
        assert len(again) == 4
    assert torch.equal(*found) and bool(found[0].any())
