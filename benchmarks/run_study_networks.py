"""The networks of the run study, as factories for `--model benchmarks/run_study_networks.py:NAME`.

Every factory takes the parts of its network whose names begin with a prefix of `frozen` out of training; the weights
that a fault of the initialisation changes are changed by `run_study_training.py`, which no checkpoint needs again.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, scaled_dot_product_attention


def freeze(model: nn.Module, prefixes: Sequence[str]) -> nn.Module:
    """Return the model with the parameters of these names' beginnings taken out of training."""
    for name, parameter in model.named_parameters():
        if name.startswith(tuple(prefixes)):
            parameter.requires_grad_(False)
    return model


class Residual(nn.Module):
    """x + gain · branch(norm(x)) with LayerNorm before the branch, as deep networks are mostly built."""

    def __init__(self, width: int, branch: nn.Module, scale: float | None) -> None:
        super().__init__()
        self.norm, self.branch = nn.LayerNorm(width), branch
        self.gain = None if scale is None else nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Return the stream behind the branch."""
        added = self.branch(self.norm(x))
        return x + (added if self.gain is None else self.gain * added)


class PostNorm(nn.Module):
    """norm(x + branch(x)): LayerNorm behind the sum, as the first transformers had it."""

    def __init__(self, width: int, branch: nn.Module) -> None:
        super().__init__()
        self.norm, self.branch = nn.LayerNorm(width), branch

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised sum."""
        return self.norm(x + self.branch(x))


class Attention(nn.Module):
    """Self-attention, causal or not; `qk_norm` normalises each query and key."""

    def __init__(self, width: int, heads: int, causal: bool, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.causal, self.qk_norm = heads, causal, qk_norm
        self.input, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the heads gather, rows × places × width."""
        queries, keys, values = self.input(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.qk_norm:
            queries, keys = (layer_norm(each, each.shape[-1:]) for each in (queries, keys))
        mixed = scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        gathered: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return gathered


def transformer(
    width: int, depth: int, *, causal: bool, norm: str = "pre", scale: float | None = None, qk_norm: bool = False
) -> nn.Sequential:
    """Return `depth` pairs of attention with two heads and a perceptron of three times the width."""
    parts: list[nn.Module] = []
    for _ in range(depth):
        mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        for branch in (Attention(width, 2, causal, qk_norm), mlp):
            parts.append(PostNorm(width, branch) if norm == "post" else Residual(width, branch, scale))
    return nn.Sequential(*parts)


class TextModel(nn.Module):
    """A causal transformer on characters with learned positions."""

    def __init__(self, vocabulary: int, length: int, width: int, blocks: nn.Sequential, last: nn.Module) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks, self.last, self.head = blocks, last, nn.Linear(width, vocabulary, bias=False)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each next character, rows × places × vocabulary."""
        stream = self.token(x) + self.position(torch.arange(x.shape[1], device=x.device))
        logits: Tensor = self.head(self.last(self.blocks(stream)))
        return logits


def gpt(
    *,
    width: int = 32,
    depth: int = 2,
    norm: str = "pre",
    qk_norm: bool = False,
    vocabulary: int = 65,
    length: int = 32,
    frozen: Sequence[str] = (),
) -> nn.Module:
    """Return a GPT whose LayerNorm stands before each branch (`pre`) or behind each sum (`post`)."""
    last = nn.Identity() if norm == "post" else nn.LayerNorm(width)
    blocks = transformer(width, depth, causal=True, norm=norm, qk_norm=qk_norm)
    return freeze(TextModel(vocabulary, length, width, blocks, last), frozen)


class ImageModel(nn.Module):
    """A transformer on patches of an image, the mean over places read out."""

    def __init__(self, channels: int, size: int, patch: int, width: int, blocks: nn.Sequential) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.blocks, self.last, self.head = blocks, nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, rows × classes."""
        stream = self.patches(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.last(self.blocks(stream)).mean(1))
        return logits


def vit(
    *,
    channels: int = 1,
    size: int = 14,
    patch: int = 7,
    width: int = 32,
    depth: int = 2,
    scale: float | None = None,
    frozen: Sequence[str] = (),
) -> nn.Module:
    """Return a small vision transformer; `scale` begins every branch at this LayerScale."""
    return freeze(
        ImageModel(channels, size, patch, width, transformer(width, depth, causal=False, scale=scale)), frozen
    )


def mlp(inputs: int = 196, width: int = 48, depth: int = 3, frozen: Sequence[str] = ()) -> nn.Module:
    """Return a perceptron of `depth` weight matrices with ReLU, in torch's default initialisation."""
    sizes = [inputs] + [width] * (depth - 1)
    hidden = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return freeze(nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10)), frozen)


def resmlp(
    inputs: int = 196, width: int = 32, depth: int = 6, scale: float | None = None, frozen: Sequence[str] = ()
) -> nn.Module:
    """Return a perceptron with `depth` residual branches of two matrices each."""
    branches = [
        Residual(width, nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)), scale)
        for _ in range(depth)
    ]
    return freeze(nn.Sequential(nn.Flatten(), nn.Linear(inputs, width), *branches, nn.Linear(width, 10)), frozen)


def cnn(channels: int = 3, width: int = 8, statistics: float | None = 0.1, frozen: Sequence[str] = ()) -> nn.Module:
    """Return three convolutions with BatchNorm and ReLU, halving the image twice, and a linear output.

    `statistics` is the momentum of BatchNorm's running statistics.
    """
    parts: list[nn.Module] = []
    for inputs, outputs, stride in ((channels, width, 2), (width, 2 * width, 2), (2 * width, 2 * width, 1)):
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        parts += [convolution, nn.BatchNorm2d(outputs, momentum=statistics), nn.ReLU()]
    return freeze(nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10)), frozen)
