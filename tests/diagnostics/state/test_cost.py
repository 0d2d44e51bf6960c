"""What a state is said to cost, from a part."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.reading import reading_cost
from fromage_cli.diagnostics.state import cost
from fromage_cli.diagnostics.state.continuity import Links
from fromage_cli.diagnostics.state.measure import trained_tensors
from fromage_cli.optimizers.streamed import orthogonalised_norm
from fromage_cli.terminal.answer import Estimate
from tests.diagnostics.state.test_unmatched import Trained


def priced(path: Path) -> Estimate:
    checkpoint = open_checkpoint(path)
    names = trained_tensors(checkpoint, (), ())
    assert checkpoint.optimizer is not None
    return cost.estimate(Links.of([checkpoint], names))


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """The file of a network of so many square matrices after a step."""

    def saved(make: type[torch.optim.Optimizer], count: int, side: int) -> Path:
        weights = {f"layers.{index}.weight": nn.Parameter(torch.ones(side, side)) for index in range(count)}
        optimizer = make(list(weights.values()))
        for value in weights.values():
            value.grad = torch.randn(side, side)
        optimizer.step()
        model = {name: value.detach() for name, value in weights.items()}
        torch.save({"model": model, "optimizer": optimizer.state_dict()}, tmp_path / "run.pt")
        return tmp_path / "run.pt"

    return saved


def test_some_tensors_tell_the_whole(save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_cost, "SAMPLE", 150)  # two tensors of ten
    clock = iter((1.0, 3.0, 3.0, 3.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    found = priced(save(torch.optim.AdamW, 10, 10))
    assert found.seconds == pytest.approx(10.0) and found.gradients == 0.0
    assert found.bytes is not None and found.bytes > 10**7


def test_slots_without_a_tensor_are_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Trained().said(tmp_path)
    clock = iter((1.0, 1.0, 5.0, 8.0))
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    assert priced(tmp_path).seconds == pytest.approx(3.0)


def test_matrices_that_muon_orthogonalises(save: Callable[..., Path]) -> None:
    """About the time that it takes, on a machine that others use too; and not of a matrix that is left out."""
    few, many = (priced(save(torch.optim.Muon, count, 300)).seconds for count in (1, 12))
    matrix = numpy.random.default_rng(0).normal(size=(300, 300))
    started = time.perf_counter()
    orthogonalised_norm(matrix, (3.4445, -4.775, 2.0315), 5, 1e-7)
    each = time.perf_counter() - started
    assert few is not None and many is not None and few < many
    assert each / 10.0 < (many - few) / 11.0 < 10.0 * each


def test_a_matrix_that_is_too_large_costs_its_reading_alone(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "LARGEST_SIDE", 9)
    monkeypatch.setattr(cost, "orthogonalised_norm", lambda *_: pytest.fail("nothing is orthogonalised"))
    assert (priced(save(torch.optim.Muon, 2, 10)).seconds or 0.0) > 0.0
