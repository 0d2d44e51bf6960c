import json

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import match_parameters, open_checkpoint
from fromage_cli.checkpoints.finding.trainer_files import load_optimizer
from fromage_cli.errors import InputError


def write_trainer(directory, model, optimizer_name="optimizer.pt"):
    """What the Trainer of Hugging Face leaves in a checkpoint's directory."""
    directory.mkdir(exist_ok=True)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=5e-5)
    model(torch.randn(3, 4)).square().sum().backward()
    optimizer.step()
    save_file(model.state_dict(), directory / "model.safetensors", {"format": "pt"})
    torch.save(optimizer.state_dict(), directory / optimizer_name)
    torch.save(torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0).state_dict(), directory / "scheduler.pt")
    torch.save({"cpu": torch.get_rng_state()}, directory / "rng_state.pth")
    (directory / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (directory / "trainer_state.json").write_text(json.dumps({"global_step": 1234, "epoch": 2.0, "log_history": []}))
    return optimizer


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 5), nn.Linear(5, 2))


@pytest.mark.parametrize("name", ["optimizer.pt", "optimizer.bin"])
def test_weights_step_and_optimizer_are_found_together(tmp_path, model, name):
    optimizer = write_trainer(tmp_path / "run", model, name)
    checkpoint = open_checkpoint(tmp_path / "run")
    assert (checkpoint.format, checkpoint.step) == ("safetensors", 1234)
    assert checkpoint.notes == (f"Read beside the weights: trainer_state.json, {name}.",)
    state = checkpoint.optimizer
    assert [group.settings["weight_decay"] for group in state.groups] == [0.01, 0.0]
    numbers = match_parameters(state, {key: tuple(value.shape) for key, value in model.named_parameters()})
    for key, parameter in model.named_parameters():
        assert torch.equal(state.slots[numbers[key]]["exp_avg"], optimizer.state[parameter]["exp_avg"])


def test_the_weights_file_itself_and_its_own_step_are_known_too(tmp_path, model):
    write_trainer(tmp_path / "run", model)
    assert open_checkpoint(tmp_path / "run" / "model.safetensors").step == 1234
    save_file(model.state_dict(), tmp_path / "run" / "model.safetensors", {"step": "7"})
    assert open_checkpoint(tmp_path / "run").step == 7


def test_what_stands_beside_other_names_is_left_alone(tmp_path, model):
    write_trainer(tmp_path / "run", model)
    (tmp_path / "run" / "model.safetensors").rename(tmp_path / "run" / "best.safetensors")
    checkpoint = open_checkpoint(tmp_path / "run")
    assert (checkpoint.step, checkpoint.optimizer, checkpoint.notes) == (None, None, ())


@pytest.mark.parametrize("sharded", [False, True])
def test_all_optimizers_of_one_run_are_read(tmp_path, model, sharded):
    halves = [list(part.parameters()) for part in (model[:2], model[2:])]
    optimizers = [torch.optim.AdamW(halves[0], lr=1e-3), torch.optim.SGD(halves[1], lr=0.1, momentum=0.9)]
    model(torch.randn(3, 4)).square().sum().backward()
    for number, optimizer in enumerate(optimizers):
        optimizer.step()
        if sharded:
            name = str(tmp_path / f"optimizer_{number}")
            torch.distributed.checkpoint.save({"optimizer": optimizer.state_dict()}, checkpoint_id=name, no_dist=True)
        else:
            torch.save(optimizer.state_dict(), tmp_path / ("optimizer_1.bin" if number else "optimizer.bin"))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path)
    names = ("optimizer_0", "optimizer_1") if sharded else ("optimizer.bin", "optimizer_1.bin")
    assert checkpoint.notes == (f"Read beside the weights: {', '.join(names)}.",)
    numbers = match_parameters(
        checkpoint.optimizer, {key: tuple(value.shape) for key, value in model.named_parameters()}
    )
    for key, parameter in model.named_parameters():
        slot, saved = checkpoint.optimizer.slots[numbers[key]], (optimizers[0].state | optimizers[1].state)[parameter]
        field = "exp_avg" if "exp_avg" in saved else "momentum_buffer"
        assert torch.equal(torch.as_tensor(slot[field]), saved[field])


def test_of_two_networks_optimizers_that_of_the_weights_is_taken(tmp_path, model):
    other = nn.Linear(7, 3)
    for name, network in (("optimizer.bin", model), ("optimizer_1.bin", other)):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1 if network is other else 0.2)
        sum(p.sum() for p in network.parameters()).backward()
        optimizer.step()
        torch.save(optimizer.state_dict(), tmp_path / name)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    state = open_checkpoint(tmp_path).optimizer
    assert [group.settings["lr"] for group in state.groups] == [0.2]


def test_a_damaged_optimizer_is_told_only_to_those_who_ask_for_it(tmp_path, model):
    write_trainer(tmp_path / "run", model)
    (tmp_path / "run" / "optimizer.pt").write_bytes(b"PK\x03\x04 cut off")
    checkpoint = open_checkpoint(tmp_path / "run")
    assert checkpoint.tensor("0.bias").shape == (5,)
    with pytest.raises(InputError, match=r"optimizer\.pt"):
        _ = checkpoint.optimizer


@pytest.fixture
def optimizer():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"optimizer": state, "epoch": 3},
        lambda state: {"optimizer_states": [state], "state_dict": {"w": torch.ones(2)}},
    ],
)
def test_a_state_of_its_own_or_inside_a_checkpoint(tmp_path, optimizer, wrap):
    torch.save(wrap(optimizer), tmp_path / "o.pt")
    state = load_optimizer(tmp_path / "o.pt")
    assert state.groups[0].settings["momentum"] == 0.9
    assert state.slots[1]["momentum_buffer"].tolist() == [1.0, 1.0]


def test_the_file_that_is_named_goes_before_the_one_inside(tmp_path, optimizer):
    torch.save({"model": {"w": torch.ones(2)}, "optimizer": optimizer}, tmp_path / "c.pt")
    named = {**optimizer, "param_groups": [{**optimizer["param_groups"][0], "lr": 7.0}]}
    (tmp_path / "other").mkdir()
    torch.save(named, tmp_path / "other" / "optimizer.pt")
    assert open_checkpoint(tmp_path / "c.pt").optimizer.groups[0].settings["lr"] == 0.1
    for path in (tmp_path / "other", tmp_path / "other" / "optimizer.pt"):
        assert open_checkpoint(tmp_path / "c.pt", optimizer_state=path).optimizer.groups[0].settings["lr"] == 7.0


def test_what_holds_no_optimizer_is_refused(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors")
    (tmp_path / "empty").mkdir()
    for name, words in [("w.pt", "it holds 'w'"), ("w.safetensors", "it is safetensors"), ("empty", "no optimizer.pt")]:
        with pytest.raises(InputError, match=words):
            load_optimizer(tmp_path / name)
    with pytest.raises(InputError, match="does not exist"):
        load_optimizer(tmp_path / "nothing.pt")
