"""Train the sample networks and write their checkpoints: `python sample_checkpoints/make.py [NAME…] [--output DIR]`.

On one machine with one version of torch two runs write the same bytes. A further sample is one more entry of RECIPES,
with its factory in models.py; its data may be another `Split`.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import models
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from fromage_cli.optim import LARS, Fromage

Rows = tuple[torch.Tensor, torch.Tensor]  # inputs and integer targets, first dimension shared
BATCH_ROWS = 512


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out, in a fixed random order, normalised alike."""

    train: Rows
    held_out: Rows


@cache
def digits() -> Split:
    """Return scikit-learn's digits, a fifth held out, normalised by the training rows' mean and standard deviation."""
    images, targets = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32), torch.tensor(targets, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    held_out, train = order.split([len(y) // 5, len(y) - len(y) // 5])
    x = (x - x[train].mean()) / x[train].std()
    return Split((x[train], y[train]), (x[held_out], y[held_out]))


@dataclass(frozen=True)
class Recipe:
    """How one sample is trained: the rate in epoch e (from 0) is learning_rate · decay^e."""

    what: str  # one phrase for the table in README.md
    model: Callable[[], nn.Module]
    epochs: int
    checkpoints: tuple[int, ...]  # steps; 0 is the initialisation
    declared: Mapping[str, object]  # what fromage.toml says of the network
    learning_rate: float = 0.01
    decay: float = 0.9
    batch_size: int = 64  # an epoch's incomplete last batch is dropped
    optimizer: type[Fromage] | type[LARS] = Fromage
    split: Callable[[], Split] = digits
    seed: int = 0


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
}


def rate(recipe: Recipe, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0."""
    return recipe.learning_rate * recipe.decay**epoch


def steps_per_epoch(recipe: Recipe) -> int:
    """Return the number of complete batches in an epoch."""
    return len(recipe.split().train[1]) // recipe.batch_size


def train(recipe: Recipe, model: nn.Module) -> Iterator[int]:
    """Train the model in place, yielding the number of steps taken: 0 before the first, then after each."""
    x, y = recipe.split().train
    optimizer = recipe.optimizer(model.parameters(), lr=recipe.learning_rate)
    shuffle = torch.Generator().manual_seed(recipe.seed)
    step = 0
    yield step
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = rate(recipe, epoch)
        order = torch.randperm(len(y), generator=shuffle)
        for rows in order.split(recipe.batch_size)[: steps_per_epoch(recipe)]:
            optimizer.zero_grad()
            mean_loss(model.train(), (x[rows], y[rows])).backward()
            optimizer.step()
            step += 1
            yield step


def mean_loss(model: nn.Module, rows: Rows) -> torch.Tensor:
    """Return the cross-entropy per target, in nats, with its graph."""
    x, y = rows
    return cross_entropy(model(x).flatten(0, -2), y.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, rows: Rows) -> tuple[float, float]:
    """Return loss and accuracy in eval mode."""
    x, y = rows
    model.eval()
    return mean_loss(model, rows).item(), (model(x).argmax(-1) == y).float().mean().item()


def make(name: str, recipe: Recipe, output: Path) -> str:
    """Write one sample's directory and return its row of the table in README.md."""
    folder = output / name
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    model = recipe.model()
    for step in train(recipe, model):
        if step in recipe.checkpoints:
            save_file(model.state_dict(), folder / f"step-{step:06d}.safetensors", metadata={"step": str(step)})
    x, y = recipe.split().train
    save_file({"x": x[:BATCH_ROWS].contiguous(), "y": y[:BATCH_ROWS].contiguous()}, folder / "batch.safetensors")
    (folder / "fromage.toml").write_text(declaration(recipe), encoding="utf-8")
    return table_row(name, recipe, evaluate(model, recipe.split().train), evaluate(model, recipe.split().held_out))


def declaration(recipe: Recipe) -> str:
    """Return the text of fromage.toml: data that a checkpoint does not hold, the rate being the last epoch's."""
    values = dict(recipe.declared) | {
        "loss": "cross-entropy",
        "batch": "batch.safetensors",
        "learning_rate": rate(recipe, recipe.epochs - 1),
        "steps_per_epoch": steps_per_epoch(recipe),
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())  # scalars: JSON is TOML


def table_row(name: str, recipe: Recipe, train: tuple[float, float], held_out: tuple[float, float]) -> str:
    """Return a row of the table in README.md; loss and accuracy are given for the training and the held-out rows."""
    optimizer = f"{recipe.optimizer.__name__}, {recipe.learning_rate:g}·{recipe.decay:g}^epoch"
    steps = ", ".join(str(step) for step in recipe.checkpoints)
    loss, accuracy = (f"{first:.3f} / {second:.3f}" for first, second in zip(train, held_out, strict=True))
    cells = (f"`{name}`", recipe.what, optimizer, recipe.batch_size, recipe.epochs, steps, loss, accuracy)
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the samples that are named, or all of them."""
    parser = argparse.ArgumentParser(description="Train the sample networks and write their checkpoints.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"samples to make (all): {', '.join(RECIPES)}")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="DIR", help="parent directory")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in RECIPES]
    if unknown:
        parser.error(f"no sample named {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for name in options.names or RECIPES:
        print(make(name, RECIPES[name], options.output), flush=True)


if __name__ == "__main__":
    main()
