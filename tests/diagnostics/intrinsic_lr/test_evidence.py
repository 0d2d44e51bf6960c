"""What a model tells, against gradients by hand."""

import pytest
import torch
from torch import nn

from fromage_cli.diagnostics.intrinsic_lr.evidence import gather_evidence
from fromage_cli.errors import ResourceError
from fromage_cli.missing import Interrupted, Missing, Why, found_of
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.supervised_losses import CrossEntropy


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


def gathered(problem, **options):
    layers = {layer.name: layer for layer in problem.layers}
    return gather_evidence(problem, layers, **{"gradients": True, "batch_size": 16, **options})


def test_channels_before_batch_norm_have_scales_of_their_own(problem):
    found = gathered(problem)
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


def test_entries_behind_inputs_that_are_zero_are_left_out(problem):
    problem.batch.data["x"][:, [1, 4]] = 0.0
    found = gathered(problem).layers["first.weight"]
    weight = problem.model.first.weight.detach().double()
    assert found.inactive.entries == 10
    assert found.inactive.square == pytest.approx(float(weight[:, [1, 4]].square().sum()), rel=1e-6)
    assert found.sizes == pytest.approx(weight[:, [0, 2, 3, 5]].square().sum(1).tolist(), rel=1e-6)


def test_gradients_only_where_they_are_asked_for_and_can_be_had(problem):
    without = gathered(problem, gradients=False)
    assert without.layers["first.weight"].squares.code == Why.NOT_DEFINED and without.batch_size is None
    unknown = gathered(problem, batch_size=None)
    assert unknown.layers["first.weight"].verdict == "invariant"
    assert "two parts" in unknown.layers["first.weight"].squares.words


def test_a_limit_leaves_layers_untested(problem, monkeypatch):
    from fromage_cli.diagnostics.intrinsic_lr import evidence

    monkeypatch.setattr(
        evidence, "measure_invariance", lambda *_: Interrupted({}, ResourceError("The time limit was reached."))
    )
    found, error = found_of(gathered(problem))
    assert {layer.verdict for layer in found.layers.values()} == {"untested"}
    assert isinstance(error, ResourceError)
    words = "a limit was reached before gradients were taken. The time limit was reached"
    for layer in found.layers.values():
        assert layer.squares == layer.squared_gradient == Missing(Why.LIMIT_REACHED, words)


def test_a_limit_between_the_tests_and_the_gradients(problem, monkeypatch):
    from fromage_cli.diagnostics.intrinsic_lr import evidence

    def refuse(*_):
        raise ResourceError("The time limit was reached.")

    monkeypatch.setattr(evidence, "measure_unit_gradients", refuse)
    found, error = found_of(gathered(problem))
    first = found.layers["first.weight"]
    assert first.verdict == "invariant" and isinstance(error, ResourceError)
    assert first.squares.code == Why.LIMIT_REACHED and "before gradients were taken" in first.squares.words
