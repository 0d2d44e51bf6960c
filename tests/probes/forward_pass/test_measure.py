"""One forward pass as a whole: its losses, what it counts, and that it leaves no trace."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fromage_cli.errors import NumericalError, ResourceError
from fromage_cli.missing import Missing
from fromage_cli.probes.forward_pass.guessing import Guessing
from fromage_cli.probes.forward_pass.measure import NO_HELD_OUT_ROWS, HeldOut, look_at_forward_pass
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem

Make = Callable[..., Problem]


def normalised() -> nn.Module:
    """8-16-3 with BatchNorm, dropout and ReLU, whose running statistics are those of other rows."""
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    model(torch.randn(64, 8) * 3.0 + 1.0)
    return model


def loss_of(model: nn.Module, data: dict[str, Tensor], train: bool) -> float:
    """The loss with BatchNorm in training or evaluation behaviour, dropout off."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    model.eval()
    model[1].train(train)  # type: ignore[index]
    with torch.no_grad():
        loss = float(cross_entropy(model(data["x"]), data["y"]))
    model.load_state_dict(kept)
    return loss


def test_the_losses_in_training_and_in_evaluation_of_both_kinds_of_rows(
    make_problem: Make, classification: dict[str, Tensor]
) -> None:
    model = normalised()
    held_out = {"x": torch.randn(50, 8), "y": torch.randint(3, (50,))}
    expected = [loss_of(model, data, train) for data in (classification, held_out) for train in (True, False)]
    problem = make_problem(model, classification)
    found = look_at_forward_pass(problem, as_batch(held_out, "held out"))
    assert isinstance(found.held_out, HeldOut) and isinstance(found.guessing, Guessing)
    rows = found.held_out
    assert [found.loss, found.loss_in_evaluation, rows.loss, rows.loss_in_evaluation] == pytest.approx(expected, 1e-6)
    assert found.guessing.loss == pytest.approx(found.loss, rel=1e-6)
    assert isinstance(rows.guessing, Guessing) and rows.guessing.loss == pytest.approx(
        rows.loss_in_evaluation, rel=1e-6
    )
    assert (found.rows, rows.rows, rows.guessing.targets) == (32, 50, 50)
    assert problem.evaluations.forwards == pytest.approx(2.0 + 2.0 * 50 / 32)


def test_a_network_without_batch_statistics_has_one_loss(
    make_problem: Make, perceptron: nn.Module, classification: dict[str, Tensor]
) -> None:
    problem = make_problem(perceptron, classification)
    found = look_at_forward_pass(problem)
    assert found.loss == found.loss_in_evaluation == problem.value()
    assert (found.batch_statistics, found.held_out) == ((), NO_HELD_OUT_ROWS)
    assert problem.evaluations.forwards == 2.0  # this one and that of the line above
    assert [(one.name, one.after) for one in found.units] == [("1", "0"), ("3", "2")]


@pytest.mark.parametrize("mode", ["auto", "train", "eval"])
def test_nothing_is_left_behind(make_problem: Make, classification: dict[str, Tensor], mode: str) -> None:
    model = normalised()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    switches, drawn = [module.training for module in model.modules()], torch.get_rng_state()
    found = look_at_forward_pass(make_problem(model, classification, mode=mode), as_batch(classification, "held out"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == switches
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert found.batch_statistics[0].tracked and (found.loss == found.loss_in_evaluation) == (mode == "eval")


def test_micro_batches_and_further_batches_add_up(make_problem: Make, classification: dict[str, Tensor]) -> None:
    model = normalised()
    whole = look_at_forward_pass(make_problem(model, classification, mode="eval"))
    parts = look_at_forward_pass(make_problem(model, classification, mode="eval", micro_batch=5))
    batch = as_batch(classification, "rows")
    batches = make_problem(model, {name: value[:20] for name, value in classification.items()}, mode="eval")
    batches.further = (batch.rows(20, 32),)
    for found in (parts, look_at_forward_pass(batches)):
        assert found.units == whole.units and found.rows == 32
        assert isinstance(found.guessing, Guessing) and isinstance(whole.guessing, Guessing)
        assert found.guessing.guess == whole.guessing.guess
        assert found.guessing.loss == pytest.approx(whole.guessing.loss, rel=1e-6)
        assert found.batch_statistics[0].distance == pytest.approx(whole.batch_statistics[0].distance, rel=1e-5)


def test_a_loss_that_takes_its_own_gradient_is_looked_at_once(make_problem: Make) -> None:
    """The first try has no graph and fails within it; what it saw does not count."""

    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))

        def forward(self, x: Tensor) -> Tensor:
            given = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.inner(given).sum(), given, create_graph=True)
            return slope

    data = {"x": torch.randn(16, 4), "y": torch.randn(16, 4)}
    found = look_at_forward_pass(make_problem(Energy(), data))
    assert found.units[0].values == 16
    assert isinstance(found.guessing, Guessing)
    assert found.guessing.guess == pytest.approx(float(data["y"].var(0).mean()), rel=1e-6)


def test_a_loss_of_the_users_own_is_looked_into(make_problem: Make, perceptron: nn.Module) -> None:
    data: dict[str, Any] = {"x": torch.randn(64, 8), "y": torch.arange(64) % 3}
    found = look_at_forward_pass(make_problem(perceptron, data, loss=f"{__file__}:regularised"))
    assert isinstance(found.guessing, Guessing) and found.guessing.loss == pytest.approx(found.loss - 100.0, rel=1e-4)
    found = look_at_forward_pass(make_problem(perceptron, data, loss=f"{__file__}:absolute"))
    assert isinstance(found.guessing, Missing)


def regularised(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
    """A cross-entropy and a constant."""
    return cross_entropy(model(data["x"]), data["y"]) + 100.0


def absolute(model: nn.Module, data: dict[str, Tensor]) -> Tensor:
    """No loss whose guessing is known."""
    return model(data["x"]).abs().mean()  # type: ignore[no-any-return]


def test_what_cannot_be_looked_at_says_so(make_problem: Make, classification: dict[str, Tensor]) -> None:
    model = nn.Sequential(nn.Linear(8, 3))
    problem = make_problem(model, classification)
    problem.budget = Budget(seconds=0.0, started=-1.0)
    with pytest.raises(ResourceError):
        look_at_forward_pass(problem)
    problem.budget = Budget()
    with torch.no_grad():
        model[0].bias.fill_(math.nan)
    with pytest.raises(NumericalError, match="nan"):
        look_at_forward_pass(problem)
