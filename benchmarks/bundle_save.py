"""What it costs to save a bundle, beside torch.save of the same checkpoint: seconds, and memory above the weights.

    python benchmarks/bundle_save.py [--layers N] [--width N] [--rounds N]

A GPT with AdamW is saved in turns by both, each with weights and optimizer state. The first bundle also makes the
graphs and compares them with the network. Goals: later saves take at most twice as long as torch.save, and hold at most
one further copy of the weights.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli import bundle
from fromage_cli.process_memory import largest_resident

VOCABULARY, LENGTH, ROWS = 8192, 128, 4


class Block(nn.Module):
    """One layer of a transformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attention and a perceptron, each beside the input."""
        rows, length, width = x.shape
        heads = [
            part.view(rows, length, -1, 64).transpose(1, 2) for part in self.projections(self.first(x)).chunk(3, -1)
        ]
        mixed = functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2)
        x = x + self.out(mixed.reshape(rows, length, width))
        return x + self.down(functional.gelu(self.up(self.second(x))))


class Network(nn.Module):
    """A language model with a tied head."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        hidden = self.embedding(x)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(hidden)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.manual_seed(0)
    network = Network(asked.layers, asked.width)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
    x = torch.randint(VOCABULARY, (ROWS, LENGTH))
    batch = {"x": x, "y": x.roll(-1, 1)}

    def loss(model: nn.Module, rows: dict[str, Tensor]) -> Tensor:
        return functional.cross_entropy(model(rows["x"]).flatten(0, 1), rows["y"].flatten())

    loss(network, batch).backward()
    optimizer.step()
    weights = sum(parameter.nbytes for parameter in network.parameters())
    room = Path(tempfile.mkdtemp())
    before = largest_resident() or 0
    try:
        seconds = {
            "first bundle": [timed(lambda: bundle.save(room / "b", network, batch, loss, optimizer, strict=True))]
        }
        first = largest_resident() or 0
        later = 0
        for _ in range(asked.rounds):
            held = {"model": network.state_dict(), "optimizer": optimizer.state_dict()}
            seconds.setdefault("torch.save", []).append(timed(lambda held=held: torch.save(held, room / "t.pt")))
            Path("/proc/self/clear_refs").write_text("5")  # what was held at most is counted anew
            held_now = largest_resident() or 0
            again = timed(lambda: bundle.save(room / "b", network, batch, loss, optimizer, strict=True))
            seconds.setdefault("later bundles", []).append(again)
            later = max(later, (largest_resident() or 0) - held_now)
        size = sum(file.stat().st_size for file in (room / "b").iterdir())
    finally:
        shutil.rmtree(room)
    print(f"weights {weights / 1e6:.0f} MB, bundle {size / 1e6:.0f} MB")
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.2f} s ({min(values):.2f} to {max(values):.2f})")
    ratios = [b / t for b, t in zip(seconds["later bundles"], seconds["torch.save"], strict=True)]
    print(f"later bundles / torch.save: {statistics.median(ratios):.2f}")
    print(f"peak memory of the first above what was held: {(first - before) / weights:.2f} x weights")
    print(f"peak memory of later ones above what was held: {later / weights:.2f} x weights")


def timed(run: object) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()  # type: ignore[operator]
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
