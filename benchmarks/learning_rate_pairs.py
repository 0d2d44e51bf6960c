"""What the learning-rate study trains: networks with rows, an optimizer and a schedule; each has one best rate."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import learning_rate_networks as small
import learning_rate_ordinary as ordinary
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.optim import Fromage
from fromage_cli.theory.schedules import Schedule

Rows = tuple[Tensor, Tensor]
STEPS, LONG = 200, 1000
WARM_UP = 0.1
"""Of the steps, under cosine."""
HELD_OUT = {"text": 64, "cifar": 256, "noisy": 128}
NOISE = 0.7
"""Standard deviation of what is added to the images that a U-Net cleans."""
OPTIMIZERS = {
    "adamw": partial(torch.optim.AdamW, weight_decay=0.01),
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "momentum": partial(torch.optim.SGD, momentum=0.9),
    "fromage": Fromage,
}
PARTS = ("small", "calibration", "held-out", "trained", "trained held-out")


@dataclass(frozen=True)
class Pair:
    """A network with its rows, trained by one optimizer along one schedule."""

    name: str
    build: Callable[[], nn.Module]
    data: str
    optimizer: str
    schedule: str
    """`constant`, or `cosine` with its warm-up."""
    guess: float
    """The middle of the rates that the search begins with; no estimate sees it."""
    part: str
    """One of PARTS: constants were chosen on the first two."""
    kind: str = ""
    batch_size: int = 16
    steps: int = STEPS
    task: small.Task | None = None
    """Of the small networks."""
    made: int = 0
    """Steps of the run that were made before, at the guess: what follows begins at this checkpoint."""

    @property
    def key(self) -> str:
        """What tells this pair from the others."""
        return f"{self.name} {self.optimizer} {self.schedule} {self.steps}" + f" from {self.made}" * (self.made > 0)

    @property
    def rates(self) -> Schedule:
        """The rate along the run as shares of its peak."""
        warmup = round(WARM_UP * self.steps) if self.schedule == "cosine" else 0
        return Schedule(self.schedule, warmup, self.steps)

    def model(self, seed: int) -> nn.Module:
        """The network at its initialisation."""
        torch.manual_seed(seed)
        return self.build()

    def begin(self, seed: int, folder: Path) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The network of a seed with its optimizer; with steps made before, that of their checkpoint for every seed."""
        model = self.model(0 if self.made else seed)
        optimizer = self.make_optimizer(list(model.parameters()), self.guess)
        if self.made:
            weights, state = checkpoint(self, folder)
            model.load_state_dict(weights)
            optimizer.load_state_dict(deepcopy(state))
        return model, optimizer

    def make_optimizer(self, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
        """As torch users build it; AdamW with torch's own decay of .01."""
        return OPTIMIZERS[self.optimizer](parameters, lr=rate)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean of the rows: cross-entropy of what the outputs cover, or squared error."""
        if self.task is not None:
            return self.task.loss(outputs, targets)
        if targets.is_floating_point():
            return functional.mse_loss(outputs, targets)
        if outputs.ndim == 3:  # a network that reads the first half of a row has outputs for the second
            targets = targets[:, -outputs.shape[1] :]
        return functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def batches(self, folder: Path, seed: int) -> "Batches":
        """Training batches without end."""
        if self.task is not None:
            return Batches(self.task.rows(folder)[0], self.task.batch_size, seed)
        return Batches(load(self.data, folder)[0], self.batch_size, seed)

    def held_out(self, folder: Path) -> Rows:
        """Rows that no step sees."""
        if self.task is not None:
            return self.task.rows(folder)[1]
        return load(self.data, folder)[1]


@lru_cache(maxsize=1)
def checkpoint(pair: Pair, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The states of network and optimizer after the steps that were made before."""
    model = pair.model(0)
    optimizer = pair.make_optimizer(list(model.parameters()), pair.guess)
    stream = pair.batches(folder, 1)
    for step in range(pair.made):
        follow(pair, model, optimizer, pair.guess * pair.rates.rate_factor(step), next(stream))
    return deepcopy(model.state_dict()), deepcopy(optimizer.state_dict())


def follow(pair: Pair, model: nn.Module, optimizer: torch.optim.Optimizer, rate: float, rows: Rows) -> float:
    """One training step, if the loss before it is finite; that loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    x, y = rows
    loss = pair.loss(model(x), y)
    if loss.isfinite():
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


class Batches:
    """Minibatches of rows drawn at random; of a text, pieces that begin anywhere."""

    def __init__(self, rows: Rows, size: int, seed: int) -> None:
        self.rows, self.size = rows, size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> Rows:
        x, y = self.rows
        if x.ndim == 1:
            return pieces(x, torch.randint(len(x) - ordinary.LENGTH - 1, (self.size,), generator=self.generator))
        chosen = torch.randperm(len(x), generator=self.generator)[: self.size]
        return x[chosen], y[chosen]


def pieces(coded: Tensor, starts: Tensor) -> Rows:
    """Pieces of a text, and the same one character on."""
    places = starts[:, None] + torch.arange(ordinary.LENGTH + 1)
    found = coded[places]
    return found[:, :-1], found[:, 1:]


@cache
def load(data: str, folder: Path) -> tuple[Rows, Rows]:
    """Rows to train on and rows held out. A text to train on is one line of characters, cut where a batch needs it."""
    if data == "text":
        text = (folder / "tinyshakespeare.txt").read_text(encoding="utf-8")
        code = {character: place for place, character in enumerate(sorted(set(text)))}
        coded = torch.tensor([code[character] for character in text])
        train, rest = coded[: 9 * len(coded) // 10], coded[9 * len(coded) // 10 :]
        starts = torch.linspace(0, len(rest) - ordinary.LENGTH - 2, HELD_OUT[data]).long()
        return (train, train), pieces(rest, starts)
    with np.load(folder / "cifar10_jpeg.npz") as file:
        parts = [(_pooled(file[f"x_{part}"]), torch.tensor(file[f"y_{part}"]).long()) for part in ("train", "test")]
    mean, deviation = parts[0][0].mean(), parts[0][0].std()
    (x, y), (x_held_out, y_held_out) = (((x - mean) / deviation, y) for x, y in parts)
    x_held_out, y_held_out = x_held_out[: HELD_OUT[data]], y_held_out[: HELD_OUT[data]]
    if data == "cifar":
        return (x, y), (x_held_out, y_held_out)
    generator = torch.Generator().manual_seed(1)
    noisy, noisy_held_out = (clean + NOISE * torch.randn(clean.shape, generator=generator) for clean in (x, x_held_out))
    return (noisy, x), (noisy_held_out, x_held_out)


def _pooled(pixels: np.ndarray) -> Tensor:
    """Images of 16 × 16, channels first."""
    return functional.avg_pool2d(torch.tensor(pixels).float().permute(0, 3, 1, 2), 2)


def _text(name: str, build: Callable[[], nn.Module], *settings: object, kind: str = "language") -> Pair:
    return Pair(name, build, "text", *settings, kind=kind)


def _images(
    name: str, build: Callable[[], nn.Module], *settings: object, data: str = "cifar", kind: str = "images"
) -> Pair:
    return Pair(name, build, data, *settings, kind=kind, batch_size=32)


def held_out_pairs() -> list[Pair]:
    """Eight language models and six convolutional networks that no choice has seen; 3M is said in the name."""
    lm, part = ordinary.language_model, "held-out"
    return [
        _text("gpt-64", partial(lm, 64, 4), "adamw", "constant", 4e-3, part),
        _text("gpt-128-.02", partial(lm, 128, 3, deviation=0.02, tied=True), "adamw", "cosine", 3e-3, part),
        _text("llama-96-.02", partial(lm, 96, 3, "llama", deviation=0.02), "adamw", "constant", 2e-3, part),
        _text("llama-160", partial(lm, 160, 2, "llama", deviation=160**-0.5), "adamw", "cosine", 4e-3, part),
        _text("post-norm-96", partial(lm, 96, 3, "post"), "adam", "cosine", 2e-3, part),
        _text("lstm-160", partial(ordinary.Recurrent, 160), "adam", "constant", 6e-3, part),
        _text("translator-96", partial(ordinary.Translator, 96, 2), "adamw", "cosine", 4e-3, part),
        _text("gpt-384-.02-3M", partial(lm, 384, 2, deviation=0.02, heads=6), "adamw", "constant", 1e-3, part),
        _images("resnet", partial(ordinary.resnet, 26, 52, 104), "momentum", "cosine", 0.1, part),
        _images(
            "plain-cnn",
            partial(ordinary.convolutions, [32, 64, 96, 128], "none", (1, 2, 1, 2)),
            "momentum",
            "constant",
            0.03,
            part,
        ),
        _images(
            "batchnorm-cnn",
            partial(ordinary.convolutions, [32, 64, 96, 144], "batch", (1, 2, 2, 1)),
            "adamw",
            "cosine",
            8e-3,
            part,
        ),
        _images("convnext-64", partial(ordinary.ConvNext, 64, 6), "adamw", "constant", 3e-3, part),
        _images("u-net", partial(ordinary.UNet, 24), "adam", "constant", 4e-3, part, data="noisy"),
        _images(
            "groupnorm-cnn-3M",
            partial(ordinary.convolutions, [64, 256, 320, 384, 384], "group", (2, 2, 2, 1, 1)),
            "sgd",
            "cosine",
            0.2,
            part,
        ),
    ]


def calibration_pairs() -> list[Pair]:
    """Smaller relatives, on which constants are chosen together with the small networks."""
    lm, part = ordinary.language_model, "calibration"
    return [
        _text("gpt-96-wide-start", partial(lm, 96, 2, deviation=96**-0.5), "adamw", "constant", 3e-3, part),
        _text("gpt-48-.02", partial(lm, 48, 3, deviation=0.02), "adamw", "cosine", 6e-3, part),
        _text("gpt-192-.02", partial(lm, 192, 1, deviation=0.02), "adam", "constant", 2e-3, part),
        _text("llama-64", partial(lm, 64, 2, "llama"), "adamw", "cosine", 8e-3, part),
        _text("lstm-64", partial(ordinary.Recurrent, 64), "adamw", "cosine", 1e-2, part),
        _text("gpt-64-momentum", partial(lm, 64, 2), "momentum", "constant", 0.1, part),
        _images("resnet-small", partial(ordinary.resnet, 12, 24), "adam", "constant", 4e-3, part),
        _images(
            "cnn-momentum",
            partial(ordinary.convolutions, [16, 32, 48], "batch", (1, 2, 2)),
            "momentum",
            "cosine",
            0.1,
            part,
        ),
        _images(
            "cnn-plain-adamw",
            partial(ordinary.convolutions, [16, 32, 48], "none", (1, 2, 2)),
            "adamw",
            "constant",
            3e-3,
            part,
        ),
        _images("vit-64", partial(ordinary.VisionTransformer, 64, 3), "adamw", "cosine", 4e-3, part),
    ]


SMALL_GUESSES = {"adamw": 5e-3, "momentum": 0.06, "sgd": 0.25, "fromage": 0.025}


def small_pairs(folder: Path) -> list[Pair]:
    """The calibration half of the small networks, under each optimizer with the schedules in turn."""
    tasks = [task for task in small.all_tasks(folder) if task.part == "calibration"]
    return [
        Pair(task.name, task.build, task.data, optimizer, schedule, guess, "small", kind="small", task=task)
        for turn, (optimizer, guess) in enumerate(SMALL_GUESSES.items())
        for place, task in enumerate(tasks)
        for schedule in [("constant", "cosine")[(place + turn) % 2]]
    ]


LONGER = ("gpt-64", "gpt-128-.02", "llama-96-.02", "resnet", "batchnorm-cnn", "lstm-64", "gpt-48-.02")
LONGER += ("cnn-momentum", "cnn-plain-adamw")
"""Pairs that are trained for LONG steps as well, besides the small ones."""


def all_pairs(folder: Path) -> list[Pair]:
    """Calibration first, then the longer runs, and those that begin at the middle of a run."""
    pairs = [*calibration_pairs(), *small_pairs(folder), *held_out_pairs()]
    longer = [replace(pair, steps=LONG) for pair in pairs if pair.name in LONGER or pair.part == "small"]
    trained = [
        replace(pair, part="trained held-out" if pair.part == "held-out" else "trained", made=STEPS // 2)
        for pair in pairs
    ]
    return pairs + longer + trained
