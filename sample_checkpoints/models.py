"""The networks behind the sample checkpoints, as factories for `--model sample_checkpoints/models.py:NAME`."""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


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


class ConvNet(nn.Module):
    """3 × 3 convolutions without bias, each followed by BatchNorm and ReLU, then the mean over positions and a linear
    output.

    BatchNorm makes the loss independent of the scale of each output channel of a convolution.
    """

    def __init__(self, channels: list[int], classes: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False) for inputs, outputs in pairwise(channels)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for outputs in channels[1:])
        self.output = nn.Linear(channels[-1], classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits, rows × classes, of images, rows × 1 × height × width."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = torch.relu(norm(convolution(x)))
        logits: torch.Tensor = self.output(x.mean((2, 3)))
        return logits


def convnet(depth: int = 3, width: int = 6, classes: int = 10) -> ConvNet:
    """Return a convolutional network of `depth` convolutions of `width` channels in torch's default initialisation."""
    return ConvNet([1] + [width] * depth, classes)


class Attention(nn.Module):
    """Causal self-attention with `heads` heads."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.input = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return what attention adds to the residual stream, rows × positions × width."""
        queries, keys, values = self.input(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=True)
        output: torch.Tensor = self.output(mixed.transpose(1, 2).flatten(2))  # rows × positions × heads · size
        return output


class Block(nn.Module):
    """A transformer block with LayerNorm before each branch: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads, dropout)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the residual stream behind the block, rows × positions × width."""
        x = x + self.dropout(self.attention(self.norm_1(x)))
        stream: torch.Tensor = x + self.dropout(self.mlp(self.norm_2(x)))
        return stream


class GPT(nn.Module):
    """A decoder with learned positions whose output matrix is its token embedding."""

    def __init__(
        self, *, vocabulary: int, block_size: int, depth: int, width: int, heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(block_size, width)
        self.blocks = nn.ModuleList(Block(width, heads, hidden, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)
        self.output.weight = self.token.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits of each next token, rows × positions × vocabulary."""
        stream = self.token(x) + self.position(torch.arange(x.shape[1], device=x.device))
        for block in self.blocks:
            stream = block(stream)
        logits: torch.Tensor = self.output(self.norm(stream))
        return logits


def char_gpt(
    *,
    vocabulary: int = 61,
    block_size: int = 64,
    depth: int = 2,
    width: int = 64,
    heads: int = 4,
    hidden: int = 192,
    dropout: float = 0.0,
) -> GPT:
    """Return a decoder of `depth` blocks in torch's default initialisation, embeddings with standard deviation .02."""
    return GPT(
        vocabulary=vocabulary,
        block_size=block_size,
        depth=depth,
        width=width,
        heads=heads,
        hidden=hidden,
        dropout=dropout,
    )
