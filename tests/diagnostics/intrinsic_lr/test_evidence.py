"""What a model tells, against gradients by hand."""

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.intrinsic_lr.evidence import checkpoint_shapes, gather_evidence, model_tensors
from fromage_cli.errors import ResourceError
from fromage_cli.problem.batches import Batch
from fromage_cli.problem.problem import Problem
from fromage_cli.problem.supervised_losses import CrossEntropy


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 5, bias=False)
        self.norm = nn.BatchNorm1d(5)
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


@pytest.fixture
def problem():
    torch.manual_seed(0)
    batch = Batch({"x": torch.randn(64, 6), "y": torch.randint(3, (64,))}, 64, "drawn")
    return Problem(Network(), CrossEntropy(), batch)


NAMES = ("first.weight", "last.weight")


def test_channels_before_batch_norm_have_scales_of_their_own(problem):
    found = gather_evidence(problem, NAMES, gradients=True, batch_size=16)
    first, last = (found.layers[name] for name in NAMES)
    assert (first.kind, first.verdict, first.granularity) == ("Linear", "invariant", "channel")
    assert last.verdict == "none" and found.batch_size == 16
    sizes = problem.model.first.weight.detach().double().square().sum(1)
    squares = torch.zeros(5, dtype=torch.float64)
    for start in range(0, 64, 16):
        part = problem.on(problem.batch.rows(start, start + 16))
        squares += part.base.gradients["first.weight"].double().square().sum(1) / 4
    assert first.squares == pytest.approx((sizes * squares).tolist(), rel=1e-5)
    assert first.squared_gradient == pytest.approx(float(squares.sum()), rel=1e-5)


def test_gradients_only_where_they_are_asked_for_and_can_be_had(problem):
    without = gather_evidence(problem, NAMES, gradients=False, batch_size=None)
    assert without.layers["first.weight"].squares is None and without.batch_size is None
    unknown = gather_evidence(problem, NAMES, gradients=True, batch_size=None)
    assert unknown.layers["first.weight"].verdict == "invariant" and "two parts" in unknown.no_gradients


def test_a_limit_leaves_layers_untested(problem, monkeypatch):
    from fromage_cli.diagnostics.intrinsic_lr import evidence
    from fromage_cli.probes.structure.invariance import InvarianceTest

    monkeypatch.setattr(
        evidence, "measure_invariance", lambda *_: InvarianceTest({}, ResourceError("The time limit was reached."))
    )
    found = gather_evidence(problem, NAMES, gradients=True, batch_size=16)
    assert {layer.verdict for layer in found.layers.values()} == {"untested"}
    assert "tested in part" in found.notes[0] and found.layers["first.weight"].squares is None


def test_names_that_differ_by_a_prefix(problem, tmp_path):
    assert model_tensors(problem, ["model.first.weight"])["model.first.weight"].name == "first.weight"
    assert model_tensors(problem, ["nothing"]) == {}
    torch.save(problem.model.state_dict(), tmp_path / "c.pt")
    shapes = checkpoint_shapes(problem, open_checkpoint(tmp_path / "c.pt"))
    assert list(shapes) == ["first.weight", "norm.weight", "norm.bias", "last.weight", "last.bias"]
    torch.save({"other": torch.ones(2, 2)}, tmp_path / "d.pt")
    assert checkpoint_shapes(problem, open_checkpoint(tmp_path / "d.pt")) is None
