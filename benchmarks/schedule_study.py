"""How well `intrinsic-lr` foretells norms and angles under a schedule, against training that really went on.

    python benchmarks/schedule_study.py [--data DIRECTORY] [--case NAME] [--output FILE]

DIRECTORY holds cifar10_jpeg.npz and mnist.npz (`x_train`, `y_train`) and tinyshakespeare.txt. Each case trains one
network to the end under a warm-up of a tenth of the run and a cosine or linear decay, writes checkpoints at the end of
the warm-up and at a quarter, and asks the command for a forecast from each. Beside it stand the norms that the layers
had at 25, 50, 75 and 100 % of the run and the angles that single steps turned them there, means over 1 % of the run;
for 100 % the angle is that at 97.5 %, for the last step's rate is nothing. Goal: norms within 10 %, angles within 15 %.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fromage_cli.theory.schedules import Schedule

DATA = "SCHEDULE_STUDY_DATA"
"""Environment variable by which the batch that the command reads finds its data."""
FORECASTS, QUARTERS, LAST = (0.10, 0.25), (0.25, 0.50, 0.75, 1.0), 0.975
NORM_GOAL, ANGLE_GOAL = 0.10, 0.15
LENGTH = 32
"""Characters of a text."""


class Attention(nn.Module):
    """Causal attention whose queries and keys are normalised by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.norm = nn.RMSNorm(width // heads, elementwise_affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, length, width)."""
        rows, length, width = x.shape
        parts = [f(x).view(rows, length, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value)]
        query, key = map(self.norm, parts[:2])
        mixed = nn.functional.scaled_dot_product_attention(query, key, parts[2], is_causal=True)
        return self.output(mixed.transpose(1, 2).reshape(rows, length, width))


class GPT(nn.Module):
    """Two blocks over characters; logits of all places, one below the other."""

    def __init__(self, tokens: int = 65, width: int = 48) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(tokens, width), nn.Embedding(LENGTH, width)
        self.attention = nn.ModuleList([Attention(width, 4) for _ in range(2)])
        self.mlp = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(2)]
        )
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(5)])
        self.head = nn.Linear(width, tokens)

    def forward(self, x: Tensor) -> Tensor:
        """Of (rows, length) numbers of characters."""
        x = self.token(x) + self.position(torch.arange(x.shape[1]))
        for index in range(2):
            x = x + self.attention[index](self.norms[2 * index](x))
            x = x + self.mlp[index](self.norms[2 * index + 1](x))
        return self.head(self.norms[4](x)).flatten(0, 1)


def gpt() -> nn.Module:
    """The language model."""
    torch.manual_seed(0)
    return GPT()


def cnn() -> nn.Module:
    """Three convolutions, each before a BatchNorm, for small colour images."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 12), (12, 24), (24, 24)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(24 * 4, 10))


def mlp() -> nn.Module:
    """Two linear layers, each before a BatchNorm, for digits, whose border is always black."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in ((784, 64), (64, 64)):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 10))


def images() -> tuple[Tensor, Tensor]:
    """CIFAR-10 at half its size, and its labels."""
    with np.load(Path(os.environ[DATA]) / "cifar10_jpeg.npz") as file:
        pixels, labels = file["x_train"], file["y_train"]
    x = torch.from_numpy(pixels).float().permute(0, 3, 1, 2) / 128.0 - 1.0
    return nn.functional.avg_pool2d(x, 2), torch.from_numpy(labels).long().flatten()


def digits() -> tuple[Tensor, Tensor]:
    """MNIST with 0 for black, and its labels, of which a fifth are drawn at random so that gradients do not end."""
    with np.load(Path(os.environ[DATA]) / "mnist.npz") as file:
        x, y = torch.from_numpy(file["x_train"]).float() / 128.0, torch.from_numpy(file["y_train"]).long()
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(len(y), generator=generator) < 0.2
    return x, torch.where(noise, torch.randint(10, (len(y),), generator=generator), y)


def texts() -> tuple[Tensor, Tensor]:
    """Windows of Shakespeare, and the characters that follow."""
    text = (Path(os.environ[DATA]) / "tinyshakespeare.txt").read_text()
    numbers = {character: index for index, character in enumerate(sorted(set(text)))}
    windows = torch.tensor([numbers[character] for character in text]).unfold(0, LENGTH + 1, 7)
    return windows[:, :-1], windows[:, 1:]


def _batch(rows: tuple[Tensor, Tensor], size: int) -> dict[str, Tensor]:
    chosen = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(2))[:size]
    return {"x": rows[0][chosen], "y": rows[1][chosen]}


def image_batch() -> dict[str, Tensor]:
    """What the command measures the convolutions on."""
    return _batch(images(), 2048)


def digit_batch() -> dict[str, Tensor]:
    """What the command measures the perceptron on."""
    return _batch(digits(), 2048)


def text_batch() -> dict[str, Tensor]:
    """What the command tests the language model on."""
    return _batch(texts(), 32)


def text_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy over all places."""
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"].flatten())


@dataclass(frozen=True)
class Case:
    """One training run."""

    name: str
    build: Callable[[], nn.Module]
    rows: Callable[[], tuple[Tensor, Tensor]]
    batch: Callable[[], dict[str, Tensor]]
    steps: int
    size: int
    rate: float
    decay: float
    shape: str
    layers: tuple[str, ...]
    """Those that are scale-invariant, by the beginnings of their names."""

    @property
    def schedule(self) -> Schedule:
        """Of its rate."""
        return Schedule(self.shape, self.steps // 10, self.steps)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """AdamW for texts, else SGD with momentum."""
        if self.build is gpt:
            return torch.optim.AdamW(parameters, self.rate, (0.9, 0.95), weight_decay=self.decay)
        return torch.optim.SGD(parameters, self.rate, 0.9, weight_decay=self.decay)


CASES = [
    Case(f"{build.__name__}-{shape}", build, rows, batch, steps, size, rate, decay, shape, layers)
    for build, rows, batch, steps, size, rate, decay, layers in (
        (cnn, images, image_batch, 2000, 64, 0.1, 1e-3, ("0.", "3.", "6.")),
        (mlp, digits, digit_batch, 2000, 64, 0.1, 1e-3, ("1.", "4.")),
        (
            gpt,
            texts,
            text_batch,
            1200,
            16,
            3e-3,
            0.3,
            ("attention.0.query", "attention.0.key", "attention.1.query", "attention.1.key"),
        ),
    )
    for shape in ("cosine", "linear")
]


def train(case: Case, folder: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The norm of every layer before each step and at the end, and the angle by which each step turned it."""
    model, (inputs, labels) = case.build(), case.rows()
    optimizer = case.optimizer(model.parameters())
    watched = {name: weight for name, weight in model.named_parameters() if name.startswith(case.layers)}
    norms: dict[str, list[float]] = {name: [] for name in watched}
    angles: dict[str, list[float]] = {name: [] for name in watched}
    generator = torch.Generator().manual_seed(3)
    for step in range(case.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = case.rate * case.schedule.rate_factor(step)
        if step in [round(case.steps * share) for share in FORECASTS]:
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(saved, folder / f"step-{step:06d}.pt")
        before = {name: weight.detach().clone() for name, weight in watched.items()}
        for name, weight in before.items():
            norms[name].append(float(weight.norm()))
        if step == case.steps:
            break
        chosen = torch.randint(len(inputs), (case.size,), generator=generator)
        loss = nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for name, weight in watched.items():
            angles[name].append(turned(before[name].double(), weight.detach().double()))
    return norms, angles


def turned(before: Tensor, after: Tensor) -> float:
    """The angle between two tensors, radians."""
    one, other = before / before.norm(), after / after.norm()
    return 2.0 * math.atan2(float((one - other).norm()), float((one + other).norm()))


def forecast(case: Case, checkpoint: Path) -> dict[str, dict[str, list[float]]]:
    """What the command foretells from a checkpoint, by layer."""
    here = Path(__file__).absolute()
    model, batch = case.build.__name__, case.batch.__name__
    command = [sys.executable, "-m", "fromage_cli", "intrinsic-lr", str(checkpoint), "--json", "--no-progress"]
    command += ["--model", f"{here}:{model}", "--batch", f"{here}:{batch}", "--train-batch-size", str(case.size)]
    command += ["--loss", f"{here}:text_loss"] if case.build is gpt else []
    command += ["--schedule", case.shape, "--warmup-steps", str(case.steps // 10), "--total-steps", str(case.steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    layers = json.loads(done.stdout)["result"]["layers"]
    return {layer["name"]: layer["forecast"] for layer in layers if layer["forecast"]}


def rows_of(case: Case) -> list[dict[str, str]]:
    """One row for each forecast, layer and quarter that lies ahead."""
    found: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        norms, angles = train(case, Path(folder))
        for share in FORECASTS:
            foretold = forecast(case, Path(folder) / f"step-{round(case.steps * share):06d}.pt")
            for name in norms:
                ahead = dict(zip(foretold[name]["steps"], range(10**6), strict=False))
                for quarter in (one for one in QUARTERS if one > share):
                    step, turn = round(case.steps * quarter), round(case.steps * min(quarter, LAST))
                    width = case.steps // 200
                    angle = float(np.mean(angles[name][turn - width : turn + width]))
                    said_norm = foretold[name]["norms"][ahead[step]]
                    said_angle = foretold[name]["angles_per_step"][ahead[turn]]
                    found.append(
                        {
                            "case": case.name,
                            "forecast_at": str(share),
                            "layer": name,
                            "at": str(quarter),
                            "norm": f"{norms[name][step]:.6g}",
                            "expected_norm": f"{said_norm:.6g}",
                            "norm_ratio": f"{said_norm / norms[name][step]:.4f}",
                            "angle": f"{angle:.6g}",
                            "expected_angle": f"{said_angle:.6g}",
                            "angle_ratio": f"{said_angle / angle:.4f}",
                        }
                    )
    return found


def report(rows: Sequence[Mapping[str, str]]) -> None:
    """Print a row for each case, forecast and quarter: the range of ratios, and what gradients became meanwhile.

    The last column is (angle ratio)^-2 (norm ratio)^-4: under SGD how many times larger E‖g̃‖² was than at the forecast.
    """
    print("| case | forecast at | at | norm, expected ÷ true | angle, expected ÷ true | gradients |")
    print("|---|---|---|---|---|---|")
    for case, share, at in dict.fromkeys((row["case"], row["forecast_at"], row["at"]) for row in rows):
        same = [row for row in rows if (row["case"], row["forecast_at"], row["at"]) == (case, share, at)]
        norm, angle = ([float(row[name]) for row in same] for name in ("norm_ratio", "angle_ratio"))
        grown = [a**-2 * n**-4 for a, n in zip(angle, norm, strict=True)]
        spans = [f"{min(each):.2f} to {max(each):.2f}" for each in (norm, angle, grown)]
        spans[2] = "–" if case.startswith("gpt") else f"× {spans[2]}"
        print(f"| {case} | {float(share):.0%} | {float(at):.0%} | {' | '.join(spans)} |")
    for name, goal in (("norm", NORM_GOAL), ("angle", ANGLE_GOAL)):
        for case in dict.fromkeys(row["case"] for row in rows):
            ratios = [float(row[f"{name}_ratio"]) for row in rows if row["case"] == case]
            print(f"{case}, {name}: {sum(abs(one - 1.0) <= goal for one in ratios)} of {len(ratios)} within {goal:.0%}")


def main() -> None:
    """Run the cases that were asked for, keep the rows of others in the file, and print what all of them say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="directory with the data sets; without it the file is only reported")
    parser.add_argument("--case", action="append", choices=[case.name for case in CASES], help="all without it")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "schedule_study.csv")
    given = parser.parse_args()
    wanted = [case for case in CASES if given.data and case.name in (given.case or [one.name for one in CASES])]
    kept: list[dict[str, str]] = []
    if given.output.exists():
        with given.output.open(newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["case"] not in [case.name for case in wanted]]
    if given.data:
        os.environ[DATA] = str(given.data.absolute())
        torch.set_num_threads(1)
    rows = kept + [row for case in wanted for row in rows_of(case)]
    rows.sort(key=lambda row: [case.name for case in CASES].index(row["case"]))
    given.output.parent.mkdir(exist_ok=True)
    with given.output.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    report(rows)


if __name__ == "__main__":
    main()
