"""A network that no rank holds whole."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fromage_cli import ranks
from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.errors import MismatchError, NotFiniteError
from fromage_cli.problem.networks.sharding import share_weights, spread, without_memory
from fromage_cli.problem.networks.weights import load_weights
from fromage_cli.shards import is_sharded, own_part, own_rows, whole
from tests.forked_ranks import run_ranks


class Tied(nn.Module):
    """A head that is the table, a parameter of random numbers, and a buffer that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(6, 4), nn.Linear(4, 6)
        self.head.weight = self.table.weight
        shared = nn.Parameter(torch.randn(3))
        self.first, self.second = nn.Parameter(torch.randn(2, 2)), shared
        self.third = shared
        self.register_buffer("positions", torch.arange(5.0), persistent=False)


def test_parameters_take_no_memory_and_keep_their_ties_while_buffers_keep_their_values() -> None:
    with without_memory():
        model = Tied()
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.head.weight is model.table.weight
    assert model.second is model.third
    assert isinstance(model.positions, Tensor)
    assert model.positions.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert not Tied().first.is_meta, "afterwards networks are built as ever"


def test_each_rank_keeps_its_rows() -> None:
    def check() -> bool:
        torch.manual_seed(0)
        model = Tied()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        spread(model, torch.device("cpu"))
        assert model.head.weight is model.table.weight
        for name, parameter in model.named_parameters():
            assert is_sharded(parameter)
            rows = slice(*own_rows(len(parameter), ranks.current().count, ranks.current().index))
            assert torch.equal(own_part(parameter.detach()), before[name][rows])
            assert torch.equal(whole(parameter.detach()), before[name])
        return True

    assert all(run_ranks(4, check))


def test_what_has_no_memory_gets_room_for_its_rows() -> None:
    def size() -> int:
        with without_memory():
            model = nn.Linear(8, 6)
        spread(model, torch.device("cpu"))
        return sum(own_part(parameter.detach()).untyped_storage().nbytes() for parameter in model.parameters())

    assert run_ranks(2, size) == [4 * (3 * 8 + 3)] * 2


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_modules_hold_their_weights_twice_and_are_refused(kind: type[nn.RNNBase]) -> None:
    with pytest.raises(MismatchError, match=r"--shard does not support .*rnn \((LSTM|GRU)\)"):
        spread(nn.ModuleDict({"rnn": kind(3, 3)}), torch.device("cpu"))


def test_from_then_on_ranks_know_that_they_hold_parts() -> None:
    def check() -> tuple[bool, float]:
        model = nn.Linear(3, 2)
        spread(model, torch.device("cpu"))
        before = ranks.current().sharded
        share_weights(model)
        expected = float(whole(model.parametrizations.weight.original.detach()).sum())
        return not before and ranks.current().sharded, float(model.weight.sum()) - expected

    assert run_ranks(2, check) == [(True, pytest.approx(0.0, abs=1e-6))] * 2


def test_entries_that_are_not_finite_are_counted_over_all_ranks(tmp_path: Path) -> None:
    weight, bias = torch.ones(7, 3), torch.ones(7)
    weight[0, 1] = weight[3, 2] = bias[6] = torch.nan
    weight[6, 0] = torch.inf
    save_file({"weight": weight, "bias": bias}, tmp_path / "broken.safetensors")

    def told() -> str:
        model = nn.Linear(3, 7)
        spread(model, torch.device("cpu"))
        with pytest.raises(NotFiniteError) as caught:
            load_weights(model, open_checkpoint(tmp_path / "broken.safetensors"))
        return caught.value.message

    messages = run_ranks(3, told)
    assert messages == [messages[0]] * 3
    assert "in 2 tensors" in messages[0] and "weight: 3 of 21" in messages[0] and "bias: 1 of 7" in messages[0]
