import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.optimizers.settings import Given, Optimizer
from fromage_cli.probes.lines.direction import Direction, moving_tensors
from fromage_cli.probes.lines.updates import (
    adam_direction,
    displacement_direction,
    displacement_to,
    random_direction,
    scaled_step,
    sgd_direction,
)
from fromage_cli.probes.optimizer_step.moments import moments_of_minibatches
from fromage_cli.probes.optimizer_step.next_step import adam_update
from fromage_cli.probes.optimizer_step.real_step import TensorState, tensor_step
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


def weights_at(problem: Problem, direction: Direction, eta: float) -> dict[str, torch.Tensor]:
    with problem.displaced(problem.trainable) as origin:
        direction.write(origin, eta)
        return {tensor.name: tensor.parameter.detach().clone() for tensor in problem.trainable}


def largest_relative_step(problem: Problem, moved: dict[str, torch.Tensor]) -> float:
    return max(
        float((moved[t.name] - t.parameter.detach()).norm() / t.parameter.detach().norm()) for t in problem.layers
    )


def one_step(model: nn.Module, data: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(data["x"]), data["y"]).backward()
    optimizer.step()


def test_the_sgd_direction_is_the_step_of_the_optimizer(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    direction = sgd_direction(problem, moving_tensors(problem, "all")[0])
    moved = weights_at(problem, direction, 0.1)
    assert largest_relative_step(problem, moved) == pytest.approx(0.1, rel=1e-5)
    assert all(move.cosine == pytest.approx(1.0) for move in direction.moves)
    one_step(perceptron, classification, torch.optim.SGD(perceptron.parameters(), lr=0.1 * direction.step_scale))
    for name, value in perceptron.named_parameters():
        torch.testing.assert_close(moved[name], value.detach())


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("warm", [0, 3])
def test_the_adam_direction_is_the_next_step_of_the_optimizer(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: dict[str, torch.Tensor],
    tmp_path: Path,
    amsgrad: bool,
    warm: int,
) -> None:
    settings = {"betas": (0.8, 0.95), "eps": 1e-4, "amsgrad": amsgrad}
    optimizer = torch.optim.Adam(perceptron.parameters(), lr=1e-2, **settings)  # type: ignore[arg-type]
    half = {name: value[:16] for name, value in classification.items()}
    for _ in range(warm):
        one_step(perceptron, half, optimizer)
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    problem = make_problem(perceptron, classification)
    update, (note,) = adam_update(problem, open_checkpoint(tmp_path / "c.pt").optimizer, Given())
    if not warm:
        assert "rows each" in note
        gradients = problem.base.gradients
        rule = Optimizer("adam").of_group(settings)
        update = {n: tensor_step(rule, TensorState(torch.zeros_like(g), g)).update for n, g in gradients.items()}
    direction = adam_direction(problem, moving_tensors(problem, "all")[0], update, (note,))
    moved = weights_at(problem, direction, 0.05)
    assert largest_relative_step(problem, moved) == pytest.approx(0.05, rel=1e-5)
    optimizer.param_groups[0]["lr"] = 0.05 * direction.step_scale
    one_step(perceptron, classification, optimizer)
    for name, value in perceptron.named_parameters():
        torch.testing.assert_close(moved[name], value.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("decoupled", [False, True])
def test_decay_and_rates_of_groups_are_those_of_the_optimizer(
    make_problem: Maker,
    perceptron: nn.Module,
    classification: dict[str, torch.Tensor],
    tmp_path: Path,
    decoupled: bool,
) -> None:
    """Coupled decay goes through the moments, decoupled decay is left out; groups keep the ratio of their rates."""
    matrices = [p for p in perceptron.parameters() if p.dim() > 1]
    vectors = [p for p in perceptron.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "lr": 1e-2, "weight_decay": 0.5}, {"params": vectors, "lr": 1e-3}]
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(groups, weight_decay=0.0)
    one_step(perceptron, classification, optimizer)
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    problem = make_problem(perceptron, classification)
    update, _ = adam_update(problem, open_checkpoint(tmp_path / "c.pt").optimizer, Given())
    before = {name: value.detach().clone() for name, value in perceptron.named_parameters()}
    if decoupled:
        optimizer.param_groups[0]["weight_decay"] = 0.0
    one_step(perceptron, classification, optimizer)
    for name, value in perceptron.named_parameters():
        torch.testing.assert_close(before[name] - 1e-2 * update[name], value.detach(), rtol=1e-4, atol=1e-6)


def test_moments_from_minibatches_are_their_mean_and_mean_square(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    assert problem.base.loss > 0
    before = problem.evaluations.gradients
    means, squares, source = moments_of_minibatches(problem, 5)  # 6 rows each, 2 left over
    assert source == "5 gradients of 6 rows each at fixed weights"
    update = {name: mean / (squares[name].sqrt() + 1e-8) for name, mean in means.items()}
    gradients = []
    for index in range(5):
        rows = slice(6 * index, 6 * index + 6)
        loss = nn.functional.cross_entropy(perceptron(classification["x"][rows]), classification["y"][rows])
        gradients.append(torch.autograd.grad(loss, perceptron[0].weight)[0])
    stacked = torch.stack(gradients)
    exact = stacked.mean(0) / (stacked.square().mean(0).sqrt() + 1e-8)
    torch.testing.assert_close(update["0.weight"], exact, rtol=1e-4, atol=1e-6)
    assert problem.evaluations.gradients - before == pytest.approx(30 / 32)


def test_an_optimizer_may_hold_frozen_tensors_too(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    perceptron[0].requires_grad_(False)
    optimizer = torch.optim.Adam(perceptron.parameters(), lr=1e-2)
    for _ in range(3):
        one_step(perceptron, classification, optimizer)
    torch.save({"model": perceptron.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
    problem = make_problem(perceptron, classification)
    update, _ = adam_update(problem, open_checkpoint(tmp_path / "run.pt").optimizer, Given())
    assert list(update) == ["2.weight", "2.bias", "4.weight", "4.bias"]
    before = {name: value.detach().clone() for name, value in perceptron.named_parameters()}
    one_step(perceptron, classification, optimizer)
    for name, step in update.items():
        moved = dict(perceptron.named_parameters())[name].detach()
        torch.testing.assert_close(before[name] - 1e-2 * step, moved, rtol=1e-4, atol=1e-6)


class Centred(nn.Linear):
    """Its loss is one of a mean over rows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(5.0 * (x - x.mean(0)))


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        (lambda: nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), 32),
        (lambda: Centred(8, 3), 6),
        (lambda: nn.Linear(8, 3), 3),
    ],
    ids=["BatchNorm", "a mean over rows", "few rows"],
)
def test_rows_that_cannot_be_cut_give_the_first_step_of_the_optimizer(
    make_problem: Maker, classification: dict[str, torch.Tensor], model: Callable[[], nn.Module], rows: int
) -> None:
    torch.manual_seed(0)
    network, data = model(), {key: value[:rows] for key, value in classification.items()}
    problem = make_problem(network, data)
    update, (note,) = adam_update(problem, None, Given())
    assert note.endswith(
        "the gradient of all rows, which cannot be split: the step is that of an optimizer without history."
    )
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    one_step(network.train(), data, torch.optim.Adam(network.parameters(), lr=1e-3))
    for name, value in network.named_parameters():
        if problem.base.gradients[name].norm() > 1e-6:
            torch.testing.assert_close(before[name] - 1e-3 * update[name], value.detach(), rtol=1e-4, atol=1e-6)


def test_batchnorm_that_does_not_train_lets_the_rows_be_cut(
    make_problem: Maker, classification: dict[str, torch.Tensor]
) -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    assert (
        "16 gradients of 2 rows" in adam_update(make_problem(model, classification, mode="eval"), None, Given())[1][0]
    )


def test_a_random_direction_is_the_same_for_the_same_seed_and_as_long_as_the_weights(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    tensors = moving_tensors(problem, "matrices")[0]
    first, second, other = (random_direction(problem, tensors, seed) for seed in (0, 0, 1))
    assert not first.certifies
    for move in first.moves:
        drawn = first.source(move.tensor)
        assert torch.equal(drawn, second.source(move.tensor))
        assert not torch.equal(drawn, other.source(move.tensor))
        assert move.step_norm == pytest.approx(move.weight_norm)
        assert float((move.coefficient * drawn).norm()) == pytest.approx(move.weight_norm, rel=1e-5)


def test_the_way_to_a_checkpoint_ends_there(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    problem = make_problem(perceptron, classification)
    target = {name: value + 0.1 * torch.randn_like(value) for name, value in perceptron.state_dict().items()}
    torch.save(target, tmp_path / "other.pt")
    before = {name: value.clone() for name, value in perceptron.state_dict().items()}
    displacement, _ = displacement_to(problem, open_checkpoint(tmp_path / "other.pt"))
    assert all(torch.equal(value, before[name]) for name, value in perceptron.state_dict().items())
    direction = displacement_direction(problem, moving_tensors(problem, "all")[0], displacement, "to:other.pt")
    moved = weights_at(problem, direction, 1.0)
    halfway = weights_at(problem, direction, 0.5)
    for name, value in target.items():
        torch.testing.assert_close(moved[name], value)
        torch.testing.assert_close(halfway[name], (value + before[name]) / 2)


@pytest.mark.parametrize("fails_at", ["loading", "subtracting"])
def test_everything_is_put_back_when_the_way_cannot_be_made(
    make_problem: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    problem = make_problem(model, {"x": torch.randn(8, 4), "y": torch.randn(8, 4)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    saved = {name: value + 1 for name, value in before.items()}
    if fails_at == "loading":
        saved["1.bias"] = torch.full_like(saved["1.bias"], torch.nan)
    else:
        monkeypatch.setattr(problem, "trainable", [*problem.trainable[:2], None])
    torch.save(saved, tmp_path / "other.pt")
    with pytest.raises(NumericalError if fails_at == "loading" else AttributeError):
        displacement_to(problem, open_checkpoint(tmp_path / "other.pt"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_running_statistics_are_those_of_the_first_checkpoint(make_problem: Maker, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    problem = make_problem(model, {"x": torch.randn(8, 4), "y": torch.randn(8, 4)})
    torch.save({name: value + 1 for name, value in model.state_dict().items()}, tmp_path / "other.pt")
    displacement_to(problem, open_checkpoint(tmp_path / "other.pt"))
    assert float(model[1].running_mean.abs().max()) == 0


def test_equal_checkpoints_leave_nothing_to_move(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    nothing = {tensor.name: torch.zeros_like(tensor.parameter) for tensor in problem.trainable}
    direction = displacement_direction(problem, problem.trainable, nothing, "to:same")
    assert direction.moves == ()
    assert {tensor.reason for tensor in direction.skipped} == {"same in both checkpoints"}


def test_a_step_that_is_zero_everywhere_is_refused(make_problem: Maker) -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    problem = make_problem(model, {"x": torch.randn(8, 3), "y": torch.randn(8, 2)})
    with pytest.raises(MismatchError, match="zero in every tensor"):
        sgd_direction(problem, problem.trainable)


def test_zero_weights_move_though_they_have_no_relative_size(make_problem: Maker) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    problem = make_problem(model, {"x": torch.randn(8, 3), "y": torch.randn(8, 2)})
    found = scaled_step(problem, "sgd", problem.receiving, lambda tensor: problem.base.gradients[tensor.name])
    assert (found.limiting, found.direction.without_size) == (None, ("2.weight",))
    whole = math.hypot(*(float(layer.weight.norm()) for layer in (model[0], model[2])))
    step = float(problem.base.gradients["2.weight"].norm())  # nothing reaches the first layer
    assert found.direction.step_scale == pytest.approx(whole / step)
    assert {move.tensor.name for move in found.direction.moves} == {"2.weight", "2.bias"}


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def test_it_is_the_difference_and_everything_is_put_back(
    make_problem: Maker, classification: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model, other = network(0), network(1)
    other[1].running_mean.fill_(7.0)
    model[2].bias.requires_grad_(False)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved, _ = displacement_to(make_problem(model, classification), open_checkpoint(tmp_path / "other.pt"))
    assert set(moved) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, difference in moved.items():
        assert torch.equal(difference, other.state_dict()[name] - before[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_of_another_shape_are_refused_and_nothing_is_moved(
    make_problem: Maker, classification: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = network(0)
    torch.save({**model.state_dict(), "2.weight": torch.ones(3, 5)}, tmp_path / "other.pt")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(MismatchError):
        displacement_to(make_problem(model, classification), open_checkpoint(tmp_path / "other.pt"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
