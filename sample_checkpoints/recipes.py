"""How each sample is trained; a further sample is one more entry of RECIPES, with its factory in models.py."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import models
import torch
from safetensors.torch import save_file
from splits import Rows, Split, characters, digit_images, digits
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from fromage_cli.optim import LARS, Fromage

WEIGHT_DECAY, BETAS = 0.1, (0.9, 0.95)
MOMENTUM, SGD_DECAY = 0.9, 5e-4


def fromage(model: nn.Module) -> Fromage:
    return Fromage(model.parameters())


def lars(model: nn.Module) -> LARS:
    return LARS(model.parameters())


def sgd(model: nn.Module) -> SGD:
    """Return SGD with momentum whose weight decay settles norms within about a thousand steps, gains and biases too."""
    return SGD(model.parameters(), momentum=MOMENTUM, weight_decay=SGD_DECAY)


def adam_w(model: nn.Module) -> AdamW:
    """Return AdamW with two groups: matrices, which decay, and vectors, which do not."""
    parameters = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, betas=BETAS, weight_decay=WEIGHT_DECAY)


def save_weights(model: nn.Module, optimizer: Optimizer, step: int, folder: Path) -> None:
    """Write the state dictionary as safetensors, the step in its metadata."""
    save_file(model.state_dict(), folder / f"step-{step:06d}.safetensors", metadata={"step": str(step)})


def save_training_state(model: nn.Module, optimizer: Optimizer, step: int, folder: Path) -> None:
    """Write what training needs to go on, with torch.save: a dictionary of "model", "optimizer" and "step"."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, folder / f"step-{step:06d}.pt")


def training_rows(split: Split) -> Rows:
    """Return the first 512 rows trained on."""
    x, y = split.train
    return x[:512], y[:512]


def held_out_rows(split: Split) -> Rows:
    """Return the first 64 rows held out."""
    x, y = split.held_out
    return x[:64], y[:64]


@dataclass(frozen=True)
class Recipe:
    """How one sample is trained: the rate in epoch e (from 0) is learning_rate · decay^e, approached linearly from 0
    in the first `warm_up` steps.
    """

    what: str  # one phrase for the table in README.md
    model: Callable[[], nn.Module]
    epochs: int
    checkpoints: tuple[int, ...]  # steps; 0 is the initialisation
    declared: Mapping[str, object]  # what fromage.toml says of the network
    learning_rate: float = 0.01
    decay: float = 0.9
    warm_up: int = 0
    batch_size: int = 64  # an epoch's incomplete last batch is dropped
    optimizer: Callable[[nn.Module], Optimizer] = fromage  # its rate is set before every step
    split: Callable[[], Split] = digits
    batch: Callable[[Split], Rows] = training_rows  # what batch.safetensors holds
    save: Callable[[nn.Module, Optimizer, int, Path], None] = save_weights
    seed: int = 0


_convnet = partial(
    Recipe,
    what="3 convolutions of 6 channels, BatchNorm and ReLU behind each, mean over positions, output",
    model=models.convnet,
    epochs=135,
    checkpoints=tuple(range(0, 2971, 330)),
    declared={},
    learning_rate=0.02,
    decay=1.0,
    split=digit_images,
)

RECIPES = {
    "mlp-2": Recipe(
        what="MLP, 1 hidden layer of 64 + output",
        model=partial(models.mlp, depth=2),
        epochs=20,
        checkpoints=(0, 22, 110, 220, 440),
        declared={"activation": "relu", "residual": False},
    ),
    "mlp-16": Recipe(
        what="MLP, 15 hidden layers of 64 + output",
        model=partial(models.mlp, depth=16),
        learning_rate=0.03,
        decay=0.975,
        epochs=80,
        checkpoints=(0, 440, 1760),
        declared={"activation": "relu", "residual": False},
    ),
    "resmlp-16": Recipe(
        what="MLP, 15 residual hidden layers of 64, x + relu(Wx + b), + output",
        model=partial(models.mlp, depth=16, residual=True),
        epochs=20,
        checkpoints=(0, 22, 440),
        declared={"activation": "relu", "residual": True},
    ),
    "convnet-lars": _convnet(optimizer=lars),
    "convnet-fromage": _convnet(optimizer=fromage),
    "convnet-sgd": replace(
        _convnet(optimizer=sgd),
        checkpoints=(0, 330, 990, 1650, 2310, 2970),
        declared={"train_batch_size": 64},
        learning_rate=0.05,
        save=save_training_state,
    ),
    "char-gpt": Recipe(
        what="decoder, 2 blocks of width 64, 4 heads, LayerNorm before each branch, tied embedding",
        model=models.char_gpt,
        epochs=20,
        checkpoints=(100, 400, 860),
        declared={"weight_decay": WEIGHT_DECAY, "betas": BETAS},
        learning_rate=0.003,
        decay=1.0,
        warm_up=100,
        batch_size=32,
        optimizer=adam_w,
        split=characters,
        batch=held_out_rows,
        save=save_training_state,
    ),
}
