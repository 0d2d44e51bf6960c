"""Advice acted upon: does moving a hyperparameter as `hypergrad` advises do what it predicts?

    python benchmarks/hypergrad_study.py [--steps 200] [--sample NAME] [--results FILE]

For each case (a checkpoint of a sample, a hyperparameter, an order of the training batches) the advice is taken from
one half of the validation rows. Then training goes on with the hyperparameter moved up and down by a tenth, in a plain
loop of torch: on the batches of the advice, and on others in several orders. Both moves of a pair see the same batches.
The other half of the validation rows judges. One line of JSON a case.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fromage_cli.checkpoints import open_checkpoint
from fromage_cli.diagnostics.hypergrad.answers import Request
from fromage_cli.diagnostics.hypergrad.measure import measure
from fromage_cli.diagnostics.hypergrad.result import CONTINUED, UNROLL
from fromage_cli.missing import found_of, known
from fromage_cli.optimizers.settings import Given, find_settings
from fromage_cli.probes.hypergradients.hyperparameters import drop_everywhere
from fromage_cli.probes.hypergradients.validation import Validation, validation_parts
from fromage_cli.problem.data.batches import as_batch, numbered
from fromage_cli.problem.evaluation.problem import Problem
from fromage_cli.problem.losses.supervised_losses import CrossEntropy
from fromage_cli.problem.networks.weights import load_weights

SAMPLES = Path(__file__).parents[1] / "sample_checkpoints"
sys.path.insert(0, str(SAMPLES))
from models import char_gpt, convnet  # noqa: E402  # in the samples' folder
from splits import Split, characters, digit_images  # noqa: E402

Rows = tuple[Tensor, Tensor]
MOVE = 0.1


@dataclass(frozen=True)
class Sample:
    """One sample's network, data and rows of a training batch."""

    build: Any
    split: Any
    rows: int
    steps: tuple[int, ...]
    moved: tuple[str, ...]
    others: int
    """Orders of batches beside that of the advice."""


SAMPLES_USED = {
    "convnet-sgd": Sample(
        convnet, digit_images, 64, (330, 990, 1650, 2310, 2970), ("weight-decay", "label-smoothing"), 12
    ),
    "char-gpt": Sample(char_gpt, characters, 32, (100, 400, 860), ("weight-decay", "label-smoothing", "dropout"), 4),
}
NOW = {"label-smoothing": 0.1, "dropout": 0.1}


@dataclass(frozen=True)
class Case:
    """One checkpoint, one hyperparameter, one order of batches."""

    sample: str
    step: int
    moved: str
    order: int


def cases() -> list[Case]:
    """All of them, the quick ones first."""
    orders = {"convnet-sgd": range(4), "char-gpt": range(2)}
    return [
        Case(name, step, moved, order)
        for name, sample in SAMPLES_USED.items()
        for order, step, moved in itertools.product(orders[name], sample.steps, sample.moved)
    ]


def batches(split: Split, rows: int, seed: int) -> Iterator[Rows]:
    """Training batches, drawn anew for each pass."""
    x, y = split.train
    generator = torch.Generator().manual_seed(seed)
    while True:
        for index in torch.randperm(len(x), generator=generator).split(rows):
            if len(index) == rows:
                yield x[index], y[index]


def network(case: Case) -> tuple[nn.Module, Any]:
    """The checkpoint's network, with dropout where that is moved."""
    checkpoint = open_checkpoint(SAMPLES / case.sample / f"step-{case.step:06d}.pt")
    model = SAMPLES_USED[case.sample].build()
    load_weights(model, checkpoint)
    if case.moved == "dropout":
        drop_everywhere(model, NOW["dropout"])
    return model, checkpoint


def advice(case: Case, steps: int, seed: int, rows: Rows) -> dict[str, Any]:
    """What the tool says of the case's hyperparameter."""
    sample, (model, checkpoint) = SAMPLES_USED[case.sample], network(case)
    optimizer = find_settings(Given(), checkpoint.optimizer.settings_for(None), Given())
    drawn = itertools.islice(batches(sample.split(), sample.rows, seed), steps)
    training = numbered([as_batch(one, "drawn") for one in drawn])
    problem = Problem(model, CrossEntropy(), training[0], mode="train", spare=tuple(training[1:]))
    held_out = as_batch(rows, "held out")
    validation = Validation(Problem(model, CrossEntropy(), held_out, mode="eval"), validation_parts([held_out]))
    smoothing = {"label-smoothing": NOW["label-smoothing"] if case.moved == "label-smoothing" else 0.0}
    request = Request(steps, None, smoothing, only=case.moved)
    result, error = found_of(measure(problem, validation, optimizer, checkpoint.optimizer, request=request))
    found = next(one for one in result.hyperparameters if one.name == case.moved and one.scope == "all")
    told = {"direction": found.direction, "value": found.value, "error": None if error is None else error.message}
    for method in (UNROLL, CONTINUED, "gauss-newton"):
        answer = found.by(method)
        if answer is not None:
            told[method] = {
                name: known(getattr(answer, name))
                for name in ("log_gradient", "gradient", "stderr", "draws", "metasmoothness")
            }
    return told


def trained(case: Case, steps: int, seed: int, factor: float, rows: Rows) -> float:
    """The loss of rows after plain training with the hyperparameter times a factor."""
    sample, (model, _) = SAMPLES_USED[case.sample], network(case)
    saved = torch.load(SAMPLES / case.sample / f"step-{case.step:06d}.pt", weights_only=True)
    groups = saved["optimizer"]["param_groups"]
    parameters = list(model.parameters())
    made = [{"params": [parameters[i] for i in sorted_group(group, parameters)]} for group in groups]
    kind = torch.optim.AdamW if "betas" in groups[0] else torch.optim.SGD
    optimizer = kind(made, lr=groups[0]["lr"])
    optimizer.load_state_dict(saved["optimizer"])
    for group in optimizer.param_groups:
        group["weight_decay"] *= factor if case.moved == "weight-decay" else 1.0
    smoothing = NOW["label-smoothing"] * factor if case.moved == "label-smoothing" else 0.0
    if case.moved == "dropout":
        drop_everywhere(model, NOW["dropout"] * factor)
    model.train()
    for step, (x, y) in enumerate(itertools.islice(batches(sample.split(), sample.rows, seed), steps)):
        torch.manual_seed(10_000 * seed + step)
        logits = flat(model(x))
        loss = functional.cross_entropy(logits, y.flatten(), label_smoothing=smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        return float(functional.cross_entropy(flat(model(rows[0])), rows[1].flatten()))


def flat(logits: Tensor) -> Tensor:
    """Rows, or rows of positions, beside classes."""
    return logits.flatten(0, -2) if logits.ndim > 2 else logits


def sorted_group(group: dict[str, Any], parameters: list[nn.Parameter]) -> list[int]:
    """The parameters of a saved group: matrices and vectors apart, as the sample was trained."""
    count = len(group["params"])
    if count == len(parameters):
        return list(range(count))
    matrices = [number for number, parameter in enumerate(parameters) if parameter.ndim > 1]
    vectors = [number for number, parameter in enumerate(parameters) if parameter.ndim < 2]
    return matrices if count == len(matrices) else vectors


def main() -> None:
    """Add a line for each case that the file does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "hypergrad_study.jsonl")
    parser.add_argument("--sample", choices=SAMPLES_USED, help="This one only.")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    lines = asked.results.read_text(encoding="utf-8").splitlines() if asked.results.exists() else []
    done = {tuple(json.loads(line)["case"].values()) for line in lines}
    for case in cases():
        if tuple(vars(case).values()) in done or asked.sample not in (None, case.sample):
            continue
        x, y = SAMPLES_USED[case.sample].split().held_out
        told = advice(case, asked.steps, case.order, (x[::2], y[::2]))
        judges = x[1::2], y[1::2]
        others = SAMPLES_USED[case.sample].others
        orders = [case.order, *(100 + others * case.order + other for other in range(others))]
        acted = [
            [trained(case, asked.steps, seed, 1.0 + sign * MOVE, judges) for sign in (-1.0, 1.0)] for seed in orders
        ]
        line = json.dumps(
            {"case": vars(case), "steps": asked.steps, "told": told, "same": acted[0], "others": acted[1:]}
        )
        with asked.results.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
