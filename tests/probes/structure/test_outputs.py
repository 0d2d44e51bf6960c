import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from fromage_cli.errors import ResourceError
from fromage_cli.probes.structure import outputs as outputs_module
from fromage_cli.probes.structure.outputs import Outputs, Response
from fromage_cli.problem.conditions.budget import Budget
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.reported_losses import FunctionLoss

Maker = Callable[..., Problem]


@dataclass
class Answered:
    """What some models return."""

    logits: Tensor
    hidden: Tensor


class Two(nn.Module):
    """A linear layer whose outputs reach the loss, and another whose do not."""

    def __init__(self, wrap: Callable[..., object] = lambda logits, hidden: (logits, hidden)) -> None:
        super().__init__()
        self.used, self.unused, self.wrap = nn.Linear(8, 3), nn.Linear(8, 3), wrap

    def forward(self, x: Tensor, y: Tensor | None = None) -> object:
        return self.wrap(self.used(x), self.unused(x))


def double(problem: Problem, name: str) -> Response:
    outputs = Outputs(problem)
    tensor = dict(problem.model.named_parameters())[name]
    with torch.no_grad():
        tensor.mul_(2)
    return outputs.response()


def test_the_relative_change_of_the_outputs(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    model = nn.Linear(8, 3, bias=False)
    problem = make_problem(model, classification)
    loss = problem.value()
    found = double(problem, "weight")
    assert found.outputs == pytest.approx(1.0, rel=1e-6)
    assert found.loss == pytest.approx(abs(problem.value() - loss) / loss, rel=1e-6)


def test_chunks_are_taken_together(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    torch.manual_seed(0)
    whole = double(make_problem(nn.Linear(8, 3), classification), "weight")
    torch.manual_seed(0)
    parts = double(make_problem(nn.Linear(8, 3), classification, micro_batch=5), "weight")
    assert parts.outputs == pytest.approx(whole.outputs, rel=1e-5) and parts.loss == pytest.approx(whole.loss, rel=1e-5)


def test_only_what_the_loss_uses_counts(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    class Own(Two):
        def forward(self, x: Tensor, y: Tensor | None = None) -> object:
            logits, hidden = self.used(x), self.unused(x)
            return {"logits": logits, "hidden": hidden, "loss": nn.functional.cross_entropy(logits, y)}

    torch.manual_seed(0)
    assert double(make_problem(Own(), classification), "unused.weight") == Response(0.0, 0.0)
    assert double(make_problem(Own(), classification), "used.weight").outputs > 0.5
    problem = Problem(Two(Answered), FunctionLoss("own", _total, {}), as_batch(classification, "test data"))
    assert double(problem, "unused.weight") == Response(0.0, 0.0)


def _total(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return model(batch["x"]).logits.square().mean()


def test_a_scalar_alone_is_what_is_compared(make_problem: Maker) -> None:
    class Energy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight).sum()

    found = double(make_problem(Energy(), {"x": torch.ones(4, 2)}, "output"), "weight")
    assert found == Response(pytest.approx(1.0), pytest.approx(1.0))


def test_entries_that_were_not_finite_are_passed_over(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.tensor([0.0, 0.0, 0.0, -math.inf])
            return self.linear(x) + mask

    torch.manual_seed(0)
    problem = make_problem(Masked(), classification)
    outputs = Outputs(problem)
    weight = problem.trainable[0].parameter
    with torch.no_grad():
        weight.mul_(2)
        assert outputs.response().outputs == pytest.approx(1.0, rel=1e-6)
        weight.fill_(1e38)
        assert outputs.response().outputs == math.inf


def test_large_outputs_are_sampled(
    make_problem: Maker, classification: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs_module, "MOST_COMPARED", 10)
    torch.manual_seed(0)
    assert double(make_problem(nn.Linear(8, 3, bias=False), classification), "weight").outputs == pytest.approx(1.0)


def test_limits_are_looked_at(make_problem: Maker, classification: dict[str, Tensor]) -> None:
    problem = make_problem(nn.Linear(8, 3), classification)
    outputs = Outputs(problem)
    problem.budget = Budget(seconds=0.0, started=0.0)
    with pytest.raises(ResourceError):
        outputs.response()
