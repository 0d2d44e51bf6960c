"""Train the sample networks and write their checkpoints: `python sample_checkpoints/make.py [NAME…] [--output DIR]`.

On one machine with one version of torch two runs write the same bytes. What is trained, on what and how stands in
recipes.py, splits.py and models.py.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from recipes import RECIPES, Recipe
from safetensors.torch import save_file
from splits import Rows
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer


def rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step, counted from 1."""
    epoch = (step - 1) // steps_per_epoch(recipe)
    return recipe.learning_rate * recipe.decay**epoch * min(1.0, step / max(recipe.warm_up, 1))


def steps_per_epoch(recipe: Recipe) -> int:
    """Return the number of complete batches in an epoch."""
    return len(recipe.split().train[1]) // recipe.batch_size


def train(recipe: Recipe, model: nn.Module, optimizer: Optimizer) -> Iterator[int]:
    """Train the model in place, yielding the number of steps taken: 0 before the first, then after each."""
    x, y = recipe.split().train
    shuffle = torch.Generator().manual_seed(recipe.seed)
    step = 0
    set_rate(optimizer, rate(recipe, 1))
    yield step
    for _ in range(recipe.epochs):
        order = torch.randperm(len(y), generator=shuffle)
        for rows in order.split(recipe.batch_size)[: steps_per_epoch(recipe)]:
            step += 1
            set_rate(optimizer, rate(recipe, step))
            optimizer.zero_grad()
            mean_loss(model.train(), (x[rows], y[rows])).backward()
            optimizer.step()
            yield step


def set_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every group the rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


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
    optimizer = recipe.optimizer(model)
    for step in train(recipe, model, optimizer):
        if step in recipe.checkpoints:
            recipe.save(model, optimizer, step, folder)
    x, y = recipe.batch(recipe.split())
    save_file({"x": x.clone(), "y": y.clone()}, folder / "batch.safetensors")  # the two may share memory
    (folder / "fromage.toml").write_text(declaration(recipe, type(optimizer).__name__), encoding="utf-8")
    return table_row(name, recipe, type(optimizer).__name__, model)


def declaration(recipe: Recipe, optimizer: str) -> str:
    """Return the text of fromage.toml: data that a checkpoint does not hold, the rate being the last epoch's."""
    values = dict(recipe.declared) | {
        "loss": "cross-entropy",
        "batch": "batch.safetensors",
        "optimizer": optimizer.lower(),
        "learning_rate": rate(recipe, recipe.epochs * steps_per_epoch(recipe)),
        "steps_per_epoch": steps_per_epoch(recipe),
    }
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())  # all JSON here is TOML


def table_row(name: str, recipe: Recipe, optimizer: str, model: nn.Module) -> str:
    """Return a row of the table in README.md; loss and accuracy are given for the training and the held-out rows."""
    train, held_out = evaluate(model, recipe.split().train), evaluate(model, recipe.split().held_out)
    loss, accuracy = (f"{first:.3f} / {second:.3f}" for first, second in zip(train, held_out, strict=True))
    steps = ", ".join(str(step) for step in recipe.checkpoints)
    settings = (f"{optimizer}, {schedule(recipe)}", recipe.batch_size, recipe.epochs, steps)
    cells = (f"`{name}`", recipe.what, *settings, loss, accuracy)
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def schedule(recipe: Recipe) -> str:
    """Return the learning rate's course in a few words."""
    course = f"{recipe.learning_rate:g}" + (f"·{recipe.decay:g}^epoch" if recipe.decay != 1 else "")
    return course + (f" after {recipe.warm_up} steps of linear warm-up" if recipe.warm_up else "")


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
