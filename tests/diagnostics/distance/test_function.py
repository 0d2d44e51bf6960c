"""The function part against hand-made numbers, and Theorem 1 as the command states it."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.distance.function import with_function
from fromage_cli.diagnostics.distance.measure import measure
from fromage_cli.diagnostics.distance.pairing import pair_tensors
from fromage_cli.missing import Missing, Why
from fromage_cli.problem.data.batches import Batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.supervised_losses import SquaredError


def between(folder, first, second, inputs, targets, prefix=""):
    for name, model in (("a", first), ("b", second)):
        stored = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
        save_file(stored, folder / f"{name}.safetensors")
    opened = [open_checkpoint(folder / f"{name}.safetensors") for name in "ab"]
    problem = Problem(first, SquaredError(), Batch({"input": inputs, "y": targets}, len(inputs), "hand"))
    return with_function(measure(*opened, pair_tensors(*opened, "matrices", (), ())), problem, *opened)


def leaky(widths, slope):
    layers = [
        module
        for inputs, outputs in pairwise(widths)
        for module in (nn.Linear(inputs, outputs, bias=False), nn.LeakyReLU(slope))
    ]
    return nn.Sequential(*layers).double()


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 2), min_size=1, max_size=4),
    st.floats(1e-3, 1.0),
    st.sampled_from([0.5, 0.1]),
)
def test_the_true_distance_never_exceeds_the_bound(tmp_path_factory, seed, growth, scale, slope):
    torch.manual_seed(seed)
    widths = [2]
    for step in growth:
        widths.append(widths[-1] + step)
    first, second = leaky(widths, slope), leaky(widths, slope)
    with torch.no_grad():
        for old, new in zip(first.parameters(), second.parameters(), strict=True):
            new.copy_(old + scale * new * old.norm() / new.norm())
    x = torch.randn(5, 2, dtype=torch.float64)
    with torch.no_grad():
        outputs = first(x), second(x)
    result, _ = between(tmp_path_factory.mktemp("theorem"), first, second, x, outputs[0])
    rows = (outputs[1] - outputs[0]).norm(dim=1) / outputs[0].norm(dim=1)
    assert result.function_distance == pytest.approx(float((outputs[1] - outputs[0]).norm() / outputs[0].norm()))
    assert result.largest_function_distance == pytest.approx(float(rows.max()))
    assert 10**result.log10_bound >= result.largest_function_distance * (1 - 1e-9)
    assert (result.bound.alpha, result.bound.beta, result.bound.depth) == (slope, 1.0, len(growth))
    assert result.layers[0].kind == "Linear"


def test_layers_go_by_their_names_in_the_checkpoint(tmp_path):
    torch.manual_seed(0)
    first, second = leaky([2, 3, 4], 0.5), leaky([2, 3, 4], 0.5)
    x = torch.randn(5, 2, dtype=torch.float64)
    targets = torch.zeros(5, 4, dtype=torch.float64)
    plain, prefixed = (between(tmp_path, first, second, x, targets, prefix)[0] for prefix in ("", "net."))
    assert plain.log10_bound == prefixed.log10_bound and plain.bound == prefixed.bound is not None
    assert [(layer.name, layer.kind) for layer in prefixed.layers] == [
        ("net.0.weight", "Linear"),
        ("net.2.weight", "Linear"),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model[0].weight.data.mul_(1.0), "no matrix has moved"),
        (lambda model: model[0].weight.data[0].add_(1.0), "the difference of 0.weight is rank-deficient"),
        (lambda model: model[2].weight.data.copy_(torch.ones(4, 3)), "2.weight is rank-deficient"),
        (lambda model: model[2].weight.data.zero_(), "2.weight is rank-deficient"),
    ],
)
def test_reasons_for_no_bound(tmp_path, change, words):
    torch.manual_seed(0)
    first, second = leaky([3, 3, 4], 0.1), leaky([3, 3, 4], 0.1)
    second.load_state_dict(first.state_dict())
    change(second)
    x = torch.randn(5, 3, dtype=torch.float64)
    result, _ = between(tmp_path, first, second, x, torch.zeros(5, 4, dtype=torch.float64))
    assert result.log10_bound == result.bound and words in result.bound.words


def test_a_zero_function_has_no_relative_distance(tmp_path):
    torch.manual_seed(0)
    first, second = leaky([3, 3], 0.1), leaky([3, 3], 0.1)
    x = torch.zeros(5, 3, dtype=torch.float64)
    result, _ = between(tmp_path, first, second, x, x)
    zero = Missing(Why.ZERO_OR_NOT_FINITE, "the first network's output is zero")
    assert result.function_distance == result.largest_function_distance == zero
