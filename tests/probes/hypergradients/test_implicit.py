"""Implicit answers against closed forms, and against networks that are trained again."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.checkpoints import OptimizerState, open_checkpoint
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.missing import Interrupted, found_of
from fromage_cli.optimizers.settings import Given, Optimizer, find_settings
from fromage_cli.probes.hypergradients.hyperparameters import hyperparameters, values_of
from fromage_cli.probes.hypergradients.implicit import Implicit, ImplicitResponse
from fromage_cli.probes.hypergradients.response import Response
from fromage_cli.probes.hypergradients.validation import Validation, validation_parts
from fromage_cli.probes.optimizer_step.matched_state import MatchedState
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.curvature_operators import gauss_newton
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.hyperparameters import LABEL_SMOOTHING
from fromage_cli.problem.losses.loss_terms import Loss
from fromage_cli.problem.losses.reported_losses import FunctionLoss

Maker = Callable[..., Problem]
Data = dict[str, Tensor]


def response(
    make_problem: Maker,
    model: nn.Module,
    data: Data,
    held_out: Data,
    *,
    loss: Loss | str = "auto",
    optimizer: Optimizer,
    state: OptimizerState | None = None,
    in_loss: Mapping[str, float] | None = None,
    micro_batch: int | None = None,
    **settings: Any,
) -> ImplicitResponse:
    """An implicit answer for a model as it is."""
    known = loss if isinstance(loss, str) else "mse"
    problem = make_problem(model, data, known, mode="train", micro_batch=micro_batch)
    problem.loss = problem.loss if isinstance(loss, str) else loss
    matched = MatchedState(problem, optimizer, state)
    names = [tensor.name for tensor in problem.receiving]
    values = values_of(matched, optimizer.learning_rate or 0.1, in_loss or {}, names)
    parts = validation_parts([as_batch(held_out, "rows")])
    rows = Validation(make_problem(model, held_out, known, mode="eval"), parts)
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
    assert found.converged and not found.negative_curvature and found.gradient_norm < 1e-6
    assert found.start_loss == pytest.approx(validation_loss(decay))
    assert found.iterations == 5 and found.answer.damping == 0.0


def trained(value: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Where the gradient of a function is 0, by Newton's method from a point near it."""
    weights = start.clone()
    for _ in range(50):
        slope = torch.autograd.functional.jacobian(value, weights)
        if float(slope.norm()) < 1e-12:
            break
        weights = weights - torch.linalg.solve(torch.autograd.functional.hessian(value, weights), slope)
    assert float(slope.norm()) < 1e-9
    return weights


class Softmax(nn.Module):
    """Three classes from five features, without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


def classes(rows: int, seed: int, noise: float = 0.3) -> Data:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, 5, generator=generator).double()
    clean = (x[:, :3] + 0.3 * torch.randn(rows, 3, generator=generator)).argmax(1)
    drawn = torch.randint(3, (rows,), generator=generator)
    return {"x": x, "y": torch.where(torch.rand(rows, generator=generator) < noise, drawn, clean)}


def rested(data: Data, decay: float, smoothing: float) -> Tensor:
    """Weights of the softmax regression at rest."""

    def value(weights: Tensor) -> Tensor:
        logits = data["x"] @ weights.view(3, 5).T
        loss = functional.cross_entropy(logits, data["y"], label_smoothing=smoothing)
        return loss + 0.5 * decay * weights.square().sum()

    return trained(value, torch.zeros(15, dtype=torch.float64)).view(3, 5)


@pytest.mark.parametrize(("curvature", "micro_batch"), [("gauss-newton", 9), ("hessian", None)])
def test_logistic_regression_follows_the_regressions_trained_again(
    curvature: str, micro_batch: int | None, make_problem: Maker
) -> None:
    data, held_out, decay, smoothing = classes(40, 1), classes(24, 2), 0.05, 0.1
    model = Softmax()
    model.weight.data.copy_(rested(data, decay, smoothing))
    solve = response(
        make_problem,
        model,
        data,
        held_out,
        optimizer=Optimizer("adam", 0.1, weight_decay=decay),
        in_loss={LABEL_SMOOTHING: smoothing},
        micro_batch=micro_batch,
        curvature=curvature,
    )
    found = solve.measure(0.0)
    assert isinstance(found, Implicit)

    def validation_loss(decay: float, smoothing: float) -> float:
        logits = held_out["x"] @ rested(data, decay, smoothing).T
        return float(functional.cross_entropy(logits, held_out["y"]))

    by_decay = (validation_loss(decay + 1e-4, smoothing) - validation_loss(decay - 1e-4, smoothing)) / 2e-4
    by_smoothing = (validation_loss(decay, smoothing + 1e-4) - validation_loss(decay, smoothing - 1e-4)) / 2e-4
    assert found.at("decay") == pytest.approx({"weight": by_decay}, rel=1e-4)
    assert found.at("loss") == pytest.approx({LABEL_SMOOTHING: by_smoothing}, rel=1e-4)
    for one in hyperparameters(solve.response.matched, solve.values):
        if one.place != "rate":
            parts = solve.by_part(one, 0.0)
            assert isinstance(parts, list) and len(parts) == 8
            assert fmean(parts) == pytest.approx(one.per_unit(found.at(one.place), solve.values), rel=1e-6)


def test_dampings_around_are_those_of_dense_systems(make_problem: Maker) -> None:
    """At weights that do not rest, and where two members differ in decay."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    data, held_out = classes(20, 1), classes(16, 2)
    solve = response(make_problem, model, data, held_out, optimizer=Optimizer("sgd", 0.1, weight_decay=0.02))
    solve.values.decays["0.weight"] = 0.3
    solve.response = Response(solve.response.matched, solve.values)
    found = solve.measure(0.5)
    assert isinstance(found, Implicit) and found.tenth is not None and found.tenfold is not None
    problem, space = solve.response.problem, solve.response.space
    with gauss_newton(problem, space) as product:
        size = space.flat(space.weights).numel()
        matrix = torch.stack([product(row) for row in torch.eye(size).double()])
    _, gradient = solve.response.validation_gradient(solve.validation)
    weights, decay = space.flat(space.weights), torch.full((size,), 0.02, dtype=torch.float64)
    decay[:20] = 0.3
    for derivatives, ratio in ((found.answer, 1.0), (found.tenth, 0.1), (found.tenfold, 10.0)):
        assert derivatives.damping == pytest.approx(0.5 * found.mean_eigenvalue * ratio)
        full = matrix + torch.diag(decay) + derivatives.damping * torch.eye(size)
        expected = -(torch.linalg.solve(full, gradient) * weights)
        assert derivatives.decays["0.weight"] == pytest.approx(float(expected[:20].sum()), rel=1e-4)
    means = []
    for solve.response.problem.seed in range(200):
        means.append(solve.response.mean_eigenvalue((matrix + torch.diag(decay)).mv))
    assert means[0] == pytest.approx(found.mean_eigenvalue)
    assert fmean(means) == pytest.approx(float(matrix.trace() / size), rel=0.1)
    assert found.smallest_eigenvalue > 0.0 and found.largest_eigenvalue == pytest.approx(
        float(torch.linalg.eigvalsh(matrix + torch.diag(decay))[-1])
    )


def tanh_network(data: Data) -> tuple[nn.Module, Callable[[Tensor, float], Tensor]]:
    """A network of 5-6-3, and its training loss with decay as a function of all weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False)).double()

    def value(flat: Tensor, decay: float) -> Tensor:
        logits = (data["x"] @ flat[:30].view(6, 5).T).tanh() @ flat[30:].view(3, 6).T
        return functional.cross_entropy(logits, data["y"]) + 0.5 * decay * flat.square().sum()

    return model, value


def rests(value: Callable[[Tensor, float], Tensor], start: Tensor, decay: float) -> Tensor:
    """Trains by L-BFGS, then by Newton's method."""
    flat = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([flat], max_iter=3000, line_search_fn="strong_wolfe", tolerance_change=0.0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = value(flat, decay)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return trained(lambda weights: value(weights, decay), flat.detach())


def test_a_network_with_noisy_labels_follows_its_full_hessian(make_problem: Maker) -> None:
    """Trained again at 5 % more and less decay; the Gauss-Newton answer is near it and not equal."""
    data, held_out, decay = classes(48, 4, 0.4), classes(64, 5, 0.4), 0.02
    model, value = tanh_network(data)
    start = torch.cat([weight.detach().reshape(-1) for weight in model.parameters()])
    rest = rests(value, start, decay)
    for weight, part in zip(model.parameters(), rest.split([30, 18]), strict=True):
        weight.data.copy_(part.view(weight.shape))
    ends = []
    for change in (1.05, 0.95):
        flat = rests(value, rest, change * decay)
        ends.append(
            float(
                functional.cross_entropy(
                    (held_out["x"] @ flat[:30].view(6, 5).T).tanh() @ flat[30:].view(3, 6).T, held_out["y"]
                )
            )
        )
    expected = (ends[0] - ends[1]) / (0.1 * decay)
    answers = {}
    for curvature in ("hessian", "gauss-newton"):
        optimizer = Optimizer("sgd", 0.1, weight_decay=decay)
        solve = response(make_problem, model, data, held_out, optimizer=optimizer, curvature=curvature)
        found, _ = found_of(solve.measure(0.0))
        (one, *_) = hyperparameters(solve.response.matched, solve.values)
        answers[curvature] = one.per_unit(found.at("decay"), solve.values)
    assert answers["hessian"] == pytest.approx(expected, rel=0.01)
    assert answers["gauss-newton"] == pytest.approx(0.66 * expected, rel=0.02)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps", [10, 50, 1000])
def test_so_many_real_steps_on_a_quadratic_are_followed_exactly(
    steps: int, momentum: float, make_problem: Maker
) -> None:
    """From a point at rest the decay is moved, and gradient descent goes on."""
    data, held_out, decay = regression(30, 1), regression(16, 2), 0.3
    model = nn.Linear(5, 1, bias=False).double()
    rest = ridge(data, decay)
    model.weight.data.copy_(rest.T)
    optimizer = Optimizer("sgd", 0.05, momentum=momentum, weight_decay=decay)
    solve = response(make_problem, model, data, held_out, loss="mse", optimizer=optimizer, steps=steps)
    found = solve.measure()
    assert isinstance(found, Implicit) and found.tenth is None and found.answer.damping is None

    def after(decay: float) -> float:
        weights = rest.clone().requires_grad_()
        descent = torch.optim.SGD([weights], lr=0.05, momentum=momentum, weight_decay=decay)
        for _ in range(steps):
            descent.zero_grad()
            (data["x"] @ weights - data["y"]).square().mean().backward()
            descent.step()
        return float((held_out["x"] @ weights.detach() - held_out["y"]).square().mean())

    expected = (after(decay + 1e-4) - after(decay - 1e-4)) / 2e-4
    assert found.at("decay")["weight"] == pytest.approx(expected, rel=1e-6)


def test_adamw_rests_where_decay_cancels_its_step(make_problem: Maker, tmp_path: Path) -> None:
    """AMSGrad keeps the largest second moments, so that P is the same when decay is moved and training goes on."""
    data, held_out, decay = classes(40, 1), classes(24, 2), 0.2
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()

    def settle(network: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        for _ in range(500):
            optimizer.zero_grad()
            functional.cross_entropy(network(data["x"]), data["y"]).backward()
            optimizer.step()
        return network

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.1, betas=(0.9, 0.9), weight_decay=decay, amsgrad=True, foreach=False
    )
    settle(model, optimizer)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    ends = []
    for moved in (1.02 * decay, 0.98 * decay):
        network = deepcopy(model)
        again = torch.optim.AdamW(network.parameters(), foreach=False)
        again.load_state_dict(optimizer.state_dict())
        again.param_groups[0]["weight_decay"] = moved
        ends.append(float(functional.cross_entropy(settle(network, again)(held_out["x"]), held_out["y"]).detach()))
    state = open_checkpoint(tmp_path / "c.pt").optimizer
    assert state is not None
    rule = find_settings(Given(), state.settings, Given())
    solve = response(make_problem, model, data, held_out, optimizer=rule, state=state)
    found = solve.measure(0.0)
    assert isinstance(found, Implicit) and found.gradient_norm < 1e-6
    (one, *_) = hyperparameters(solve.response.matched, solve.values)
    answer = one.per_unit(found.at("decay"), solve.values)
    assert answer == pytest.approx((ends[0] - ends[1]) / (0.04 * decay), rel=0.01)
    coupled = response(
        make_problem, model, data, held_out, optimizer=Optimizer("sgd", 0.1, weight_decay=decay)
    ).measure(0.0)
    assert isinstance(coupled, Implicit) and abs(one.per_unit(coupled.at("decay"), solve.values) / answer) > 2.0


def test_a_scalar_of_the_users_loss_follows_its_closed_form(make_problem: Maker) -> None:
    data, held_out, strength = regression(30, 1), regression(16, 2), 0.4

    def own(model: Any, batch: Any, strength: float | Tensor = 0.0) -> Tensor:
        penalty = 0.5 * strength**2 * model.weight.square().sum()
        loss: Tensor = (model(batch["x"]) - batch["y"]).square().mean() + penalty
        return loss

    model = nn.Linear(5, 1, bias=False).double()
    model.weight.data.copy_(ridge(data, strength**2).T)
    solve = response(
        make_problem,
        model,
        data,
        held_out,
        loss=FunctionLoss("own", own),
        optimizer=Optimizer("sgd", 0.1),
        in_loss={"strength": strength},
        curvature="hessian",
    )
    found = solve.measure(0.0)
    assert isinstance(found, Implicit)

    def validation_loss(value: float) -> float:
        return float((held_out["x"] @ ridge(data, value**2) - held_out["y"]).square().mean())

    expected = (validation_loss(strength + 1e-4) - validation_loss(strength - 1e-4)) / 2e-4
    assert found.at("loss") == pytest.approx({"strength": expected}, rel=1e-6)
    with pytest.raises(MismatchError, match="Gauss-Newton matrix takes a loss that is a known function"):
        response(make_problem, model, data, held_out, loss=FunctionLoss("own", own), optimizer=Optimizer("sgd", 0.1))


@pytest.mark.parametrize("damping", [0.0, 1.0])
def test_decay_of_layers_before_batch_norm_changes_nothing(damping: float, make_problem: Maker) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6, eps=1e-12), nn.Tanh(), nn.Linear(6, 3)
    ).double()
    optimizer = Optimizer("sgd", 0.1, weight_decay=0.05)
    solve = response(make_problem, model, classes(40, 1), classes(24, 2), optimizer=optimizer)
    found = solve.measure(damping)
    assert isinstance(found, Implicit) and found.invariant_layers == ("0.weight",)
    assert abs(found.at("decay")["0.weight"]) < 1e-10
    assert abs(found.at("decay")["3.weight"]) > 1e-5


class Dropping(nn.Module):
    """Squared error under dropout of inputs: ridge regression with a weight of its own for each input."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.output = nn.Dropout(0.2), nn.Linear(5, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.output(self.dropout(x))
        return found


def test_dropout_follows_the_mean_over_masks(make_problem: Maker) -> None:
    """Over all masks the loss is the squared error plus p / (1 - p) sum w_i^2 mean x_i^2."""
    data, held_out = regression(8000, 1), regression(16, 2)
    model = Dropping().double()
    model.output.weight.data.copy_(ridge(data, 0.1).T)
    optimizer = Optimizer("sgd", 0.1, weight_decay=0.1)
    solve = response(make_problem, model, data, held_out, loss="mse", optimizer=optimizer, draws=16)
    found = solve.measure(0.0)
    assert isinstance(found, Implicit) and model.dropout.p == 0.2
    force = 2.0 * model.output.weight.detach().T / 0.8**2 * data["x"].square().mean(0)[:, None]
    x, y = held_out["x"], held_out["y"]
    gradient = 2.0 / len(x) * x.T @ (x @ model.output.weight.detach().T - y)
    matrix = 2.0 / len(data["x"]) * data["x"].T @ data["x"] + 0.1 * torch.eye(5).double()
    expected = -float((torch.linalg.solve(matrix, gradient) * force).sum())
    (one,) = (each for each in hyperparameters(solve.response.matched, solve.values) if each.name == "dropout")
    error = found.answer.dropout_stderr(one, solve.values)
    assert error is not None and error < 0.1 * abs(expected)
    assert found.at("dropout")["dropout.p"] == pytest.approx(expected, abs=4.0 * error)
    parts = solve.by_part(one, 0.0)
    assert isinstance(parts, list) and fmean(parts) == pytest.approx(found.at("dropout")["dropout.p"], rel=1e-6)


def test_what_was_found_is_given_where_products_run_out(make_problem: Maker) -> None:
    model = Softmax()
    nn.init.normal_(model.weight)
    optimizer = Optimizer("sgd", 0.1, weight_decay=0.01)
    solve = response(make_problem, model, classes(40, 1), classes(24, 2), optimizer=optimizer, max_products=2)
    found = solve.measure(0.1)
    assert isinstance(found, Interrupted) and isinstance(found.error, NumericalError)
    assert "after 2 products" in found.error.message and not found.found.converged
    assert found.found.iterations == 2 and found.found.answer.residual > 1e-3
    (one, *_) = hyperparameters(solve.response.matched, solve.values)
    assert isinstance(solve.by_part(one, 1e-3), list | Interrupted)
