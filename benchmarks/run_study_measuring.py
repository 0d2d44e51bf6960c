"""Measuring of the run study: the tool's commands at one checkpoint, and what is kept of their answers."""

import contextlib
import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from run_study_training import Recipe

from fromage_cli.cli import main
from fromage_cli.diagnostics.norms.findings import OUT_OF_LINE, begins_small, jump_size
from fromage_cli.theory.siblings import out_of_line, sibling_groups

Answer = dict[str, Any]
DIRECTIONS = {"sgd": "sgd", "momentum": "sgd", "adam": "adam", "adamw": "adam"}
"""The optimizer's own direction, as breakdown calls it; Lion and LARS have none there."""
OUTCOMES = {"falls": 0.0, "spikes": 1.0, "rises": 2.0, "diverges": 3.0}
QUANTITIES = {
    "rate/limit": "the rate ÷ the limit up to which the next step is certain to descend",
    "rate/critical": "the rate ÷ the rate from which on the next step raises the loss",
    "rate/critical elsewhere": "the same on rows that gave no part of the step",
    "relative step": "the largest ‖ΔW‖/‖W‖ of a matrix in the next step, at the rate",
    "median relative step": "the median ‖ΔW‖/‖W‖ of the matrices in the next step, at the rate",
    "sharpness ratio": "the (preconditioned) eigenvalue ÷ the optimizer's threshold",
    "stability ratio": "the same number in suggest-lr",
    "first step ratio": "the rate ÷ the smallest at which Adam's first step raises the loss",
    "critical sharpness": "critical sharpness × the rate ÷ 2",
    "batch sharpness": "batch sharpness × the rate ÷ 2",
    "quadratic peak": "the highest loss ÷ the first in the quadratic model's training",
    "quadratic peak of 8 steps": "the same in the first 8 steps of 16",
    "quadratic outcome": "what the quadratic model's training does: 0 falls, 1 spikes, 2 rises, 3 diverges",
    "rate/radius": "the rate ÷ the rate up to which the quadratic model holds",
    "forgetting": "steps of the run × rate × decay (× 1/(1−momentum) for SGD)",
    "growth per step": "the largest growth of ln ‖W‖ per step of a matrix",
    "norm factor": "the largest ratio of a matrix's last and first norm, either way",
    "norm change": "the same since a quarter of the run for lookup tables and layers that begin near zero",
    "norm jump": "the largest factor between two checkpoints that is more than 5 deviations out of line",
    "rate fall": "the largest factor by which a scale-invariant layer's effective rate fell",
    "distance to equilibrium": "the largest distance of ln ‖W‖ from the equilibrium's, of a scale-invariant layer",
    "rotation": "the largest angle of a matrix between neighbouring checkpoints, radians",
    "relative distance": "the largest distance of a matrix between neighbouring checkpoints ÷ its norm",
    "function distance": "the outputs' distance between neighbouring checkpoints ÷ their norm",
    "trust eta": "breakdown's trust η along Fromage's direction",
    "aggregate trust eta": "the same for all layers summed",
    "linear trust eta": "the same by the slope at 0",
    "first increase": "the relative step from which on the loss rises along Fromage's direction",
    "implied depth": "the largest implied depth of a layer ÷ the number of matrices",
    "violation": "the largest breakdown ÷ deep relative trust's prediction of a layer",
    "weights out of line": "the largest factor, either way, between a layer's weights and those of its siblings",
    "gradients out of line": "the same of gradients and relative steps, without the first and the last sibling",
    "own trust eta": "trust η along the optimizer's own direction",
    "own aggregate trust eta": "the same for all layers summed",
    "own layers uphill": "share of matrices with cosine ≤ 0 along the optimizer's own direction",
    "layers uphill": "share of matrices in suggest-lr whose step does not descend or is noise",
    "noise scale": "noise scale ÷ rows of a training batch",
    "dead rows": "the largest share of a matrix's rows that are dead",
    "still tensors": "share of tensors whose gradient is zero or rounding",
    "loss": "the loss on the batch ÷ that of guessing, ln(classes)",
}
"""What is kept of each checkpoint, by its name in the tables; missing where the tool has no number."""


def ask(words: Sequence[str], scratch: Path) -> Answer:
    """Return the JSON answer of one command run in this process; an error's goes to standard output, its code kept."""
    printed = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(printed):
        main([*words, "--json", "--output", str(scratch), "--force", "--quiet", "--no-progress"])
    answer: Answer = json.loads(scratch.read_text(encoding="utf-8") if scratch.exists() else printed.getvalue())
    scratch.unlink(missing_ok=True)
    return answer


def model_words(recipe: Recipe) -> list[str]:
    """Return the options that name the network."""
    words = ["--model", f"{Path(__file__).parent / 'run_study_networks.py'}:{recipe.network}"]
    for name, value in recipe.arguments.items():
        words += ["--model-arg", f"{name}={json.dumps(value)}"]
    return words


def append_row(path: Path, row: dict[str, str]) -> None:
    """Write one row to a table, and its head where the table is new."""
    new = not path.exists()
    with path.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def answers(recipe: Recipe, folder: Path, place: int, scratch: Path) -> dict[str, Answer]:
    """Return the answers at one checkpoint, by command; series reach from the first checkpoint to this one."""
    files = [str(file) for file in sorted(folder.glob("step-*.pt"))]
    here, series = files[place], files[: place + 1]
    model = model_words(recipe)
    rows = ["--train-batch-size", str(recipe.batch_size)]
    asked = {
        "inspect": ["inspect", here],
        "norms": ["norms", *series, *model],
        "intrinsic-lr": ["intrinsic-lr", *series, *model, *rows],
        "sharpness": ["sharpness", here, *model, *rows],
        "breakdown": ["breakdown", here, *model],
        "suggest-lr": ["suggest-lr", here, *model, *rows, "--probe", "none"],
    }
    if recipe.optimizer in DIRECTIONS:
        asked["breakdown-own"] = ["breakdown", here, *model, "--direction", DIRECTIONS[recipe.optimizer]]
    if place:
        asked["distance"] = ["distance", files[place - 1], here, *model, "--no-spectrum"]
    return {name: ask(words, scratch) for name, words in asked.items()}


def _numbers(values: Iterable[Any]) -> list[float]:
    """The finite numbers among these."""
    return [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]


def _largest(values: Iterable[Any]) -> float | None:
    return max(_numbers(values), default=None)


def _ratio(first: Any, second: Any) -> float | None:
    found = _numbers((first, second))
    return found[0] / found[1] if len(found) == 2 and found[1] else None


def quantities(recipe: Recipe, found: dict[str, Answer], classes: int) -> dict[str, float | None]:
    """Return every number of QUANTITIES that these answers hold."""
    result = {name: answer.get("result") or {} for name, answer in found.items()}
    return (
        _of_rates(result.get("suggest-lr", {}))
        | _of_curvature(result.get("sharpness", {}))
        | _of_norms(recipe, result)
        | _of_breakdown(result.get("breakdown", {}), result.get("breakdown-own", {}))
        | _of_distance(result.get("distance", {}))
        | {"loss": _ratio(result.get("breakdown", {}).get("loss"), math.log(classes))}
    )


def _matrices(result: Answer) -> list[Answer]:
    return [layer for layer in result.get("layers", ()) if len(layer["shape"]) > 1]


def _of_rates(result: Answer) -> dict[str, float | None]:
    """What suggest-lr says of the present rate."""
    if not result:
        return {}
    rate, layers = result["optimizer"]["current_learning_rate"], _matrices(result)
    rates = {one["name"]: one["learning_rate"] for one in result["estimates"]}
    steps = sorted(abs(rate) * step for step in _numbers(layer["relative_step"] for layer in layers)) if rate else []
    return {
        "stability ratio": result["stability"]["ratio"],
        "rate/limit": result["optimizer"]["current_ratio"],
        "rate/critical": _ratio(rate, rates.get("critical")),
        "rate/critical elsewhere": _ratio(rate, rates.get("critical-independent")),
        "relative step": steps[-1] if steps else None,
        "median relative step": steps[len(steps) // 2] if steps else None,
        "layers uphill": _ratio(sum(layer["cosine"] <= 0.0 for layer in layers), len(layers)),
        "noise scale": _ratio(result["noise_scale"], result["optimizer"]["train_batch_size"]),
    }


def _of_curvature(result: Answer) -> dict[str, float | None]:
    """What sharpness says of the present rate."""
    if not result:
        return {}
    rate, batch, model = result["learning_rate"], result["batch_sharpness"] or {}, result["quadratic"] or {}
    losses = model.get("losses") or []
    return {
        "sharpness ratio": result["ratio"],
        "first step ratio": result["first_step_ratio"],
        "critical sharpness": _ratio(result["critical_sharpness"], 2.0 / rate if rate else None),
        "batch sharpness": _ratio(batch.get("mean"), 2.0 / rate if rate else None),
        "quadratic peak": _ratio(_largest(losses), losses[0]) if losses else None,
        "quadratic peak of 8 steps": _ratio(_largest(losses[:9]), losses[0]) if losses else None,
        "quadratic outcome": OUTCOMES.get(model.get("outcome") or ""),
        "rate/radius": _ratio(rate, model.get("radius")),
    }


def _of_norms(recipe: Recipe, result: dict[str, Answer]) -> dict[str, float | None]:
    """What norms and intrinsic-lr say of growth and decay."""
    norms, intrinsic = _matrices(result.get("norms", {})), _matrices(result.get("intrinsic-lr", {}))
    first_last = [_ratio(layer["norms"][-1], layer["norms"][0]) for layer in norms if len(layer["norms"]) > 1]
    invariant = [layer for layer in norms if layer["invariance"]["verdict"] not in ("none", "untested")]
    series = [_numbers(layer["effective_learning_rate"]) for layer in invariant]
    rates = [_numbers(result.get("norms", {}).get("learning_rates", ())) for _ in invariant]
    falls = [
        each[0] / each[-1] * given[-1] / given[0]
        for each, given in zip(series, rates, strict=True)
        if len(each) > 1 and len(given) == len(each) and each[-1] > 0.0 and given[0] > 0.0
    ]
    forgetting = _largest(layer["intrinsic_learning_rate"] for layer in intrinsic)
    channels = [layer["channels"] for layer in norms if layer["channels"]]
    every = result.get("norms", {}).get("layers", ())
    return {
        "growth per step": _largest(layer["growth_per_step"] for layer in norms),
        "norm factor": _largest(max(factor, 1.0 / factor) for factor in first_last if factor),
        "norm change": _largest(map(_either_way, map(_judged_change, every))),
        "norm jump": _largest(map(_jump, every)),
        "rate fall": _largest(falls),
        "forgetting": None if forgetting is None else forgetting * recipe.steps,
        "distance to equilibrium": _largest(abs(value) for value in _numbers(each["log_ratio"] for each in intrinsic)),
        "dead rows": _largest(each["dead"] / each["count"] for each in channels),
    }


def _either_way(factor: float | None) -> float | None:
    return max(factor, 1.0 / factor) if factor else None


def _judged_change(layer: Answer) -> float | None:
    """The change of a norm that norm-far-from-first judges."""
    small = begins_small(layer["name"], layer["kind"], layer["shape"], layer["norms"][0])
    found: float | None = layer["since_quarter" if small else "first_to_last"]
    return found


def _jump(layer: Answer) -> float | None:
    """The size of a jump that norm-jumps judges; 1 where none is out of line."""
    jump = layer["jump"]
    if jump is None:
        return None
    return jump_size(jump["factor"], jump["excess"]) if jump["deviations"] > OUT_OF_LINE else 1.0


def _out_of_line(result: Answer, inner: bool, size: Callable[[Answer], float]) -> float | None:
    """The largest factor, either way, between a layer and its siblings; 1 where none lies beyond what they scatter."""
    layers = {each["name"]: each for each in result.get("layers", ()) if each["weight_norm"]}
    layers = {name: layer for name, layer in layers.items() if name not in result["noise"]}
    factors: list[float | None] = []
    for names in sibling_groups({name: (layer["kind"], *layer["shape"]) for name, layer in layers.items()}):
        odd = out_of_line([size(layers[name]) for name in names], 1.0).items()
        factors += [1.0, *(_either_way(by) for at, by in odd if not inner or 0 < at < len(names) - 1)]
    return _largest(factors)


def _of_breakdown(result: Answer, own: Answer) -> dict[str, float | None]:
    """What breakdown says along Fromage's direction and the optimizer's own; below the grid its first point counts."""
    kept: dict[str, float | None] = {}
    for name, answer in (("", result), ("own ", own)):
        for key in ("trust_eta", "aggregate_trust_eta", "linear_trust_eta", "first_increase_eta"):
            below = answer.get(key.replace("_eta", "_relation")) == "below-grid"
            title = name + {"first_increase_eta": "first increase"}.get(key, key.replace("_", " "))
            kept[title] = answer["etas"][0] if below else answer.get(key)
    kept["weights out of line"] = _out_of_line(
        result, False, lambda layer: layer["weight_norm"] / math.sqrt(layer["parameters"])
    )
    kept["gradients out of line"] = _largest(
        _out_of_line(answer, True, lambda layer, key=key: layer[key] or 0.0)
        for answer in (result, own)
        for key in ("gradient_norm", "relative_step")
    )
    layers = _matrices(own)
    kept["own layers uphill"] = _ratio(sum(layer["cosine"] <= 0.0 for layer in layers), len(layers))
    if result:
        skipped = [each for each in result["skipped"] if each["reason"] in ("zero gradient", "zero weights")]
        kept["still tensors"] = (len(skipped) + len(result["noise"])) / max(1, len(result["layers"]) + len(skipped))
        depths = _largest(layer["implied_depth"] for layer in _matrices(result))
        kept["implied depth"] = _ratio(depths, result["depth"]["count"])
        kept["violation"] = _largest(layer["violation"] for layer in _matrices(result))
    return {name: value for name, value in kept.items() if name in QUANTITIES}


def _of_distance(result: Answer) -> dict[str, float | None]:
    """How far the matrices and the outputs are from those of the checkpoint before."""
    layers = _matrices(result)
    return {
        "rotation": _largest(layer["angle"] for layer in layers),
        "relative distance": _largest(layer["relative_distance"] for layer in layers),
        "function distance": result.get("function_distance"),
    }


def findings(found: dict[str, Answer]) -> Iterator[str]:
    """Yield each code once as `command/code:severity:value:limit:layers`, the gravest layer first, and each error."""
    for name, answer in found.items():
        if answer.get("error"):
            yield f"{name}/error-{answer['error']['code']}:error:::1"
        codes: dict[str, list[Answer]] = {}
        for finding in answer.get("findings", ()):
            codes.setdefault(finding["code"], []).append(finding)
        for code, alike in codes.items():
            gravest = max(alike, key=lambda one: ("info", "warn", "fail").index(one["severity"]))
            value, limit = (short(gravest[key]) for key in ("value", "limit"))
            yield f"{name}/{code}:{gravest['severity']}:{value}:{limit}:{len(alike)}"


def short(value: float | None) -> str:
    """Return four digits, or nothing for no number."""
    return "" if value is None else f"{value:.4g}"


def steps_of(recipe: Recipe, runs: Path) -> list[int]:
    """Return the steps of a run's checkpoints."""
    record = json.loads((runs / recipe.name / "run.json").read_text(encoding="utf-8"))
    return [losses["step"] for losses in record["losses"]]


def measure_checkpoint(recipe: Recipe, runs: Path, place: int) -> dict[str, str]:
    """Return one row of the results: a run's checkpoint at this place of the list."""
    folder = runs / recipe.name
    losses = json.loads((folder / "run.json").read_text(encoding="utf-8"))["losses"][place]
    started = time.process_time()
    found = answers(recipe, folder, place, runs / f"answer-{os.getpid()}.json")
    numbers = quantities(recipe, found, 65 if recipe.data == "text" else 10)
    share = losses["step"] / recipe.steps
    return {
        "run": recipe.name,
        "half": recipe.half,
        "kind": recipe.kind,
        "twin": recipe.twin,
        "odd": recipe.odd,
        "sick": str(int(bool(recipe.kind) and recipe.sick_from <= share <= recipe.sick_until)),
        "step": str(losses["step"]),
        "share": f"{share:.3g}",
        "train": short(losses["train"]),
        "held_out": short(losses["held_out"]),
        "held_out_batch_statistics": short(losses["held_out_batch_statistics"]),
        "seconds": f"{time.process_time() - started:.1f}",
        "findings": " ".join(findings(found)),
    } | {name: short(numbers.get(name)) for name in QUANTITIES}
