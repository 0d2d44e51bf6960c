"""Healthy runs of the study of `state`: small networks in plain loops of torch, as people write them.

Data is a folder with mnist.npz, cifar10_jpeg.npz and tinyshakespeare.txt, or None for made-up rows of the same shapes.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import run_study_networks as networks
import torch
from run_study_training import LENGTH, Rows, batches, rows
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RAdam, SparseAdam, lr_scheduler

from fromage_cli.optim import LAMB, Lion

KINDS: dict[str, Callable[..., Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "lion": Lion,
    "sparse-adam": SparseAdam,
    "nadam": NAdam,
    "radam": RAdam,
    "lamb": LAMB,
}
DATA = {"mlp": "mnist", "cnn": "cifar", "gpt": "text", "vit": "mnist"}
SAVED = (1, 2, 75, 150, 225, 226, 300)


@dataclass(frozen=True)
class Recipe:
    """One run and the steps after which it is saved."""

    name: str
    network: str
    optimizer: str
    rate: float
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the optimizer."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Of the network's factory."""
    schedule: str = "constant"
    precision: str = "float32"
    """`float32`, `bf16`, `fp16`, `float64` of the weights; `bf16-autocast` and `fp16-scaler` beside float32 weights."""
    saved: tuple[int, ...] = SAVED
    length: int = 300
    """Updates for which the schedule is made."""
    epoch: int = 1
    """Updates of an epoch, where the scheduler steps once in each and the file counts epochs."""
    accumulated: int = 1
    """Batches of one update; the file then counts batches."""
    clip: float | None = None
    resumed: int | None = None
    """The step whose checkpoint is loaded anew before training goes on; one of `saved`."""
    resumption: str = "right"
    """How: `right`, `longer`, or one of the faults of state_faults.py."""
    special: str = ""
    """`skipped-blocks`, `thawed`, `averaged` or `layer-rates`: what else is done on purpose."""
    seed: int = 0


def warm_cosine(optimizer: Optimizer, length: int, rate: float) -> Any:
    """Half a cosine after a warm-up of a tenth."""
    warm, decay = length // 10, length - length // 10
    parts = [
        lr_scheduler.LinearLR(optimizer, 0.1, total_iters=warm),
        lr_scheduler.CosineAnnealingLR(optimizer, decay),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, [warm])


SCHEDULERS: dict[str, Callable[[Optimizer, int, float], Any]] = {
    "constant": lambda optimizer, length, rate: None,
    "cosine": warm_cosine,
    "plain-cosine": lambda optimizer, length, rate: lr_scheduler.CosineAnnealingLR(optimizer, length),
    "short-cosine": lambda optimizer, length, rate: lr_scheduler.CosineAnnealingLR(optimizer, length // 2, rate / 100),
    "linear": lambda optimizer, length, rate: lr_scheduler.LambdaLR(optimizer, lambda n: max(1.0 - n / length, 0.0)),
    "drops": lambda optimizer, length, rate: lr_scheduler.MultiStepLR(optimizer, [length * 2 // 5, length * 4 // 5]),
    "one-cycle": lambda optimizer, length, rate: lr_scheduler.OneCycleLR(optimizer, rate, total_steps=length + 1),
    "restarts": lambda optimizer, length, rate: lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 50),
    "plateau": lambda optimizer, length, rate: lr_scheduler.ReduceLROnPlateau(optimizer, patience=5),
}
"""Those of torch, for a run of so many ticks and its highest rate."""


@cache
def training_rows(data: str, folder: Path | None) -> Rows:
    """Rows of a data set, or made-up ones that a network can learn."""
    if folder is not None:
        return rows(data, folder)[0]
    generator = torch.Generator().manual_seed(0)
    if data == "text":
        text = (torch.randn(40_000, generator=generator).abs() * 16.0).long().clamp(max=64).cumsum(0) % 65
        return text[: 1200 * LENGTH].view(-1, LENGTH), text[1 : 1200 * LENGTH + 1].view(-1, LENGTH)
    shape = (1, 14, 14) if data == "mnist" else (3, 16, 16)
    labels = torch.randint(10, (2048,), generator=generator)
    centres = torch.randn(10, *shape, generator=generator)
    return centres[labels] + torch.randn(2048, *shape, generator=generator), labels


def build(recipe: Recipe) -> nn.Module:
    """The network before its first step, in its dtype."""
    torch.manual_seed(recipe.seed)
    model: nn.Module = getattr(networks, recipe.network)(**recipe.arguments)
    if recipe.optimizer == "sparse-adam":
        model = nn.Sequential(nn.Embedding(200, 24, sparse=True), nn.Flatten())
    return model.to(
        {"bf16": torch.bfloat16, "fp16": torch.float16, "float64": torch.float64}.get(recipe.precision, torch.float32)
    )


def optimizer_of(recipe: Recipe, model: nn.Module) -> Optimizer:
    """Vectors do not decay under AdamW and Lion, as is usual; frozen tensors stand in a group like all others."""
    parameters = list(model.parameters())
    if recipe.special == "thawed":
        parameters = parameters[-2:]
    if recipe.special == "layer-rates":
        count = len(parameters)
        groups = [{"params": [one], "lr": recipe.rate * 0.8 ** (count - k)} for k, one in enumerate(parameters, 1)]
        return KINDS[recipe.optimizer](groups, lr=recipe.rate, **recipe.settings)
    if recipe.optimizer not in ("adamw", "lion"):
        return KINDS[recipe.optimizer](parameters, lr=recipe.rate, **recipe.settings)
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1]},
        {"params": [parameter for parameter in parameters if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    return KINDS[recipe.optimizer](groups, lr=recipe.rate, **recipe.settings)


class Training:
    """What a plain loop holds: network, optimizer, scheduler, scaler and the count of updates."""

    def __init__(self, recipe: Recipe, step: int = 0) -> None:
        self.recipe, self.step = recipe, step
        self.model = build(recipe)
        self.optimizer = optimizer_of(recipe, self.model)
        self.scheduler = SCHEDULERS[recipe.schedule](self.optimizer, recipe.length // recipe.epoch, recipe.rate)
        for _ in range(step if self.scheduler is not None else 0):
            self.scheduler.step()
        self.scaler = torch.amp.GradScaler(
            "cpu", init_scale=2.0**22, growth_interval=15, enabled=recipe.precision == "fp16-scaler"
        )
        self.averaged = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def loss(self, batch: Rows) -> Tensor:
        """The cross-entropy of a batch; of an embedding alone, what its rows are apart from a constant."""
        x, y = batch
        if self.recipe.optimizer == "sparse-adam":
            return (self.model(x) - y.float().repeat_interleave(24, dim=1) / 65.0).square().mean()
        kind = {"bf16-autocast": torch.bfloat16, "fp16-scaler": torch.float16}.get(self.recipe.precision)
        if x.is_floating_point():
            x = x.to(next(self.model.parameters()).dtype)
        with torch.autocast("cpu", kind) if kind is not None else contextlib.nullcontext():
            logits = self.model(x)
        return cross_entropy(logits.float().flatten(0, -2), y.flatten())

    def update(self, stream: Iterator[Rows]) -> None:
        """One update, from one batch or several."""
        self.optimizer.zero_grad()
        for _ in range(self.recipe.accumulated):
            loss = self.loss(next(stream)) / self.recipe.accumulated
            self.scaler.scale(loss).backward()
        if self.recipe.special == "skipped-blocks" and self.step % 3 == 1:
            for parameter in list(self.model.parameters())[4:8]:
                parameter.grad = None
        if self.recipe.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        if self.scheduler is not None and self.step % self.recipe.epoch == 0:
            self.scheduler.step(*([loss.detach()] if self.recipe.schedule == "plateau" else []))
        for name, tensor in self.model.state_dict().items():
            self.averaged[name].lerp_(tensor, 0.01) if tensor.is_floating_point() else None
        if self.recipe.special == "thawed" and self.step == 60:
            self.optimizer.add_param_group({"params": list(self.model.parameters())[:-2], "lr": 0.3 * self.recipe.rate})

    @property
    def count(self) -> int:
        """What a checkpoint counts: updates, batches or epochs."""
        return self.step * self.recipe.accumulated // self.recipe.epoch

    def saved(self) -> dict[str, Any]:
        """The content of a checkpoint."""
        content = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        content["step" if self.recipe.epoch == 1 else "epoch"] = self.count
        if self.scheduler is not None:
            content["scheduler"] = self.scheduler.state_dict()
        if self.recipe.special == "averaged":
            content["ema"] = self.averaged
        if self.scaler.is_enabled():
            content["scaler"] = self.scaler.state_dict()
        return content

    def load(self, saved: dict[str, Any]) -> None:
        """Go on from a checkpoint, in the way that the recipe's resumption says."""
        way = self.recipe.resumption
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if way in ("longer", "warm-up-again"):
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        elif self.scheduler is not None:
            self.scheduler.load_state_dict(saved["scheduler"])
        if way == "new-optimizer":
            self.optimizer.state.clear()
        if way == "new-moments":
            for slot in self.optimizer.state.values():
                for name in slot.keys() - {"step"}:
                    slot[name].zero_()
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(saved["scaler"])


def resumed(recipe: Recipe, saved: dict[str, Any], step: int) -> Training:
    """A new process that loads a checkpoint; `longer`: for twice as many updates, `warm-up-again`: as if for none."""
    longer = replace(recipe, length=2 * recipe.length) if recipe.resumption == "longer" else recipe
    training = Training(longer, step if recipe.resumption == "longer" else 0)
    training.load(saved)
    training.step = step
    return training


def train(recipe: Recipe, data: Path | None, save: Callable[[Training, int], Any]) -> None:
    """Train a run, and hand it to `save` with its count after each update that the recipe names."""
    training, size = Training(recipe), 16 if DATA[recipe.network] == "text" else 32
    stream = batches(training_rows(DATA[recipe.network], data), size, 1000 + recipe.seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="torch.optim.lr_scheduler")
        for step in range(1, max(recipe.saved) + 1):
            training.update(stream)
            if step in recipe.saved:
                save(training, training.count)
            if step == recipe.resumed:
                training = resumed(recipe, training.saved(), step)


def plain(recipe: Recipe, folder: Path, data: Path | None) -> list[Path]:
    """A run in files of torch.save; their paths, first to last."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []

    def save(training: Training, step: int) -> None:
        paths.append(folder / f"{'step' if recipe.epoch == 1 else 'epoch'}-{step:06d}.pt")
        torch.save(training.saved(), paths[-1])

    train(recipe, data, save)
    return paths
