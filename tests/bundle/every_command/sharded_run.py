"""A run under FSDP2 on two ranks: blocks between an embedding and a head of their own weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import bundle
from tests.forked_ranks import run_ranks


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.2)) for _ in range(2)
        )
        self.head = nn.Linear(8, 13, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.embedding(x)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        output: Tensor = self.head(hidden)
        return output


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


def rows(seed: int = 0) -> dict[str, Tensor]:
    drawn = torch.randint(13, (8, 5), generator=torch.Generator().manual_seed(seed))
    return {"x": drawn, "y": drawn.roll(-1, 1)}


def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    output = model(batch["x"]).flatten(0, 1)
    return functional.cross_entropy(output, batch["y"].flatten(), reduction="sum"), (batch["y"] >= 0).sum()


def train(place: Path) -> None:
    """Train for six steps on two ranks; every third one writes a bundle, and an ordinary checkpoint of the whole."""
    run_ranks(2, _train, place)


def _train(place: Path) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict
    from torch.distributed.fsdp import fully_shard

    model: Any = network()
    for block in model.blocks:
        fully_shard(block)
    fully_shard(model)
    with torch.device("meta"):
        plain = Network()
    optimizer, rank = torch.optim.AdamW(model.parameters(), lr=1e-2), torch.distributed.get_rank()
    for step in range(1, 7):
        optimizer.zero_grad()
        total, count = loss(model, rows(rank))
        (total / count).backward()
        optimizer.step()
        if step % 3 == 0:
            to = place / "bundles" / f"step-{step}"
            bundle.save(to, model, rows(rank), loss, optimizer, step, module=plain, strict=True)
            whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
            weights, state = get_state_dict(model, optimizer, options=whole)
            if rank == 0:
                weights["head.weight"] = weights["embedding.weight"]  # one tensor, as a network alone would have saved
                torch.save({"model": weights, "optimizer": state, "step": step}, place / "files" / f"step-{step}.pt")
