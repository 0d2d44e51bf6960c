"""The networks of the regime study, the rows that they learn, and how many copies of one are evaluated at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional

Rows = tuple[Tensor, Tensor]
MOST_ROWS, CLASSES = 64, 10
LOSSES = ("squared", "entropy")


class Perceptron(nn.Module):
    """Linear layers with an activation between them."""

    def __init__(self, sizes: list[int], activation: Callable[[Tensor], Tensor], bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs, bias) for inputs, outputs in pairwise(sizes))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, rows × classes."""
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class NeuralTangent(nn.Module):
    """A perceptron whose weights are all drawn from N(0, 1), divided by the root of their inputs when they are used."""

    def __init__(self, sizes: list[int], activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weights = nn.ParameterList(torch.randn(outputs, inputs) for inputs, outputs in pairwise(sizes))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, rows × outputs."""
        for index, weight in enumerate(self.weights):
            x = (self.activation(x) if index else x) @ weight.mT / weight.shape[1] ** 0.5
        return x


def normal(sizes: list[int], activation: Callable[[Tensor], Tensor]) -> nn.Module:
    """A perceptron without biases whose weights are drawn from N(0, 1 / inputs): outputs are of order 1."""
    model = Perceptron(sizes, activation, bias=False)
    with torch.no_grad():
        for layer in model.layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return model


class Convolutions(nn.Module):
    """Two convolutions of 3 × 3 with stride 2, each with the batch's own normalisation and ReLU; then a mean."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        pairs = pairwise((1, channels, channels))
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False) for a, b in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels, track_running_stats=False) for _ in range(2))
        self.output = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, rows × classes."""
        x = x.view(-1, 1, 8, 8)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = torch.relu(norm(layer(x)))
        return self.output(x.mean((-2, -1)))


class Transformer(nn.Module):
    """One block, normalised before each part, on pairs of rows of an image as tokens; then a mean over the tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.token, self.place = nn.Linear(16, width), nn.Parameter(0.1 * torch.randn(4, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.input, self.mixed = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.output = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, rows × classes."""
        x = self.token(x.view(-1, 4, 16)) + self.place
        query, key, value = self.input(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attention = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
        x = x + self.mixed((attention @ value).transpose(1, 2).flatten(2))
        x = x + self.mlp(self.norms[1](x))
        return self.output(self.norms[2](x).mean(1))


@dataclass(frozen=True)
class Task:
    """A network, its rows and its loss."""

    network: str
    build: Callable[[], nn.Module]
    loss: str
    data: str = "digits"
    size: int = 64
    """Rows."""

    def model(self, seed: int) -> nn.Module:
        """The network at its initialisation."""
        torch.manual_seed(seed)
        return self.build()

    def rows(self, folder: Path | None) -> Rows:
        """Inputs, and the targets as its loss takes them: numbers for squared error, else classes.

        Images are brought to mean 0 and deviation 1 as a whole; their numbers are one-hot.
        """
        if self.data == "gaussian":
            return gaussian(self.size, self.loss)
        x, y = (part[: self.size] for part in (digits() if self.data == "digits" else mnist(folder)))
        x = (x - x.mean()) / x.std()
        return x, functional.one_hot(y, CLASSES).float() if self.loss == "squared" else y

    def guess(self, folder: Path | None) -> float:
        """The loss of the best constant output, which a dead network has."""
        target = self.rows(folder)[1]
        if target.is_floating_point():
            return float(target.var(0, correction=0).mean())
        return float(torch.distributions.Categorical(target.bincount().float()).entropy())


def digits() -> Rows:
    """Scikit-learn's digits of 8 × 8 pixels."""
    images, targets = load_digits(return_X_y=True)
    return torch.tensor(images, dtype=torch.float32), torch.tensor(targets)


def mnist(folder: Path | None) -> Rows:
    """MNIST's first images, pooled to 14 × 14."""
    assert folder is not None
    arrays = np.load(folder / "mnist.npz")
    x, y = torch.tensor(arrays["x_train"][:MOST_ROWS]), torch.tensor(arrays["y_train"][:MOST_ROWS]).long()
    return functional.avg_pool2d(x[:, None].float(), 2).flatten(1), y


def gaussian(size: int, loss: str) -> Rows:
    """Inputs of 8 normal numbers with targets that have nothing to do with them: one normal number, or 4 classes."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size, 8, generator=generator)
    if loss == "squared":
        return x, torch.randn(size, 1, generator=generator)
    return x, torch.randint(4, (size,), generator=generator)


def linear(x: Tensor) -> Tensor:
    """No activation."""
    return x


ACTIVATIONS = {"linear": linear, "tanh": torch.tanh, "relu": torch.relu}
FORMS = ("linear-2", "tanh-2", "relu-2", "tanh-3", "relu-3")


def all_tasks(folder: Path | None) -> list[Task]:
    """Every network with every loss; those on MNIST where there is a folder for it."""

    def hidden(form: str, inputs: int, outputs: int, width: int) -> tuple[list[int], Callable[[Tensor], Tensor]]:
        activation, depth = form.split("-")
        return [inputs] + [width] * (int(depth) - 1) + [outputs], ACTIVATIONS[activation]

    tasks = []
    for form in FORMS:
        tasks.append(Task(f"{form}, normal", partial(normal, *hidden(form, 8, 1, 64)), "squared", "gaussian", 32))
        if form.endswith("2"):
            build = partial(NeuralTangent, *hidden(form, 8, 1, 64))
            tasks.append(Task(f"{form}, tangent", build, "squared", "gaussian", 32))
    for form in ("tanh-2", "relu-2"):
        tasks.append(Task(f"{form}, normal", partial(normal, *hidden(form, 8, 4, 64)), "entropy", "gaussian", 32))
    for form in FORMS:
        tasks += [Task(form, partial(Perceptron, *hidden(form, 64, CLASSES, 32)), loss) for loss in LOSSES]
    tasks += [Task("convolutional", partial(Convolutions, 8), loss, size=32) for loss in LOSSES]
    tasks += [Task("transformer", partial(Transformer, 16, 2), loss, size=32) for loss in LOSSES]
    if folder is not None:
        sizes = hidden("relu-2", 196, CLASSES, 32)
        tasks += [Task("relu-2, MNIST", partial(Perceptron, *sizes), loss, "mnist") for loss in LOSSES]
    return tasks


class Copies:
    """One network and its rows, evaluated at many weights at once; each weight vector is [n]."""

    def __init__(self, model: nn.Module, rows: Rows) -> None:
        self.model, self.rows = model, rows
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        measure = functional.mse_loss if rows[1].is_floating_point() else functional.cross_entropy

        def loss(vector: Tensor) -> Tensor:
            parts = zip(self.shapes.items(), vector.split(self.sizes), strict=True)
            weights = {name: part.view(shape) for (name, shape), part in parts}
            return measure(functional_call(model, weights, (rows[0],)), rows[1])

        self.losses = vmap(loss)
        """Of weights [copies, n], a loss for each."""


def flat(model: nn.Module) -> Tensor:
    """All parameters as one vector, [n]."""
    return nn.utils.parameters_to_vector(model.parameters()).detach()
