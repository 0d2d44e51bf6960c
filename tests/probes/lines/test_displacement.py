from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError
from fromage_cli.probes.lines.displacement import displacement_to
from fromage_cli.problem.evaluation.problem import Problem

Maker = Callable[..., Problem]


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def test_it_is_the_difference_and_everything_is_put_back(
    make_problem: Maker, classification: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model, other = network(0), network(1)
    other[1].running_mean.fill_(7.0)
    model[2].bias.requires_grad_(False)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    moved, _ = displacement_to(make_problem(model, classification), open_checkpoint(tmp_path / "other.pt"))
    assert set(moved) == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, difference in moved.items():
        assert torch.equal(difference, other.state_dict()[name] - before[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_weights_of_another_shape_are_refused_and_nothing_is_moved(
    make_problem: Maker, classification: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    model = network(0)
    torch.save({**model.state_dict(), "2.weight": torch.ones(3, 5)}, tmp_path / "other.pt")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(MismatchError):
        displacement_to(make_problem(model, classification), open_checkpoint(tmp_path / "other.pt"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
