"""Losses at earlier checkpoints: those of the networks themselves, and the last one's weights are there again."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.probes.forward_pass.course import EarlierLoss, losses_before
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.losses import resolve_loss


def test_the_loss_of_each_and_the_last_weights_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    batch = as_batch({"x": torch.randn(16, 3), "y": torch.randint(0, 4, (16,))}, "test")
    networks = [nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)) for _ in range(3)]
    expected, files = [], []
    for step, network in enumerate(networks):
        network(torch.randn(50, 3))  # running statistics of its own
        files.append(tmp_path / f"step-{step}.pt")
        torch.save(network.state_dict(), files[-1])
        expected.append(Problem(network, resolve_loss("auto", network, batch, mode="auto", seed=0), batch).value())
    torch.save({"other": torch.ones(2, 2)}, tmp_path / "step-7.pt")
    torch.save({name: value * float("nan") for name, value in networks[0].state_dict().items()}, tmp_path / "step-8.pt")
    opened = [open_checkpoint(file) for file in (*files[:2], tmp_path / "step-7.pt", tmp_path / "step-8.pt", files[2])]
    problem = Problem(networks[2], resolve_loss("auto", networks[2], batch, mode="auto", seed=0), batch)
    before = {name: value.clone() for name, value in networks[2].state_dict().items()}
    found = losses_before(problem, opened[:-1], opened[-1])
    assert found == (EarlierLoss(0, pytest.approx(expected[0])), EarlierLoss(1, pytest.approx(expected[1])))
    assert all(torch.equal(value, before[name]) for name, value in networks[2].state_dict().items())
    assert losses_before(problem, (), opened[-1]) == ()
