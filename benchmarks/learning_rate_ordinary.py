"""The networks of the learning-rate study that are of ordinary kinds: language models and convolutional networks."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

VOCABULARY, LENGTH, CLASSES = 65, 32, 10


def initialised(model: nn.Module, deviation: float | None) -> nn.Module:
    """The model with all of its matrices and embeddings drawn from N(0, deviation²), or as torch draws them (None)."""
    if deviation is not None:
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=deviation)
                if getattr(module, "bias", None) is not None:
                    nn.init.zeros_(module.bias)
    return model


class Attention(nn.Module):
    """Attention with learned projections, over its own input or another's; with rotary positions where asked."""

    def __init__(self, width: int, heads: int, *, causal: bool, bias: bool = True, rotary: bool = False) -> None:
        super().__init__()
        self.heads, self.causal, self.rotary = heads, causal, rotary
        self.queries = nn.Linear(width, width, bias)
        self.pairs = nn.Linear(width, 2 * width, bias)
        self.output = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Return what the heads gather, rows × places × width."""
        queries = self.queries(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        source = x if memory is None else memory
        keys, values = self.pairs(source).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.rotary:
            queries, keys = rotated(queries), rotated(keys)
        mixed = scaled_dot_product_attention(queries, keys, values, is_causal=self.causal)
        gathered: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return gathered


def rotated(x: Tensor) -> Tensor:
    """Rotary positions: halves of each head turned by angles that grow with the place, [..., places, size]."""
    places, half = x.shape[-2], x.shape[-1] // 2
    angles = torch.arange(places)[:, None] / 10_000.0 ** (torch.arange(half) / half)
    first, second = x.split(half, dim=-1)
    return torch.cat([first * angles.cos() - second * angles.sin(), first * angles.sin() + second * angles.cos()], -1)


class Gated(nn.Module):
    """down(silu(gate x) · up x), a Llama's perceptron."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return rows × places × width."""
        added: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return added


class Block(nn.Module):
    """A transformer block, normalised before each part (`pre`), behind each sum (`post`), or a Llama's."""

    def __init__(self, width: int, heads: int, kind: str, *, causal: bool = True, crossed: bool = False) -> None:
        super().__init__()
        llama = kind == "llama"
        norm = nn.RMSNorm if llama else nn.LayerNorm
        self.post = kind == "post"
        self.attention = Attention(width, heads, causal=causal, bias=not llama, rotary=llama)
        self.crossed = Attention(width, heads, causal=False) if crossed else None
        self.mlp = (
            Gated(width, 8 * width // 3)
            if llama
            else nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        )
        self.norms = nn.ModuleList(norm(width) for _ in range(3 if crossed else 2))

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """Return the residual stream behind the block."""
        parts: list[Callable[[Tensor], Tensor]] = [self.attention, self.mlp]
        if self.crossed is not None:
            crossed = self.crossed
            parts.insert(1, lambda stream: crossed(stream, memory))
        for part, norm in zip(parts, self.norms, strict=True):
            x = norm(x + part(x)) if self.post else x + part(norm(x))
        return x


class LanguageModel(nn.Module):
    """A decoder on characters; positions are learned, but for a Llama's."""

    def __init__(self, width: int, depth: int, heads: int, kind: str, tied: bool) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.position = None if kind == "llama" else nn.Embedding(LENGTH, width)
        self.blocks = nn.ModuleList(Block(width, heads, kind) for _ in range(depth))
        self.last = {"pre": nn.LayerNorm, "llama": nn.RMSNorm, "post": nn.Identity}[kind](width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        for embedding in filter(None, (self.token, self.position)):
            nn.init.normal_(embedding.weight, std=0.02)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each next character, rows × places × vocabulary."""
        stream = self.token(x)
        if self.position is not None:
            stream = stream + self.position(torch.arange(x.shape[1]))
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.head(self.last(stream))
        return logits


def language_model(
    width: int, depth: int, kind: str = "pre", *, deviation: float | None = None, heads: int = 4, tied: bool = False
) -> nn.Module:
    """A GPT, a transformer normalised behind its sums, or a Llama, with all matrices drawn at a deviation."""
    return initialised(LanguageModel(width, depth, heads, kind, tied), deviation)


class Translator(nn.Module):
    """An encoder reads the first half of a row, and a decoder goes on from there."""

    def __init__(self, width: int, depth: int, heads: int = 4) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(VOCABULARY, width), nn.Embedding(LENGTH, width)
        self.encoder = nn.ModuleList(Block(width, heads, "pre", causal=False) for _ in range(depth))
        self.decoder = nn.ModuleList(Block(width, heads, "pre", crossed=True) for _ in range(depth))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each next character of the second half."""
        read, stream = (self.token(x) + self.position(torch.arange(x.shape[1]))).chunk(2, dim=1)
        for block in self.encoder:
            read = block(read)
        for block in self.decoder:
            stream = block(stream, read)
        logits: Tensor = self.head(self.last(stream))
        return logits


class Recurrent(nn.Module):
    """An LSTM on characters."""

    def __init__(self, width: int, depth: int = 1) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, width)
        self.recurrence = nn.LSTM(width, width, depth, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of each next character."""
        logits: Tensor = self.head(self.recurrence(self.token(x))[0])
        return logits


def normalisation(kind: str, channels: int) -> nn.Module:
    """BatchNorm, GroupNorm of 8 groups, or none."""
    if kind == "group":
        return nn.GroupNorm(8, channels)
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.Identity()


def convolutions(channels: list[int], norm: str = "batch", strides: tuple[int, ...] = ()) -> nn.Module:
    """3 × 3 convolutions, each with a normalisation and ReLU, then the mean over places and a linear output."""
    parts: list[nn.Module] = []
    for place, (inputs, outputs) in enumerate(pairwise([3, *channels])):
        stride = strides[place] if place < len(strides) else 1
        parts += [
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=norm == "none"),
            normalisation(norm, outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], CLASSES))


class ResidualPair(nn.Module):
    """Two convolutions with BatchNorm and a skip, which is a 1 × 1 convolution where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        changed = inputs != outputs or stride > 1
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changed else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the rectified sum."""
        return torch.relu(self.skip(x) + self.branch(x))


def resnet(*widths: int) -> nn.Module:
    """A residual network with a pair of convolutions at each width, all but the first of them with stride 2."""
    stem = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    pairs = [ResidualPair(a, b, 1 if place == 0 else 2) for place, (a, b) in enumerate(pairwise([widths[0], *widths]))]
    return nn.Sequential(*stem, *pairs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES))


class ConvNext(nn.Module):
    """Depthwise convolutions and perceptrons of channels on 8 × 8 places, every branch begun at LayerScale 1e-6."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2, 2)
        self.depthwise = nn.ModuleList(nn.Conv2d(width, width, 5, padding=2, groups=width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth + 1))
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)) for _ in range(depth)
        )
        self.scales = nn.ParameterList(torch.full((width,), 1e-6) for _ in range(depth))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, rows × classes."""
        x = self.stem(x)
        for depthwise, norm, mlp, scale in zip(self.depthwise, self.norms, self.mlps, self.scales, strict=False):
            x = x + (scale * mlp(norm(depthwise(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        logits: Tensor = self.head(self.norms[-1](x.mean((2, 3))))
        return logits


class UNet(nn.Module):
    """Down to 4 × 4 places and up again with skips; gives an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [self._pair(3, width), self._pair(width, 2 * width), self._pair(2 * width, 4 * width)]
        )
        self.up = nn.ModuleList([self._pair(6 * width, 2 * width), self._pair(3 * width, width)])
        self.output = nn.Conv2d(width, 3, 1)

    @staticmethod
    def _pair(inputs: int, outputs: int) -> nn.Module:
        parts = []
        for a, b in ((inputs, outputs), (outputs, outputs)):
            parts += [nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(4, b), nn.SiLU()]
        return nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        """Return an image of the input's shape."""
        high = self.down[0](x)
        middle = self.down[1](functional.avg_pool2d(high, 2))
        low = self.down[2](functional.avg_pool2d(middle, 2))
        middle = self.up[0](torch.cat([functional.interpolate(low, scale_factor=2), middle], 1))
        image: Tensor = self.output(self.up[1](torch.cat([functional.interpolate(middle, scale_factor=2), high], 1)))
        return image


class VisionTransformer(nn.Module):
    """A transformer on patches of 4 × 4 pixels, the mean over places read out."""

    def __init__(self, width: int, depth: int, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.position = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.ModuleList(Block(width, heads, "pre", causal=False) for _ in range(depth))
        self.last, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, rows × classes."""
        stream = self.patches(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            stream = block(stream)
        logits: Tensor = self.head(self.last(stream).mean(1))
        return logits
