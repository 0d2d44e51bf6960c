"""A run of Lightning: a perceptron with BatchNorm and dropout under AdamW."""

from pathlib import Path
from typing import Any

import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from fromage_cli.callbacks.lightning import BundleCallback


class Network(pytorch_lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layers(x)
        return output

    def training_step(self, batch: Any, number: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network()


def rows(seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(24, 4, generator=generator), torch.randint(3, (24,), generator=generator)


loss = "cross-entropy"


def train(place: Path) -> None:
    """Train for six steps; every third one writes a bundle, and Lightning's own checkpoint."""

    class Keeping(pytorch_lightning.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step % 3 == 0:
                trainer.save_checkpoint(place / "files" / f"step-{trainer.global_step}.ckpt")

    trainer = pytorch_lightning.Trainer(
        max_steps=6,
        callbacks=[BundleCallback(place / "bundles", 3, loss), Keeping()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        devices=1,
    )
    trainer.fit(network(), DataLoader(TensorDataset(*rows()), batch_size=24))
