from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.breakdown.direction_option import (
    NAMES,
    check_direction,
    decay_left_out,
    make_direction,
    moved_by_default,
)
from fromage_cli.diagnostics.breakdown.measure import measure
from fromage_cli.errors import MismatchError, UsageError
from fromage_cli.missing import found_of
from fromage_cli.optimizers.rule import ADAMW, RULES
from fromage_cli.optimizers.settings import Given
from fromage_cli.probes.lines.direction import moving_tensors
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


@pytest.mark.parametrize("name", ["fromage", "sgd", "adam", "random", "to:other.pt"])
def test_every_direction_of_the_contract_exists(name: str) -> None:
    check_direction(name)


@pytest.mark.parametrize("name", ["", "adamw", "to:", "to"])
def test_other_directions_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="no direction"):
        check_direction(name)


@pytest.mark.parametrize("name", sorted(RULES.keys() - set(NAMES)))
def test_an_optimizer_without_a_direction_is_told_what_to_choose(name: str, run: Callable[..., Any]) -> None:
    code, out, err = run("no-such-file", "--direction", name)
    said = " ".join(err.split())
    assert (code, out) == (2, "")
    assert f"There is no direction '{name}'" in said
    if name == ADAMW.name:
        assert "Choose adam: the step of AdamW too" in said
    else:
        assert "yet: breakdown follows the steps of fromage, sgd and adam alone" in said
        assert "Choose to:CKPT with the run's next checkpoint, or fromage" in said
        assert f"suggest-lr measures along the next step of {RULES[name].title} itself." in said


@pytest.mark.parametrize(
    ("rule", "decays", "left_out"),
    [
        (torch.optim.AdamW, (0.1, 0.3), 0.3),
        (torch.optim.AdamW, (0.0, 0.0), None),
        (torch.optim.Adam, (0.1, 0.3), None),  # coupled: it goes through the moments
    ],
)
def test_decay_that_the_adam_step_leaves_out(
    rule: type[torch.optim.Optimizer], decays: tuple[float, float], left_out: float | None, tmp_path: Path
) -> None:
    model = nn.Linear(2, 2)
    pairs = zip(model.parameters(), decays, strict=True)
    optimizer = rule([{"params": [parameter], "weight_decay": decay} for parameter, decay in pairs])
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    checkpoint = open_checkpoint(tmp_path / "c.pt")
    assert decay_left_out("adam", checkpoint, Given(weight_decay=0.7)) == left_out
    assert decay_left_out("sgd", checkpoint, Given()) is None
    assert decay_left_out("adam", None, Given(weight_decay=0.7)) == 0.7  # no moments to tell


def test_real_updates_move_everything_and_relative_ones_the_matrices() -> None:
    moved = {name: moved_by_default(name) for name in ("fromage", "random", "sgd", "adam", "to:x")}
    assert moved == {"fromage": "matrices", "random": "matrices", "sgd": "all", "adam": "all", "to:x": "all"}


def test_a_line_without_any_move_is_refused(
    make_problem: Maker, perceptron: nn.Module, classification: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(perceptron.state_dict(), tmp_path / "same.pt")
    problem = make_problem(perceptron, classification)
    with pytest.raises(MismatchError, match="same in both"):
        make_direction(f"to:{tmp_path}/same.pt", problem, problem.trainable, None, Given())


@pytest.mark.parametrize("name", ["sgd", "adam", "random"])
def test_the_curve_along_every_direction_bounds_the_loss(make_problem: Maker, name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    problem = make_problem(model, {"x": torch.randn(20, 6, dtype=torch.float64), "y": torch.randint(3, (20,))})
    tensors = moving_tensors(problem, moved_by_default(name))[0]
    direction = make_direction(name, problem, tensors, None, Given())
    etas = tuple(0.002 * k for k in range(1, 101))
    result = found_of(measure(problem, direction, etas))[0]
    scale = max(abs(bound) for bound in result.loss_bounds)
    for loss, bound in zip(result.losses, result.loss_bounds, strict=True):
        assert loss - result.loss <= bound + 0.02 * scale
    matrices = [layer for layer in result.layers if len(layer.shape) == 2]
    assert len(matrices) == 2
    assert {layer.name for layer in result.layers} - {layer.name for layer in matrices} <= {result.limiting_layer}
    if name == "random":
        assert result.trust_relation == result.aggregate_trust_relation == result.linear_trust_relation
        assert result.trust_relation == "uncertifiable"
    else:
        assert max(layer.relative_step or 0.0 for layer in matrices) == pytest.approx(1.0)


def test_a_vector_that_breaks_down_first_limits_the_network(make_problem: Maker) -> None:
    class Early(nn.Module):
        """Linear in its matrix, quadratic in a vector that starts near zero and so turns round at once."""

        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
            self.vector = nn.Parameter(torch.full((2,), 1e-3, dtype=torch.float64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x @ self.matrix).sum() + (self.vector - 2e-3).square().sum() * 1e3

    problem = make_problem(Early(), {"x": torch.ones(2, 2, dtype=torch.float64)}, "output")
    direction = make_direction("sgd", problem, problem.trainable, None, Given())
    result = found_of(measure(problem, direction, tuple(0.0001 * k for k in range(1, 50))))[0]
    assert [layer.name for layer in result.layers] == ["matrix", "vector"]  # the limiting one is shown
    assert result.layers[0].trust_relation == "above-grid"
    assert result.limiting_layer == "vector"
