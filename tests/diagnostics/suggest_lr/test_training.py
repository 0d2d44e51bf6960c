"""What short runs start from, and what every word on the page says of it."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import TensorEntry
from fromage_cli.diagnostics.suggest_lr.measure import measure
from fromage_cli.diagnostics.suggest_lr.partial_measurement import Request
from fromage_cli.errors import UsageError
from fromage_cli.optimizers.settings import Optimizer
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.networks.models import fresh_model
from fromage_cli.problem.networks.perceptron import build_perceptron
from fromage_cli.problem.user_code.declared import Declared
from tests.diagnostics.measured import Measured, run_measurement

Maker = Callable[..., Problem]
Data = dict[str, torch.Tensor]
SHAPES: Mapping[str, tuple[int, ...]] = {"0.weight": (16, 8), "0.bias": (16,), "1.weight": (3, 16), "1.bias": (3,)}


def learnable() -> Data:
    """Rows whose class is their largest of three features."""
    x = torch.randn(320, 8, generator=torch.Generator().manual_seed(3))
    return {"x": x, "y": x[:, :3].argmax(1)}


def made(seed: int) -> nn.Module:
    """The factory."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def rebuilt(seed: int) -> nn.Module:
    """The same network from the names and shapes of its tensors."""
    entries = {name: TensorEntry(name, "float32", shape) for name, shape in SHAPES.items()}
    model = fresh_model(lambda _: build_perceptron(entries, Declared(activation="tanh"))[0], seed)
    assert model is not None
    return model


def suggest(problem: Problem, probe: str, fresh: Callable[[], Problem | None]) -> Measured:
    request = Request(probe=probe, fresh=fresh)  # type: ignore[arg-type]
    return run_measurement(measure, problem, problem.receiving, Optimizer("adamw"), None, request=request)


@pytest.mark.parametrize("probe", ["auto", "init"])
@pytest.mark.parametrize(
    ("model", "start"),
    [
        (made(0), "new weights of the network's factory"),
        (rebuilt(0), "new weights as torch draws them, since the network was rebuilt without its factory"),
    ],
)
def test_where_new_weights_can_be_had_short_runs_start_from_them(
    make_problem: Maker, model: nn.Module, start: str, probe: str
) -> None:
    trained = make_problem(made(5), learnable())
    found = suggest(trained, probe, lambda: make_problem(model, learnable()))
    assert found.result.recommended.estimator == "probe-init"
    assert found.result.recommended.reliable
    assert "short runs from new weights took" in found.result.recommended.reason
    (estimate,) = [each for each in found.result.estimates if each.name.startswith("probe")]
    assert (estimate.name, estimate.assumption) == ("probe-init", f"6 short runs; of 60 steps from {start}")
    assert any(note.startswith(f"probe: from {start}; ") for note in found.notes)


@pytest.mark.parametrize("probe", ["auto", "checkpoint"])
def test_elsewhere_they_start_from_the_checkpoint_and_are_not_called_reliable(make_problem: Maker, probe: str) -> None:
    problem = make_problem(made(5), learnable())
    found = suggest(problem, probe, lambda: None)
    assert not found.result.recommended.reliable
    assert found.result.recommended.estimator == "typical"
    assert "trained weights tell little" in found.result.recommended.reason
    (estimate,) = [each for each in found.result.estimates if each.name.startswith("probe")]
    assert (estimate.name, estimate.assumption) == ("probe", "6 short runs; of 60 steps from these weights")


def test_from_new_weights_only_is_refused_where_there_are_none(make_problem: Maker) -> None:
    with pytest.raises(UsageError, match="draws new weights; this one comes with its own"):
        suggest(make_problem(made(5), learnable()), "init", lambda: None)
