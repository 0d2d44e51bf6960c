"""Saving under several ranks: shared weights are gathered one tensor at a time, and the run goes on as without."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import bundle
from fromage_cli.intake import open_problem
from fromage_cli.problem.data.batches import as_batch
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.reported_losses import FunctionLoss
from fromage_cli.terminal.options import BatchOptions, ModelOptions, RunOptions
from tests.forked_ranks import run_ranks


class Network(nn.Module):
    """Two blocks between an embedding and a head that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.2)) for _ in range(2))
        self.head = nn.Linear(8, 13, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embedding(x)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.head(hidden)


def loss(network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    return functional.cross_entropy(network(batch["x"]).flatten(0, 1), batch["y"].flatten())


def rows(rank: int) -> dict[str, Tensor]:
    drawn = torch.randint(13, (6, 5), generator=torch.Generator().manual_seed(rank))
    return {"x": drawn, "y": drawn.roll(-1, 1)}


def sharded(network: Network) -> tuple[nn.Module, dict[str, Any]]:
    from torch.distributed.fsdp import fully_shard

    for block in network.blocks:
        fully_shard(block)
    fully_shard(network)
    with torch.device("meta"):
        return network, {"module": Network()}


def replicated(network: Network) -> tuple[nn.Module, dict[str, Any]]:
    return nn.parallel.DistributedDataParallel(network), {}


def trained(wrap: Callable[[Network], tuple[nn.Module, dict[str, Any]]], place: Path | None) -> dict[str, Any]:
    """Losses and last weights of a short run, which saves twice where there is a place."""
    torch.manual_seed(0)
    model, named = wrap(Network())
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    own = rows(torch.distributed.get_rank())
    for step in range(4):
        optimizer.zero_grad()
        value = loss(model, own)
        value.backward()
        optimizer.step()
        losses.append(float(value.detach()))
        if place is not None and step % 2:
            bundle.save(place, model, own, loss, optimizer, step + 1, strict=True, **named)
    weights = {
        name.removeprefix("module."): getattr(value, "full_tensor", lambda value=value: value)().tolist()
        for name, value in model.state_dict().items()
    }
    return {"losses": losses, "weights": weights}


@pytest.mark.parametrize("wrap", [sharded, replicated])
def test_a_bundle_of_two_ranks_is_that_of_the_first(
    wrap: Callable[[Network], tuple[nn.Module, dict[str, Any]]], tmp_path: Path
) -> None:
    saved = run_ranks(2, trained, wrap, tmp_path / "b")
    assert saved == run_ranks(2, trained, wrap, None), "the run is what it is without"
    network = Network()
    network.load_state_dict({name: torch.tensor(value) for name, value in saved[0]["weights"].items()})
    alone = Problem(network, FunctionLoss("loss", loss), as_batch(rows(0), "rows"), mode="train")
    intake = open_problem(str(tmp_path / "b"), ModelOptions(), BatchOptions(mode="train"), RunOptions())
    assert intake.problem.base.loss == alone.base.loss
    assert intake.problem.base.gradients.keys() == alone.base.gradients.keys()
    for name, gradient in intake.problem.base.gradients.items():
        assert torch.equal(gradient, alone.base.gradients[name]), name
    state = intake.checkpoint.optimizer if intake.checkpoint is not None else None
    assert state is not None and (state.kind, state.steps) == ("adamw", 4)


def failed(place: Path) -> list[str]:
    """What a run says whose first rank cannot write, and goes on."""
    torch.manual_seed(0)
    model, named = sharded(Network())
    optimizer, own = torch.optim.AdamW(model.parameters(), lr=1e-2), rows(torch.distributed.get_rank())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            loss(model, own).backward()
            optimizer.step()
            bundle.save(place, model, own, loss, optimizer, **named)
    return [str(one.message) for one in told if "was not saved" in str(one.message)]


def test_a_rank_that_cannot_write_keeps_no_other_waiting(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("years of work", encoding="utf-8")
    first, second = run_ranks(2, failed, tmp_path / "b", limit=60.0)
    assert len(first) == 2 and all("is no bundle, so nothing was written" in words for words in first)
    assert second == []


def unprepared(place: Path) -> list[str]:
    """What is said where the batch of the first rank cannot be saved."""
    torch.manual_seed(0)
    model, named = sharded(Network())
    rank = torch.distributed.get_rank()
    batch: Any = {**rows(rank), "what": object()} if rank == 0 else rows(rank)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        bundle.save(place, model, batch, loss, **named)
    return [str(one.message) for one in told if "was not saved" in str(one.message)]


def test_a_rank_whose_batch_cannot_be_saved_keeps_no_other_waiting(tmp_path: Path) -> None:
    (first,), (second,) = run_ranks(2, unprepared, tmp_path / "b", limit=60.0)
    assert "The batch holds a object" in first
    assert "Rank 0 could not prepare its part of the bundle. Its own message says why." in second
    assert not (tmp_path / "b").exists()
