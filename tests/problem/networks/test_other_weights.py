import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError
from fromage_cli.problem.networks.other_weights import other_weights


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.norm = nn.BatchNorm1d(5)


def test_the_weights_are_exchanged_and_put_back_bit_for_bit(tmp_path):
    model, second = Tied(), Tied()
    save_file(
        {"embedding.weight": second.embedding.weight.data, **second.norm.state_dict(prefix="norm.")},
        tmp_path / "b.safetensors",
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with other_weights(model, open_checkpoint(tmp_path / "b.safetensors")) as (own, _):
        assert torch.equal(model.head.weight, second.embedding.weight)
        assert torch.equal(own["embedding.weight"], before["embedding.weight"]) and "head.weight" not in own
        model.norm.running_mean.add_(1.0)
        model.embedding.weight.data.copy_(own.pop("embedding.weight"))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_weights_that_do_not_fit_leave_the_model_as_it_is(tmp_path):
    model = Tied()
    before = model.head.weight.detach().clone()
    save_file({"w": torch.ones(2)}, tmp_path / "c.safetensors")
    with pytest.raises(MismatchError), other_weights(model, open_checkpoint(tmp_path / "c.safetensors")):
        pass
    assert torch.equal(model.head.weight, before)
