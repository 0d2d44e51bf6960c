"""Training of the run studies: one run from its recipe to its checkpoints, with the batch and settings beside them."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import run_study_networks as networks
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer

from fromage_cli.optim import LARS, Lion

Rows = tuple[Tensor, Tensor]
Schedule = Callable[[float], float]
"""The rate at a place of the run, 0 to 1, as a share of the recipe's."""
DIAGNOSTIC_ROWS = {"text": 32, "mnist": 256, "cifar": 128}
"""Rows of the batch that the tool gets: the first that were trained on."""
LENGTH = 32
"""Characters of a row of text."""


@dataclass(frozen=True)
class Recipe:
    """One run, and what is wrong with it where anything is."""

    name: str
    network: str
    """A factory of run_study_networks.py."""
    data: str
    """`text`, `mnist` or `cifar`."""
    optimizer: str
    rate: float
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the factory."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the optimizer."""
    schedule: str = "constant"
    steps: int = 400
    batch_size: int = 32
    odd: str = ""
    """What looks odd in a healthy run and is not."""
    kind: str = ""
    """What is wrong in a sick run; empty for a healthy one."""
    twin: str = ""
    """The healthy run with the same network, whose final loss is compared."""
    sick_from: float = 0.0
    """The place of the run from which on it is sick; earlier checkpoints count neither as sick nor as healthy."""
    sick_until: float = 1.0
    """And the place after which it has recovered."""
    change: str = ""
    """What is done to the network's weights before the first step: a name of CHANGES."""
    base: str = ""
    """The run from whose last weights this one starts."""
    turned: bool = False
    """Whether images are turned by 90° and their colours inverted: another task for a network that knows them."""
    random_labels: bool = False
    forget: bool = False
    """Whether the optimizer loses its moments half-way."""
    seed: int = 0
    checkpoints: int = 5
    """How many, evenly from the first weights to the last."""
    left_out: tuple[str, ...] = ()
    """Beginnings of the names of trained parameters that the optimizer does not get."""
    precision: str = "float32"
    """Of the weights and the optimizer's state; there are no master copies."""
    weighting: str = "constant"
    """By how much the loss is multiplied in the course of the run: a name of SCHEDULES."""

    @property
    def half(self) -> str:
        """`choosing` or `testing`: the halves take turns in the order of the list."""
        from run_study_recipes import RECIPES

        alike = [recipe.name for recipe in RECIPES if bool(recipe.kind) == bool(self.kind)]
        return ("choosing", "testing")[alike.index(self.name) % 2]


def _warm(share: float) -> Schedule:
    return lambda place: min(1.0, (place + 1e-3) / share)


def _cosine(place: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * min(place, 1.0)))


SCHEDULES: dict[str, Schedule] = {
    "constant": lambda place: 1.0,
    "warm-up 8 %": _warm(0.08),
    "warm-up 25 %": _warm(0.25),
    "warm-up 50 %": _warm(0.5),
    "warm-up 100 %": _warm(1.0),
    "warm-up 200 %": _warm(2.0),
    "cosine": _cosine,
    "cosine twice": lambda place: _cosine(2.0 * place - (place >= 0.5)),
    "warm-up 8 %, cosine": lambda place: _warm(0.08)(place) * _cosine(place),
    "jump × 30 at 40 %": lambda place: 30.0 if place >= 0.4 else 1.0,
    "jump × 10 at 40 %": lambda place: 10.0 if place >= 0.4 else 1.0,
    "growth by 10⁵ from 30 %": lambda place: 10.0 ** (5.0 * max(0.0, place - 0.3) / 0.7),
}


@cache
def rows(data: str, folder: Path) -> tuple[Rows, Rows]:
    """Return training and held-out rows: images of 14 × 14 or 16 × 16 pixels, or rows of 32 characters."""
    if data == "text":
        text = (folder / "tinyshakespeare.txt").read_text(encoding="utf-8")
        code = {character: place for place, character in enumerate(sorted(set(text)))}
        coded = torch.tensor([code[character] for character in text[:400_001]])
        pairs = coded[:-1].view(-1, LENGTH), coded[1:].view(-1, LENGTH)
        order = torch.randperm(len(pairs[0]), generator=torch.Generator().manual_seed(0))
        held, train = order[:200], order[200:]
        return (pairs[0][train], pairs[1][train]), (pairs[0][held], pairs[1][held])
    with np.load(folder / ("mnist.npz" if data == "mnist" else "cifar10_jpeg.npz")) as file:
        halves = [_images(file[f"x_{part}"][:count], file[f"y_{part}"][:count]) for part, count in PARTS]
    mean, deviation = halves[0][0].mean(), halves[0][0].std()
    train, held_out = [((x - mean) / deviation, y) for x, y in halves]
    return train, held_out


PARTS = (("train", 8192), ("test", 1000))


def _images(pixels: np.ndarray, labels: np.ndarray) -> Rows:
    x = torch.tensor(pixels, dtype=torch.float32)
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    return avg_pool2d(x, 2).contiguous(), torch.tensor(labels, dtype=torch.int64)


def data_of(recipe: Recipe, folder: Path) -> tuple[Rows, Rows]:
    """Return the recipe's training and held-out rows; only those trained on have random labels."""
    train, held_out = rows(recipe.data, folder)
    if recipe.turned:
        train, held_out = [(-x.rot90(1, (2, 3)).contiguous(), y) for x, y in (train, held_out)]
    if recipe.random_labels:
        shuffled = torch.randperm(len(train[1]), generator=torch.Generator().manual_seed(1))
        train = train[0][:2048], train[1][shuffled][:2048]
    return train, held_out


def make_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Return the optimizer on what is trained and not left out; vectors do not decay under AdamW and Lion."""
    trained = [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not name.startswith(recipe.left_out)
    ]
    kinds: dict[str, Callable[..., Optimizer]] = {
        "sgd": SGD,
        "momentum": SGD,
        "adam": Adam,
        "adamw": AdamW,
        "lion": Lion,
        "lars": LARS,
    }
    groups: list[dict[str, Any]] = [{"params": trained}]
    if recipe.optimizer in ("adamw", "lion"):
        groups = [
            {"params": [parameter for parameter in trained if parameter.ndim > 1]},
            {"params": [parameter for parameter in trained if parameter.ndim < 2], "weight_decay": 0.0},
        ]
    usual = {"momentum": 0.9} if recipe.optimizer == "momentum" else {}
    return kinds[recipe.optimizer](groups, lr=recipe.rate, **usual | recipe.settings)


@torch.no_grad()
def _scale(model: nn.Module, name: str, factor: float) -> None:
    model.get_parameter(name).mul_(factor)


@torch.no_grad()
def _he(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)


def _he_but_one(model: nn.Module) -> None:
    _he(model)
    _scale(model, "21.weight", 10.0)


@torch.no_grad()
def _dead(model: nn.Module) -> None:
    """A bias of −20 before a ReLU leaves units that no row switches on."""
    for part, following in pairwise(model.children()):
        if isinstance(following, nn.ReLU):
            bias = part.get_parameter("bias")
            bias[: len(bias) * 15 // 16] = -20.0


CHANGES: dict[str, Callable[[nn.Module], None]] = {
    "He's initialisation": _he,
    "He's, one matrix × 10": _he_but_one,
    "zero head": lambda model: _scale(model, "head.weight", 0.0),
    "attention's input × 10": lambda model: _scale(model, "blocks.0.branch.input.weight", 10.0),
    "15 of 16 units dead": _dead,
}


def build(recipe: Recipe, runs: Path) -> nn.Module:
    """Return the network before its first step."""
    torch.manual_seed(recipe.seed)
    model: nn.Module = getattr(networks, recipe.network)(**recipe.arguments)
    if recipe.base:
        last = sorted((runs / recipe.base).glob("step-*.pt"))[-1]
        model.load_state_dict(torch.load(last, weights_only=True)["model"])
    if recipe.change:
        CHANGES[recipe.change](model)
    return model.to(getattr(torch, recipe.precision))


def batches(train: Rows, size: int, seed: int) -> Iterator[Rows]:
    """Yield batches without end, each epoch in a new order and without its incomplete last one."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(train[0]), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size]
            yield train[0][chosen], train[1][chosen]


def loss_of(model: nn.Module, batch: Rows) -> Tensor:
    """Return the cross-entropy per target, in nats."""
    precision = next(model.parameters()).dtype
    x = batch[0].to(precision) if batch[0].is_floating_point() else batch[0]
    return cross_entropy(model(x).flatten(0, -2).float(), batch[1].flatten())


@torch.no_grad()
def evaluate(model: nn.Module, batch: Rows, training: bool) -> float:
    """Return the loss in training or evaluation behaviour, leaving the running statistics as they are."""
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train(training)
    loss = float(loss_of(model, batch))
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])
    return loss


def train_run(recipe: Recipe, runs: Path, data: Path) -> dict[str, Any]:
    """Train one run, write its checkpoints, batch and settings, and return its losses."""
    folder = runs / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("step-*.pt"):
        old.unlink()
    train, held_out = data_of(recipe, data)
    model, schedule, weighting = build(recipe, runs), SCHEDULES[recipe.schedule], SCHEDULES[recipe.weighting]
    optimizer, stream = make_optimizer(recipe, model), batches(train, recipe.batch_size, 1000 + recipe.seed)
    count = DIAGNOSTIC_ROWS[recipe.data]
    batch = train[0][:count].clone(), train[1][:count].clone()
    wanted = {round(place * recipe.steps / (recipe.checkpoints - 1)) for place in range(recipe.checkpoints)}
    seen: list[float] = []
    kept: list[dict[str, float]] = []
    for step in range(recipe.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * schedule(step / recipe.steps)
        if recipe.forget and step == recipe.steps // 2:
            optimizer = _without_moments(recipe, model, optimizer)
        if step in wanted or (recipe.forget and step == recipe.steps // 2 + 5):
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, folder / f"step-{step:06d}.pt")
            losses = {
                "batch": evaluate(model, batch, True),
                "held_out": evaluate(model, held_out, False),
                "held_out_batch_statistics": evaluate(model, held_out, True),
                "train": sum(seen[-50:]) / max(1, len(seen[-50:])),
            }
            kept.append({"step": step} | losses)
        if step < recipe.steps:
            optimizer.zero_grad()
            model.train()
            loss = loss_of(model, next(stream))
            seen.append(loss.item())
            (weighting(step / recipe.steps) * loss).backward()
            optimizer.step()
    save_file({"x": batch[0], "y": batch[1]}, folder / "batch.safetensors")
    settings = {
        "loss": "cross-entropy",
        "batch": "batch.safetensors",
        "steps_per_epoch": len(train[0]) // recipe.batch_size,
    }
    text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    (folder / "fromage.toml").write_text(text, encoding="utf-8")
    record = {"name": recipe.name, "losses": kept, "curve": [round(loss, 4) for loss in seen]}
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    return record


def _without_moments(recipe: Recipe, model: nn.Module, old: Optimizer) -> Optimizer:
    """Return the optimizer as a resumption makes it that keeps the number of steps and loses the moments."""
    state = old.state_dict()
    for slots in state["state"].values():
        for name, slot in slots.items():
            if name != "step":
                slot.zero_()
    fresh = make_optimizer(recipe, model)
    fresh.load_state_dict(state)
    return fresh
