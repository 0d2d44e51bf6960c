import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.checkpoints.finding.optimizer_file import load_optimizer
from fromage_cli.errors import InputError


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
