import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError, NumericalError
from fromage_cli.probes.structure.function_distance import function_distance
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.reported_losses import ModelsOwnLoss
from fromage_cli.problem.losses.supervised_losses import SquaredError


@pytest.fixture
def setting(tmp_path):
    torch.manual_seed(0)
    first, second = (
        nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)) for _ in range(2)
    )
    save_file(second.state_dict(), tmp_path / "b.safetensors")
    x = torch.randn(12, 3)
    problem = Problem(first, SquaredError(), Batch({"x": x, "y": torch.zeros(12, 2)}, 12, "hand"))
    return problem, open_checkpoint(tmp_path / "b.safetensors"), second, x


def test_the_distance_of_outputs_under_the_same_conditions(setting):
    problem, other, second, x = setting
    weights = {name: value.clone() for name, value in problem.model.state_dict().items()}
    found = function_distance(problem, other)
    for model in (problem.model, second):
        model.eval()
        model[1].train()
    with torch.no_grad():
        before, after = problem.model(x).double(), second(x).double()
    assert found.whole == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-5)
    rows = (after - before).norm(dim=1) / before.norm(dim=1)
    assert found.largest == pytest.approx(float(rows.max()), rel=1e-5)
    assert problem.evaluations.forwards == 2
    kept = {name: value for name, value in weights.items() if "running" not in name and "tracked" not in name}
    assert all(torch.equal(problem.model.state_dict()[name], value) for name, value in kept.items())


def test_chunks_make_no_difference(setting):
    problem, other, *_ = setting
    problem.mode = "eval"
    whole = function_distance(problem, other)
    problem.micro_batch = 5
    parts = function_distance(problem, other)
    assert parts.whole == pytest.approx(whole.whole, rel=1e-6)
    assert parts.largest == pytest.approx(whole.largest, rel=1e-6)


def test_weights_of_another_model_are_refused_and_the_first_stay(setting, tmp_path):
    problem, *_ = setting
    before = problem.model[0].weight.detach().clone()
    save_file({"w": torch.ones(2, 2)}, tmp_path / "c.safetensors")
    with pytest.raises(MismatchError):
        function_distance(problem, open_checkpoint(tmp_path / "c.safetensors"))
    assert torch.equal(problem.model[0].weight, before)


def test_outputs_that_are_not_finite(setting):
    problem, other, *_ = setting
    problem.model[3].bias.data[0] = float("inf")
    with pytest.raises(NumericalError, match="first network"):
        function_distance(problem, other)


class Embedding(nn.Module):
    """A network whose output has no name that losses know."""

    def __init__(self, rows=True):
        super().__init__()
        self.map, self.rows = nn.Linear(3, 4), rows

    def forward(self, x):
        embedding = self.map(x)
        return {"loss": embedding.square().mean(), "embedding": embedding if self.rows else embedding.mean()}


@pytest.mark.parametrize("rows", [True, False])
def test_outputs_of_another_name(tmp_path, rows):
    torch.manual_seed(0)
    first, second = Embedding(rows), Embedding(rows)
    save_file(second.state_dict(), tmp_path / "b.safetensors")
    x = torch.randn(6, 3)
    problem = Problem(first, ModelsOwnLoss(), Batch({"x": x}, 6, "hand"))
    other = open_checkpoint(tmp_path / "b.safetensors")
    if not rows:
        with pytest.raises(MismatchError, match="one row for each"):
            function_distance(problem, other)
        return
    before, after = first(x)["embedding"], second(x)["embedding"]
    expected = float(((after - before).norm() / before.norm()).detach())
    assert function_distance(problem, other).whole == pytest.approx(expected, rel=1e-5)
