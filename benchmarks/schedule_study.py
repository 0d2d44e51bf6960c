"""How well `intrinsic-lr` foretells norms and angles under a schedule, against training that really went on.

    python benchmarks/schedule_study.py [--data DIRECTORY] [--case NAME] [--output FILE]

DIRECTORY holds cifar10_jpeg.npz and mnist.npz (`x_train`, `y_train`) and tinyshakespeare.txt. Each case trains one
network to the end under a warm-up of a tenth of the run and a cosine or linear decay, writes a checkpoint every 5 % of
it, and asks the command for a forecast at the end of the warm-up and at 25, 50 and 75 %: from the last checkpoint
alone, and from all so far, whose norms tell the trend of SGD's gradients. Beside it stand the norms that the layers had
at 25, 50, 75 and 100 % of the run and the angles that single steps turned them there, means over 1 % of the run; for
100 % the angle is that at 97.5 %, for the last step's rate is nothing. Goal: norms within 10 %, angles within 15 %.
"""

import argparse
import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fromage_cli.cli import main
from fromage_cli.theory.schedules import Schedule

DATA = "SCHEDULE_STUDY_DATA"
"""Environment variable by which the batch that the command reads finds its data."""
SAVED, FORECASTS = [part / 20 for part in range(1, 16)], (0.10, 0.25, 0.50, 0.75)
QUARTERS, LAST = (0.25, 0.50, 0.75, 1.0), 0.975
SEEDS = {"cosine": 0, "linear": 1}
"""Of weights and batches, by the decay. The way to find a trend was chosen on cnn-cosine and mlp-cosine."""
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
    return GPT()


def cnn() -> nn.Module:
    """Three convolutions, each before a BatchNorm, for small colour images."""
    return convolutions((3, 12, 2), (12, 24, 2), (24, 24, 2))


def wide() -> nn.Module:
    """Four convolutions of more channels, the first at full size."""
    return convolutions((3, 16, 1), (16, 32, 2), (32, 32, 2), (32, 32, 2))


def convolutions(*shapes: tuple[int, int, int]) -> nn.Module:
    """Convolutions of so many channels in and out at a stride, each before a BatchNorm; images end at 2 × 2."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in shapes:
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(shapes[-1][1] * 4, 10))


def mlp() -> nn.Module:
    """Two linear layers, each before a BatchNorm, for digits, whose border is always black."""
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


def few_images() -> tuple[Tensor, Tensor]:
    """So few of them that the network comes to know them by heart."""
    inputs, labels = images()
    return inputs[:4000], labels[:4000]


def clean_digits() -> tuple[Tensor, Tensor]:
    """MNIST with its own labels, which the network learns to tell."""
    with np.load(Path(os.environ[DATA]) / "mnist.npz") as file:
        return torch.from_numpy(file["x_train"]).float() / 128.0, torch.from_numpy(file["y_train"]).long()


def digits() -> tuple[Tensor, Tensor]:
    """MNIST with 0 for black, and its labels, of which a fifth are drawn at random so that gradients do not end."""
    x, y = clean_digits()
    generator = torch.Generator().manual_seed(1)
    noise = torch.rand(len(y), generator=generator) < 0.2
    return x, torch.where(noise, torch.randint(10, (len(y),), generator=generator), y)


def texts() -> tuple[Tensor, Tensor]:
    """Windows of Shakespeare, and the characters that follow."""
    text = (Path(os.environ[DATA]) / "tinyshakespeare.txt").read_text()
    numbers = {character: index for index, character in enumerate(sorted(set(text)))}
    windows = torch.tensor([numbers[character] for character in text]).unfold(0, LENGTH + 1, 7)
    return windows[:, :-1], windows[:, 1:]


def text_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Cross-entropy over all places."""
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"].flatten())


@dataclass(frozen=True)
class Case:
    """One training run."""

    name: str
    build: Callable[[], nn.Module]
    rows: Callable[[], tuple[Tensor, Tensor]]
    batch: int
    """Rows of the batch that the command sees."""
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
    Case(f"{name}-{shape}", build, rows, batch, steps, size, rate, decay, shape, layers)
    for name, build, rows, batch, steps, size, rate, decay, layers in (
        ("cnn", cnn, images, 2048, 2000, 64, 0.1, 1e-3, ("0.", "3.", "6.")),
        ("wide", wide, images, 2048, 2000, 64, 0.05, 2e-3, ("0.", "3.", "6.", "9.")),
        ("few", cnn, few_images, 2048, 2400, 64, 0.05, 1e-3, ("0.", "3.", "6.")),
        ("mlp", mlp, digits, 2048, 2000, 64, 0.1, 1e-3, ("1.", "4.")),
        ("clean", mlp, clean_digits, 2048, 2000, 64, 0.1, 1e-3, ("1.", "4.")),
        (
            "gpt",
            gpt,
            texts,
            32,
            1200,
            16,
            3e-3,
            0.3,
            ("attention.0.query", "attention.0.key", "attention.1.query", "attention.1.key"),
        ),
    )
    for shape in ("cosine", "linear")
    if shape == "linear" or name in {"cnn", "mlp", "gpt"}
]


def train(case: Case, folder: Path) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The norm of every layer before each step and at the end, and the angle by which each step turned it.

    Writes checkpoints, and the batch that the command sees.
    """
    torch.manual_seed(SEEDS[case.shape])
    model, (inputs, labels) = case.build(), case.rows()
    rows = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(2))[: case.batch]
    np.savez(folder / "batch.npz", x=inputs[rows].numpy(), y=labels[rows].numpy())
    optimizer = case.optimizer(model.parameters())
    watched = {name: weight for name, weight in model.named_parameters() if name.startswith(case.layers)}
    norms: dict[str, list[float]] = {name: [] for name in watched}
    angles: dict[str, list[float]] = {name: [] for name in watched}
    generator = torch.Generator().manual_seed(3 + SEEDS[case.shape])
    for step in range(case.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = case.rate * case.schedule.rate_factor(step)
        if step in [round(case.steps * share) for share in SAVED]:
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


def forecast(case: Case, checkpoints: Sequence[Path]) -> tuple[dict[str, dict[str, list[float]]], float | None]:
    """What the command foretells from the last of these checkpoints, by layer, and the trend of gradients it found."""
    here = Path(__file__).absolute()
    command = ["intrinsic-lr", *map(str, checkpoints), "--json", "--no-progress"]
    command += ["--model", f"{here}:{case.build.__name__}", "--batch", str(checkpoints[0].parent / "batch.npz")]
    command += ["--train-batch-size", str(case.size)]
    command += ["--loss", f"{here}:text_loss"] if case.build is gpt else []
    command += ["--schedule", case.shape, "--warmup-steps", str(case.steps // 10), "--total-steps", str(case.steps)]
    out = io.StringIO()
    with redirect_stdout(out), suppress(SystemExit):
        main(command)
    result = json.loads(out.getvalue())["result"]
    return {each["name"]: each["forecast"] for each in result["layers"] if each["forecast"]}, result["gradient_trend"]


def rows_of(case: Case) -> list[dict[str, str]]:
    """One row for each forecast, layer and quarter that lies ahead."""
    found: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        norms, angles = train(case, Path(folder))
        saved = sorted(Path(folder).glob("step-*.pt"))
        asked = [(share, "last") for share in FORECASTS]
        if case.build is not gpt:  # two checkpoints tell no trend, and AdamW needs none
            asked += [(share, "all") for share in FORECASTS[1:]]
        for share, checkpoints in asked:
            upto = saved[: SAVED.index(share) + 1]
            foretold, trend = forecast(case, upto[-1:] if checkpoints == "last" else upto)
            for name, quarter in [(name, one) for name in norms for one in QUARTERS if one > share]:
                step, turn = round(case.steps * quarter), round(case.steps * min(quarter, LAST))
                angle = float(np.mean(angles[name][turn - case.steps // 200 : turn + case.steps // 200]))
                row = {"case": case.name, "forecast_at": str(share), "checkpoints": checkpoints, "layer": name}
                row |= {"at": str(quarter), "trend": "" if trend is None else f"{trend:.3f}"}
                for title, true, at, said in (
                    ("norm", norms[name][step], step, ("norms", "norms_if_growing")),
                    ("angle", angle, turn, ("angles_per_step", "angles_if_growing")),
                ):
                    place = foretold[name]["steps"].index(at)
                    row[title] = f"{true:.6g}"
                    for ratio, values in zip(("ratio", "ratio_if_growing"), said, strict=True):
                        told = foretold[name][values]
                        row[f"{title}_{ratio}"] = f"{told[place] / true:.4f}" if told else ""
                found.append(row)
    return found


def report(rows: Sequence[Mapping[str, str]]) -> None:
    """Print for each case and forecast how many met the goals, and the ranges of expected ÷ true at its end."""
    print("| case | forecast at | checkpoints | trend | norms | angles | norms in range | angles in range |")
    print("|---|---|---|---|---|---|---|---|")
    for (case, share, checkpoints), same in grouped(rows, "case", "forecast_at", "checkpoints"):
        goals = [right(same, title, goal) for title, goal in (("norm", NORM_GOAL), ("angle", ANGLE_GOAL))]
        spans = [spanned(same, title, goal) for title, goal in (("norm", NORM_GOAL), ("angle", ANGLE_GOAL))]
        print(
            f"| {case} | {float(share):.0%} | {checkpoints} | {same[0]['trend'] or '–'} | {' | '.join(goals + spans)} |"
        )
    print("\n| case | forecast at | checkpoints | norm | norm if growing | angle | angle if growing |")
    print("|---|---|---|---|---|---|---|")
    ends = [row for row in rows if float(row["at"]) == QUARTERS[-1]]
    for (case, share, checkpoints), same in grouped(ends, "case", "forecast_at", "checkpoints"):
        cells = []
        for column in ("norm_ratio", "norm_ratio_if_growing", "angle_ratio", "angle_ratio_if_growing"):
            ratios = [float(row[column]) for row in same if row[column]]
            cells.append(f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "–")
        print(f"| {case} | {float(share):.0%} | {checkpoints} | {' | '.join(cells)} |")


def grouped(rows: Sequence[Mapping[str, str]], *columns: str) -> list[tuple[tuple[str, ...], list[Mapping[str, str]]]]:
    """Rows that share these columns, in order."""
    keys = dict.fromkeys(tuple(row[column] for column in columns) for row in rows)
    return [(key, [row for row in rows if tuple(row[column] for column in columns) == key]) for key in keys]


def right(rows: Sequence[Mapping[str, str]], title: str, goal: float) -> str:
    """How many forecasts came within the goal."""
    return f"{sum(abs(float(row[f'{title}_ratio']) - 1.0) <= goal for row in rows)} of {len(rows)}"


def spanned(rows: Sequence[Mapping[str, str]], title: str, goal: float) -> str:
    """How many true values lay between the forecast and that with growing gradients, or within the goal of one."""
    ends = [(float(row[f"{title}_ratio"]), float(row[f"{title}_ratio_if_growing"] or "nan")) for row in rows]
    if any(math.isnan(end) for _, end in ends):
        return "–"
    return f"{sum(min(pair) <= 1.0 + goal and max(pair) >= 1.0 - goal for pair in ends)} of {len(ends)}"


def run() -> None:
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
    rows.sort(key=lambda row: ([case.name for case in CASES].index(row["case"]), row["forecast_at"]))
    given.output.parent.mkdir(exist_ok=True)
    with given.output.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    report(rows)


if __name__ == "__main__":
    run()
