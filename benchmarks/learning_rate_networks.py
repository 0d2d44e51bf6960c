"""The networks of the learning-rate study: what is trained on which rows, and which part each belongs to."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent / "sample_checkpoints"))

import models
import splits

Rows = tuple[torch.Tensor, torch.Tensor]
HELD_OUT_ROWS = 320
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "gelu": functional.gelu}


class Perceptron(nn.Module):
    """Linear layers, each hidden one followed by an optional normalisation and an activation, with or without skips."""

    def __init__(self, sizes: list[int], activation: str, residual: bool, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes))
        self.norms = nn.ModuleList(norm(size) for size in sizes[1:-1])
        self.activation, self.residual = ACTIVATIONS[activation], residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs, rows × classes."""
        for layer, norm in zip(self.layers, self.norms, strict=False):
            branch = self.activation(norm(layer(x)))
            x = x + branch if self.residual and branch.shape == x.shape else branch
        return self.layers[-1](x)


class PlainConvolutions(nn.Module):
    """Convolutions with biases and ReLU, then the mean over positions and a linear output; no normalisation."""

    def __init__(self, channels: list[int], classes: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, kernel_size=3, padding=1) for a, b in pairwise(channels))
        self.output = nn.Linear(channels[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, rows × classes."""
        for convolution in self.convolutions:
            x = torch.relu(convolution(x))
        return self.output(x.mean((2, 3)))


class Recurrent(nn.Module):
    """A character model: embedding, one GRU, output."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.recurrence = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, vocabulary)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, rows × positions × vocabulary."""
        return self.output(self.recurrence(self.token(x))[0])


def perceptron(
    depth: int,
    width: int,
    *,
    inputs: int = 64,
    outputs: int = 10,
    activation: str = "relu",
    residual: bool = False,
    norm: Callable[[int], nn.Module] = lambda size: nn.Identity(),
) -> nn.Module:
    """A perceptron of `depth` weight matrices."""
    return Perceptron([inputs] + [width] * (depth - 1) + [outputs], activation, residual, norm)


def scaled(build: Callable[[], nn.Module], factor: float, where: str = "") -> nn.Module:
    """A network whose matrices (those with `where` in their names) are multiplied by a factor after initialisation."""
    model = build()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and where in name:
                parameter.mul_(factor)
    return model


@dataclass(frozen=True)
class Task:
    """A network, its rows and its loss."""

    name: str
    build: Callable[[], nn.Module]
    data: str = "digits"
    unusual: bool = False
    """Whether inputs, initialisation, width, depth, loss or batch are of an unusual scale."""
    batch_size: int = 64
    input_scale: float = 1.0
    loss_scale: float = 1.0
    squared: bool = False
    """Squared error against one-hot targets in place of cross-entropy."""
    part: str = ""
    """`calibration`, `held-out` or `unseen`."""

    def model(self, seed: int) -> nn.Module:
        """The network at its initialisation."""
        torch.manual_seed(seed)
        return self.build()

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of the rows, scaled."""
        if self.squared:
            one_hot = functional.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)
            return self.loss_scale * functional.mse_loss(outputs, one_hot)
        return self.loss_scale * functional.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    def rows(self, folder: Path | None) -> tuple[Rows, Rows]:
        """Rows to train on and rows held out."""
        train, held_out = load_rows(self.data, folder)
        held_out = tuple(part[: HELD_OUT_ROWS if train[0].is_floating_point() else 48] for part in held_out)
        if self.input_scale == 1.0:
            return train, held_out
        return (self.input_scale * train[0], train[1]), (self.input_scale * held_out[0], held_out[1])


@cache
def load_rows(name: str, folder: Path | None) -> tuple[Rows, Rows]:
    """Digits as vectors or images, characters, or MNIST pooled to 14 × 14 from `folder`/mnist.npz."""
    if name.startswith("mnist"):
        train, held_out = mnist(folder)
        shape = (-1, 196) if name == "mnist" else (-1, 1, 14, 14)
        return (train[0].view(shape), train[1]), (held_out[0].view(shape), held_out[1])
    split = {"digits": splits.digits, "images": splits.digit_images, "text": splits.characters}[name]()
    return split.train, split.held_out


@cache
def mnist(folder: Path | None) -> tuple[Rows, Rows]:
    """8,000 rows to train on and 2,000 held out, 2 × 2 pixels pooled, normalised together."""
    arrays = np.load(folder / "mnist.npz")
    parts = []
    for pixels, labels, count in (("x_train", "y_train", 8000), ("x_test", "y_test", 2000)):
        images = torch.tensor(arrays[pixels][:count], dtype=torch.float32).view(-1, 1, 28, 28) / 255
        parts.append((functional.avg_pool2d(images, 2), torch.tensor(arrays[labels][:count], dtype=torch.int64)))
    mean, deviation = parts[0][0].mean(), parts[0][0].std()
    return tuple(((x - mean) / deviation, y) for x, y in parts)


def _gpt(**settings: int) -> nn.Module:
    return models.char_gpt(**{"depth": 2, "width": 32, "heads": 4, "hidden": 96, **settings})


def _usual() -> list[Task]:
    mlp, gpt = perceptron, _gpt
    pooled = partial(perceptron, inputs=196)
    return [
        Task("mlp-2", partial(mlp, 2, 64)),
        Task("mlp-3", partial(mlp, 3, 64)),
        Task("mlp-4-mnist", partial(pooled, 4, 96), "mnist"),
        Task("mlp-2-mnist", partial(pooled, 2, 128), "mnist"),
        Task("mlp-6", partial(mlp, 6, 64)),
        Task("mlp-8-mnist", partial(pooled, 8, 96), "mnist"),
        Task("mlp-12", partial(mlp, 12, 64)),
        Task("mlp-8", partial(mlp, 8, 64)),
        Task("resmlp-8", partial(mlp, 8, 64, residual=True)),
        Task("resmlp-12-mnist", partial(pooled, 12, 80, residual=True), "mnist"),
        Task("convnet-3", partial(models.convnet, 3, 12), "images"),
        Task("convnet-4-mnist", partial(models.convnet, 4, 8), "mnist-images"),
        Task("gpt-2", gpt, "text", batch_size=16),
        Task("gpt-1-wider", partial(gpt, depth=1, width=64, hidden=192), "text", batch_size=16),
        Task("tanh-4", partial(mlp, 4, 64, activation="tanh")),
        Task("gelu-5-mnist", partial(pooled, 5, 80, activation="gelu"), "mnist"),
        Task("layernorm-5-mnist", partial(pooled, 5, 80, norm=nn.LayerNorm), "mnist"),
        Task("layernorm-8", partial(mlp, 8, 64, norm=nn.LayerNorm)),
        Task("batchnorm-6", partial(mlp, 6, 64, norm=nn.BatchNorm1d)),
        Task("batchnorm-4-mnist", partial(pooled, 4, 80, norm=nn.BatchNorm1d), "mnist"),
        Task("plain-cnn-4-mnist", partial(PlainConvolutions, [1, 12, 12, 12, 12], 10), "mnist-images"),
        Task("plain-cnn-3", partial(PlainConvolutions, [1, 16, 16, 16], 10), "images"),
        Task("gru", partial(Recurrent, 61, 48), "text", batch_size=16),
        Task("gpt-3", partial(gpt, depth=3), "text", batch_size=16),
        Task("squared-3-mnist", partial(pooled, 3, 64), "mnist", squared=True),
        Task("squared-4", partial(mlp, 4, 64), squared=True),
        Task("mlp-16", partial(mlp, 16, 64)),
        Task("resmlp-16", partial(mlp, 16, 64, residual=True)),
    ]


def _unusual() -> list[Task]:
    mlp, gpt = perceptron, _gpt
    pooled = partial(perceptron, inputs=196)
    tasks = [
        Task("inputs-x10", partial(mlp, 3, 64), input_scale=10.0),
        Task("inputs-x10-mnist", partial(pooled, 5, 64), "mnist", input_scale=10.0),
        Task("inputs-x.1-mnist", partial(pooled, 3, 64), "mnist", input_scale=0.1),
        Task("inputs-x.1", partial(mlp, 4, 64), input_scale=0.1),
        Task("init-x3", partial(scaled, partial(mlp, 3, 64), 3.0)),
        Task("init-x2-mnist", partial(scaled, partial(pooled, 5, 64), 2.0), "mnist"),
        Task("init-x.3-mnist", partial(scaled, partial(pooled, 3, 64), 0.3), "mnist"),
        Task("init-x.5", partial(scaled, partial(mlp, 4, 64), 0.5)),
        Task("output-x10", partial(scaled, partial(mlp, 4, 64), 10.0, "layers.3")),
        Task("output-x.1-mnist", partial(scaled, partial(pooled, 4, 64), 0.1, "layers.3"), "mnist"),
        Task("wide-512", partial(mlp, 2, 512)),
        Task("wide-400-mnist", partial(pooled, 2, 400), "mnist"),
        Task("narrow-12-mnist", partial(pooled, 4, 12), "mnist"),
        Task("narrow-16", partial(mlp, 5, 16)),
        Task("loss-x30", partial(mlp, 3, 64), loss_scale=30.0),
        Task("loss-x.03-mnist", partial(pooled, 4, 64), "mnist", loss_scale=0.03),
        Task("deep-24-residual", partial(mlp, 24, 32, residual=True)),
        Task("deep-20-layernorm", partial(mlp, 20, 48, norm=nn.LayerNorm)),
        Task("convnet-init-x4", partial(scaled, partial(models.convnet, 3, 12), 4.0), "images"),
        Task("convnet-inputs-x10", partial(models.convnet, 3, 12), "images", input_scale=10.0),
        Task("gpt-init-x3", partial(scaled, gpt, 3.0), "text", batch_size=16),
        Task("gpt-narrow-16", partial(gpt, width=16, hidden=48), "text", batch_size=16),
        Task("batch-8", partial(mlp, 4, 64), batch_size=8),
        Task("batch-256-mnist", partial(pooled, 4, 64), "mnist", batch_size=256),
    ]
    return [replace(task, unusual=True) for task in tasks]


def _unseen() -> list[Task]:
    """Networks that were added when every choice had been made."""
    mlp, gpt = perceptron, _gpt
    pooled = partial(perceptron, inputs=196)
    usual = [
        Task("mlp-5-wider", partial(mlp, 5, 96)),
        Task("mlp-10-mnist", partial(pooled, 10, 64), "mnist"),
        Task("tanh-6-mnist", partial(pooled, 6, 64, activation="tanh"), "mnist"),
        Task("gelu-3", partial(mlp, 3, 80, activation="gelu")),
        Task("resmlp-6-mnist", partial(pooled, 6, 64, residual=True), "mnist"),
        Task("layernorm-3", partial(mlp, 3, 48, norm=nn.LayerNorm)),
        Task("batchnorm-3-mnist", partial(pooled, 3, 64, norm=nn.BatchNorm1d), "mnist"),
        Task("convnet-2-mnist", partial(models.convnet, 2, 8), "mnist-images"),
        Task("plain-cnn-2", partial(PlainConvolutions, [1, 16, 16], 10), "images"),
        Task("gpt-1", partial(gpt, depth=1), "text", batch_size=16),
        Task("gru-narrow", partial(Recurrent, 61, 24), "text", batch_size=16),
        Task("squared-2-mnist", partial(pooled, 2, 64), "mnist", squared=True),
    ]
    unusual = [
        Task("inputs-x5", partial(mlp, 4, 64), input_scale=5.0),
        Task("inputs-x.03-mnist", partial(pooled, 3, 64), "mnist", input_scale=0.03),
        Task("init-x4-mnist", partial(scaled, partial(pooled, 3, 64), 4.0), "mnist"),
        Task("init-x.4", partial(scaled, partial(mlp, 3, 64), 0.4)),
        Task("first-x5-mnist", partial(scaled, partial(pooled, 4, 64), 5.0, "layers.0"), "mnist"),
        Task("wide-768", partial(mlp, 2, 768)),
        Task("narrow-8-mnist", partial(pooled, 3, 8), "mnist"),
        Task("loss-x10-mnist", partial(pooled, 3, 64), "mnist", loss_scale=10.0),
        Task("batch-16-mnist", partial(pooled, 4, 64), "mnist", batch_size=16),
        Task("deep-20-residual-mnist", partial(pooled, 20, 32, residual=True), "mnist"),
        Task("batchnorm-inputs-x20", partial(mlp, 4, 64, norm=nn.BatchNorm1d), input_scale=20.0),
        Task("gpt-init-x.3", partial(scaled, gpt, 0.3), "text", batch_size=16),
    ]
    tasks = [*usual, *(replace(task, unusual=True) for task in unusual)]
    return [replace(task, part="unseen") for task in tasks]


def all_tasks(folder: Path | None) -> list[Task]:
    """Every task, the halves taking turns in the order above; those on MNIST only where `folder` holds it."""
    usual, unusual = _usual(), _unusual()
    halved = [
        replace(task, part=("calibration", "held-out")[place % 4 in (1, 2)])
        for tasks in (usual, unusual)
        for place, task in enumerate(tasks)
    ]
    available = folder is not None and (folder / "mnist.npz").exists()
    mixed = sorted(halved, key=lambda task: _turn(task, usual, unusual))
    return [task for task in [*mixed, *_unseen()] if available or not task.data.startswith("mnist")]


def _turn(task: Task, usual: list[Task], unusual: list[Task]) -> float:
    """Where a task stands in the run, so that an unfinished one has seen networks of both kinds."""
    group = unusual if task.unusual else usual
    return [other.name for other in group].index(task.name) / len(group)
