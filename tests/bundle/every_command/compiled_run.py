"""A plain loop with a compiled network: convolutions, BatchNorm, dropout, a tensor that plays no part."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import bundle


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1))
        self.head = nn.Linear(4, 3)
        self.unused = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.features(x).mean((2, 3)))
        return output


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


def rows(seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(24, 1, 6, 6, generator=generator), "y": torch.randint(3, (24,), generator=generator)}


def loss(model: nn.Module, batch: dict[str, Tensor], smoothing: float = 0.1) -> Tensor:
    return functional.cross_entropy(model(batch["x"]), batch["y"], label_smoothing=smoothing)


def train(place: Path) -> None:
    """Train for six steps; every third one writes a bundle, and an ordinary checkpoint."""
    model: Any = network()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for step in range(1, 7):
        optimizer.zero_grad()
        loss(compiled, rows()).backward()
        optimizer.step()
        if step % 3 == 0:
            bundle.save(place / "bundles" / f"step-{step}", compiled, rows(), loss, optimizer, step, strict=True)
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, place / "files" / f"step-{step}.pt")
