import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.runs.layer_settings import layer_settings
from fromage_cli.diagnostics.inspect.optimizer import describe_optimizer
from fromage_cli.missing import STEP_UNKNOWN


def described(tmp_path, model, optimizer, **more):
    model(torch.randn(4, 5)).square().mean().backward()
    optimizer.step()
    torch.save({"model": model.state_dict() | more, "optimizer": optimizer.state_dict()}, tmp_path / "c.pt")
    return describe_optimizer(open_checkpoint(tmp_path / "c.pt"))


def test_adamw_with_two_groups(tmp_path):
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 3))
    weights, biases = [model[0].weight, model[1].weight], [model[0].bias, model[1].bias]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "weight_decay": 0.0, "lr": 0.5}]
    found = described(tmp_path, model, torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.95)))
    assert found is not None
    assert (found.kind, found.step, found.slots) == ("adamw", 1, ("step", "exp_avg", "exp_avg_sq"))
    first, second = found.groups
    assert (first.parameters, first.names) == (2, ("0.weight", "1.weight"))
    assert (first.learning_rate, first.betas, first.weight_decay, first.momentum) == (0.01, (0.8, 0.95), 0.1, None)
    assert (second.learning_rate, second.weight_decay, second.names) == (0.5, 0.0, ("0.bias", "1.bias"))
    assert first.settings["eps"] == 1e-8 and first.settings["maximize"] is False and "betas" not in first.settings


def test_sgd_and_a_file_with_more_tensors_than_parameters(tmp_path):
    model = nn.Sequential(nn.Linear(5, 6))
    found = described(tmp_path, model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), buffer=torch.ones(3))
    assert found is not None
    (group,) = found.groups
    assert (found.kind, found.step, group.momentum, group.names) == ("sgd", STEP_UNKNOWN, 0.9, ("0.weight", "0.bias"))


def test_names_that_the_optimizer_was_given(tmp_path):
    model = nn.Sequential(nn.Linear(5, 6))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=torch.tensor(0.25))
    found = described(tmp_path, model, optimizer, buffer=torch.ones(3))
    assert found is not None
    assert found.groups[0].names == ("0.weight", "0.bias")
    assert found.groups[0].learning_rate == pytest.approx(0.25)


@pytest.mark.parametrize("trained", [False, True])
def test_groups_beside_a_file_that_is_sorted_by_name(tmp_path, trained):
    """Where order tells nothing, the rule that made the groups does."""
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3), nn.BatchNorm1d(3))
    named = dict(model.named_parameters())
    matrices = [name for name in named if named[name].dim() > 1]
    others = [name for name in named if name not in matrices]
    groups = [{"params": [named[name] for name in names], "weight_decay": decay}
              for names, decay in ((matrices, 0.1), (others, 0.0))]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    if trained:
        model(torch.randn(4, 6)).square().mean().backward()
        optimizer.step()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    checkpoint = open_checkpoint(tmp_path)
    found = describe_optimizer(checkpoint)
    assert found is not None
    assert [(group.parameters, set(group.names)) for group in found.groups] == [(2, set(matrices)), (6, set(others))]
    settings = layer_settings(checkpoint, checkpoint.optimizer, list(named))
    assert {name: settings.of(name)["weight_decay"] for name in named} == {
        name: 0.1 if name in matrices else 0.0 for name in named
    }
    assert not settings.unmatched


def test_no_optimizer(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "c.pt")
    assert describe_optimizer(open_checkpoint(tmp_path / "c.pt")) is None


def test_layers_without_a_slot_beside_others_were_never_updated(tmp_path):
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 5))
    model[0].requires_grad_(False)
    found = described(tmp_path, model, torch.optim.AdamW(model.parameters()))
    assert found is not None and found.never_updated == ("0.weight",)


def test_a_group_without_momentum_has_no_slots_to_tell_by(tmp_path):
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 5))
    groups = [{"params": model[0].parameters(), "momentum": 0.9}, {"params": model[1].parameters(), "momentum": 0.0}]
    found = described(tmp_path, model, torch.optim.SGD(groups, lr=0.1))
    assert found is not None and found.never_updated == ()
