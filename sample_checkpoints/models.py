"""The networks behind the sample checkpoints, as factories for `--model sample_checkpoints/models.py:NAME`."""

from itertools import pairwise

import torch
from torch import nn


class MLP(nn.Module):
    """A multi-layer perceptron with ReLU between its linear layers; `residual` adds each square hidden layer's input.

    x ← relu(Wx + b), or x + relu(Wx + b) where residual and square; the last layer is linear.
    """

    def __init__(self, sizes: list[int], residual: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairwise(sizes))
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, rows × classes."""
        *hidden, output = self.layers
        for layer in hidden:
            branch = torch.relu(layer(x))
            x = x + branch if self.residual and branch.shape == x.shape else branch
        logits: torch.Tensor = output(x)
        return logits


def mlp(depth: int = 2, width: int = 64, residual: bool = False, inputs: int = 64, classes: int = 10) -> MLP:
    """Return an MLP of `depth` weight matrices (depth − 1 hidden layers and the output) in torch's default
    initialisation, biases included.
    """
    return MLP([inputs] + [width] * (depth - 1) + [classes], residual)
